package sched

import (
	"math"
	"math/bits"
)

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

// least takes the available server of the least cost for its weight, the first of
// equals. It keeps a tournament of the servers (a winner tree: Knuth, The Art of
// Computer Programming 3, 5.4.1), so that a server whose load has changed
// plays again only the matches on its way up.
type least struct {
	cost   func(active, inactive int32) uint64
	most   int32 // weights count up to here
	dests  []Dest
	bits   *leaves
	nodes  []node // 1 is the winner, of i's match with 2i and 2i+1 i has the winner; the second half are the servers, as in dests
	played bool   // since Adopt
	batch  uint64 // when all matches were played
}

// node is a server in the tournament; one that is not available has cost 1 for
// weight 0, which is more than any other.
type node struct {
	cost   uint64
	weight int32
	place  uint32 // in the list
}

// newLeast returns a scheduler by that cost for a server's weight.
func newLeast(cost func(active, inactive int32) uint64) Scheduler {
	return &least{cost: cost, most: math.MaxInt32}
}

func (s *least) Adopt(dests []Dest, plan any) {
	s.dests, s.bits, s.played = dests, plan.(*leaves), false
	if n := 2 << bits.Len(uint(max(len(dests), 1)-1)); n != len(s.nodes) {
		s.nodes = make([]node, n)
	}
}

// Pick plays the matches of servers whose load this worker has changed; all of them
// when servers were edited, or others may have changed loads.
func (s *least) Pick(_ *Query, l Loads) int {
	if len(s.dests) == 0 {
		return -1
	}
	changes, batch := l.Changes()
	if !s.played || batch != s.batch {
		s.played, s.batch = true, batch
		s.play(l)
	}
	s.bits.take(changes, func(place uint32) { s.replay(place, l) })
	if s.nodes[1].weight == 0 {
		return -1
	}
	return int(s.nodes[1].place)
}

// play plays all matches.
func (s *least) play(l Loads) {
	half := len(s.nodes) / 2
	for i := range s.nodes[half:] {
		s.nodes[half+i] = s.node(i, l)
	}
	for i := half - 1; i > 0; i-- {
		s.nodes[i] = *s.winner(i)
	}
}

// replay plays the matches of a server, until one ends as it did before.
func (s *least) replay(place uint32, l Loads) {
	i := len(s.nodes)/2 + int(place)
	s.nodes[i] = s.node(int(place), l)
	for i /= 2; i > 0; i /= 2 {
		winner := s.winner(i)
		if s.nodes[i] == *winner {
			return
		}
		s.nodes[i] = *winner
	}
}

// node returns a server as it is now; beyond the last one nobody.
func (s *least) node(place int, l Loads) node {
	if place >= len(s.dests) || !available(&s.dests[place], l) {
		return node{cost: 1}
	}
	d := &s.dests[place]
	return node{cost: s.cost(l.Load(d.ID)), weight: min(d.Weight, s.most), place: uint32(place)}
}

// winner plays match i.
func (s *least) winner(i int) *node {
	a, b := &s.nodes[2*i], &s.nodes[2*i+1]
	if heavier(a.cost, a.weight, b.cost, b.weight) {
		return b
	}
	return a
}

// list is the part of a scheduler that keeps nothing but its servers.
type list struct{ dests []Dest }

func (s *list) Adopt(dests []Dest, _ any) { s.dests = dests }
