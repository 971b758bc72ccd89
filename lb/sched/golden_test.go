package sched

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/lb/flow"
)

// counts are the loads of a test's servers, by ID, to the one scheduler that asks.
type counts struct {
	active, inactive map[uint32]int32
	overloaded       map[uint32]bool
	seen             map[uint32]node // what they were when Changes was asked for
	changes          Changes
	batch            uint64
}

// maxTestID is the highest ID that tests give a server.
const maxTestID = 9999

func newCounts() *counts {
	return &counts{map[uint32]int32{}, map[uint32]int32{}, map[uint32]bool{}, map[uint32]node{}, Changes{}.Grow(maxTestID + 1), 0}
}

func (c *counts) Load(id uint32) (active, inactive int32) { return c.active[id], c.inactive[id] }
func (c *counts) Overloaded(id uint32) bool               { return c.overloaded[id] }

// Changes notes which servers' counts are others than when it was asked last.
func (c *counts) Changes() (Changes, uint64) {
	for id := range c.active {
		c.note(id)
	}
	for id := range c.inactive {
		c.note(id)
	}
	for id := range c.overloaded {
		c.note(id)
	}
	for id := range c.seen { // others may have been cleared
		c.note(id)
	}
	return c.changes, c.batch
}

func (c *counts) note(id uint32) {
	now := node{cost: uint64(c.active[id]), weight: c.inactive[id]}
	if c.overloaded[id] {
		now.place = 1
	}
	if now != c.seen[id] {
		c.seen[id] = now
		c.changes.Note(id)
	}
}

// service plays the director: it adds servers one by one and plans each time.
type service struct {
	name  string
	flags Flags
	dests []Dest
	plan  any
	batch bool   // edits are planned by publish, not each
	edits []Edit // to be planned
}

func newService(name string, flags Flags) *service {
	return &service{name: name, flags: flags, plan: Plan(name, flags, nil, nil, nil)}
}

// edited takes over the servers after an edit.
func (s *service) edited(dests []Dest, e Edit) {
	s.dests, s.edits = dests, append(s.edits, e)
	if !s.batch {
		s.publish()
	}
}

// publish plans what was edited.
func (s *service) publish() {
	s.plan, s.edits = Plan(s.name, s.flags, s.dests, s.edits, s.plan), nil
}

// add puts a server at the head of the list.
func (s *service) add(d Dest) {
	s.edited(slices.Insert(slices.Clone(s.dests), 0, d), Edit{ID: d.ID, Weight: d.Weight})
}

// remove takes a server off the list.
func (s *service) remove(id uint32) {
	i := slices.IndexFunc(s.dests, func(d Dest) bool { return d.ID == id })
	e := Edit{ID: id, Weight: Gone, Before: NoID}
	if i > 0 {
		e.Before = s.dests[i-1].ID
	}
	s.edited(slices.Delete(slices.Clone(s.dests), i, i+1), e)
}

// clear removes all servers, the last of the list first.
func (s *service) clear() {
	for len(s.dests) > 0 {
		s.remove(s.dests[len(s.dests)-1].ID)
	}
}

// weigh edits a server's weight.
func (s *service) weigh(id uint32, weight int32) {
	dests := slices.Clone(s.dests)
	for i := range dests {
		if d := &dests[i]; d.ID == id {
			if d.Weight = weight; weight != 0 {
				d.LastWeight = weight
			}
		}
	}
	s.edited(dests, Edit{ID: id, Weight: weight})
}

func dest(id uint32, addr string, port uint16, weight int32) Dest {
	return Dest{ID: id, Addr: address(addr), Port: port, Weight: weight, LastWeight: weight}
}

func address(s string) flow.Addr { return flow.FromNetip(netip.MustParseAddr(s)) }

// scheduler returns a worker's scheduler of the service as it is now.
func (s *service) scheduler(t testing.TB) Scheduler {
	t.Helper()
	x, err := New(s.name, s.flags)
	if err != nil {
		t.Fatal(err)
	}
	x.Adopt(s.dests, s.plan)
	return x
}

// lines returns the lines of a file in testdata.
func lines(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []string
	for in := bufio.NewScanner(f); in.Scan(); {
		all = append(all, in.Text())
	}
	return all
}

