package sched

// lblc, locality-based least connection, sends a destination address to the
// server that it was sent to before, so that a cache there keeps serving what
// it has, unless that server is crowded; else it does as wlc (K-SCH-LBLC, ip_vs_lblc.c). The
// thresholds of the remembered server are not looked at, as in the kernel.
type lblc struct {
	places
}

func newLBLC(Flags) Scheduler { return &lblc{} }

func (s *lblc) Pick(q *Query, l Loads) int {
	if len(s.dests) == 0 {
		return -1
	}
	i := -1
	stripe, e := s.lock(&q.Dest)
	if e != nil {
		e.used = q.Now
		if e.set != 0 {
			i = s.usable(stripe.members[e.set].id)
		}
	}
	stripe.mu.Unlock()
	if i >= 0 && !s.crowded(i, l) {
		return i
	}
	if i = s.least(l); i >= 0 {
		s.remember(&q.Dest, s.dests[i].ID, true, q.Now)
	}
	return i
}
