package lb

import (
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
)

// TestPathLearn is what Linux does with frag needed and packet too big
// (K-ICMP-5), as recorded with Linux 6.1 where it is IPv4.
func TestPathLearn(t *testing.T) {
	type event struct {
		stake      string
		wait       time.Duration
		kind, code uint8
		rest       uint32
		route      uint16
		report     uint16 // to the packet's sender; 0: the error is about something else
		holds      uint16 // from now on; 0: nothing
	}
	const v4, v6, second = uint8(4), uint8(6), time.Second
	for _, row := range []struct {
		stake  string
		family uint8
		events []event
	}{
		{"narrower and narrower", v4, []event{
			{"the first is answered with what held before", 0, 3, 4, 1400, 1500, 1500, 1400},
			{"the next with what holds", 0, 3, 4, 1300, 1500, 1300, 1300},
			{"never wider", 0, 3, 4, 1450, 1500, 1300, 1300},
			{"nor than the route", 0, 3, 4, 1450, 1200, 1200, 1300},
		}},
		{"ten minutes", v4, []event{
			{"learnt", 0, 3, 4, 1400, 1500, 1500, 1400},
			{"again, but not anew", 299 * second, 3, 4, 1400, 1500, 1400, 1400},
			{"and gone", 301 * second, 3, 3, 0, 1500, 0, 0},
			{"so that it begins again", 0, 3, 4, 1400, 1500, 1500, 1400},
			{"anew after five minutes", 300 * second, 3, 4, 1400, 1500, 1400, 1400},
			{"holds for ten more", 599 * second, 3, 3, 0, 1500, 0, 1400},
			{"and no longer", second, 3, 3, 0, 1500, 0, 0},
		}},
		{"something narrower begins anew at once", v4, []event{
			{"learnt", 0, 3, 4, 1400, 1500, 1500, 1400},
			{"narrower", 100 * second, 3, 4, 1300, 1500, 1300, 1300},
			{"holds", 599 * second, 3, 3, 0, 1500, 0, 1300},
		}},
		{"routers that say nothing useful", v4, []event{
			{"old ones say 0", 0, 3, 4, 0, 1500, 1500, 552},
			{"below min_pmtu", 0, 3, 4, 68, 1500, 552, 552},
		}},
		{"a route narrower than min_pmtu", v4, []event{{"stays", 0, 3, 4, 100, 500, 500, 500}}},
		{"as wide as the route, or wider", v4, []event{
			{"equal", 0, 3, 4, 1500, 1500, 1500, 1500},
			{"wider", 0, 3, 4, 9000, 1500, 1500, 1500},
		}},
		{"wider than the route", v4, []event{{"is not learnt", 0, 3, 4, 1501, 1500, 1500, 0}}},
		{"the upper half of the word is unused", v4, []event{{"and may hold anything", 0, 3, 4, 0xffff0578, 1500, 1500, 1400}}},
		{"no route", v4, []event{{"nothing is learnt", 0, 3, 4, 1400, 0, 0, 0}}},
		{"other errors", v4, []event{
			{"unreachable", 0, 3, 1, 1400, 1500, 0, 0},
			{"time exceeded", 0, 11, 4, 1400, 1500, 0, 0},
			{"ICMPv6's type", 0, 2, 0, 1400, 1500, 0, 0},
		}},
		{"IPv6", v6, []event{
			{"at once", 0, 2, 0, 1400, 1500, 1400, 1400},
			{"whatever the code", 0, 2, 9, 1350, 1500, 1350, 1350},
			{"not below its least MTU", 0, 2, 0, 600, 1500, 1280, 1280},
			{"an MTU of 32 bits", 0, 2, 0, 1 << 31, 1500, 1280, 1280},
			{"other errors", 0, 1, 4, 1400, 1500, 0, 1280},
			{"ICMP's type", 0, 3, 4, 1400, 1500, 0, 1280},
		}},
	} {
		var p Path
		now := clock.Ticks(1<<32 - 50000) // the clock wraps on the way
		for _, e := range row.events {
			now += clock.FromDuration(e.wait)
			if got := p.Learn(e.kind, e.code, e.rest, e.route, true, row.family, now); got != e.report {
				t.Errorf("%s, %s: reports %d, want %d", row.stake, e.stake, got, e.report)
			}
			if got := p.At(now); got != e.holds {
				t.Errorf("%s, %s: %d holds, want %d", row.stake, e.stake, got, e.holds)
			}
		}
	}
}

// While no packet asked for the route, what an error of IPv4 says is told at once.
func TestPathLearnUnasked(t *testing.T) {
	for _, row := range []struct {
		stake  string
		family uint8
		rest   uint32
		report uint16
	}{
		{"what the error says", 4, 1400, 1400},
		{"even if it is not learnt", 4, 1501, 1501},
		{"old routers say 0", 4, 0, 1500},
		{"IPv6 as ever", 6, 600, 1280},
	} {
		var p Path
		kind := map[uint8]uint8{4: 3, 6: 2}[row.family]
		if got := p.Learn(kind, 4, row.rest, 1500, false, row.family, 0); got != row.report {
			t.Errorf("%s: reports %d, want %d", row.stake, got, row.report)
		}
	}
}

