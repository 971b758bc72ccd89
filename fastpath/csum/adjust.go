package csum

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/lb/flow"
)

var be = binary.BigEndian

// A Change is what the partial sum of some bytes gains when they go from one
// value to another, modulo 0xffff: for checksums that cover the same change
// (an IP header's and TCP's, of an address) it is worked out once. Changes
// add up; a sum of fewer than 2^24 of them does not overflow.
type Change uint64

// Change16 is the change of one word.
func Change16(was, now uint16) Change {
	return Change(^was) + Change(now)
}

// Change32 is the change of two adjacent words.
func Change32(was, now uint32) Change {
	return Change(^was) + Change(now)
}

// ChangeAddr is the change of an address into another of its family.
func ChangeAddr(was, now *flow.Addr) Change {
	if was.Is4() && now.Is4() {
		return Change32(be.Uint32(was[12:]), be.Uint32(now[12:]))
	}
	return Change128(was[:], now[:])
}

// Change128 is the change of eight adjacent words, an IPv6 address; was and
// now are of 16 bytes.
func Change128(was, now []byte) Change {
	_, _ = was[15], now[15]
	return Change32(be.Uint32(was), be.Uint32(now)) + Change32(be.Uint32(was[4:]), be.Uint32(now[4:])) +
		Change32(be.Uint32(was[8:]), be.Uint32(now[8:])) + Change32(be.Uint32(was[12:]), be.Uint32(now[12:]))
}

// Apply returns a checksum after a change of what it covers. RFC 1624 eqn 3: right
// where RFC 1141 gives 0xffff for 0x0000.
func Apply(sum uint16, c Change) uint16 {
	return ^fold64(uint64(^sum) + uint64(c))
}
