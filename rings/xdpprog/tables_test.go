package xdpprog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// checkTables compares the kernel's tables with w.
func checkTables(t *testing.T, s *Steer, w Want) {
	t.Helper()
	c, err := w.compile(s.max)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.endpoints.read(); err != nil || !maps.Equal(got, c.endpoints) {
		t.Errorf("%d endpoints, %v, want %d", len(got), err, len(c.endpoints))
	}
	if got, err := s.addresses.read(); err != nil || !maps.Equal(got, c.addresses) {
		t.Errorf("%d addresses, %v, want %d", len(got), err, len(c.addresses))
	}
	checkMarkTable(t, s, w.Marks)
}

// checkMarkTable compares the kernel's mark rules with the table of rules.
func checkMarkTable(t *testing.T, s *Steer, rules []MarkRule) {
	t.Helper()
	want := compileMarks(rules)
	var inner *ebpf.Map
	err := s.shared.Marks.Lookup(uint32(0), &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) && len(rules) == 0 {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	want.rows[0].Word[0] |= uint64(s.marks.generation) << 32
	for i, row := range want.rows {
		var got steerMarkRow
		if err := inner.Lookup(steerMarkRows(i), &got); err != nil || got != row {
			t.Fatalf("row %d of the mark table is %x, %v, want %x", i, got.Word, err, row.Word)
		}
	}
	nets := map[steerMarkNet]steerMarkRow{}
	var key steerMarkNet
	var row steerMarkRow
	all := s.shared.MarkNets.Iterate()
	for all.Next(&key, &row) {
		if key.Generation != s.marks.generation {
			t.Errorf("%+v is left of another generation than %d", key, s.marks.generation)
		}
		key.Generation = 0
		nets[key] = row
	}
	if err := all.Err(); err != nil || !maps.Equal(nets, want.nets) {
		t.Errorf("%d networks of mark rules, %v, want %d", len(nets), err, len(want.nets))
	}
}

// farm is n services of ten NAT servers each, beginning with the first'th.
func farm(first, n int) (w Want) {
	for i := first; i < first+n; i++ {
		a := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}).As16()
		w.Services = append(w.Services, ServiceKey{tcp, a, 80})
		for r := range 10 {
			a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 10<<24|uint32(10*i+r)))).As16()
			w.Reals = append(w.Reals, RealKey{tcp, a, 8080})
		}
	}
	return w
}

// 1,000 services with 10,000 real servers is what one reload may bring.
func TestUpdateLarge(t *testing.T) {
	s, _ := load(t, Options{Queues: 1}, Want{})
	for _, w := range []Want{farm(0, 1000), farm(500, 1000), farm(500, 1000), {}} {
		start := time.Now()
		if err := s.Update(w); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d services and %d real servers in %v", len(w.Services), len(w.Reals), time.Since(start))
		checkTables(t, s, w)
	}
}

func TestUpdateRandom(t *testing.T) {
	s, _ := load(t, Options{Queues: 1}, Want{})
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	all := steered()
	pick := func() bool { return rng.IntN(2) == 0 }
	for range 30 {
		var w Want
		for _, x := range all.Services {
			if pick() {
				w.Services = append(w.Services, x)
			}
		}
		for _, x := range all.Reals {
			if pick() {
				w.Reals = append(w.Reals, x)
			}
			if pick() { // a server may change its forwarding method
				w.Tunnels = append(w.Tunnels, TunnelKey{x.Addr, uint16(rng.IntN(2)) * 6080})
			}
		}
		for _, x := range all.Tunnels {
			if pick() {
				w.Tunnels = append(w.Tunnels, x)
			}
		}
		for _, x := range all.Marks {
			if pick() {
				w.Marks = append(w.Marks, x)
			}
		}
		for _, x := range all.IPsec {
			if pick() && (w.isVIP(x) || w.isNAT(x)) {
				w.IPsec = append(w.IPsec, x)
			}
		}
		for _, x := range all.Echo {
			if pick() && w.isVIP(x) {
				w.Echo = append(w.Echo, x)
			}
		}
		if err := s.Update(w); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if checkTables(t, s, w); t.Failed() {
			t.Fatalf("seed %d: %+v", seed, w)
		}
	}
}

