package sched

// wlc takes the server with the least work for its weight (K-SCH-WLC,
// ip_vs_wlc.c).
type wlc struct{ list }

func newWLC(Flags) Scheduler { return &wlc{} }

func (s *wlc) Pick(_ *Query, l Loads) int { return least(s.dests, l, overhead) }
