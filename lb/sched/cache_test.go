package sched

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

const (
	second = clock.Ticks(time.Second / clock.TickNanos)
	hour   = 3600 * second
)

// cached is a service of lblc or lblcr with servers 1 to 3 of weight 4.
func cached(t *testing.T, name string) (*service, Scheduler, *cache) {
	t.Helper()
	svc := newService(name, ManyDests)
	for id := range uint32(3) {
		svc.add(dest(id+1, fmt.Sprintf("10.0.0.%d", id+1), 80, 4))
	}
	return svc, svc.scheduler(t), svc.plan.(*cache)
}

func destination(i int) flow.Addr { return flow.From4([4]byte{10, 9, byte(i >> 8), byte(i)}) }

func pickID(t *testing.T, svc *service, s Scheduler, q *Query, l Loads) uint32 {
	t.Helper()
	k := s.Pick(q, l)
	if k < 0 {
		t.Fatal("no server")
	}
	return svc.dests[k].ID
}

func TestLBLC(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(svc *service, l *counts)
		want   uint32 // the server after the change; the address had 3
	}{
		{"stays although others have less work", func(_ *service, l *counts) { l.active[3] = 4 }, 3},
		{"stays over its threshold, as in the kernel", func(_ *service, l *counts) { l.overloaded[3] = true }, 3},
		{"stays while nobody is at less than half its weight", func(_ *service, l *counts) { l.active[3], l.active[2], l.active[1] = 5, 2, 2 }, 3},
		{"leaves a crowded server", func(_ *service, l *counts) { l.active[3], l.active[2] = 5, 1 }, 1},
		{"leaves a server of weight 0", func(svc *service, _ *counts) { svc.weigh(3, 0) }, 2},
		{"leaves a server that was removed", func(svc *service, _ *counts) { svc.remove(3) }, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc, worker, _ := cached(t, "lblc")
			loads, q := newCounts(), Query{Dest: destination(1)}
			if id := pickID(t, svc, worker, &q, loads); id != 3 {
				t.Fatalf("first pick %d, want 3", id)
			}
			tt.change(svc, loads)
			worker.Adopt(svc.dests, svc.plan)
			if id := pickID(t, svc, worker, &q, loads); id != tt.want {
				t.Errorf("pick %d, want %d", id, tt.want)
			}
		})
	}
}

// TestCacheIsTheNodes: what one worker's scheduler remembers, another's knows.
func TestCacheIsTheNodes(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		svc, a, _ := cached(t, name)
		b, loads, q := svc.scheduler(t), newCounts(), Query{Dest: destination(1)}
		first := pickID(t, svc, a, &q, loads)
		loads.active[first] = 1 // wlc would take another now
		if id := pickID(t, svc, b, &q, loads); id != first {
			t.Errorf("%s: one worker chose %d, the other %d", name, first, id)
		}
	}
}

// TestLBLCRLosesItsBusiest: a set that has not changed for lblcr_expiration
// loses its busiest member, once.
func TestLBLCRLosesItsBusiest(t *testing.T) {
	svc, worker, c := cached(t, "lblcr")
	Sweep(c, 0, time.Hour)
	loads, q := newCounts(), Query{Dest: destination(1)}
	pickID(t, svc, worker, &q, loads) // 3
	loads.active[3] = 5
	pickID(t, svc, worker, &q, loads) // 3 is crowded: 2
	loads.active[2] = 1
	size := func() int32 {
		s, e := c.lock(&q.Dest)
		defer s.mu.Unlock()
		return e.size
	}
	for _, step := range []struct {
		now  clock.Ticks
		want int32
	}{{hour, 2}, {hour + 1, 1}, {3 * hour, 1}} {
		q.Now = step.now
		if id := pickID(t, svc, worker, &q, loads); id != 2 {
			t.Errorf("at %v: pick %d, want 2", step.now.Duration(), id)
		}
		if got := size(); got != step.want {
			t.Errorf("at %v: set of %d, want %d", step.now.Duration(), got, step.want)
		}
	}
}