// What two configurations have in common is redirected while one replaces
// the other, over and over.
func TestUpdateHasNoGap(t *testing.T) {
	base := steered()
	s, a := load(t, Options{Queues: 1}, base)
	giveSocket(t, a, 0)
	other := farm(0, 50)
	other.Services = append(other.Services, ServiceKey{tcp, addr(vip), 80})
	other.Reals = append(other.Reals, RealKey{tcp, addr(natRIP), 0}) // was port 8080
	// Here by a mark, there by a service; and a NAT server's address in both.
	server := RealKey{tcp, addr(marked), 80}
	base.Reals, other.Reals = append(base.Reals, server), append(other.Reals, server)
	other.Services = append(other.Services, ServiceKey{tcp, addr(marked), 80})
	frames := [][]byte{
		eth4(ip4(tcp, cip, vip, ports(40000, 80))),
		eth4(ip4(tcp, natRIP, cip, ports(8080, 40000))),
		eth4(ip4(tcp, cip, marked, ports(40000, 80))),
	}
	stop := make(chan struct{})
	var traffic errgroup.Group
	traffic.Go(func() error {
		for n := 0; ; n++ {
			select {
			case <-stop:
				if n < len(frames) {
					return errors.New("no traffic")
				}
				return nil
			default:
			}
			verdict, err := a.loaded.Program.Run(&ebpf.RunOptions{Data: frames[n%len(frames)]})
			if err != nil || verdict != 4 {
				return fmt.Errorf("frame %d: verdict %d, %w", n, verdict, errors.Join(err))
			}
			runtime.Gosched()
		}
	})
	for i := range 40 {
		w := base
		if i%2 == 0 {
			w = other
		}
		if err := s.Update(w); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := traffic.Wait(); err != nil {
		t.Error(err)
	}
}

func TestUpdateRefuses(t *testing.T) {
	s, _ := load(t, Options{Queues: 1, MaxEntries: 20}, steered())
	rules := func(n int) []MarkRule { return make([]MarkRule, n) }
	for _, tt := range []struct {
		name string
		w    Want
		err  error
		text string
	}{
		{"a rule more than the program takes", Want{Marks: rules(1025)}, ErrTooManyMarks, "1025, the XDP program takes 1024"},
		{"an entry more than the tables hold", Want{Reals: farm(0, 3).Reals[:21]}, ErrTooManyEntries, "21 entries, the XDP tables hold 20"},
		{"a real server without ports", Want{Reals: []RealKey{{0, addr(natRIP), 80}}}, ErrInvalid, "real server 10.0.1.11 port 80: protocol 0"},
		{"a service without ports", Want{Services: []ServiceKey{{1, addr(vip), 80}}}, ErrInvalid, "service 203.0.113.10 port 80: protocol 1"},
		{"a rule without ports", Want{Marks: []MarkRule{{}, {Proto: 1}}}, ErrInvalid, "mark rule 2: protocol 1"},
		{"ports the wrong way round", Want{Marks: []MarkRule{{PortLow: 2, PortHigh: 1}}}, ErrInvalid, "ports 2 to 1"},
		{"a negative interface", Want{Marks: []MarkRule{{Ifindex: -1}}}, ErrInvalid, "interface index -1"},
		{"an echo address of a server's", Want{Reals: farm(0, 1).Reals, Echo: []Addr{farm(0, 1).Reals[0].Addr}}, ErrInvalid, "is of no service"},
		{"an IPsec address of nobody", Want{IPsec: []Addr{addr(cip)}}, ErrInvalid, "172.16.5.1 is of no service"},
	} {
		err := s.Update(tt.w)
		if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.text)
		}
		checkTables(t, s, steered()) // untouched
	}
	full := Want{Marks: rules(1024), Reals: farm(0, 2).Reals}
	for _, w := range []Want{full, {Marks: rules(1), Reals: farm(7, 2).Reals}} { // both fit at once
		if err := s.Update(w); err != nil {
			t.Fatal(err)
		}
		checkTables(t, s, w)
	}
}

// As many rules as there may be: each matches, and no rule after the last, in
// whatever they differ.
func TestAllMarksMatch(t *testing.T) {
	s, a := load(t, Options{Queues: 1}, Want{})
	giveSocket(t, a, 0)
	p := probe{a: a}
	frames := map[string]func(i int) []byte{
		"destination": func(i int) []byte { return ip4(tcp, cip, fmt.Sprintf("10.0.%d.%d", i>>8, i&255), ports(1, 2)) },
		"source":      func(i int) []byte { return ip4(tcp, fmt.Sprintf("10.0.%d.%d", i>>8, i&255), cip, ports(1, 2)) },
		"ports":       func(i int) []byte { return ip4(tcp, cip, another, ports(1, uint16(1001+3*i))) },
	}
	for differ, frame := range frames {
		for _, n := range []int{MaxMarks, 65, 64, 0} {
			w := Want{Marks: manyMarks(n, differ)}
			if err := s.Update(w); err != nil {
				t.Fatal(err)
			}
			checkTables(t, s, w)
			for i := range MaxMarks {
				redirected, r, err := p.run(eth4(frame(i)))
				if err != nil || redirected != (i < n) || redirected && r != Marked {
					t.Fatalf("by %s, rule %d of %d: redirected %v as %v, %v", differ, i, n, redirected, r, err)
				}
			}
		}
	}
}

