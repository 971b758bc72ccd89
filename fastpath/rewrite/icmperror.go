package rewrite

import (
	"slices"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

// The longest ICMP errors, in bytes of IP datagram: RFC 1812 section 4.3.2.3,
// RFC 4443 section 2.4 (c).
const (
	maxError4 = 576
	maxError6 = 1280
)

// Of an error's IP header: the TTL of packets of the host's own, and the
// precedence of an IPv4 error, internetwork control, beside the TOS bits of
// the packet that caused it (RFC 1812 section 4.3.2.5).
const (
	errorTTL        = 64
	errorPrecedence = 0xc0
	tosBits         = 0x1e
)

// ICMPError appends to dst the IP datagram of an ICMP or ICMPv6 error about
// the packet orig of frame, from src, of its family, to its source; rest are
// the second four bytes of the ICMP header (an MTU, for example) and id the
// ident of an IPv4 datagram. It quotes as much of the packet as an error may,
// as it stands in frame: the kernel decrements the TTL before it finds a
// packet too big, but not before it finds its TTL exceeded (K-ICMP-7). Whether
// an error may be sent about such a packet, as not about another error, a
// fragment or to a group, is the caller's to know (RFC 1812 section 4.3.2.7).
func ICMPError(dst []byte, orig *packet.Info, frame []byte, src flow.Addr, typ, code uint8, rest uint32, id uint16) []byte {
	header, longest, proto := packet.IPv4Len, maxError4, uint8(packet.ProtoICMP)
	if orig.Family == 6 {
		header, longest, proto = packet.IPv6Len, maxError6, packet.ProtoICMPv6
	}
	quote := frame[orig.L3:orig.End]
	quote = quote[:min(len(quote), longest-header-packet.ICMPLen)]
	length := header + packet.ICMPLen + len(quote)
	start := len(dst)
	dst = slices.Grow(dst, length)[:start+length]
	b := dst[start:]
	clear(b[:header+packet.ICMPLen])
	copy(b[header+packet.ICMPLen:], quote)
	message := packet.ICMPHeader(b[header:])
	message[0], message[1] = typ, code
	be.PutUint32(message[4:], rest)
	if payload := uint16(length - header); orig.Family == 4 {
		header4(b, &src, &orig.Src, orig.TOS&tosBits|errorPrecedence, errorTTL, proto, payload, id, false)
	} else {
		header6(b, &src, &orig.Src, 0, errorTTL, proto, payload)
	}
	made := packet.Info{Family: orig.Family, L4: uint16(header)}
	message.SetChecksum(icmpSum(b, &made))
	return dst
}
