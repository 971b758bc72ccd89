package sched

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func TestRegistry(t *testing.T) {
	want := []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos", "none"}
	if got := Names(); !slices.Equal(got, want) {
		t.Errorf("Names() = %v, want %v", got, want)
	}
	if _, err := New("nosuch", 0); !errors.Is(err, ErrUnknown) {
		t.Errorf("New of an unknown name gives %v, want ErrUnknown", err)
	}
	if p := Plan("nosuch", 0, nil, nil, nil); p != nil {
		t.Errorf("Plan of an unknown name gives %v", p)
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		scheduler string
		names     []string
		want      Flags
		back      []string
	}{
		{"sh", []string{"sh-port", "sh-fallback"}, Flag1 | Flag2, []string{"sh-fallback", "sh-port"}},
		{"mh", []string{"mh-fallback", "flag-3"}, Flag1 | Flag3, []string{"mh-fallback", "flag-3"}},
		{"mh", []string{"flag-2"}, Flag2, []string{"mh-port"}},
		{"rr", []string{"flag-1"}, Flag1, []string{"flag-1"}},
		{"rr", nil, 0, nil},
	} {
		f, err := ParseFlags(tt.scheduler, tt.names)
		if err != nil || f != tt.want {
			t.Errorf("ParseFlags(%s, %v) = %b, %v, want %b", tt.scheduler, tt.names, f, err, tt.want)
		}
		if got := (f | ManyDests).Names(tt.scheduler); !slices.Equal(got, tt.back) {
			t.Errorf("flags %v of %s come back as %v, want %v", tt.names, tt.scheduler, got, tt.back)
		}
	}
	for _, bad := range [][2]string{{"sh", "mh-port"}, {"rr", "sh-port"}, {"mh", "x"}, {"sh", ""}} {
		if _, err := ParseFlags(bad[0], bad[1:]); !errors.Is(err, ErrFlag) {
			t.Errorf("ParseFlags(%s, %q) gives %v, want ErrFlag", bad[0], bad[1], err)
		}
	}
}

// TestNobody holds every scheduler to -1 when there is no server to choose: none
// at all, none with a weight, all overloaded (OVERLOAD does not concern what
// lblc remembers, but there is nothing to remember here).
func TestNobody(t *testing.T) {
	for _, name := range Names() {
		for _, flags := range []Flags{0, Flag1, Flag2, Flag1 | Flag2, ManyDests} {
			fresh, err := New(name, flags)
			if err != nil {
				t.Fatal(err)
			}
			loads := newCounts()
			q := Query{Client: address("10.0.0.1"), Dest: address("10.0.0.2"), Random: 1 << 63}
			if k := fresh.Pick(&q, loads); k != -1 {
				t.Errorf("%s before Adopt picks %d", name, k)
			}
			svc := newService(name, flags)
			worker := svc.scheduler(t)
			if k := worker.Pick(&q, loads); k != -1 {
				t.Errorf("%s without servers picks %d", name, k)
			}
			svc.add(dest(1, "10.1.0.1", 80, 0))
			svc.add(dest(2, "10.1.0.2", 80, 0))
			worker.Adopt(svc.dests, svc.plan)
			if k := worker.Pick(&q, loads); k != -1 {
				t.Errorf("%s with weights 0 picks %d", name, k)
			}
			svc.add(dest(3, "10.1.0.3", 80, 4))
			worker.Adopt(svc.dests, svc.plan)
			loads.overloaded[3] = true
			if k := worker.Pick(&q, loads); k != -1 {
				t.Errorf("%s with one server, overloaded, picks %d", name, k)
			}
			svc.clear()
			worker.Adopt(svc.dests, svc.plan)
			if k := worker.Pick(&q, loads); k != -1 {
				t.Errorf("%s after its last server picks %d", name, k)
			}
		}
	}
}

// TestNoAllocs holds Pick to the packet's way.
func TestNoAllocs(t *testing.T) {
	for _, name := range Names() {
		svc := newService(name, Flag1|Flag2|ManyDests)
		for i := range 5 {
			svc.add(dest(uint32(i), fmt.Sprintf("10.1.0.%d", i), 80, int32(i)))
		}
		worker, loads := svc.scheduler(t), newCounts()
		q := Query{Client: address("10.0.0.1"), Dest: address("10.0.0.2")}
		if n := testing.AllocsPerRun(200, func() {
			q.Client[15]++
			q.Dest[14]++
			q.Random += 1 << 56
			worker.Pick(&q, loads)
		}); n != 0 {
			t.Errorf("%s allocates %v times a pick, want 0", name, n)
		}
	}
}

