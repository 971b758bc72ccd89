// Package packettest builds packets in words, for tests:
//
//	packettest.Eth(dst, src).VLAN(7).IP4("10.0.0.1", "10.0.0.2").TTL(9).TCP(1000, 80, packettest.SYN).Bytes()
//
// A Packet is a value: each word returns a changed copy, so that rows of a
// table can share a beginning. Words that make no sense panic: they are a
// test's own fault. Checksums come from plain code of this package's own, so
// that tests do not check the fast code against itself.
package packettest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// TCP flags.
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
)

var be = binary.BigEndian

// Packet is a packet in words. Ports are in host order, lengths in bytes.
type Packet struct {
	dst, src  [6]byte
	tags      []tag
	etherType uint16

	from, to netip.Addr
	ttl, tos uint8
	id       uint16
	flow     uint32
	df, more bool
	offset   int // of a fragment
	options  []byte
	exts     []extension
	version  uint8
	words    int // IPv4 header length as it claims; 0: as it is
	length   int // IPv4 total or IPv6 payload length as it claims; -1: as it is

	proto   uint8
	head    []byte // transport header, without checksum
	payload []byte

	badIP, bad, none bool  // checksums
	flip             uint8 // version as it claims; 0: as it is
	pad, cut         int   // length of the frame at least, at most; cut -1: all
}

type tag struct{ tpid, tci uint16 }

// extension is an IPv6 extension header; the first byte of body is the next
// header's number, filled in later.
type extension struct {
	proto uint8
	body  []byte
}

// Eth begins a packet with its destination and source MAC address.
func Eth(dst, src string) Packet {
	return Packet{dst: mac(dst), src: mac(src), ttl: 64, length: -1, cut: -1}
}

func mac(s string) [6]byte {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		panic(fmt.Sprintf("packettest: %q is not a MAC address", s))
	}
	return [6]byte(m)
}

// VLAN adds an 802.1Q tag behind those that are there.
func (p Packet) VLAN(id uint16) Packet { return p.Tag(0x8100, id) }

// Tag adds a tag with its EtherType (0x88a8: 802.1ad) and its whole control
// word.
func (p Packet) Tag(tpid, tci uint16) Packet {
	p.tags = append(slices.Clip(p.tags), tag{tpid, tci})
	return p
}

// EtherType makes the frame carry Payload under this type instead of IP.
func (p Packet) EtherType(t uint16) Packet { p.etherType = t; return p }

// IP4 makes it an IPv4 packet.
func (p Packet) IP4(src, dst string) Packet { return p.ip(src, dst, 4) }

// IP6 makes it an IPv6 packet.
func (p Packet) IP6(src, dst string) Packet { return p.ip(src, dst, 6) }

func (p Packet) ip(src, dst string, version uint8) Packet {
	p.from, p.to, p.version = netip.MustParseAddr(src), netip.MustParseAddr(dst), version
	p.etherType = 0x86dd
	if version == 4 {
		p.etherType = 0x0800
	}
	if p.from.Is4() != (version == 4) || p.to.Is4() != (version == 4) {
		panic(fmt.Sprintf("packettest: %s to %s are not both of IPv%d", src, dst, version))
	}
	return p
}

// TTL sets the time to live or hop limit; 64 if not said.
func (p Packet) TTL(n uint8) Packet { p.ttl = n; return p }

// TOS sets the type of service or traffic class.
func (p Packet) TOS(n uint8) Packet { p.tos = n; return p }

// ID sets the IPv4 ident.
func (p Packet) ID(n uint16) Packet { p.id = n; return p }

// FlowLabel sets IPv6's flow label.
func (p Packet) FlowLabel(n uint32) Packet { p.flow = n; return p }

// DF sets don't fragment.
func (p Packet) DF() Packet { p.df = true; return p }

// Options gives the IPv4 header options; a multiple of 4 bytes.
func (p Packet) Options(b ...byte) Packet { p.options = b; return p }

// HopByHop adds the IPv6 extension header, with n bytes of padding, 6 or 6
// and a multiple of 8.
func (p Packet) HopByHop(n int) Packet { return p.padded(0, n) }

// DestOpts adds the destination options header, as HopByHop.
func (p Packet) DestOpts(n int) Packet { return p.padded(60, n) }

func (p Packet) padded(proto uint8, n int) Packet {
	body := make([]byte, 2+n)
	body[1], body[2], body[3] = uint8(len(body)/8-1), 1, uint8(n-2) // PadN
	return p.Ext(proto, body)
}

// Routing adds a routing header of type 4 with no segments left.
func (p Packet) Routing() Packet { return p.Ext(43, []byte{0, 0, 4, 0, 0, 0, 0, 0}) }

// AH adds an authentication header of 24 bytes.
func (p Packet) AH() Packet {
	body := make([]byte, 24)
	body[1] = uint8(len(body)/4 - 2)
	return p.Ext(51, body)
}

// Ext adds an IPv6 extension header as it is; its first byte is overwritten
// with the next header's number.
func (p Packet) Ext(proto uint8, body []byte) Packet {
	p.exts = append(slices.Clip(p.exts), extension{proto, body})
	return p
}

