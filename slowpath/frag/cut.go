package frag

import (
	"math/rand/v2"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
)

// Cut says how a datagram is to be cut.
type Cut struct {
	Limit int      // the longest fragment, in bytes of IP
	Sizes []uint16 // payloads of the fragments to make, if each fits Limit and they make up the datagram; else they are as long as they can be
	DF    bool     // IPv4: whether fragments have DF; the datagram's does not count
}

// Cutter cuts datagrams into fragments.
type Cutter struct {
	idents *rand.ChaCha8
	head   []byte // of the fragments: link and IP header
}

// NewCutter returns a Cutter. The idents of IPv6 fragments follow from seed, a
// secret (RFC 7739).
func NewCutter(seed [32]byte) *Cutter { return &Cutter{idents: rand.NewChaCha8(seed)} }

// Do gives emit each fragment of f's datagram, which in describes, as a frame, in
// their order, until emit returns false. A datagram that fits is given whole, unless
// there are Sizes: should these not be usable, or be one, one of IPv6 becomes a single
// fragment. The frames are made in f's own memory, over what was given before, so an
// IPv6 one needs 8 bytes of headroom. false: emit refused, or the limit leaves no room for
// payload, or there is no headroom.
func (c *Cutter) Do(f *rewrite.Frame, in *packet.Info, cut Cut, emit func(frame []byte) bool) bool {
	at := int(in.L4) // payload begins, of fragments
	grow := 0        // by so much their headers are longer than the datagram's
	if in.Family == 6 {
		at, grow = unfragmentable(f.Chunk[f.Off:][:in.End], int(in.L3)), fragmentLen
	}
	rest := int(in.End) - at
	room := cut.Limit - (at - int(in.L3)) - grow
	sizes := cut.Sizes
	if !usable(sizes, rest, room) {
		sizes = nil
	}
	if in.Len() <= cut.Limit && len(cut.Sizes) == 0 {
		return emit(f.Chunk[f.Off:][:in.End])
	}
	if room < 8 || int(f.Off) < grow {
		return false
	}
	c.begin(f.Chunk[f.Off:][:at], in)
	chunk := f.Chunk[int(f.Off)-grow:]
	for off := 0; rest > 0; {
		n := min(rest, room)
		if n < rest {
			n &^= 7
		}
		if len(sizes) > 0 {
			n, sizes = int(sizes[0]), sizes[1:]
		}
		rest -= n
		frame := chunk[off : off+len(c.head)+n]
		copy(frame, c.head)
		finish(frame[in.L3:len(c.head)], off, n, rest > 0, cut.DF, in.Family == 6)
		if !emit(frame) {
			return false
		}
		if off == 0 && in.Family == 4 {
			onlyCopied(c.head[int(in.L3)+packet.IPv4Len:])
		}
		off += n
	}
	return true
}

// usable says whether a datagram's rest can be cut into pieces of these sizes.
func usable(sizes []uint16, rest, room int) bool {
	for i, n := range sizes {
		if int(n) > room || i < len(sizes)-1 && n&7 != 0 {
			return false
		}
		rest -= int(n)
	}
	return rest == 0
}

// begin keeps what each fragment begins with.
func (c *Cutter) begin(head []byte, in *packet.Info) {
	c.head = append(c.head[:0], head...)
	if in.Family == 4 {
		return
	}
	ip := c.head[in.L3:]
	name, next := nextHeader, packet.IPv6Len
	for next < len(ip) {
		name, next = next, next+extensionLen(ip[name], ip[next:])
	}
	follows := ip[name]
	ip[name] = protoFragment
	c.head = append(c.head, follows, 0, 0, 0)
	c.head = be.AppendUint32(c.head, uint32(c.idents.Uint64()))
}

// finish writes into the header of a fragment which part of the datagram it is.
func finish(ip []byte, off, n int, more, df, v6 bool) {
	if v6 {
		be.PutUint16(ip[4:], uint16(len(ip)-packet.IPv6Len+n))
		word := uint16(off)
		if more {
			word |= 1
		}
		be.PutUint16(ip[len(ip)-fragmentLen+2:], word)
		return
	}
	be.PutUint16(ip[2:], uint16(len(ip)+n))
	word := uint16(off / 8)
	if more {
		word |= ipv4MF
	}
	if df {
		word |= ipv4DF
	}
	be.PutUint16(ip[6:], word)
	h := packet.IPv4(ip)
	h.SetChecksum(0)
	h.SetChecksum(csum.Fold(csum.Sum(h, 0)))
}

// onlyCopied makes those of an IPv4 header's options no-operations that only the
// first fragment has (RFC 791 section 3.1).
func onlyCopied(options []byte) {
	const end, noOperation, copied = 0, 1, 0x80
	for len(options) > 0 && options[0] != end {
		n := 1
		if options[0] != noOperation {
			if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
				return
			}
			n = int(options[1])
		}
		if options[0]&copied == 0 {
			for i := range options[:n] {
				options[i] = noOperation
			}
		}
		options = options[n:]
	}
}

// Extension headers that may stand in front of a fragment header (RFC 8200 section
// 4.5), and that itself.
const (
	protoHopByHop = 0
	protoRouting  = 43
	protoFragment = 44
	protoDestOpts = 60
)

// unfragmentable returns where an IPv6 datagram's part ends that each of its
// fragments has: behind the headers that routers look at.
func unfragmentable(frame []byte, l3 int) int {
	at, end, routed := l3+nextHeader, l3+packet.IPv6Len, false
	for end+8 <= len(frame) {
		switch frame[at] {
		case protoHopByHop:
		case protoRouting:
			routed = true
		case protoDestOpts:
			if routed {
				return end
			}
		default:
			return end
		}
		n := extensionLen(frame[at], frame[end:])
		if end+n > len(frame) {
			return end
		}
		at, end = end, end+n
	}
	return end
}
