package csum

import "hash/crc32"

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      [4]byte // on the stack it would be copied to the heap for each call
)

// sctpChecksumAt is where an SCTP packet has its checksum, 4 bytes of it.
const sctpChecksumAt = 8

// SCTP returns the CRC32c of an SCTP packet, p[0] being the first byte of its
// common header of 12 bytes, taken as if the checksum in it were 0. It is
// stored least significant byte first (RFC 9260 section 6.8, appendix A).
func SCTP(p []byte) uint32 {
	crc := crc32.Update(0, castagnoli, p[:sctpChecksumAt])
	crc = crc32.Update(crc, castagnoli, zeros[:])
	return crc32.Update(crc, castagnoli, p[sctpChecksumAt+4:])
}
