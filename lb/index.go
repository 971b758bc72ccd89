package lb

import (
	"encoding/binary"
	"math/bits"

	"github.com/sluice-lb/sluice/lb/flow"
)

// index finds a number by protocol, address and port. It is built once, is at
// most half full and free of pointers: a lookup reads one or two cache lines,
// however many entries there are.
type index struct {
	entries []indexEntry // a power of two, or none
	shift   uint8        // 64 - log2(len(entries))
}

type indexEntry struct {
	addr  flow.Addr
	port  uint16
	proto uint8
	used  bool
	value uint32
}

// newIndex returns an empty index with room for n entries.
func newIndex(n int) index {
	if n == 0 {
		return index{}
	}
	log := bits.Len(uint(2*n - 1))
	return index{entries: make([]indexEntry, 1<<log), shift: uint8(64 - log)}
}

// slot returns where the search for an entry begins. Both halves of the
// address are folded by a 64×64→128 bit multiplication.
func (x *index) slot(proto uint8, addr *flow.Addr, port uint16) int {
	rest := uint64(port)<<8 | uint64(proto)
	hi, lo := bits.Mul64(
		binary.LittleEndian.Uint64(addr[:8])^0x9e3779b97f4a7c15,
		binary.LittleEndian.Uint64(addr[8:])^rest*0xd1b54a32d192ed03)
	return int((hi ^ lo) * 0x8cb92ba72f3d8dd7 >> x.shift)
}

// add puts an entry in; one that is there already stays. It returns the
// entry's value.
func (x *index) add(proto uint8, addr *flow.Addr, port uint16, value uint32) *uint32 {
	mask := len(x.entries) - 1
	for i := x.slot(proto, addr, port); ; i = (i + 1) & mask {
		e := &x.entries[i]
		if !e.used {
			*e = indexEntry{*addr, port, proto, true, value}
			return &e.value
		}
		if e.port == port && e.proto == proto && e.addr == *addr {
			return &e.value
		}
	}
}

// find returns the value of an entry. It ends, as half the table is free.
func (x *index) find(proto uint8, addr *flow.Addr, port uint16) (uint32, bool) {
	if len(x.entries) == 0 {
		return 0, false
	}
	mask := len(x.entries) - 1
	for i := x.slot(proto, addr, port); ; i = (i + 1) & mask {
		e := &x.entries[i]
		if !e.used {
			return 0, false
		}
		if e.port == port && e.proto == proto && e.addr == *addr {
			return e.value, true
		}
	}
}
