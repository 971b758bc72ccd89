package frag

import (
	"hash/maphash"

	"github.com/sluice-lb/sluice/lb/flow"
)

// none is no number.
const none = -1

// blockBytes is what a frame's memory is rounded up to: of 1514 bytes three
// blocks, of a small one one.
const blockBytes = 512

// store is memory for frames, in chains of blocks.
type store struct {
	mem   []byte
	next  []int32 // of a chain, or of the free ones
	first int32   // free one
	free  int
}

func newStore(blocks int) store {
	s := store{mem: make([]byte, blocks*blockBytes), next: make([]int32, blocks), free: blocks}
	for i := range s.next {
		s.next[i] = int32(i + 1)
	}
	s.next[blocks-1] = none
	return s
}

// blocksFor returns how many blocks a frame of n bytes, at least one, takes.
func blocksFor(n int) int { return (n + blockBytes - 1) / blockBytes }

// put keeps a frame for which there is room, and returns its first block.
func (s *store) put(frame []byte) int32 {
	i := s.first
	for at := i; ; at = s.next[at] {
		s.free--
		frame = frame[copy(s.mem[int(at)*blockBytes:][:blockBytes], frame):]
		if len(frame) == 0 {
			s.first, s.next[at] = s.next[at], none
			return i
		}
	}
}

// get fills dst with what a frame has from byte from on, and returns it.
func (s *store) get(dst []byte, i int32, from uint32) []byte {
	for ; from >= blockBytes; from -= blockBytes {
		i = s.next[i]
	}
	rest := dst[copy(dst, s.mem[int(i)*blockBytes+int(from):][:blockBytes-from]):]
	for len(rest) > 0 {
		i = s.next[i]
		rest = rest[copy(rest, s.mem[int(i)*blockBytes:][:blockBytes]):]
	}
	return dst
}

// giveBack frees a frame's blocks.
func (s *store) giveBack(i int32) {
	for i != none {
		next := s.next[i]
		s.next[i], s.first = s.first, i
		s.free++
		i = next
	}
}

// links are a place in a list, oldest first.
type links struct{ older, newer int32 }

// list is one whose places are in a slice of links.
type list struct{ oldest, newest int32 }

var emptyList = list{none, none}

func (l *list) append(all []links, i int32) {
	all[i] = links{l.newest, none}
	if l.newest == none {
		l.oldest = i
	} else {
		all[l.newest].newer = i
	}
	l.newest = i
}

func (l *list) remove(all []links, i int32) {
	at := all[i]
	if at.older == none {
		l.oldest = at.newer
	} else {
		all[at.older].newer = at.newer
	}
	if at.newer == none {
		l.newest = at.older
	} else {
		all[at.newer].older = at.older
	}
}

// oldestBut returns the oldest that is not i, or none.
func (l *list) oldestBut(all []links, i int32) int32 {
	if l.oldest == i && i != none {
		return all[i].newer
	}
	return l.oldest
}

// source is an address that fragments come from.
type source struct {
	addr   flow.Addr
	chain  int32  // next of its bucket, or of the free ones
	users  int32  // its datagrams; 0: it is forgotten
	blocks int32  // that its fragments take
	seen   uint32 // IPv4 fragments that came from it
	ranks  list   // its datagrams that wait
}

// sources are those of the datagrams that there are.
type sources struct {
	all     []source
	first   int32 // free one
	seed    maphash.Seed
	buckets []int32
}

// newSources makes room for n, and for one that has none yet.
func newSources(n, buckets int) sources {
	s := sources{all: make([]source, n+1), seed: maphash.MakeSeed(), buckets: make([]int32, buckets)}
	for i := range s.all {
		s.all[i].chain = int32(i + 1)
	}
	s.all[n].chain = none
	for i := range s.buckets {
		s.buckets[i] = none
	}
	return s
}

func (s *sources) bucket(a *flow.Addr) *int32 {
	return &s.buckets[maphash.Comparable(s.seed, *a)&uint64(len(s.buckets)-1)]
}

// hold returns an address's number and keeps it from being forgotten until
// letGo.
func (s *sources) hold(a *flow.Addr) int32 {
	bucket := s.bucket(a)
	i := *bucket
	for i != none && s.all[i].addr != *a {
		i = s.all[i].chain
	}
	if i == none {
		i = s.first
		s.first = s.all[i].chain
		s.all[i] = source{addr: *a, chain: *bucket, ranks: emptyList}
		*bucket = i
	}
	s.all[i].users++
	return i
}

func (s *sources) letGo(i int32) {
	if s.all[i].users--; s.all[i].users > 0 {
		return
	}
	at := s.bucket(&s.all[i].addr)
	for *at != i {
		at = &s.all[*at].chain
	}
	*at = s.all[i].chain
	s.all[i].chain, s.first = s.first, i
}
