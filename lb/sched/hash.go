package sched

import (
	"encoding/binary"
	"math/bits"

	"github.com/sluice-lb/sluice/lb/flow"
)

// fold returns an address in 32 bits, in host order: IPv4 itself, of IPv6 the
// exclusive or of its four words.
func fold(a *flow.Addr) uint32 {
	last := binary.BigEndian.Uint32(a[12:])
	if a.Is4() {
		return last
	}
	return binary.BigEndian.Uint32(a[:4]) ^ binary.BigEndian.Uint32(a[4:8]) ^ binary.BigEndian.Uint32(a[8:12]) ^ last
}

// hash32 returns the n upper bits of v times the 32-bit golden ratio.
func hash32(v uint32, n uint8) uint32 { return v * 0x61c88647 >> (32 - n) }

// sip13 returns 32 bits of SipHash-1-3 (Aumasson, Bernstein, "SipHash: a fast
// short-input PRF", 2012) of v as four little-endian bytes, under a key whose
// two words are both k. It is what 64-bit kernels call hsiphash.
func sip13(v uint32, k uint64) uint32 {
	v0, v1, v2, v3 := k^0x736f6d6570736575, k^0x646f72616e646f6d, k^0x6c7967656e657261, k^0x7465646279746573
	round := func() {
		v0 += v1
		v2 += v3
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v2 += v1
		v0 = bits.RotateLeft64(v0, 32) + v3
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 = bits.RotateLeft64(v2, 32)
	}
	block := 4<<56 | uint64(v)
	v3 ^= block
	round()
	v0 ^= block
	v2 ^= 0xff
	round()
	round()
	round()
	return uint32(v0 ^ v1 ^ v2 ^ v3)
}

// table maps hash values to servers. It is made once for all workers and not
// changed after that.
type table struct {
	dests []Dest
	slots []uint16 // index in dests; no slots: nobody
}

// hashed is a scheduler that looks a server up by a hash of the packet.
type hashed struct {
	*table
	fallback bool                                 // the server is not available: try others
	key      func(q *Query) uint32                // what is hashed
	slot     func(key, offset uint32) (at uint32) // where that is in the table, at the offset'th try
}

func (s *hashed) Pick(q *Query, l Loads) int {
	if len(s.slots) == 0 {
		return -1
	}
	key := s.key(q)
	first := s.slot(key, 0)
	if i := s.at(first, l); i >= 0 || !s.fallback || !s.anyAvailable(l) {
		return i
	}
	for try := range uint32(len(s.slots)) {
		if i := s.at(s.slot(key, (first+try)%uint32(len(s.slots))), l); i >= 0 {
			return i
		}
	}
	return -1
}

// at returns the server in a slot if it is available, or -1.
func (s *hashed) at(slot uint32, l Loads) int {
	if i := s.slots[slot]; available(&s.dests[i], l) {
		return int(i)
	}
	return -1
}

func (s *hashed) anyAvailable(l Loads) bool {
	for i := range s.dests {
		if available(&s.dests[i], l) {
			return true
		}
	}
	return false
}

func (s *hashed) Adopt(_ []Dest, plan any) { s.table = plan.(*table) }

func clientKey(q *Query) uint32 { return fold(&q.Client) }

func clientPortKey(q *Query) uint32 { return fold(&q.Client) + uint32(q.ClientPort) }
