package sched

// newLC returns an lc, which takes the server with the least work, whatever its
// weight (K-SCH-LC, ip_vs_lc.c).
func newLC(Flags) Scheduler { return &least{cost: overhead, most: 1} }