// TestAdoptTakesTables: a worker takes over a table as it is, however many
// servers there are; that it is made is not the worker's business.
func TestAdoptTakesTables(t *testing.T) {
	for _, name := range []string{"dh", "sh", "mh"} {
		svc := newService(name, 0)
		svc.batch = true
		for i := range 1000 {
			svc.add(dest(uint32(i), fmt.Sprintf("10.1.%d.%d", i>>8, i&255), 80, 1))
		}
		svc.publish()
		worker := svc.scheduler(t)
		if n := testing.AllocsPerRun(100, func() { worker.Adopt(svc.dests, svc.plan) }); n != 0 {
			t.Errorf("to adopt a table of %s allocates %v times, want 0", name, n)
		}
	}
}

// sequence returns the IDs of n picks, 0 for nobody.
func sequence(svc *service, s Scheduler, l Loads, n int) []uint32 {
	ids := make([]uint32, n)
	for i := range ids {
		if k := s.Pick(&Query{}, l); k >= 0 {
			ids[i] = svc.dests[k].ID
		}
	}
	return ids
}

func TestRRChanges(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before int // picks before the change, of 4 3 2 1 4 3 2 1…
		change func(*service)
		want   []uint32 // picks after it
	}{
		{"edit keeps the place", 2, func(s *service) { s.weigh(1, 5) }, []uint32{2, 1, 4, 3}},
		{"the server chosen last goes: its predecessor stands in", 2, func(s *service) { s.remove(3) }, []uint32{2, 1, 4}},
		{"the first, chosen last, goes: back to the head", 1, func(s *service) { s.remove(4) }, []uint32{3, 2, 1}},
		{"another one goes", 2, func(s *service) { s.remove(2) }, []uint32{1, 4, 3}},
		{"it and its predecessor go", 3, func(s *service) { s.remove(3); s.remove(2) }, []uint32{1, 4, 1}},
		{"a new one comes to the head, its turn is after the last", 2, func(s *service) { s.add(dest(5, "10.0.0.5", 80, 1)) }, []uint32{2, 1, 5, 4}},
		{"the head, chosen last, goes and comes back: its turn is next", 1, func(s *service) { s.remove(4); s.add(dest(4, "10.0.0.4", 80, 1)) }, []uint32{4, 3, 2}},
		{"it goes and comes back: to the head", 2, func(s *service) { s.remove(3); s.add(dest(3, "10.0.0.3", 80, 1)) }, []uint32{2, 1, 3, 4}},
		{"everyone is replaced", 2, func(s *service) { s.clear(); s.add(dest(8, "10.0.0.8", 80, 1)); s.add(dest(9, "10.0.0.9", 80, 1)) }, []uint32{9, 8, 9}},
		{"nothing chosen yet", 0, func(s *service) { s.remove(3) }, []uint32{4, 2, 1}},
	} {
		for _, batch := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/batch=%v", tt.name, batch), func(t *testing.T) {
				svc := newService("rr", 0)
				for id := range uint32(4) {
					svc.add(dest(id+1, fmt.Sprintf("10.0.0.%d", id+1), 80, 1))
				}
				worker, loads := svc.scheduler(t), newCounts()
				sequence(svc, worker, loads, tt.before)
				svc.batch = batch
				tt.change(svc)
				svc.publish()
				worker.Adopt(svc.dests, svc.plan)
				if got := sequence(svc, worker, loads, len(tt.want)); !slices.Equal(got, tt.want) {
					t.Errorf("picks %v, want %v", got, tt.want)
				}
			})
		}
	}
}

func TestRROverloadedTurnIsSkipped(t *testing.T) {
	svc := newService("rr", 0)
	for id := range uint32(3) {
		svc.add(dest(id+1, fmt.Sprintf("10.0.0.%d", id+1), 80, 1))
	}
	worker, loads := svc.scheduler(t), newCounts()
	loads.overloaded[2] = true
	if got, want := sequence(svc, worker, loads, 4), []uint32{3, 1, 3, 1}; !slices.Equal(got, want) {
		t.Errorf("picks %v, want %v", got, want)
	}
	loads.overloaded[1], loads.overloaded[3] = true, true
	if got, want := sequence(svc, worker, loads, 1), []uint32{0}; !slices.Equal(got, want) {
		t.Errorf("picks %v, want %v", got, want)
	}
	clear(loads.overloaded)
	if got, want := sequence(svc, worker, loads, 3), []uint32{3, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("after a refusal it goes on with %v, want %v: the place stays", got, want)
	}
}
