package packettest

import (
	"hash/crc32"
	"slices"
)

// Bytes returns the frame.
func (p Packet) Bytes() []byte {
	f := append(slices.Clone(p.dst[:]), p.src[:]...)
	for _, t := range p.tags {
		f = be.AppendUint16(be.AppendUint16(f, t.tpid), t.tci)
	}
	f = be.AppendUint16(f, p.etherType)
	if p.version == 0 {
		f = append(f, p.payload...)
	} else {
		f = append(f, p.Datagram()...)
	}
	for len(f) < p.pad {
		f = append(f, 0)
	}
	if p.cut >= 0 && p.cut < len(f) {
		f = f[:p.cut]
	}
	return f
}

// Datagram returns the packet without Ethernet: the IP header and what
// follows.
func (p Packet) Datagram() []byte {
	segment := p.segment()
	if p.version == 4 {
		return p.datagram4(segment)
	}
	return p.datagram6(segment)
}

// segment returns the transport header and the payload, with their checksum.
func (p Packet) segment() []byte {
	s := append(slices.Clone(p.head), p.payload...)
	if p.head == nil {
		return s
	}
	if p.proto == 17 {
		be.PutUint16(s[4:], uint16(len(s)))
	}
	if !p.none {
		PutChecksum(s, p.proto, p.from.AsSlice(), p.to.AsSlice())
	}
	if p.bad {
		s[map[uint8]int{6: 16, 17: 6, 132: 8, 1: 2, 58: 2}[p.proto]] ^= 0x55
	}
	return s
}

// PutChecksum writes the right checksum into a transport segment of TCP, UDP,
// SCTP, ICMP or ICMPv6; src and dst are of 4 or 16 bytes. Others have none.
func PutChecksum(s []byte, proto uint8, src, dst []byte) {
	var at int
	var pseudo bool
	switch proto {
	case 6:
		at, pseudo = 16, true
	case 17:
		at, pseudo = 6, true
	case 58:
		at, pseudo = 2, true
	case 1:
		at = 2
	case 132:
		copy(s[8:12], []byte{0, 0, 0, 0})
		crc := crc32.Checksum(s, crc32.MakeTable(crc32.Castagnoli))
		s[8], s[9], s[10], s[11] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
		return
	default:
		return
	}
	s[at], s[at+1] = 0, 0
	cover := s
	if pseudo {
		cover = slices.Concat(src, dst, []byte{0, 0, byte(len(s) >> 8), byte(len(s)), 0, proto}, s)
	}
	sum := Checksum(cover)
	if proto == 17 && sum == 0 {
		sum = 0xffff
	}
	be.PutUint16(s[at:], sum)
}

// Checksum returns the Internet checksum of b (RFC 1071), by the book.
func Checksum(b []byte) uint16 {
	sum := uint32(0)
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i&1))
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (p Packet) datagram4(segment []byte) []byte {
	h := append(make([]byte, 20), p.options...)
	words, total := len(h)/4, len(h)+len(segment)
	if p.words != 0 {
		words = p.words
	}
	if p.length >= 0 {
		total = p.length
	}
	h[0], h[1] = p.claimed()<<4|uint8(words), p.tos
	be.PutUint16(h[2:], uint16(total))
	be.PutUint16(h[4:], p.id)
	bits := uint16(p.offset / 8)
	if p.df {
		bits |= 0x4000
	}
	if p.more {
		bits |= 0x2000
	}
	be.PutUint16(h[6:], bits)
	h[8], h[9] = p.ttl, p.proto
	copy(h[12:], p.from.AsSlice())
	copy(h[16:], p.to.AsSlice())
	be.PutUint16(h[10:], Checksum(h))
	if p.badIP {
		h[10] ^= 0x55
	}
	return append(h, segment...)
}

func (p Packet) datagram6(segment []byte) []byte {
	h := make([]byte, 40)
	be.PutUint32(h, uint32(p.claimed())<<28|uint32(p.tos)<<20|p.flow)
	next := 6
	h[6], h[7] = p.proto, p.ttl
	copy(h[8:], p.from.AsSlice())
	copy(h[24:], p.to.AsSlice())
	for _, e := range p.exts {
		h[next] = e.proto
		next = len(h)
		h = append(h, e.body...)
		h[next] = p.proto
	}
	length := len(h) - 40 + len(segment)
	if p.length >= 0 {
		length = p.length
	}
	be.PutUint16(h[4:], uint16(length))
	return append(h, segment...)
}

// claimed is the version that the IP header says it has.
func (p Packet) claimed() uint8 {
	if p.flip != 0 {
		return p.flip
	}
	return p.version
}
