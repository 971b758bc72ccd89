package sched

// fo, fail-over, takes the available server of the highest weight, so that
// others only serve while it can't (K-SCH-FO, ip_vs_fo.c).
type fo struct{ list }

func newFO(Flags) Scheduler { return &fo{} }

func (s *fo) Pick(_ *Query, l Loads) int {
	best, highest := -1, int32(0)
	for i := range s.dests {
		if d := &s.dests[i]; d.Weight > highest && available(d, l) {
			best, highest = i, d.Weight
		}
	}
	return best
}
