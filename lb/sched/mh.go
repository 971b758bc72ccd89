package sched

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// MaxMaglev is the most servers that a service with mh may have: its table's
// size, the kernel's default prime (K-SCH-MH).
const MaxMaglev = 4093

// mhShift is half the kernel's IP_VS_MH_TAB_INDEX, 12: a server takes at most
// 2^6 slots in a row.
const mhShift = 6

// Keys of the two hashes, both words of each.
const (
	mhKey1 = 2654435761
	mhKey2 = 2654446892
)

// mh is Maglev hashing of the client's address, with mh-port its port too
// (K-SCH-MH, ip_vs_mh.c; Eisenbud et al., "Maglev", NSDI 2016): servers fill a table in
// turns, each along a permutation of its own, so that when one leaves, few
// slots change hands. With mh-fallback a server that is not available is
// replaced by that of another slot.
func newMH(f Flags) Scheduler {
	s := &hashed{table: &table{}, fallback: f&Flag1 != 0, key: clientKey, slot: mhSlot}
	if f&Flag2 != 0 {
		s.key = clientPortKey
	}
	return s
}

func mhSlot(key, offset uint32) uint32 { return sip13(key+offset, mhKey1) % MaxMaglev }

// noSlot marks what is still free while a table is filled.
const noSlot = ^uint16(0)

// mhTurn is a server's part in filling the table.
type mhTurn struct {
	next, skip uint32 // where it is in its permutation
	slots      int32  // how many it takes at a time
}

// mhServer is what the kernel hashes of a server: its address as one of the
// service's family, which of an IPv6 server of an IPv4 service is 32 bits, and its
// port.
func mhServer(f Flags, d *Dest) uint32 {
	if f&IPv4 != 0 && !d.Addr.Is4() {
		return binary.BigEndian.Uint32(d.Addr[:4]) + uint32(d.Port)
	}
	return fold(&d.Addr) + uint32(d.Port)
}

func mhTable(f Flags, dests []Dest) []uint16 {
	var w weights
	for i := range dests {
		w.add(dests[i].LastWeight)
	}
	if w.divisor == 0 || len(dests) > MaxMaglev {
		return nil
	}
	shift := max(bits.Len32(uint32(w.highest/w.divisor))-mhShift, 0)
	turns := make([]mhTurn, len(dests))
	for i := range dests {
		d := &dests[i]
		key := mhServer(f, d)
		turns[i] = mhTurn{next: mhSlot(key, 0), skip: sip13(key, mhKey2)%(MaxMaglev-1) + 1}
		if d.LastWeight > 0 {
			turns[i].slots = max(d.LastWeight/w.divisor>>shift, 1)
		}
	}
	slots := slices.Repeat([]uint16{noSlot}, MaxMaglev)
	for left := len(slots); ; {
		for i := range turns {
			for range turns[i].slots {
				slots[turns[i].free(slots)] = uint16(i)
				if left--; left == 0 {
					return slots
				}
			}
		}
	}
}

// free moves to the next slot of the permutation that nobody has.
func (t *mhTurn) free(slots []uint16) uint32 {
	for slots[t.next] != noSlot {
		if t.next += t.skip; t.next >= MaxMaglev {
			t.next -= MaxMaglev
		}
	}
	return t.next
}

// planMH keeps the table while nothing that it depends on has changed: weight
// 0 does not reshuffle (K-DST-5).
func planMH(f Flags, dests []Dest, _ []Edit, previous any) any {
	old, ok := previous.(*table)
	if ok && slices.EqualFunc(old.dests, dests, func(a, b Dest) bool {
		return a.Addr == b.Addr && a.Port == b.Port && a.LastWeight == b.LastWeight
	}) {
		return &table{dests, old.slots}
	}
	return &table{dests, mhTable(f, dests)}
}
