package frag

import (
	"slices"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
)

// Of returns what is known of a complete datagram.
func (r *Reassembler) Of(id int) Whole {
	g := &r.datagrams[id]
	return Whole{
		Origin: r.parts[g.first].origin, Parts: int(g.parts), Largest: g.largest, DF: g.largestDF == g.largest,
	}
}

// Sizes appends the payloads' lengths of a complete datagram's fragments to dst, in
// bytes and in their order.
func (r *Reassembler) Sizes(id int, dst []uint16) []uint16 {
	for p := r.datagrams[id].first; p != none; p = r.parts[p].next {
		dst = append(dst, uint16(r.parts[p].end-r.parts[p].off))
	}
	return dst
}

// Fragments calls visit with each fragment of a complete datagram as it came, and in
// that order. A frame is valid until visit returns.
func (r *Reassembler) Fragments(id int, visit func(o Origin, frame []byte)) {
	r.order = r.order[:0]
	for p := r.datagrams[id].first; p != none; p = r.parts[p].next {
		r.order = append(r.order, p)
	}
	slices.SortFunc(r.order, func(a, b int32) int { return int(int32(r.parts[a].serial - r.parts[b].serial)) })
	for _, p := range r.order {
		visit(r.parts[p].origin, r.frame(p))
	}
}

// header returns how many bytes of a complete datagram's IP length are not of its
// fragments' payloads: IPv4's header, IPv6's extension headers.
func (r *Reassembler) header(g *datagram) int {
	first := &r.parts[g.first]
	n := int(first.body) - int(first.l3)
	if g.family == 1 {
		n -= packet.IPv6Len + fragmentLen
	}
	return n
}

// Assemble writes a complete datagram as one frame, with the link header of its
// first fragment, into dst, of at least packet.MaxFrame bytes, and returns its
// length. What headers say is the first fragment's, but that one of IPv4 has DF
// only if Whole says so, and that congestion that any met counts (RFC 3168
// section 5.3).
func (r *Reassembler) Assemble(id int, dst []byte) int {
	g := &r.datagrams[id]
	n := int(r.parts[g.first].body)
	r.store.get(dst[:n], g.first, 0)
	ip := dst[r.parts[g.first].l3:n]
	if g.family == 1 {
		n -= fragmentLen
		unfragment(ip)
		be.PutUint16(ip[4:], uint16(r.header(g)+int(g.size)))
		if g.ecn&8 != 0 {
			ip[1] |= 3 << 4
		}
	} else {
		be.PutUint16(ip[2:], uint16(len(ip)+int(g.size)))
		be.PutUint16(ip[6:], 0)
		if g.largestDF == g.largest {
			be.PutUint16(ip[6:], ipv4DF)
		}
		if g.ecn&8 != 0 {
			ip[1] |= 3
		}
		h := packet.IPv4(ip)
		h.SetChecksum(0)
		h.SetChecksum(csum.Fold(csum.Sum(h, 0)))
	}
	for p := g.first; p != none; p = r.parts[p].next {
		size := int(r.parts[p].end - r.parts[p].off)
		r.store.get(dst[n:n+size], p, r.parts[p].body)
		n += size
	}
	return n
}

// Flags of an IPv4 header's fragment word.
const (
	ipv4DF = 0x4000
	ipv4MF = 0x2000
)

// unfragment has the header in front of the fragment header, which ends an IPv6
// datagram's beginning, say that what follows that one follows it.
func unfragment(ip []byte) {
	fragment := len(ip) - fragmentLen
	name, next := nextHeader, packet.IPv6Len
	for next < fragment {
		name, next = next, next+extensionLen(ip[name], ip[next:])
	}
	ip[name] = ip[fragment]
}

// nextHeader is where an IPv6 header says what follows it.
const nextHeader = 6

// extensionLen returns the length of an IPv6 extension header, in bytes.
func extensionLen(proto uint8, h []byte) int {
	if proto == packet.ProtoAH {
		return (int(h[1]) + 2) * 4
	}
	return (int(h[1]) + 1) * 8
}
