package sched

// wrr takes the servers in rounds (K-SCH-WRR, ip_vs_wrr.c): each round has a level, and
// those whose weight reaches it are taken in list order. Levels go down from
// the highest weight to the lowest by the weights' greatest common divisor,
// so that in a cycle each server is taken weight/divisor times.
type wrr struct {
	dests []Dest
	levels
	last int // index of the server chosen last in this round; -1: round begins
	seen history[weights]
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

// wrrPlan is where a worker begins that has not served the service yet, which
// depends on the order in which servers came, as in the kernel; and what the
// others, who stand elsewhere, have to follow: the weights after each edit.
type wrrPlan struct {
	dests []Dest
	levels
	history[weights]
}

func planWRR(_ Flags, dests []Dest, edits []Edit, previous any) any {
	old, ok := previous.(*wrrPlan)
	if !ok {
		p := &wrrPlan{dests: dests, history: newHistory[weights]()}
		var w weights
		for _, d := range dests {
			w.add(d.Weight)
		}
		p.change(w)
		return p
	}
	steps := weightsAfter(old.dests, edits)
	p := &wrrPlan{dests, old.levels, old.after(steps)}
	for _, w := range steps {
		p.change(w)
	}
	return p
}

// weightsAfter returns the weights of a list after each edit.
func weightsAfter(dests []Dest, edits []Edit) []weights {
	of, count := make(map[uint32]int32, len(dests)), map[int32]int{}
	for _, d := range dests {
		of[d.ID] = d.Weight
		count[d.Weight]++
	}
	steps := make([]weights, len(edits))
	for i, e := range edits {
		if was, ok := of[e.ID]; ok {
			if count[was]--; count[was] == 0 {
				delete(count, was)
			}
			delete(of, e.ID)
		}
		if e.Weight != Gone {
			of[e.ID] = e.Weight
			count[e.Weight]++
		}
		for w := range count {
			steps[i].add(w)
		}
	}
	return steps
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
	p := plan.(*wrrPlan)
	steps, ok := p.since(&s.seen)
	if ok && len(steps) == 0 {
		return
	}
	if !ok {
		s.levels = p.levels
	}
	for _, w := range steps {
		s.change(w)
	}
	s.dests, s.last, s.seen = dests, -1, p.history
}
