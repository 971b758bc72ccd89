package rewrite

import (
	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Tunnel puts the packet, its TTL less by 1, into a datagram from src to dst,
// both of one family: IP in IP, 6in4, 4in6 or 6in6 (K-FWD-TUN-IPIP). The outer
// header has the inner one's TTL and traffic class, the latter by the rules
// for ECN, and no flow label. An outer IPv4 header has DF if pmtuDisc is set
// and the inner packet has it, with ident 0; else no DF and ident id.
//
// in describes the outer packet afterwards. It returns false, with nothing
// changed, if the chunk has no headroom for the new header and Ethernet's
// before it, or the datagram would be longer than IP allows.
func Tunnel(f *Frame, in *packet.Info, src, dst *flow.Addr, id uint16, pmtuDisc bool) bool {
	v4 := dst.Is4()
	outer := uint32(packet.IPv6Len)
	if v4 {
		outer = packet.IPv4Len
	}
	inner := uint32(in.End - in.L3)
	at := f.Off + uint32(in.L3) // of the inner header, in the chunk
	if at < outer+packet.EthernetLen || inner+outer+packet.EthernetLen > packet.MaxFrame {
		return false
	}
	hop(f.bytes(in), in, 0)
	ttl, tos := in.TTL-1, outerTOS(in.TOS)
	proto := uint8(packet.ProtoIPv4)
	if in.Family == 6 {
		proto = packet.ProtoIPv6
	}
	df := pmtuDisc && in.Flags&packet.FlagDF != 0
	f.Off = at - outer - packet.EthernetLen
	f.Len = packet.EthernetLen + outer + inner
	*in = packet.Info{
		Src: *src, Dst: *dst, Family: 6, Proto: proto, TTL: ttl, TOS: tos,
		L3: packet.EthernetLen, L4: packet.EthernetLen + uint16(outer), End: uint16(f.Len),
	}
	h := f.Chunk[at-outer : at]
	if !v4 {
		header6(h, src, dst, tos, ttl, proto, uint16(inner))
		return true
	}
	in.Family = 4
	if df {
		in.Flags = packet.FlagDF
	}
	header4(h, src, dst, tos, ttl, proto, uint16(inner), id, df)
	return true
}

// header4 writes an IPv4 header without options before a payload of this
// length. Its checksum is summed from the values, as memory that was written
// in other pieces than it is read in is slow to read.
func header4(h []byte, src, dst *flow.Addr, tos, ttl, proto uint8, payload, id uint16, df bool) {
	bits := uint16(0)
	if df {
		id, bits = 0, 0x4000
	}
	first, third := 4<<12|packet.IPv4Len/4<<8|uint16(tos), uint16(ttl)<<8|uint16(proto)
	from, to, total := be.Uint32(src[12:]), be.Uint32(dst[12:]), packet.IPv4Len+payload
	sum := uint32(first) + uint32(total) + uint32(id) + uint32(bits) + uint32(third) +
		from>>16 + from&0xffff + to>>16 + to&0xffff
	_ = h[packet.IPv4Len-1]
	be.PutUint32(h, uint32(first)<<16|uint32(total))
	be.PutUint32(h[4:], uint32(id)<<16|uint32(bits))
	be.PutUint32(h[8:], uint32(third)<<16|uint32(csum.Fold(sum)))
	be.PutUint32(h[12:], from)
	be.PutUint32(h[16:], to)
}

// header6 writes an IPv6 header, without flow label, before a payload of this
// length.
func header6(h []byte, src, dst *flow.Addr, tos, ttl, proto uint8, payload uint16) {
	be.PutUint32(h, 6<<28|uint32(tos)<<20)
	be.PutUint32(h[4:], uint32(payload)<<16|uint32(proto)<<8|uint32(ttl))
	copy(h[8:24], src[:])
	copy(h[24:40], dst[:])
}

// Explicit congestion notification: the last two bits of TOS (RFC 3168).
const (
	ecnMask = 3
	ecnECT0 = 2
	ecnCE   = 3
)

// outerTOS copies an inner TOS to the outer header; a packet that already
// met congestion begins its new way without (RFC 3168 section 9.1.1).
func outerTOS(tos uint8) uint8 {
	if tos&ecnMask == ecnCE {
		return tos&^ecnMask | ecnECT0
	}
	return tos
}
