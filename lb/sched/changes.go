package sched

import (
	"cmp"
	"math/bits"
	"slices"
)

// Changes are the real servers whose load or overload a worker has changed since
// their scheduler looked, a bit each, by ID. They are that worker's: it notes, and its
// schedulers take what concerns their servers.
type Changes []*block

// block has the bits of 4,096 IDs.
type block struct {
	words uint64     // which of ids are not 0
	ids   [64]uint64 // a bit for each ID
	_     [56]byte   // to whole cache lines: the next block may be another worker's
}

// blockIDs is how many IDs a block is for.
const blockIDs = 64 * 64

// Grow returns changes with room for IDs below n. It shares its blocks with c, so
// that either may be used where both have room.
func (c Changes) Grow(n int) Changes {
	more := slices.Clone(c)
	for len(more)*blockIDs < n {
		more = append(more, new(block))
	}
	return more
}

// Note notes a real server.
func (c Changes) Note(id uint32) {
	b, word := c[id/blockIDs], id/64%64
	b.words |= 1 << word
	b.ids[word] |= 1 << (id % 64)
}

// leaves is where the bits of a service's servers are among Changes, and which
// place in the list each of them stands for. Workers share it.
type leaves struct {
	blocks []blockMask
	words  []wordMask // of all blocks
	places []uint32   // in the list, by rank of the ID
}

// blockMask are a service's servers in a block.
type blockMask struct {
	block uint32
	first uint32 // of its words in leaves.words
	words uint64 // those that have any of them
}

// wordMask are a service's servers in a word.
type wordMask struct {
	ids   uint64
	first uint32 // rank of the lowest
}

// planLeast finds the servers' bits.
func planLeast(_ Flags, dests []Dest, _ []Edit, _ any) any {
	p := &leaves{places: make([]uint32, len(dests))}
	for i := range p.places {
		p.places[i] = uint32(i)
	}
	slices.SortFunc(p.places, func(a, b uint32) int { return cmp.Compare(dests[a].ID, dests[b].ID) })
	for rank, place := range p.places {
		id := dests[place].ID
		if n := len(p.blocks); n == 0 || p.blocks[n-1].block != id/blockIDs {
			p.blocks = append(p.blocks, blockMask{block: id / blockIDs, first: uint32(len(p.words))})
		}
		b, word := &p.blocks[len(p.blocks)-1], uint64(1)<<(id/64%64)
		if b.words&word == 0 {
			b.words |= word
			p.words = append(p.words, wordMask{first: uint32(rank)})
		}
		p.words[len(p.words)-1].ids |= 1 << (id % 64)
	}
	return p
}

// take has f look at each server of the service that is among c, by its place,
// and removes it from there.
func (p *leaves) take(c Changes, f func(place uint32)) {
	for i := range p.blocks {
		mask := &p.blocks[i]
		b := c[mask.block]
		for words := b.words & mask.words; words != 0; words &= words - 1 {
			at := bits.TrailingZeros64(words)
			word := &p.words[mask.first+below(mask.words, words)]
			ids := b.ids[at] & word.ids
			if b.ids[at] &^= ids; b.ids[at] == 0 {
				b.words &^= 1 << at
			}
			for ; ids != 0; ids &= ids - 1 {
				f(p.places[word.first+below(word.ids, ids)])
			}
		}
	}
}

// below returns how many bits of set are below the lowest one of rest.
func below(set, rest uint64) uint32 { return uint32(bits.OnesCount64(set & (rest&-rest - 1))) }