// What was learnt is dropped before the clock makes it look new.
func TestPathForgotten(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, wwwSpec())
	p := d.Current().Reals[0].Path
	p.Learn(3, 4, 1400, 1500, true, 4, 0)
	if p.Left(0) != 10*time.Minute || p.Left(100) != 10*time.Minute-time.Second {
		t.Errorf("it holds for %v, want 10m0s; a second later for %v", p.Left(0), p.Left(100))
	}
	end := clock.FromDuration(10 * time.Minute)
	d.Collect((end - 1).Duration(), nil)
	if p.At(end-1) != 1400 {
		t.Error("gone before its time")
	}
	d.Collect(end.Duration(), nil)
	if late := end + clock.MaxTicks + 1; p.At(late) != 0 || p.Left(late) != 0 {
		t.Errorf("248 days later %d holds, for %v", p.At(late), p.Left(late))
	}
}

// All servers of an address share what was learnt, through edits and removal,
// until the last of them is forgotten.
func TestPathsAreShared(t *testing.T) {
	d := NewDirector(1)
	one, two := ServiceSpec{Key: tcp("192.0.2.1", 80), Servers: servers("10.1.0.1:80", "10.1.0.2:80")}, ServiceSpec{Key: tcp("192.0.2.1", 81), Servers: servers("10.1.0.1:81")}
	apply(t, d, one, two)
	path := real(t, d, one.Key, "10.1.0.1:80").Path
	if path == nil || path != real(t, d, two.Key, "10.1.0.1:81").Path || path == real(t, d, one.Key, "10.1.0.2:80").Path {
		t.Fatal("servers share a Path, or not, and should do the other")
	}
	path.Learn(3, 4, 1400, 1500, true, 4, 0)
	one.Servers[0].Weight = 7
	apply(t, d, one)
	if real(t, d, one.Key, "10.1.0.1:80").Path != path {
		t.Error("an edit made another Path")
	}
	apply(t, d)
	d.Collect(time.Second, nil)
	apply(t, d, two)
	if real(t, d, two.Key, "10.1.0.1:81").Path != path {
		t.Error("a server that came back from the trash has another Path")
	}
	apply(t, d)
	d.Collect(2*time.Second, nil)
	d.Collect(300*time.Second, nil)
	if n := len(d.paths); n != 0 {
		t.Errorf("%d Paths of no server are left", n)
	}
	apply(t, d, one)
	if p := real(t, d, one.Key, "10.1.0.1:80").Path; p == path || p.At(0) != 0 {
		t.Error("a server that was forgotten has its old Path")
	}
}

// TestFindTunnel: TUN servers are found by what their packets look like outside (K-DST-9).
func TestFindTunnel(t *testing.T) {
	d := NewDirector(1)
	s := ServiceSpec{Key: www, Servers: servers("10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80", "10.1.0.4:80")}
	for i := range 3 {
		s.Servers[i].Forward = TUN
	}
	s.Servers[1].Tunnel, s.Servers[2].Tunnel = Tunnel{Type: GUE, Port: 6080}, Tunnel{Type: GRE, Checksum: Checksum}
	apply(t, d, s)
	check := func(stake string, proto uint8, to string, port uint16, want bool) {
		t.Helper()
		id, ok := d.Current().FindTunnel(proto, addr(to), port)
		if ok != want || ok && d.Current().Reals[id].Addr != *addr(to) {
			t.Errorf("%s: found %t (%d), want %t", stake, ok, id, want)
		}
	}
	check("4 in 4", 4, "10.1.0.1", 0, true)
	check("6 in 4", 41, "10.1.0.1", 0, true)
	check("GRE to a server of IP in IP", 47, "10.1.0.1", 0, false)
	check("GUE", 17, "10.1.0.2", 6080, true)
	check("another port", 17, "10.1.0.2", 6081, false)
	check("IP in IP to a server of GUE", 4, "10.1.0.2", 0, false)
	check("GRE", 47, "10.1.0.3", 0, true)
	check("NAT", 4, "10.1.0.4", 0, false)
	check("nobody", 4, "10.1.0.5", 0, false)
	other := RealSpec{Key: RealKey{ip("10.1.0.1"), 0}, Forward: TUN, Tunnel: Tunnel{Type: GRE}}
	marked := ServiceSpec{Key: ServiceKey{Mark: 1}, Servers: []RealSpec{other}}
	apply(t, d, s, marked)
	check("also of another service, by a tunnel of another kind [tunnel-error-two-kinds]", 4, "10.1.0.1", 0, false)
	check("which was added last", 47, "10.1.0.1", 0, true)
	s.Servers[0].Tunnel = Tunnel{Type: GRE}
	apply(t, d, s)
	check("an edit of the tunnel alone", 47, "10.1.0.1", 0, true)
	check("and not as before", 4, "10.1.0.1", 0, false)
	apply(t, d)
	check("removed", 47, "10.1.0.1", 0, false)
}
