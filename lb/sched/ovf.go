package sched

// ovf, overflow, takes the server of the highest weight whose active
// connections do not exceed that weight, so that the next one fills when it is
// full; when all are, there is none (K-SCH-OVF, ip_vs_ovf.c).
type ovf struct{ list }

func newOVF(Flags) Scheduler { return &ovf{} }

func (s *ovf) Pick(_ *Query, l Loads) int {
	best, highest := -1, int32(0)
	for i := range s.dests {
		d := &s.dests[i]
		if d.Weight <= highest || !available(d, l) {
			continue
		}
		if active, _ := l.Load(d.ID); active <= d.Weight {
			best, highest = i, d.Weight
		}
	}
	return best
}
