package flow

import "encoding/binary"

// Toeplitz is the hash that NICs spread packets by, over one endpoint:
// address, then port, both in network order, 6 or 18 bytes. It is the RSS hash
// of Microsoft's NDIS documentation; being linear over bits it is kept as one
// table of 16 values, a cache line, for each half byte of input.
type Toeplitz struct {
	nibble [2 * endpointBytes][16]uint32
}

const endpointBytes = 16 + 2 // IPv6 address and port

// NewToeplitz prepares the hash for a NIC's key (40 or 52 bytes). Of the key
// only the first 22 bytes meet inputs this short; missing ones count as zero.
func NewToeplitz(key []byte) *Toeplitz {
	var k [endpointBytes + 8]byte
	copy(k[:endpointBytes+4], key)
	t := new(Toeplitz)
	for n := range t.nibble {
		// An input bit that is set contributes the 32 key bits that begin
		// at its own place.
		window := binary.BigEndian.Uint64(k[n/2:]) << (4 * (n % 2))
		for value := range t.nibble[n] {
			for bit := range 4 {
				if value&(8>>bit) != 0 {
					t.nibble[n][value] ^= uint32(window << bit >> 32)
				}
			}
		}
	}
	return t
}

// Hash returns the Toeplitz hash of addr||port: 6 bytes for a mapped IPv4
// address, else 18. port is in host order.
func (t *Toeplitz) Hash(addr *Addr, port uint16) uint32 {
	bytes := addr[:]
	if addr.Is4() {
		bytes = addr[12:]
	}
	n := 2 * len(bytes)
	h := t.nibble[n][port>>12] ^ t.nibble[n+1][port>>8&15] ^ t.nibble[n+2][port>>4&15] ^ t.nibble[n+3][port&15]
	for i, b := range bytes {
		h ^= t.nibble[2*i][b>>4] ^ t.nibble[2*i+1][b&15]
	}
	return h
}
