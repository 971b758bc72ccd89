package sched

// nq takes the first server without an active connection, so that nobody
// queues while another idles, and else does as sed (K-SCH-NQ, ip_vs_nq.c; the
// same paper).
type nq struct{ list }

func newNQ(Flags) Scheduler { return &nq{} }

func (s *nq) Pick(_ *Query, l Loads) int {
	for i := range s.dests {
		if d := &s.dests[i]; available(d, l) {
			if active, _ := l.Load(d.ID); active == 0 {
				return i
			}
		}
	}
	return least(s.dests, l, delay)
}
