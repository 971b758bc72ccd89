package lb

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestChanges: a reload's log, and which servers' connections it touches.
func TestChanges(t *testing.T) {
	d := NewDirector(1)
	old := wwwSpec()
	old.Servers = append(old.Servers, RealSpec{Key: RealKey{ip("10.1.0.4"), 80}, Weight: 1, Forward: TUN, Upper: 9})
	gone := ServiceSpec{Name: "gone", Key: tcp("10.0.0.9", 9), Scheduler: "rr", Servers: servers("10.1.0.9:9")}
	_, err := d.Apply(Spec{Services: []ServiceSpec{gone, old}, Sysctl: DefaultSysctl()})
	must(t, err)
	ids := []uint32{real(t, d, gone.Key, "10.1.0.9:9").ID, real(t, d, www, "10.1.0.2:8080").ID, real(t, d, www, "10.1.0.3:8080").ID}

	now := wwwSpec()
	now.Scheduler, now.SchedulerFlags = "sh", []string{"sh-port"}
	now.Persistence = &Persistence{Timeout: 5 * time.Minute, Prefix: 24, Engine: "sip"}
	now.Servers = slices.Delete(now.Servers, 1, 2) // .2 goes
	now.Servers[1].Weight, now.Servers[1].Upper = 5, 100
	now.Servers = append(now.Servers, old.Servers[3])
	now.Servers = append(now.Servers, RealSpec{Key: RealKey{ip("10.1.0.5"), 80}, Forward: TUN, Tunnel: gue})
	spec := Spec{Services: []ServiceSpec{{Name: "new", Key: ServiceKey{Mark: 7}, Scheduler: "wlc"}, now}, Sysctl: DefaultSysctl()}
	spec.Timeouts.UDP = time.Minute
	spec.Sysctl.ExpireNoDestConn = 1
	spec.Sysctl.SyncThreshold = [2]int{2, 40}
	spec.Marks = []MarkRule{{Mark: 7}}
	c, err := d.Apply(spec)
	must(t, err)

	want := `- server gone 10.1.0.9:9
- service gone
- server www 10.1.0.2:8080
~ service www: scheduler rr → sh, scheduler_flags none → sh-port, persistence none → 5m0s/24 sip
~ server www 10.1.0.3:8080: weight 1 → 5, upper_threshold 0 → 100
~ node: udp timeout 5m0s → 1m0s, marks 0 rules → 1 rules, expire_nodest_conn 0 → 1, sync_threshold [3 50] → [2 40]
+ service new: scheduler wlc
+ server www 10.1.0.5:80: weight 0, forward tun, tunnel gue:6080:+c
`
	if got := c.String(); got != want {
		t.Errorf("changes\n%swant\n%s", got, want)
	}
	if slices.Sort(c.TouchedReals); !slices.Equal(c.TouchedReals, ids) {
		t.Errorf("touched %v, want %v", c.TouchedReals, ids)
	}
	if c.Generation != d.Current().Generation {
		t.Errorf("generation %d, want %d", c.Generation, d.Current().Generation)
	}
	text, err := json.Marshal(c.Edited[1])
	must(t, err)
	if want := `{"service":"www","real":"10.1.0.3:8080","fields":[{"name":"weight","old":"1","new":"5"},{"name":"upper_threshold","old":"0","new":"100"}]}`; string(text) != want {
		t.Errorf("as JSON %s, want %s", text, want)
	}
	if s := d.Current(); s.Sysctl.ExpireNoDestConn != 1 || s.Timeouts.Of(ProtoUDP, 0).Duration() != time.Minute || s.Marks == nil {
		t.Error("what concerns the node did not reach the snapshot")
	}
	spec.Marks[0].PortHigh = 5
	c, err = d.Apply(spec)
	must(t, err)
	if got, want := c.String(), "~ node: marks 1 rules → 1 rules, others\n"; got != want {
		t.Errorf("changes %q, want %q", got, want)
	}
}

// drawServices makes a small, valid set of services.
func drawServices(t *rapid.T) []ServiceSpec {
	var all []ServiceSpec
	for port := range rapid.Permutation([]uint16{1, 2, 3, 4}).Draw(t, "ports") {
		if rapid.Bool().Draw(t, "skip") {
			continue
		}
		s := ServiceSpec{Key: tcp("10.0.0.1", uint16(port+1)), Scheduler: rapid.SampledFrom([]string{"rr", "wrr", "mh"}).Draw(t, "scheduler")}
		if rapid.Bool().Draw(t, "persistent") {
			s.Persistence = &Persistence{Timeout: time.Duration(rapid.IntRange(1, 2).Draw(t, "timeout")) * time.Second}
		}
		for _, host := range rapid.Permutation([]byte{1, 2, 3, 4, 5}).Draw(t, "hosts") {
			if rapid.Bool().Draw(t, "leave out") {
				continue
			}
			s.Servers = append(s.Servers, RealSpec{
				Key:    RealKey{netip.AddrFrom4([4]byte{10, 1, 0, host}), uint16(port + 1)},
				Weight: rapid.Int32Range(0, 2).Draw(t, "weight"), Upper: rapid.Uint32Range(0, 1).Draw(t, "upper"),
				Forward: rapid.SampledFrom([]Forward{NAT, DR, TUN}).Draw(t, "forward"),
			})
		}
		all = append(all, s)
	}
	return all
}

