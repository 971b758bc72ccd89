// Package csum is the Internet checksum and SCTP's CRC32c: sums from
// scratch, and sums adjusted after a header changed.
//
// Its functions are pure and belong to nobody. A partial sum is a uint32
// that is right modulo 0xffff: partial sums of several pieces are added by
// passing one as the next one's start, and Fold makes the checksum.
package csum

import (
	"encoding/binary"
	"math/bits"
)

// Sum returns the partial sum of start and b, read as big-endian 16-bit words;
// an odd last byte is the high half of a word (RFC 1071). Pieces before the
// last must be of even length.
func Sum(b []byte, start uint32) uint32 {
	// Words of the machine's order add up to the same sum with its bytes
	// swapped (RFC 1071 section 2B), so the swap is done once, at the end.
	var sum, carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) >= 4 {
		sum, carry = bits.Add64(sum, uint64(binary.LittleEndian.Uint32(b)), carry)
		b = b[4:]
	}
	if len(b) >= 2 {
		sum, carry = bits.Add64(sum, uint64(binary.LittleEndian.Uint16(b)), carry)
		b = b[2:]
	}
	if len(b) == 1 {
		sum, carry = bits.Add64(sum, uint64(b[0]), carry)
	}
	sum += carry // no overflow: a sum that gave a carry is not all ones
	return add(uint32(bits.ReverseBytes16(fold64(sum))), start)
}

// Right4 says whether the checksum of an IPv4 header without options, h[:20],
// is right: its words then add up to 0xffff (RFC 791), that is to a multiple of
// it, and asking for that takes one multiplication instead of folding. An all
// zero header is no header and not asked about.
func Right4(h []byte) bool {
	_ = h[19]
	return (uint64(binary.LittleEndian.Uint32(h))+uint64(binary.LittleEndian.Uint32(h[4:]))+
		uint64(binary.LittleEndian.Uint32(h[8:]))+uint64(binary.LittleEndian.Uint32(h[12:]))+
		uint64(binary.LittleEndian.Uint32(h[16:])))%0xffff == 0
}

// Fold returns the checksum that a partial sum makes: the complement of its
// 16-bit ones' complement.
func Fold(sum uint32) uint16 {
	return ^fold64(uint64(sum))
}

// NonZero returns sum, or 0xffff for 0: in UDP a checksum of 0 says that there
// is none (RFC 768).
func NonZero(sum uint16) uint16 {
	if sum == 0 {
		return 0xffff
	}
	return sum
}

// add is the ones' complement sum of two 32-bit partial sums.
func add(a, b uint32) uint32 {
	s, carry := bits.Add32(a, b, 0)
	return s + carry
}

// fold64 adds up the four words of a sum, with end-around carry. It is 0 only
// for 0. The upper half of a word plus itself with its halves swapped is the
// sum of the halves and its carry.
func fold64(s uint64) uint16 {
	w := uint32((s + bits.RotateLeft64(s, 32)) >> 32)
	return uint16((w + bits.RotateLeft32(w, 16)) >> 16)
}