// The program and its twin agree on random rules that overlap in all they look
// at, and on packets, fragments and ICMP errors at their edges.
func TestMarksRandom(t *testing.T) {
	s, a := load(t, Options{Queues: 1}, Want{})
	giveSocket(t, a, 0)
	p := probe{a: a}
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	some4 := func() string { return fmt.Sprintf("10.%d.%d.%d", rng.IntN(2), rng.IntN(2)<<7, rng.IntN(3)) }
	some6 := func() string { return fmt.Sprintf("2001:db8:%x::%x", rng.IntN(2)<<15, rng.IntN(3)) }
	prefix := func(v6 bool) netip.Prefix {
		text, lengths := some4(), []int{0, 8, 15, 17, 31, 32}
		if v6 {
			text, lengths = some6(), []int{0, 32, 33, 127, 128}
		}
		p, err := netip.MustParseAddr(text).Prefix(lengths[rng.IntN(len(lengths))])
		if err != nil || rng.IntN(2) == 0 {
			return netip.Prefix{}
		}
		return p
	}
	seen := map[Reason]int{}
	for range 60 {
		var w Want
		for range rng.IntN(90) {
			v6, low := rng.IntN(2) == 0, uint16(rng.IntN(70))
			r := MarkRule{
				Ifindex: []int{0, 0, 4242}[rng.IntN(3)], Proto: []uint8{0, tcp, udp, sctp}[rng.IntN(4)],
				Source: prefix(v6), Destination: prefix(v6), PortLow: low, PortHigh: low + uint16(rng.IntN(5)),
			}
			if len(w.Marks) < 3 || r.Destination.IsValid() && r.Source.IsValid() { // others match nearly everything
				w.Marks = append(w.Marks, r)
			}
		}
		if err := s.Update(w); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range 100 {
			proto, body := []byte{tcp, udp, sctp}[rng.IntN(3)], ports(uint16(rng.IntN(75)), uint16(rng.IntN(75)))
			frame := eth4(ip4(proto, some4(), some4(), body))
			switch rng.IntN(6) {
			case 0:
				frame = eth4(ip4(proto, some4(), some4(), body, laterFragment))
			case 1:
				frame = eth6(ip6(proto, some6(), some6(), body))
			case 2:
				frame = eth6(ip6(fragment, some6(), some6(), ext([]byte{proto, hop}[rng.IntN(2)], nil, set(3, 1))))
			case 3:
				frame = eth4(ip4(icmp4, another, cip, icmp(3, ip4(proto, some4(), some4(), body))))
			}
			redirected, r, err := p.run(frame)
			if err != nil {
				t.Fatal(err)
			}
			if want := model(&w, frame); r != want || redirected != want.Redirects() {
				t.Fatalf("seed %d: %x: redirected %v as %v, want %v; rules %+v", seed, frame, redirected, r, want, w.Marks)
			}
			seen[r]++
		}
	}
	for _, r := range []Reason{Other, Marked, Fragment, ICMPError} {
		if seen[r] < 20 {
			t.Errorf("seed %d: %d frames counted as %v: %v", seed, seen[r], r, seen)
		}
	}
}

// After a write that failed half-way the next Update starts from what the
// kernel has.
func TestUpdateRecovers(t *testing.T) {
	s, _ := load(t, Options{Queues: 1}, farm(0, 100))
	w := farm(50, 100)
	before := farm(0, 100)
	c, err := before.compile(s.max)
	if err != nil {
		t.Fatal(err)
	}
	for k := range c.endpoints { // somebody deletes an entry behind our back
		if err := s.shared.Endpoints.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Update(w); err == nil {
		t.Fatal("removing what is not there gives no error")
	}
	if err := s.Update(w); err != nil {
		t.Fatal(err)
	}
	checkTables(t, s, w)
}

func TestLoadRefuses(t *testing.T) {
	for _, o := range []Options{{Queues: -1}, {Queues: 1<<16 + 1}, {MaxEntries: -1}, {MaxEntries: 1<<24 + 1}} {
		if s, err := Load(o); err == nil {
			t.Errorf("%+v is accepted", o)
			_ = s.Close()
		}
	}
}
