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

// The TTL of packets of the host's own; and the precedence of an IPv4 error,
// internetwork control, beside the TOS bits of the packet that caused it (RFC
// 1812 section 4.3.2.5).
const (
	ownTTL          = 64
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
	longest, tos := maxError4-packet.IPv4Len, orig.TOS&tosBits|errorPrecedence
	if orig.Family == 6 {
		longest, tos = maxError6-packet.IPv6Len, 0
	}
	quote := frame[orig.L3:orig.End]
	return message(dst, orig, &src, tos, typ, code, rest, quote[:min(len(quote), longest-packet.ICMPLen)], id)
}

// EchoReply appends to dst the IP datagram that answers the echo request in of
// frame: from where that went, as Linux does, whatever its TTL, DF and options.
func EchoReply(dst []byte, in *packet.Info, frame []byte, id uint16) []byte {
	m, typ := frame[in.L4:in.End], uint8(packet.ICMPEchoReply)
	if in.Family == 6 {
		typ = packet.ICMPv6EchoReply
	}
	return message(dst, in, &in.Dst, in.TOS, typ, m[1], be.Uint32(m[4:]), m[packet.ICMPLen:], id)
}

// message appends the datagram of an ICMP or ICMPv6 message to the source of
// the packet to.
func message(dst []byte, to *packet.Info, src *flow.Addr, tos, typ, code uint8, rest uint32, body []byte, id uint16) []byte {
	header, proto := packet.IPv4Len, uint8(packet.ProtoICMP)
	if to.Family == 6 {
		header, proto = packet.IPv6Len, packet.ProtoICMPv6
	}
	length := header + packet.ICMPLen + len(body)
	start := len(dst)
	dst = slices.Grow(dst, length)[:start+length]
	b := dst[start:]
	clear(b[:header+packet.ICMPLen])
	copy(b[header+packet.ICMPLen:], body)
	m := packet.ICMPHeader(b[header:])
	m[0], m[1] = typ, code
	be.PutUint32(m[4:], rest)
	if payload := uint16(length - header); to.Family == 4 {
		header4(b, src, &to.Src, tos, ownTTL, proto, payload, id, false)
	} else {
		header6(b, src, &to.Src, tos, ownTTL, proto, payload)
	}
	made := packet.Info{Family: to.Family, L4: uint16(header)}
	m.SetChecksum(icmpSum(b, &made))
	return dst
}
