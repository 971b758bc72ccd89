package sched

// newSED returns a sed, which takes the server that would have the least active
// connections for its weight if it got this one too: the shortest expected delay
// (K-SCH-SED, ip_vs_sed.c; Weinrib and Shenker, "Greed is not enough: adaptive load
// sharing in large heterogeneous systems", INFOCOM 1988).
func newSED(Flags) Scheduler { return newLeast(delay) }
