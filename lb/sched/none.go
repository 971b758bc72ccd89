package sched

// none is the absence of a scheduler, which the kernel allows under this name
// (K-SVC-5): the service has servers and takes no connections but those that it
// had.
type none struct{ list }

func newNone(Flags) Scheduler { return &none{} }

func (*none) Pick(*Query, Loads) int { return -1 }
