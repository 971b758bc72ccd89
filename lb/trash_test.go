package lb

import (
	"slices"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/lb/sched"
)

// TestTrash is K-DST-8 on one server that a connection refers to.
func TestTrash(t *testing.T) {
	d := NewDirector(2)
	apply(t, d, wwwSpec())
	id := real(t, d, www, "10.1.0.2:8080").ID
	row := d.Current().Adopt(1, nil).Real(id)
	row.Refs.Add(1)
	row.Inactive.Add(1)
	row.Conns = 7
	key := RealKey{ip("10.1.0.2"), 8080}

	must(t, d.DeleteReal(www, key))
	s := d.Current()
	if r := s.Reals[id]; r.ID != id || r.Available || r.Service != NoService || r.Addr != *addr("10.1.0.2") || r.Port != 8080 || r.Forward != NAT {
		t.Errorf("a removed server shows %+v: its packets must still find it", r)
	}
	if len(s.Services[0].Dests) != 2 || isNATReal(s, ProtoTCP, addr("10.1.0.2"), 8080) || !s.IsReal(addr("10.1.0.2")) {
		t.Error("a removed server is scheduled, or unknown")
	}
	for now := range 20 {
		d.Collect(time.Duration(now)*time.Hour, nil)
	}
	if d.Current() != s {
		t.Error("a server with a connection was freed")
	}
	if got := d.Removed(); !slices.Equal(got, []Removed{{www, key, NAT, Tunnel{}}}) {
		t.Errorf("trash %v", got)
	}

	// It comes back with another method, weight and thresholds.
	must(t, d.AddReal(www, RealSpec{Key: key, Weight: 3, Forward: NAT, Upper: 9}))
	r := real(t, d, www, "10.1.0.2:8080")
	if r.ID != id || !r.Available || r.Service != 0 || r.Weight != 3 || r.Upper != 9 {
		t.Errorf("revived as %+v, want ID %d", r, id)
	}
	if _, inactive := d.Current().Load(id); inactive != 1 || d.Current().Adopt(1, s).Real(id).Conns != 7 {
		t.Error("its counts did not come back")
	}
	if dests := d.Current().Services[0].Dests; dests[0].ID != id || dests[0].LastWeight != 3 {
		t.Errorf("it must come back at the head of the list: %v", dests)
	}
	if len(d.Removed()) != 0 {
		t.Error("a revived server is still in the trash")
	}

	// Weight 0 at an addition is no weight to remember, unlike at an edit.
	must(t, d.DeleteReal(www, key))
	must(t, d.AddReal(www, RealSpec{Key: key}))
	if dest := d.Current().Services[0].Dests[0]; dest.ID != id || dest.LastWeight != 0 {
		t.Errorf("added again with weight 0: %+v, want last weight 0", dest)
	}
}

// TestTrashPeriod: the time begins with the first look that finds no
// reference, and a reference in between stops it.
func TestTrashPeriod(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, wwwSpec())
	first := d.Current()
	id := real(t, d, www, "10.1.0.1:8080").ID
	first.Adopt(0, nil).Real(id).Conns = 7
	first.SetOverloaded(id, true)
	must(t, d.DeleteReal(www, RealKey{ip("10.1.0.1"), 8080}))
	refs := 1
	look := func(at time.Duration) bool {
		d.Collect(at, func(real uint32) int {
			if real != id {
				t.Errorf("asked for the references of %d, which is in use", real)
			}
			return refs
		})
		return d.Current().Reals[id].ID == id
	}
	for _, step := range []struct {
		at   time.Duration
		refs int
		kept bool
	}{
		{0, 1, true},
		{500 * time.Second, 0, true},
		{600 * time.Second, 1, true},
		{700 * time.Second, 0, true},
		{819 * time.Second, 0, true},
		{820 * time.Second, 0, false},
	} {
		if refs = step.refs; look(step.at) != step.kept {
			t.Fatalf("at %v: kept is %v", step.at, !step.kept)
		}
	}
	if s := d.Current(); s.IsReal(addr("10.1.0.1")) || s.Reals[id].Available || first.Reals[id].ID != id {
		t.Error("a freed server is still found, or the old snapshot changed")
	}

	// The same server again is another now, and the ID may go to it.
	must(t, d.AddReal(www, servers("10.1.0.1:8080")[0]))
	if got := real(t, d, www, "10.1.0.1:8080").ID; got != id {
		t.Fatalf("ID %d, want the free one, %d", got, id)
	}
	if d.Current().Overloaded(id) || d.Current().Adopt(0, first).Real(id).Conns != 0 {
		t.Error("the new server has counts or flags of the old one")
	}
}

