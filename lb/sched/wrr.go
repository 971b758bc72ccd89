package sched

import "slices"

// wrr takes the servers in rounds (K-SCH-WRR): each round has a level, and
// those whose weight reaches it are taken in list order. Levels go down from
// the highest weight to the lowest by the weights' greatest common divisor,
// so that in a cycle each server is taken weight/divisor times.
type wrr struct {
	dests []Dest
	levels
	last  int  // index of the server chosen last in this round; -1: round begins
	bound bool // levels were set up
}

// levels are where a cycle stands. Every level is 1 above a multiple of step.
type levels struct {
	step int32 // greatest common divisor of the positive weights, 1 if there are none
	top  int32 // the highest level, 0 if no server has a weight
	now  int32 // level of the current round
}

// weights are what levels depend on.
type weights struct{ divisor, highest int32 }

func (w *weights) add(weight int32) {
	if weight <= 0 {
		return
	}
	w.highest = max(w.highest, weight)
	a, b := weight, w.divisor
	for b != 0 {
		a, b = b, a%b
	}
	w.divisor = a
}

// change fits the levels to other weights. The current level only moves as
// far as it must.
func (v *levels) change(w weights) {
	v.step = max(w.divisor, 1)
	v.top = w.highest - (v.step - 1)
	if v.now > v.top || v.now == 0 {
		v.now = v.top
	} else if v.step > 1 {
		v.now = v.now/v.step*v.step + 1
	}
}

// follow fits the levels to a list that changed from was to now: all removals
// and edits are one change, then each new server is another, the oldest first.
func (v *levels) follow(was, now []Dest) {
	stayed, edited := 0, false
	added := kept(was, now, func(i, j int) {
		stayed++
		edited = edited || was[i].Weight != now[j].Weight
	})
	var w weights
	for _, d := range now[added:] {
		w.add(d.Weight)
	}
	if edited || stayed < len(was) {
		v.change(w)
	}
	for _, d := range slices.Backward(now[:added]) {
		w.add(d.Weight)
		v.change(w)
	}
}

// wrrPlan is where a worker begins that has not served the service yet. It
// depends on the order in which servers came, as in the kernel.
type wrrPlan struct {
	dests []Dest
	levels
}

func planWRR(_ Flags, dests []Dest, previous any) any {
	p := &wrrPlan{dests: dests}
	if old, ok := previous.(*wrrPlan); ok {
		p.levels = old.levels
		p.follow(old.dests, dests)
		return p
	}
	var w weights
	for _, d := range dests {
		w.add(d.Weight)
	}
	p.change(w)
	return p
}

func newWRR(Flags) Scheduler { return &wrr{last: -1} }

func (s *wrr) Pick(_ *Query, l Loads) int {
	if s.top == 0 {
		return -1
	}
	if i := s.next(s.last+1, l); i >= 0 {
		return i
	}
	highest := int32(0)
	for i := range s.dests {
		if d := &s.dests[i]; d.Weight > highest && !l.Overloaded(d.ID) {
			highest = d.Weight
		}
	}
	if highest == 0 {
		// The kernel goes through the levels until it has seen each server at
		// the lowest; this is where that leaves it.
		if s.last < 0 || s.now > s.step {
			s.last, s.now = -1, s.top
		}
		return -1
	}
	if s.now -= s.step; s.now <= 0 {
		s.now = s.top
	}
	// Rounds in which nobody could be chosen are left out.
	s.now = min(s.now, highest-(s.step-1))
	return s.next(0, l)
}

// next chooses the first server from index i on that reaches the level.
func (s *wrr) next(i int, l Loads) int {
	for ; i < len(s.dests); i++ {
		if d := &s.dests[i]; d.Weight >= s.now && !l.Overloaded(d.ID) {
			s.last = i
			return i
		}
	}
	return -1
}

func (s *wrr) Adopt(dests []Dest, plan any) {
	p, planned := plan.(*wrrPlan)
	switch {
	case !s.bound && planned:
		s.levels = p.levels
	case s.bound && same(s.dests, dests):
		return
	default:
		s.follow(s.dests, dests)
	}
	s.dests, s.last, s.bound = dests, -1, true
}
