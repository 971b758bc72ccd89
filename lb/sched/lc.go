package sched

// lc takes the server with the least work, whatever its weight (K-SCH-LC,
// ip_vs_lc.c).
type lc struct{ list }

func newLC(Flags) Scheduler { return &lc{} }

func (s *lc) Pick(_ *Query, l Loads) int {
	best, bestCost := -1, uint64(0)
	for i := range s.dests {
		d := &s.dests[i]
		if !available(d, l) {
			continue
		}
		if c := overhead(l.Load(d.ID)); best < 0 || c < bestCost {
			best, bestCost = i, c
		}
	}
	return best
}
