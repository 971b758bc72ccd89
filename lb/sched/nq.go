package sched

// newNQ returns an nq, which takes the first server without an active connection,
// so that nobody queues while another idles, and else does as sed (K-SCH-NQ,
// ip_vs_nq.c; the same paper).
func newNQ(Flags) Scheduler { return newLeast(queue) }

// queue is delay, but nothing for a server that is idle.
func queue(active, inactive int32) uint64 {
	if active == 0 {
		return 0
	}
	return delay(active, inactive)
}
