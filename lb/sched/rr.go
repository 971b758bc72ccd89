package sched

// rr takes the servers in turn, whatever their weight, but for those of
// weight 0 and overloaded ones (K-SCH-RR). When the server chosen last is
// removed, its predecessor in the list takes that role, so that nobody is
// skipped.
type rr struct {
	dests []Dest
	last  int // index of the server chosen last; -1: before the first
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

func (s *rr) Adopt(dests []Dest, _ any) {
	if same(s.dests, dests) {
		return
	}
	last := -1
	kept(s.dests, dests, func(i, j int) {
		if i <= s.last && last < 0 {
			last = j
		}
	})
	s.dests, s.last = dests, last
}