// TestTrashIdentity: a removed server comes back only to the same service,
// address and port.
func TestTrashIdentity(t *testing.T) {
	other := tcp("10.0.0.2", 80)
	for _, tt := range []struct {
		name    string
		service ServiceKey
		server  RealSpec
		same    bool
	}{
		{"same", www, RealSpec{Key: RealKey{ip("10.1.0.1"), 8080}, Forward: NAT}, true},
		{"another port", www, RealSpec{Key: RealKey{ip("10.1.0.1"), 8081}}, false},
		{"another address", www, RealSpec{Key: RealKey{ip("10.1.0.9"), 8080}}, false},
		{"another service", other, RealSpec{Key: RealKey{ip("10.1.0.1"), 8080}}, false},
		{"another method, whose port differs", www, RealSpec{Key: RealKey{ip("10.1.0.1"), 8080}, Forward: DR}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDirector(1)
			apply(t, d, wwwSpec(), ServiceSpec{Key: other})
			id := real(t, d, www, "10.1.0.1:8080").ID
			must(t, d.DeleteReal(www, RealKey{ip("10.1.0.1"), 8080}))
			must(t, d.AddReal(tt.service, tt.server))
			s := d.Current()
			dests := s.Find(ProtoTCP, addr(tt.service.Addr.String()), 80, 0).Dests
			if same := dests[0].ID == id; same != tt.same {
				t.Errorf("the old ID comes back: %v, want %v", same, tt.same)
			}
		})
	}
}

// TestServiceDeleted is K-SVC-8: its servers go to the trash with it, and come
// back with the service.
func TestServiceDeleted(t *testing.T) {
	d := NewDirector(1)
	apply(t, d, wwwSpec())
	was := d.Current().Services[0].Dests
	must(t, d.DeleteService(www))
	s := d.Current()
	if s.Find(ProtoTCP, addr("10.0.0.1"), 80, 0) != nil || s.IsVIP(addr("10.0.0.1")) {
		t.Error("the service is still found")
	}
	for _, dest := range was {
		if r := s.Reals[dest.ID]; r.Available || r.Service != NoService || r.ID != dest.ID {
			t.Errorf("server %+v", r)
		}
	}
	must(t, d.AddService(wwwSpec()))
	if now := d.Current().Services[0].Dests; !slices.Equal(now, was) {
		t.Errorf("servers %v, want %v back", now, was)
	}
}

// TestCollectSweepsCaches: what the caches of lblc and lblcr have not been
// asked for goes, after the time of the scheduler's own sysctl.
func TestCollectSweepsCaches(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		d := NewDirector(1)
		spec := wwwSpec()
		spec.Scheduler = name
		sysctl := DefaultSysctl()
		sysctl.LBLCExpiration, sysctl.LBLCRExpiration = 3600, 7200
		_, err := d.Apply(Spec{Services: []ServiceSpec{spec}, Sysctl: sysctl})
		must(t, err)
		svc := d.Current().Services[0]
		s, err := sched.New(svc.Scheduler, svc.Flags)
		must(t, err)
		s.Adopt(svc.Dests, svc.Plan)
		q := sched.Query{Dest: *addr("10.0.0.1")}
		first := svc.Dests[s.Pick(&q, loadsOf(d.Current()))].ID
		d.Current().Rows(0).Real(first).Active.Add(1) // wlc would choose another from now on
		sweep := func(from, to int) {
			for minute := from; minute < to; minute++ {
				d.Collect(time.Duration(minute)*time.Minute, nil)
			}
		}
		sweep(0, 70) // a full one at 30 and one at 60 minutes
		kept := svc.Dests[s.Pick(&q, loadsOf(d.Current()))].ID == first
		if want := name == "lblcr"; kept != want {
			t.Errorf("%s: kept for 70 minutes: %v, want %v", name, kept, want)
		}
		sweep(70, 200)
		if again := svc.Dests[s.Pick(&q, loadsOf(d.Current()))].ID; again == first && name == "lblcr" {
			t.Errorf("%s still has what was not used for longer than its time", name)
		}
	}
}

// TestCachedServersStay: a server that lblc's cache names stays in the trash, as
// in the kernel, where the cache holds it. Its ID passes to another when it is
// named no more, and brings that no addresses.
func TestCachedServersStay(t *testing.T) {
	d := NewDirector(1)
	spec := wwwSpec()
	spec.Scheduler = "lblc"
	apply(t, d, spec)
	svc := d.Current().Services[0]
	s, err := sched.New(svc.Scheduler, svc.Flags)
	must(t, err)
	pick := func() uint32 {
		svc := d.Current().Services[0]
		s.Adopt(svc.Dests, svc.Plan)
		return svc.Dests[s.Pick(&sched.Query{Dest: *addr("10.0.0.1")}, loadsOf(d.Current()))].ID
	}
	id := pick() // 10.1.0.3, the newest
	must(t, d.DeleteReal(www, RealKey{ip("10.1.0.3"), 8080}))
	d.Collect(0, nil)
	d.Collect(2*trashPeriod, nil)
	if got := d.Removed(); len(got) != 1 {
		t.Fatalf("%d servers in the trash, want the cached one", len(got))
	}
	if got := pick(); got == id {
		t.Fatal("the removed server was chosen")
	}
	d.Collect(3*trashPeriod, nil)
	d.Collect(4*trashPeriod, nil)
	must(t, d.AddReal(www, servers("10.1.0.4:8080")[0]))
	if got := real(t, d, www, "10.1.0.4:8080").ID; got != id {
		t.Fatalf("ID %d, want the freed one, %d", got, id)
	}
	if got := pick(); got == id {
		t.Error("the new server got the old one's address")
	}
}