// Fragment makes the packet the part of a datagram that begins at offset, a
// multiple of 8; of IPv6 by a fragment header here.
func (p Packet) Fragment(offset int, more bool, id uint32) Packet {
	p.offset, p.more = offset, more
	if p.version == 4 {
		p.id = uint16(id)
		return p
	}
	h := make([]byte, 8)
	be.PutUint16(h[2:], uint16(offset))
	if more {
		h[3] |= 1
	}
	be.PutUint32(h[4:], id)
	return p.Ext(44, h)
}

// Parts returns the fragments of the packet, its transport segment cut at these
// offsets, multiples of 8.
func (p Packet) Parts(id uint32, at ...int) (parts []Packet) {
	segment, begin := p.segment(), 0
	for _, end := range append(slices.Clip(at), len(segment)) {
		q := p.Fragment(begin, end < len(segment), id)
		q.head, q.payload = nil, segment[begin:end]
		parts = append(parts, q)
		begin = end
	}
	return parts
}

// TCP adds a TCP header of 20 bytes: sequence number 1000, window 64240.
func (p Packet) TCP(sport, dport uint16, flags uint8) Packet {
	h := make([]byte, 20)
	be.PutUint16(h, sport)
	be.PutUint16(h[2:], dport)
	be.PutUint32(h[4:], 1000)
	h[12], h[13] = 5<<4, flags
	be.PutUint16(h[14:], 64240)
	return p.transport(6, h)
}

// Seq sets sequence and acknowledgement number of the TCP header.
func (p Packet) Seq(seq, ack uint32) Packet {
	p.head = slices.Clone(p.head)
	be.PutUint32(p.head[4:], seq)
	be.PutUint32(p.head[8:], ack)
	return p
}

// TCPOptions gives the TCP header options; a multiple of 4 bytes.
func (p Packet) TCPOptions(b ...byte) Packet {
	p.head = slices.Concat(p.head, b)
	p.head[12] = byte(len(p.head)/4) << 4
	return p
}

// UDP adds a UDP header.
func (p Packet) UDP(sport, dport uint16) Packet {
	h := make([]byte, 8)
	be.PutUint16(h, sport)
	be.PutUint16(h[2:], dport)
	return p.transport(17, h)
}

// SCTP adds a common header and chunks of these types, each without a value.
func (p Packet) SCTP(sport, dport uint16, chunks ...uint8) Packet {
	h := make([]byte, 12)
	be.PutUint16(h, sport)
	be.PutUint16(h[2:], dport)
	for _, c := range chunks {
		h = append(h, c, 0, 0, 4)
	}
	return p.transport(132, h)
}

// ICMP4 adds an ICMP header; rest are its second four bytes.
func (p Packet) ICMP4(typ, code uint8, rest uint32) Packet { return p.icmp(1, typ, code, rest) }

// ICMP6 adds an ICMPv6 header, as ICMP4.
func (p Packet) ICMP6(typ, code uint8, rest uint32) Packet { return p.icmp(58, typ, code, rest) }

func (p Packet) icmp(proto, typ, code uint8, rest uint32) Packet {
	h := make([]byte, 8)
	h[0], h[1] = typ, code
	be.PutUint32(h[4:], rest)
	return p.transport(proto, h)
}

// Proto makes what follows another protocol's.
func (p Packet) Proto(n uint8) Packet { return p.transport(n, nil) }

func (p Packet) transport(proto uint8, head []byte) Packet {
	p.proto, p.head = proto, head
	return p
}

// Payload sets what follows the last header.
func (p Packet) Payload(b []byte) Packet { p.payload = b; return p }

// Quote makes the payload the first n bytes of q's datagram, or all of it if
// that is less or n is negative: what an ICMP error holds.
func (p Packet) Quote(q Packet, n int) Packet {
	d := q.Datagram()
	if n >= 0 && n < len(d) {
		d = d[:n]
	}
	return p.Payload(d)
}

// Encap puts inner's datagram into p, as IP in IP does.
func (p Packet) Encap(inner Packet) Packet {
	proto := uint8(41)
	if inner.version == 4 {
		proto = 4
	}
	return p.Proto(proto).Payload(inner.Datagram())
}

// BadChecksum makes the transport checksum wrong.
func (p Packet) BadChecksum() Packet { p.bad = true; return p }

// NoChecksum makes the transport checksum 0: none, in UDP.
func (p Packet) NoChecksum() Packet { p.none = true; return p }

// BadIPChecksum makes the IPv4 header checksum wrong.
func (p Packet) BadIPChecksum() Packet { p.badIP = true; return p }

// Length makes the IP header claim this length: IPv4's total, IPv6's payload.
func (p Packet) Length(n int) Packet { p.length = n; return p }

// HeaderWords makes the IPv4 header claim this length, in words.
func (p Packet) HeaderWords(n int) Packet { p.words = n; return p }

// Version makes the IP header claim this version.
func (p Packet) Version(n uint8) Packet { p.flip = n; return p }

// Pad makes the frame at least n bytes long, as Ethernet does to 60.
func (p Packet) Pad(n int) Packet { p.pad = n; return p }

// Truncate cuts the frame to n bytes.
func (p Packet) Truncate(n int) Packet { p.cut = n; return p }
