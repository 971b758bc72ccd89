package csum

import "github.com/sluice-lb/sluice/lb/flow"

// Pseudo returns the partial sum of the pseudo header of a transport segment
// of length bytes (RFC 9293 section 3.1; for IPv6 RFC 8200 section 8.1).
// Both addresses are of one family.
func Pseudo(src, dst *flow.Addr, proto uint8, length int) uint32 {
	rest := uint32(proto) + uint32(length)>>16 + uint32(length)&0xffff
	if src.Is4() {
		return Sum(dst[12:], Sum(src[12:], rest))
	}
	return Sum(dst[:], Sum(src[:], rest))
}