// TestKernelPicks replays the connections of picks.txt, for a worker that
// adopts each change and for one that comes when the service is complete.
func TestKernelPicks(t *testing.T) {
	n := 0
	for _, line := range lines(t, "picks.txt") {
		n++
		label, want, _ := strings.Cut(line, " ")
		want = strings.TrimSpace(want)
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/late=%v", label, late), func(t *testing.T) {
				if got := kernelCase(t, label, len(want), late); got != want {
					t.Errorf("picks\n%s, kernel\n%s", got, want)
				}
			})
		}
	}
	if n != 70 {
		t.Errorf("%d cases, want 70", n)
	}
}

func kernelCase(t *testing.T, label string, n int, late bool) string {
	t.Helper()
	name, variant, _ := strings.Cut(label, "-")
	weights := map[string][3]int32{"w333": {3, 3, 3}, "w123": {1, 2, 3}, "est": {1, 2, 3}, "fwm": {1, 2, 3}}[variant]
	var flags Flags
	if weights == [3]int32{} {
		weights = [3]int32{5, 2, 0}
	}
	spread := variant == "est" || strings.HasPrefix(variant, "w")
	port := uint16(80)
	switch variant {
	case "fwm":
		flags, port = ManyDests, 0
	case "fallback":
		flags = Flag1
	case "port":
		flags = Flag2
	case "fallback-sh-port":
		flags = Flag1 | Flag2
	}
	svc := newService(name, flags)
	worker := svc.scheduler(t)
	for i, w := range weights {
		svc.add(dest(uint32(i), fmt.Sprintf("10.0.2.%d", 11+i), port, w))
		if !late {
			worker.Adopt(svc.dests, svc.plan)
		}
	}
	worker.Adopt(svc.dests, svc.plan)
	loads := newCounts()
	var got strings.Builder
	for i := range n {
		q := Query{Client: address("10.0.1.10"), Dest: address("10.0.1.100"), ClientPort: uint16(1000 + i), DestPort: 80, Proto: 6}
		if spread {
			q.Client = address(fmt.Sprintf("172.16.%d.%d", i/7, i*13%250+1))
		}
		if variant == "fwm" {
			q.Dest = address(fmt.Sprintf("10.0.9.%d", i+1))
		}
		k := worker.Pick(&q, loads)
		if k < 0 {
			got.WriteByte('x')
			continue
		}
		id := svc.dests[k].ID
		loads.active[id]++
		got.WriteByte('A' + byte(id))
	}
	return got.String()
}

