package sched

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// wrrTwin is K-SCH-WRR step by step: level after level, each server looked at
// in each, with the kernel's conditions to stop.
type wrrTwin struct {
	dests      []Dest
	cl         int // -1: head
	cw, mw, di int32
}

func (s *wrrTwin) changed(dests []Dest) {
	s.dests, s.cl = dests, -1
	s.di, s.mw = 0, 0
	for _, d := range dests {
		for a, b := d.Weight, s.di; d.Weight > 0; {
			if b == 0 {
				s.di = a
				break
			}
			a, b = b, a%b
		}
		s.mw = max(s.mw, d.Weight)
	}
	s.di = max(s.di, 1)
	s.mw -= s.di - 1
	if s.cw > s.mw || s.cw == 0 {
		s.cw = s.mw
	} else if s.di > 1 {
		s.cw = s.cw/s.di*s.di + 1
	}
}

func (s *wrrTwin) Pick(_ *Query, l Loads) int {
	if s.mw == 0 {
		return -1
	}
	began, stop, lowest, again := s.cl, -2, false, false
	for {
		for s.cl++; s.cl < len(s.dests); s.cl++ {
			if d := s.dests[s.cl]; d.Weight >= s.cw && !l.Overloaded(d.ID) {
				return s.cl
			}
			if s.cl == stop {
				return -1
			}
		}
		s.cl = -1
		if s.cw -= s.di; s.cw <= 0 {
			s.cw = s.mw
			if lowest || began < 0 {
				return -1
			}
			again = true
		}
		if lowest = s.cw <= s.di; lowest && again && began >= 0 {
			stop = began
		}
	}
}

// TestWRRTwin drives wrr and its twin through additions, edits, removals,
// overload and picks: they must agree at every step, after refusals too.
func TestWRRTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := newService("wrr", 0)
		worker, _ := New("wrr", 0)
		worker.Adopt(svc.dests, svc.plan)
		twin := &wrrTwin{}
		twin.changed(nil)
		loads := newCounts()
		unit := rapid.SampledFrom([]int32{1, 2, 3, 10}).Draw(t, "unit")
		weight := rapid.Map(rapid.Int32Range(0, 6), func(w int32) int32 { return w * unit })
		next := uint32(1)
		some := func() uint32 { return rapid.SampledFrom(svc.dests).Draw(t, "server").ID }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step := rapid.SampledFrom([]string{"add", "remove", "weigh", "overload", "overload all", "relieve all", "pick", "pick", "pick"}).Draw(t, "step")
			if len(svc.dests) == 0 && step != "pick" {
				step = "add"
			}
			switch step {
			case "add":
				svc.add(dest(next, "10.0.0.1", uint16(next), weight.Draw(t, "weight")))
				next++
			case "remove":
				svc.remove(some())
			case "weigh":
				svc.weigh(some(), weight.Draw(t, "weight"))
			case "overload":
				id := some()
				loads.overloaded[id] = !loads.overloaded[id]
			case "overload all":
				for _, d := range svc.dests {
					loads.overloaded[d.ID] = true
				}
			case "relieve all":
				clear(loads.overloaded)
			case "pick":
				for range 3 {
					if got, want := worker.Pick(nil, loads), twin.Pick(nil, loads); got != want {
						t.Fatalf("pick %d, twin %d, servers %v", got, want, svc.dests)
					}
				}
			}
			if step == "add" || step == "remove" || step == "weigh" {
				worker.Adopt(svc.dests, svc.plan)
				twin.changed(svc.dests)
			}
		}
	})
}

// TestWRRBound: a scheduler that is bound to servers which are there already
// begins at the highest level, not where their additions would have led.
func TestWRRBound(t *testing.T) {
	svc := newService("rr", 0)
	for i, w := range []int32{1, 2, 3} {
		svc.add(dest(uint32(i+1), fmt.Sprintf("10.0.0.%d", i+1), 80, w))
	}
	svc.name, svc.plan = "wrr", Plan("wrr", 0, svc.dests, nil, nil)
	got := sequence(svc, svc.scheduler(t), newCounts(), 9)
	if want := []uint32{3, 3, 2, 3, 2, 1, 3, 3, 2}; !slices.Equal(got, want) {
		t.Errorf("picks %v, want %v", got, want)
	}
}

// TestWRRManyLevels: a weight of 2^31-1 that is overloaded must not make a pick
// walk 2^31 levels.
func TestWRRManyLevels(t *testing.T) {
	svc := newService("wrr", 0)
	svc.add(dest(1, "10.0.0.1", 80, 1))
	svc.add(dest(2, "10.0.0.2", 80, 1<<31-1))
	worker, loads := svc.scheduler(t), newCounts()
	loads.overloaded[2] = true
	if got, want := sequence(svc, worker, loads, 4), []uint32{1, 1, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("picks %v, want %v", got, want)
	}
}

// TestWRRSameSlice: adopting the same servers again must not restart a round.
func TestWRRSameSlice(t *testing.T) {
	svc := newService("wrr", 0)
	for i := range 3 {
		svc.add(dest(uint32(i+1), fmt.Sprintf("10.0.0.%d", i+1), 80, 1))
	}
	worker, loads := svc.scheduler(t), newCounts()
	got := sequence(svc, worker, loads, 1)
	worker.Adopt(svc.dests, svc.plan)
	got = append(got, sequence(svc, worker, loads, 2)...)
	if want := []uint32{3, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("picks %v, want %v", got, want)
	}
}
