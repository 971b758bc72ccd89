package sched

import "math/bits"

// twos draws two servers at random, by weight, and takes the one with less
// work for its weight, the first at a tie (K-SCH-TWOS, ip_vs_twos.c;
// Mitzenmacher, Richa and Sitaraman, "The power of two random choices: a survey
// of techniques and results", 2001). The randomness is the query's, so that the
// same packets are scheduled the same way again.
type twos struct{ list }

func newTwos(Flags) Scheduler { return &twos{} }

func (s *twos) Pick(q *Query, l Loads) int {
	total := uint64(0)
	for i := range s.dests {
		if d := &s.dests[i]; available(d, l) {
			total += uint64(d.Weight)
		}
	}
	if total == 0 {
		return -1
	}
	// 0 and total are both drawn, as in the kernel.
	r1, _ := bits.Mul64(q.Random, total+1)
	r2, _ := bits.Mul64(mix(q.Random), total+1)
	i, j := s.at(r1, l), s.at(r2, l)
	if i < 0 || j < 0 {
		return -1
	}
	a, b := &s.dests[i], &s.dests[j]
	if heavier(overhead(l.Load(a.ID)), a.Weight, overhead(l.Load(b.ID)), b.Weight) {
		return j
	}
	return i
}

// at returns the first server at which the sum of weights, added up along the
// list, reaches r; the last one if none does, -1 if there is none, which only
// servers that became overloaded since the sum was made can cause.
func (s *twos) at(r uint64, l Loads) int {
	last, sum := -1, uint64(0)
	for i := range s.dests {
		d := &s.dests[i]
		if !available(d, l) {
			continue
		}
		last = i
		if sum += uint64(d.Weight); sum >= r {
			break
		}
	}
	return last
}

// mix returns other uniform bits: one step of splitmix64 (Steele, Lea, Flood,
// "Fast splittable pseudorandom number generators", OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