// TestKernelSequences are the sequences of section 1.5 that picks.txt does not
// have: servers 1, 2, 3 are added in this order.
func TestKernelSequences(t *testing.T) {
	for _, tt := range []struct {
		name    string
		weights [3]int32
		udp     bool // connections count as inactive
		want    string
		why     string
	}{
		{"rr", [3]int32{1, 1, 1}, false, "3213213213213", "newest first"},
		{"lc", [3]int32{1, 1, 1}, false, "3213213213213", "the first of equals"},
		{"wrr", [3]int32{1, 2, 3}, false, "3213323213323", "the first round is at level 1, from the first server's addition"},
		{"wrr", [3]int32{0, 2, 3}, false, "3233232332323", "weight 0 is passed by"},
		{"wrr", [3]int32{2, 4, 6}, true, "3213323213323", "levels go by the common divisor"},
		{"wrr", [3]int32{4, 3, 2}, true, "3211213213211", "the newest weighs least"},
		{"wlc", [3]int32{1, 2, 3}, false, "3213233213233", "overhead by weight"},
		{"wlc", [3]int32{1, 2, 3}, true, "3213233213233", "inactive connections count too"},
		{"sed", [3]int32{1, 2, 3}, false, "3233213233213", "this connection counts too"},
		{"sed", [3]int32{5, 5, 0}, false, "2121212121212", "weight 0 is passed by"},
		{"sed", [3]int32{1, 2, 3}, true, "3333333333333", "inactive connections are no delay"},
		{"nq", [3]int32{1, 2, 3}, false, "3213323233213", "idle ones first"},
		{"nq", [3]int32{1, 2, 3}, true, "3333333333333", "everyone idles"},
		{"fo", [3]int32{1, 3, 3}, false, "3333333333333", "the first of the highest"},
		{"ovf", [3]int32{1, 2, 3}, false, "333322211xxxx", "weight+1 connections each, then nobody"},
		{"ovf", [3]int32{2, 2, 2}, false, "333222111xxxx", "the first of the highest"},
		{"ovf", [3]int32{1, 2, 3}, true, "3333333333333", "inactive connections fill nobody"},
		{"dh", [3]int32{1, 1, 1}, false, "3333333333333", "one server for one address"},
		{"lblc", [3]int32{1, 2, 3}, false, "3333222111111", "until crowded"},
		{"lblcr", [3]int32{1, 2, 3}, false, "3333222113231", "the least of the set"},
	} {
		t.Run(fmt.Sprint(tt.name, tt.weights, tt.udp), func(t *testing.T) {
			svc := newService(tt.name, 0)
			for i, w := range tt.weights {
				svc.add(dest(uint32(i+1), fmt.Sprintf("10.1.0.%d", i+1), 80, w))
			}
			worker, loads := svc.scheduler(t), newCounts()
			var got strings.Builder
			for i := range len(tt.want) {
				q := Query{Client: address("10.0.0.1"), Dest: address("10.99.0.1"), ClientPort: uint16(40000 + i), DestPort: 80, Proto: 6}
				k := worker.Pick(&q, loads)
				if k < 0 {
					got.WriteByte('x')
					continue
				}
				id := svc.dests[k].ID
				if tt.udp {
					loads.inactive[id]++
				} else {
					loads.active[id]++
				}
				got.WriteByte('0' + byte(id))
			}
			if got.String() != tt.want {
				t.Errorf("picks %s, kernel %s (%s)", &got, tt.want, tt.why)
			}
		})
	}
}

// TestKernelHashes replays the connections of hashes.txt: each client must get
// the server that the kernel gave it, or be refused as there.
func TestKernelHashes(t *testing.T) {
	var svc *service
	var worker Scheduler
	var refused []Query
	picks := 0
	check := func(q Query, want string) {
		t.Helper()
		picks++
		got := "refused"
		if k := worker.Pick(&q, newCounts()); k >= 0 {
			got = netip.AddrPortFrom(svc.dests[k].Addr.Netip(), svc.dests[k].Port).String()
		}
		if got != want {
			t.Errorf("%s, flags %s, servers %v: client %s port %d got %s, kernel %s",
				svc.name, svc.flags.Names(svc.name), svc.dests, q.Client, q.ClientPort, got, want)
		}
	}
	for _, line := range lines(t, "hashes.txt") {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "RES|"):
			svc = serviceOf(t, line)
			worker = svc.scheduler(t)
			for _, q := range refused {
				check(q, "refused")
			}
			refused = nil
		case fields[0] == "send":
			port, _ := strconv.Atoi(fields[2])
			refused = append(refused, Query{Client: address(fields[1]), ClientPort: uint16(port), Proto: 17})
		case strings.HasPrefix(line, "SEQ|"): // TestKernelSequences has them
		default:
			client := netip.MustParseAddrPort(fields[0])
			check(Query{Client: flow.FromNetip(client.Addr()), ClientPort: client.Port(), Proto: 17}, fields[1])
		}
	}
	if picks != 704 {
		t.Errorf("%d picks, want 704", picks)
	}
}

// serviceOf makes the service of a RES line.
func serviceOf(t *testing.T, line string) *service {
	t.Helper()
	f := strings.Split(line, "|")
	names := strings.FieldsFunc(strings.TrimPrefix(f[2], "-b "), func(r rune) bool { return r == ',' })
	flags, err := ParseFlags(f[1], names)
	if err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(f[5])
	svc := newService(f[1], flags)
	for i, w := range strings.Split(strings.Trim(f[3], "()"), ", ") {
		weight, _ := strconv.Atoi(w)
		svc.add(dest(uint32(i+1), fmt.Sprintf("10.1.0.%d", i+1), uint16(port), int32(weight)))
	}
	if f[4] != "None" {
		id, _ := strconv.Atoi(f[4])
		svc.weigh(uint32(id), 0)
	}
	return svc
}
