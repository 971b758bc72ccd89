package sched

import "slices"

// rr takes the servers in turn, whatever their weight, but for those of
// weight 0 and overloaded ones (K-SCH-RR, ip_vs_rr.c). When the server chosen last is
// removed, its predecessor in the list takes that role, so that nobody is
// skipped.
type rr struct {
	dests []Dest
	last  int // index of the server chosen last; -1: before the first
	seen  history[removal]
}

// removal is what an edit means to rr: a server is gone, and who stood before
// it. Other edits move nothing.
type removal struct{ gone, before uint32 }

// rrPlan is the removals of a service, for workers that adopt it.
type rrPlan struct{ history[removal] }

func planRR(_ Flags, _ []Dest, edits []Edit, previous any) any {
	old, ok := previous.(*rrPlan)
	if !ok {
		return &rrPlan{newHistory[removal]()}
	}
	var steps []removal
	for _, e := range edits {
		if e.Weight == Gone {
			steps = append(steps, removal{e.ID, e.Before})
		}
	}
	return &rrPlan{old.after(steps)}
}

func newRR(Flags) Scheduler { return &rr{last: -1} }

func (s *rr) Pick(_ *Query, l Loads) int {
	n := len(s.dests)
	for step := 1; step <= n; step++ {
		i := s.last + step
		if i >= n {
			i -= n
		}
		if available(&s.dests[i], l) {
			s.last = i
			return i
		}
	}
	return -1
}

func (s *rr) Adopt(dests []Dest, plan any) {
	p := plan.(*rrPlan)
	last := NoID
	if steps, ok := p.since(&s.seen); ok {
		if s.last >= 0 {
			last = s.dests[s.last].ID
		}
		for _, r := range steps {
			if r.gone == last {
				last = r.before
			}
		}
	}
	s.dests, s.seen = dests, p.history
	s.last = slices.IndexFunc(dests, func(d Dest) bool { return d.ID == last }) // -1: none
}
