package sched

// lblcr is lblc with replication: an address has a set of servers, of which
// the one with the least work for its weight serves; the set grows when that
// one is crowded and loses its busiest when it has stayed the same for long
// (K-SCH-LBLCR, ip_vs_lblcr.c).
type lblcr struct {
	places
}

func newLBLCR(Flags) Scheduler { return &lblcr{} }

func (s *lblcr) Pick(q *Query, l Loads) int {
	if len(s.dests) == 0 {
		return -1
	}
	i := -1
	stripe, e := s.lock(&q.Dest)
	if e != nil {
		e.used = q.Now
		i = s.leastOf(stripe, e, l)
		if e.size > 1 && int32(q.Now-e.modified) > s.expiration.Load() {
			if busiest, ok := s.mostOf(stripe, e, l); ok {
				stripe.filter(e, func(id uint32) bool { return id != busiest })
				e.modified = q.Now
			}
		}
	}
	stripe.mu.Unlock()
	if i >= 0 && !s.crowded(i, l) {
		return i
	}
	if i = s.least(l); i >= 0 {
		s.remember(&q.Dest, s.dests[i].ID, false, q.Now)
	}
	return i
}

// leastOf returns the available server of a set with the least work for its
// weight, the first of equals, or -1.
func (s *lblcr) leastOf(stripe *stripe, e *entry, l Loads) int {
	best, bestCost := -1, uint64(0)
	for m := e.set; m != 0; m = stripe.members[m].next {
		i := s.usable(stripe.members[m].id)
		if i < 0 || l.Overloaded(s.dests[i].ID) {
			continue
		}
		if c := overhead(l.Load(s.dests[i].ID)); best < 0 || heavier(bestCost, s.dests[best].Weight, c, s.dests[i].Weight) {
			best, bestCost = i, c
		}
	}
	return best
}

// mostOf returns the server of a set with the most work for its weight, the
// first of equals; false if none has a weight.
func (s *lblcr) mostOf(stripe *stripe, e *entry, l Loads) (id uint32, ok bool) {
	most, mostCost := -1, uint64(0)
	for m := e.set; m != 0; m = stripe.members[m].next {
		i := s.usable(stripe.members[m].id)
		if i < 0 {
			continue
		}
		if c := overhead(l.Load(s.dests[i].ID)); most < 0 || heavier(c, s.dests[i].Weight, mostCost, s.dests[most].Weight) {
			most, mostCost = i, c
		}
	}
	if most < 0 {
		return 0, false
	}
	return s.dests[most].ID, true
}