// key sorts and prints services as a set: the order of services, and that of
// servers which stay, is not for a spec to change.
func asSet(services []ServiceSpec) string {
	var out []string
	for i := range services {
		s := services[i]
		s.Servers = slices.Clone(s.Servers)
		slices.SortFunc(s.Servers, func(a, b RealSpec) int { return strings.Compare(a.Key.String(), b.Key.String()) })
		persistence := fmt.Sprint(s.Persistence)
		s.Persistence = nil
		out = append(out, fmt.Sprintf("%+v %s", s, persistence))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// TestDiffIsMinimal: Apply leads to the spec by no more operations than there
// are differences, in the order that diff promises, and the way back undoes it.
func TestDiffIsMinimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := NewDirector(1)
		a := Spec{Services: drawServices(t)}
		b := Spec{Services: drawServices(t)}
		if _, err := d.Apply(a); err != nil {
			t.Fatal(err)
		}
		have, err := a.normal()
		if err != nil {
			t.Fatal(err)
		}
		want, err := b.normal()
		if err != nil {
			t.Fatal(err)
		}
		checkOrder(t, diff(have.Services, want.Services), want.Services)
		c, err := d.Apply(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := asSet(d.Spec().Services), asSet(want.Services); got != want {
			t.Fatalf("state\n%s\nwant\n%s", got, want)
		}
		if n := len(c.Added) + len(c.Removed) + len(c.Edited); n != differences(have.Services, want.Services) {
			t.Fatalf("%d changes for %d differences:\n%s", n, differences(have.Services, want.Services), &c)
		}
		checkSnapshot(t, d)
	})
}

// checkOrder holds operations to: removed services first, then service by
// service as wanted: itself, servers removed, edited, added.
func checkOrder(t *rapid.T, ops []op, want []ServiceSpec) {
	rank := func(o op) int {
		at := slices.IndexFunc(want, func(s ServiceSpec) bool { return s.Key == o.service.Key })
		if at < 0 {
			return 0
		}
		r := 10 * (at + 1)
		if o.real != nil {
			r += map[verb]int{remove: 1, edit: 2, add: 3}[o.verb]
		}
		return r
	}
	if !slices.IsSortedFunc(ops, func(a, b op) int { return rank(a) - rank(b) }) {
		t.Fatalf("operations out of order: %+v", ops)
	}
}

// differences counts what differs between two sets of services, one by one.
func differences(have, want []ServiceSpec) (n int) {
	parts := func(all []ServiceSpec) map[string]string {
		m := map[string]string{}
		for _, s := range all {
			for _, r := range s.Servers {
				m[s.Key.String()+r.Key.String()] = fmt.Sprintf("%+v", r)
			}
			m[s.Key.String()] = fmt.Sprint(s.fields())
		}
		return m
	}
	a, b := parts(have), parts(want)
	for k, v := range a {
		if b[k] != v {
			n++
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			n++
		}
	}
	return n
}

// checkSnapshot holds a snapshot to the director's spec.
func checkSnapshot(t *rapid.T, d *Director) {
	s, spec := d.Current(), d.Spec()
	for i := range spec.Services {
		want := &spec.Services[i]
		svc := s.Find(want.Key.Proto, addr(want.Key.Addr.String()), want.Key.Port, 0)
		if svc == nil || svc.Key != want.Key || s.Services[svc.Slot] != svc || len(svc.Dests) != len(want.Servers) {
			t.Fatalf("service %+v in the snapshot: %+v", want, svc)
		}
		for j, r := range want.Servers {
			dest := svc.Dests[len(svc.Dests)-1-j]
			real := s.Reals[dest.ID]
			if real.ID != dest.ID || real.Service != svc.Slot || !real.Available || real.Forward != r.Forward ||
				real.Weight != r.Weight || dest.Weight != r.Weight || real.Addr.Netip() != r.Key.Addr || dest.Port != r.Key.Port || real.Upper != r.Upper {
				t.Fatalf("server %+v: dest %+v, real %+v", r, dest, real)
			}
		}
	}
	for slot, svc := range s.Services {
		if svc != nil && !slices.ContainsFunc(spec.Services, func(x ServiceSpec) bool { return x.Key == svc.Key }) {
			t.Fatalf("slot %d has a service that is gone: %+v", slot, svc)
		}
	}
	available := 0
	for _, r := range s.Reals {
		available += b2i(r.Available)
	}
	for i := range spec.Services {
		available -= len(spec.Services[i].Servers)
	}
	if available != 0 {
		t.Fatalf("%d servers more are available than there are", available)
	}
}
