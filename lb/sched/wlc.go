package sched

// newWLC returns a wlc, which takes the server with the least work for its weight
// (K-SCH-WLC, ip_vs_wlc.c).
func newWLC(Flags) Scheduler { return newLeast(overhead) }
