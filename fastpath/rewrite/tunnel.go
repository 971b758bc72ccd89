package rewrite

import (
	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Encap is how the packets of a tunnelled real server are wrapped: in IP alone
// (IP in IP, 6in4, 4in6, 6in6), in GUE or in GRE. It is chosen when services
// change, not packet by packet, and read-only from then on.
type Encap struct {
	// Overhead is how many bytes of headers Wrap puts in front of the client's
	// IP packet: by so much the tunnel's MTU is less than its way's (K-FWD-MTU).
	Overhead uint16

	kind lb.TunnelType
	v4   bool      // family of the outer header
	df   bool      // an outer IPv4 header has the inner one's DF
	sum  bool      // GUE's UDP, or GRE, has a checksum
	port uint16    // GUE's UDP destination
	dst  flow.Addr // the real server
	seed flow.Seed // of GUE's source ports
}

// NewEncap returns how packets to real are wrapped, if by a tunnel: that its
// method is another today does not matter, as connections keep theirs. pmtuDisc
// is the tunable of that name: an outer IPv4 header has DF if the packet in it does. seed keys the
// source ports of GUE, so that nobody can choose clients that share one.
//
// The remote checksum offload of GUE is for packets whose checksum is left to
// the NIC, which no received packet is: as from the kernel, they get the UDP
// checksum and no option (K-FWD-TUN-GUE).
func NewEncap(real *lb.Real, pmtuDisc bool, seed flow.Seed) Encap {
	e := Encap{
		Overhead: packet.IPv6Len, kind: real.Tunnel.Type, v4: !real.V6, df: pmtuDisc,
		sum: real.Tunnel.Checksum != lb.ChecksumNone, port: real.Tunnel.Port, dst: real.Addr, seed: seed,
	}
	if e.v4 {
		e.Overhead = packet.IPv4Len
	}
	switch {
	case e.kind == lb.GUE:
		e.Overhead += packet.UDPLen + gueLen
	case e.kind == lb.GRE && e.sum:
		e.Overhead += greLen + greSumLen
	case e.kind == lb.GRE:
		e.Overhead += greLen
	}
	return e
}

// Wrap puts the packet, its TTL less by 1, into a datagram from src, of the
// server's family, to the server (K-FWD-TUN-IPIP, -GUE, -GRE). The outer
// header has the inner one's TTL and traffic class, the latter by the rules
// for ECN, and no flow label. An outer IPv4 header with DF has ident 0, one
// without has id.
//
// in describes the outer packet afterwards. Wrap returns false, with nothing
// changed, if the chunk has no headroom for the new headers and Ethernet's
// before them, or the datagram would be longer than its length field can say.
func (e *Encap) Wrap(f *Frame, in *packet.Info, src *flow.Addr, id uint16) bool {
	inner, overhead, most := uint32(in.Len()), uint32(e.Overhead), uint32(packet.MaxPayload)
	if !e.v4 {
		most += packet.IPv6Len // its own header does not count
	}
	at := f.Off + uint32(in.L3) // of the inner header, in the chunk
	if at < overhead+packet.EthernetLen || inner+overhead > most {
		return false
	}
	hop(f.bytes(in), in, 0)
	f.Off = at - overhead - packet.EthernetLen
	f.Len = packet.EthernetLen + overhead + inner
	out := packet.Info{
		Src: *src, Dst: e.dst, Family: 6, Proto: packet.ProtoIPv4, TTL: in.TTL - 1, TOS: outerTOS(in.TOS),
		L3: packet.EthernetLen, L4: packet.EthernetLen + packet.IPv6Len, End: f.Len,
	}
	if in.Family == 6 {
		out.Proto = packet.ProtoIPv6
	}
	if e.v4 {
		out.Family, out.L4 = 4, packet.EthernetLen+packet.IPv4Len
	}
	b := f.Chunk[f.Off:][:f.Len]
	switch e.kind {
	case lb.GUE:
		e.gue(b[out.L4:], in, &out)
	case lb.GRE:
		e.gre(b[out.L4:], in, &out)
	}
	h, payload := b[out.L3:], uint16(out.End-uint32(out.L4))
	if e.v4 {
		if e.df {
			out.Flags = in.Flags & packet.FlagDF
		}
		header4(h, src, &e.dst, out.TOS, out.TTL, out.Proto, payload, id, out.Flags != 0)
	} else {
		header6(h, src, &e.dst, out.TOS, out.TTL, out.Proto, payload)
	}
	*in = out
	return true
}

// gueLen is the length of GUE's header without optional fields, in bytes.
const gueLen = 4

// The source ports of GUE: the kernel's net.ipv4.ip_local_port_range by
// default.
const (
	firstPort = 32768
	lastPort  = 60999
)

// gue writes the headers of Generic UDP Encapsulation into b, the payload of
// the outer IP header, before the packet that in describes: UDP, then version
// 0, no optional fields and the protocol of what follows
// (draft-ietf-intarea-gue section 3). An IPv6 packet goes without UDP checksum
// too (RFC 6935).
func (e *Encap) gue(b []byte, in, out *packet.Info) {
	proto, length, sum := out.Proto, len(b), uint16(0)
	out.Proto, out.SrcPort, out.DstPort = packet.ProtoUDP, e.sourcePort(in), e.port
	if e.sum {
		start := csum.Pseudo(&out.Src, &out.Dst, out.Proto, length) +
			uint32(out.SrcPort) + uint32(out.DstPort) + uint32(length) + uint32(proto)
		sum = csum.NonZero(csum.Fold(csum.Sum(b[packet.UDPLen+gueLen:], start)))
	}
	be.PutUint32(b, uint32(out.SrcPort)<<16|uint32(out.DstPort))
	be.PutUint32(b[4:], uint32(length)<<16|uint32(sum))
	be.PutUint32(b[packet.UDPLen:], uint32(proto)<<16)
}

// sourcePort is one port for all packets of a flow, so that they keep their
// order on the way, and different ones for different flows, so that routers
// and NICs that hash ports spread them.
func (e *Encap) sourcePort(in *packet.Info) uint16 {
	k := flow.Key{Client: in.Src, Local: in.Dst, ClientPort: in.SrcPort, LocalPort: in.DstPort, Proto: in.Proto}
	return uint16(firstPort + k.Hash(&e.seed)>>32*(lastPort-firstPort+1)>>32)
}

// GRE's header (RFC 2784 section 2), without and with its optional checksum,
// lengths in bytes.
const (
	greLen    = 4
	greSumLen = 4      // checksum and a reserved word
	greHasSum = 0x8000 // in the first word
)

// gre writes the header of GRE into b as gue does. Its checksum covers all of
// b; unlike UDP's it may be 0.
func (e *Encap) gre(b []byte, in, out *packet.Info) {
	out.Proto = packet.ProtoGRE
	first := uint32(packet.EtherIPv4)
	if in.Family == 6 {
		first = packet.EtherIPv6
	}
	if e.sum {
		sum := csum.Fold(csum.Sum(b[greLen+greSumLen:], greHasSum+first))
		first |= greHasSum << 16
		be.PutUint32(b[greLen:], uint32(sum)<<16)
	}
	be.PutUint32(b, first)
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