func TestSweep(t *testing.T) {
	svc, worker, c := cached(t, "lblc")
	loads := newCounts()
	many := cacheEntries + 300
	for i := range many {
		q := Query{Dest: destination(i), Now: hour}
		if i < 1000 {
			q.Now = 1
		}
		pickID(t, svc, worker, &q, loads)
	}
	if n := int(c.entries.Load()); n != many {
		t.Fatalf("%d entries, want %d", n, many)
	}
	Sweep(c, 360*second, 24*time.Hour)
	if n := int(c.entries.Load()); n != many {
		t.Errorf("%d entries went before they were idle for 6 minutes", many-n)
	}
	Sweep(c, 360*second+1, 24*time.Hour)
	if n := many - int(c.entries.Load()); n < 400 || n > 400+100 {
		t.Errorf("%d idle entries went, want the goal of 400, to the end of a bucket", n)
	}
	left := c.entries.Load()
	for range 29 {
		Sweep(c, 2*hour, time.Hour)
	}
	if n := c.entries.Load(); n != left {
		t.Errorf("%d entries went although there are not too many", left-n)
	}
	Sweep(c, 2*hour, time.Hour)
	if n := c.entries.Load(); n != 0 {
		t.Errorf("%d entries are left after the full sweep", n)
	}
	Sweep(nil, 0, 0) // a scheduler without a cache
}

// TestFullCache: when a stripe has no room the choice still stands, it is only
// not remembered; dropped entries give their room back.
func TestFullCache(t *testing.T) {
	svc, worker, c := cached(t, "lblcr")
	loads := newCounts()
	fill := func() {
		for i, n := 0, 0; n < 2*stripeEntries; i++ {
			q := Query{Dest: destination(i)}
			if hash32(fold(&q.Dest), cacheBits)%cacheStripes == 5 {
				pickID(t, svc, worker, &q, loads)
				n++
			}
		}
	}
	for range 2 {
		fill()
		if n := c.entries.Load(); n != stripeEntries {
			t.Errorf("%d entries, want %d", n, stripeEntries)
		}
		for range fullSweep {
			Sweep(c, 25*hour, 24*time.Hour)
		}
		if n := c.entries.Load(); n != 0 {
			t.Errorf("%d entries, want 0", n)
		}
	}
}

// TestCached: an ID that a cache names must not be given to another server, it
// would bring that addresses.
func TestCached(t *testing.T) {
	for _, name := range []string{"lblc", "lblcr"} {
		svc, worker, c := cached(t, name)
		loads, ids := newCounts(), map[uint32]bool{}
		Cached(c, ids)
		if len(ids) > 0 {
			t.Errorf("%s: an empty cache names %v", name, ids)
		}
		id := pickID(t, svc, worker, &Query{Dest: destination(1)}, loads)
		if Cached(c, ids); len(ids) != 1 || !ids[id] {
			t.Errorf("%s: the cache names %v, want %d", name, ids, id)
		}
		Cached(nil, ids)
	}
}

// TestCacheShared runs two workers and the sweeper on one cache, for the race
// detector; its bookkeeping must come out right.
func TestCacheShared(t *testing.T) {
	svc, _, c := cached(t, "lblcr")
	loads := newCounts()
	loads.active[3], loads.active[2] = 5, 5 // sets grow
	var wait sync.WaitGroup
	for range 2 {
		worker := svc.scheduler(t)
		wait.Go(func() {
			for i := range 5000 {
				worker.Pick(&Query{Dest: destination(i % 700), Now: clock.Ticks(i) * second}, loads)
			}
		})
	}
	wait.Go(func() {
		for i := range 200 {
			Sweep(c, clock.Ticks(i)*60*second, time.Minute)
			Cached(c, map[uint32]bool{})
		}
	})
	wait.Wait()
	entries := 0
	for i := range c.stripes {
		s := &c.stripes[i]
		used, members := 0, 0
		for _, first := range s.buckets {
			for e := first; e != 0; e = s.entries[e].next {
				used++
				n := int32(0)
				for m := s.entries[e].set; m != 0; m = s.members[m].next {
					n++
				}
				if n != s.entries[e].size {
					t.Errorf("a set of %d says %d", n, s.entries[e].size)
				}
				members += int(n)
			}
		}
		entries += used
		for e := s.freeEntries; e != 0; e = s.entries[e].next {
			used++
		}
		for m := s.freeMembers; m != 0; m = s.members[m].next {
			members++
		}
		if used != len(s.entries)-1 || members != len(s.members)-1 {
			t.Errorf("stripe %d: %d entries and %d members, want %d and %d", i, used, members, len(s.entries)-1, len(s.members)-1)
		}
	}
	if entries != int(c.entries.Load()) {
		t.Errorf("%d entries, counted %d", entries, c.entries.Load())
	}
}
