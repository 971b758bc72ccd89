// Package rewrite changes packets in place: NAT, direct routing, tunnels,
// their ICMP errors, and the Ethernet header in front.
//
// Its functions are pure: they touch the frame and the Info they are given,
// which belong to the caller, allocate nothing and look nothing up. They trust
// an Info that packet.Parse made of the same frame. That the TTL is above 1
// and the packet fits the path was checked before: they decrement the TTL and
// cut off what Ethernet padded behind the IP datagram, in every method
// (K-PATH-8).
package rewrite

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

var be = binary.BigEndian

// Frame is a chunk of memory and the packet in it, Chunk[Off:Off+Len]: a
// rings.Frame, of which ID is the port's name for the chunk.
type Frame struct {
	Chunk    []byte
	Off, Len uint32
	ID       uint32
}

// bytes returns the packet, cut behind the IP datagram that in describes.
func (f *Frame) bytes(in *packet.Info) []byte {
	f.Len = in.End
	return f.Chunk[f.Off : f.Off+f.Len]
}

// ttlChange is what the IPv4 header checksum's cover gains by a TTL less by 1,
// which is the high half of its word.
const ttlChange = csum.Change(^uint16(0x0100))

// hop decrements the TTL of the packet b and, of IPv4, adjusts the header
// checksum, for an address that changed as well.
func hop(b []byte, in *packet.Info, addr csum.Change) {
	if in.Family == 4 {
		h := packet.IPv4(b[in.L3:])
		h[8]--
		h.SetChecksum(csum.Apply(h.Checksum(), addr+ttlChange))
		return
	}
	b[in.L3+7]--
}

// Forward is direct routing: the packet stays as it is but for its TTL
// (K-FWD-DR).
func Forward(f *Frame, in *packet.Info) { hop(f.bytes(in), in, 0) }

// Keep takes back beforehand the hop that the next function counts, for a
// packet that goes to the host's own stack or comes from there.
func Keep(f *Frame, in *packet.Info) {
	b := f.bytes(in)
	if in.TTL < 255 {
		in.TTL++
	}
	if in.Family == 4 {
		h := packet.IPv4(b[in.L3:])
		h[8]++
		h.SetChecksum(csum.Apply(h.Checksum(), csum.Change(0x0100)))
		return
	}
	b[in.L3+7]++
}

// end says which of a packet's two endpoints is meant; it indexes the ports.
type end int

const (
	source end = iota
	destination
)

// setAddr writes an endpoint's address into the IP header at at and returns
// what that changes in checksums that cover it.
func setAddr(b []byte, at uint16, family uint8, which end, now *flow.Addr) csum.Change {
	if family == 4 {
		p := b[int(at)+12+4*int(which):][:4]
		was := be.Uint32(p)
		copy(p, now[12:])
		return csum.Change32(was, be.Uint32(now[12:]))
	}
	p := b[int(at)+8+16*int(which):][:16]
	change := csum.Change128(p, now[:])
	copy(p, now[:])
	return change
}
