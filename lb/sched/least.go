package sched

import "math/bits"

// overhead is the kernel's measure of a server's work: an active connection
// weighs as much as 256 inactive ones.
func overhead(active, inactive int32) uint64 {
	return uint64(max(active, 0))<<8 + uint64(max(inactive, 0))
}

// delay is the other measure, of sed and nq: how many would be waiting.
func delay(active, _ int32) uint64 { return uint64(max(active, 0)) + 1 }

// heavier says whether cost a at weight wa is more than cost b at weight wb:
// a/wa > b/wb, without the division.
func heavier(a uint64, wa int32, b uint64, wb int32) bool {
	hi1, lo1 := bits.Mul64(a, uint64(wb))
	hi2, lo2 := bits.Mul64(b, uint64(wa))
	return hi1 > hi2 || hi1 == hi2 && lo1 > lo2
}

// least returns the available server of the least cost for its weight, the
// first of equals, or -1.
func least(dests []Dest, l Loads, cost func(active, inactive int32) uint64) int {
	best, bestCost := -1, uint64(0)
	for i := range dests {
		d := &dests[i]
		if !available(d, l) {
			continue
		}
		if c := cost(l.Load(d.ID)); best < 0 || heavier(bestCost, dests[best].Weight, c, d.Weight) {
			best, bestCost = i, c
		}
	}
	return best
}

// list is the part of a scheduler that keeps nothing but its servers.
type list struct{ dests []Dest }

func (s *list) Adopt(dests []Dest, _ any) { s.dests = dests }
