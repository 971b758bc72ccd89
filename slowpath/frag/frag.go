// Package frag puts IP datagrams together from fragments, and cuts them.
//
// A Reassembler keeps fragments in memory of a fixed size until their datagram
// is complete, and then until it is released, so that the fragments can still be
// handed on as they came. A Cutter writes a datagram's fragments, one after
// another, into the datagram's own memory. Both are pure: they know neither
// rings nor the clock nor randomness, and belong to one goroutine.
//
// What is dropped and what is put together follows Linux (net.ipv4.ipfrag_*,
// net.netfilter.nf_conntrack_frag6_*), RFC 815, RFC 5722 and RFC 1858.
package frag

import (
	"encoding/binary"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

var be = binary.BigEndian

// Limits bound a Reassembler's memory and patience.
type Limits struct {
	Memory   int           // bytes, all included; 0: 4 MiB, as Linux's ipfrag_high_thresh
	Share    int           // percent of it that the fragments of one source may take; 0: 25
	Timeout4 time.Duration // for how long an IPv4 datagram may be incomplete; 0: 30 s, Linux's ipfrag_time
	Timeout6 time.Duration // and an IPv6 one; 0: 60 s, Linux's nf_conntrack_frag6_timeout
}

// DefaultLimits are Linux's, and a quarter of the memory for each source.
func DefaultLimits() Limits {
	return Limits{Memory: 4 << 20, Share: 25, Timeout4: 30 * time.Second, Timeout6: 60 * time.Second}
}

// withDefaults returns l with what is 0 filled in.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	if l.Memory > 0 {
		d.Memory = l.Memory
	}
	if l.Share > 0 {
		d.Share = min(l.Share, 100)
	}
	if l.Timeout4 > 0 {
		d.Timeout4 = l.Timeout4
	}
	if l.Timeout6 > 0 {
		d.Timeout6 = l.Timeout6
	}
	return d
}

// Reason is why a fragment was dropped.
type Reason uint8

// Reasons.
const (
	Malformed Reason = iota // it contradicts itself or its datagram, or that would be too long
	Tiny                    // its transport header is cut where filters look (RFC 1858; IPv6: anywhere, RFC 8200)
	Overlap                 // it covers others in part: its datagram goes with it (RFC 5722, and Linux in IPv4)
	Duplicate               // all of it is there already
	Stale                   // more than maxDistance others of its source came in between: its ident may be another's by now
	Expired                 // its datagram was not completed in time
	Crowded                 // the memory, or its source's share, was needed for newer ones
	Reasons                 // how many there are
)

// The most fragments that a datagram may have: 64 KiB in pieces of 64 bytes.
const maxParts = 1024

// maxDistance is Linux's ipfrag_max_dist, the same as there by default.
const maxDistance = 64

// Origin is where a fragment came from. The Reassembler only keeps it.
type Origin struct {
	Cause   uint64 // number of the input packet, in a replay
	At      int64  // when it came, nanoseconds of the clock
	Iface   uint16 // index in nexthop.Table of the interface
	Worker  uint16 // who received it
	Request bool   // it is to a virtual service
	Own     bool   // the host's own stack sent it
}

// Whole is what is known of a complete datagram besides its bytes.
type Whole struct {
	Origin         // its first fragment's
	Parts   int    // how many fragments it was
	Largest uint32 // the longest of them, in bytes of IP
	DF      bool   // IPv4: it must not be fragmented further: the largest fragments had the flag
}

// key is what the fragments of a datagram have in common.
type key struct {
	src, dst flow.Addr
	id       uint32
	proto    uint8 // of IPv4; in IPv6 only the first fragment's counts
}

// piece is a fragment as read from its frame.
type piece struct {
	key
	off, end uint32 // which bytes of the datagram it holds
	body     uint32 // where they begin in the frame
	length   uint32 // of the fragment, in bytes of IP
	l3       uint16 // where its IP header is
	more, df bool
	ecn      uint8
	family   uint8 // 0: IPv4, 1: IPv6
}

// Least transport headers by protocol, in bytes. What is shorter in a first
// fragment of IPv6 is dropped, as in Linux.
var least = [256]uint32{packet.ProtoTCP: packet.TCPLen, packet.ProtoUDP: packet.UDPLen, packet.ProtoICMPv6: packet.ICMPLen}

// tinyTCP is how much of a TCP header a first fragment of IPv4 has to have:
// ports, numbers and flags (RFC 1858 section 3.2.1).
const tinyTCP = 16

// read takes a fragment apart; in is what packet.Parse said of frame, whose
// result was packet.Fragment. alone: if the reason is not ok, it condemns only the
// fragment, not what came before it.
func read(frame []byte, in *packet.Info, p *piece) (why Reason, alone, ok bool) {
	p.src, p.dst, p.ecn, p.length, p.l3 = in.Src, in.Dst, in.TOS&3, uint32(in.Len()), in.L3
	if in.Family == 6 {
		p.family = 1
		return read6(frame, in, p)
	}
	h := packet.IPv4(frame[in.L3:])
	p.id, p.proto, p.more, p.df = uint32(h.ID()), in.Proto, h.MoreFragments(), h.DF()
	p.off, p.body = uint32(h.FragOffset()), uint32(in.L4)
	p.end = p.off + in.End - p.body
	if p.more {
		p.end &^= 7 // Linux takes no offence
	}
	switch {
	case p.end <= p.off || p.end > packet.MaxPayload:
		return Malformed, false, false
	case p.proto == packet.ProtoTCP && (p.off == 8 || p.off == 0 && p.end < tinyTCP):
		return Tiny, true, false
	}
	return 0, false, true
}

func read6(frame []byte, in *packet.Info, p *piece) (why Reason, alone, ok bool) {
	h := packet.IPv6Fragment(frame[in.Frag:])
	p.id, p.proto, p.more, p.df = h.ID(), 0, h.More(), false
	p.off, p.body = uint32(h.Offset()), uint32(in.Frag)+fragmentLen
	p.end = p.off + in.End - p.body
	switch {
	case p.more && p.end&7 != 0 || p.end <= p.off || p.end > packet.MaxPayload:
		return Malformed, true, false
	case p.off == 0 && in.End-uint32(in.L4) < max(least[in.Proto], 1):
		return Tiny, true, false
	}
	return 0, false, true
}

// fragmentLen is the length of an IPv6 fragment header.
const fragmentLen = 8
