package rewrite

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
)

// Link puts the Ethernet header of the next hop, and its VLAN tags, in front
// of the IP header in place of what is there. in is adjusted to where things
// are afterwards. It returns false, with nothing changed, if the chunk has no
// headroom for it.
func Link(f *Frame, in *packet.Info, hop *nexthop.Hop) bool {
	tags := int(min(hop.VLANs, packet.MaxTags))
	n := packet.EthernetLen + packet.TagLen*tags
	if n != int(in.L3) && !shift(f, in, n) {
		return false
	}
	h := f.Chunk[f.Off:][:n]
	copy(h, hop.DstMAC[:])
	copy(h[6:], hop.SrcMAC[:])
	for i := range tags {
		be.PutUint16(h[12+packet.TagLen*i:], hop.TPID[i])
		be.PutUint16(h[14+packet.TagLen*i:], hop.VLAN[i])
	}
	etherType := uint16(packet.EtherIPv4)
	if in.Family == 6 {
		etherType = packet.EtherIPv6
	}
	be.PutUint16(h[n-2:], etherType)
	return true
}

// shift moves the frame's beginning so that n bytes are in front of the IP
// header.
func shift(f *Frame, in *packet.Info, n int) bool {
	by := n - int(in.L3) // towards the chunk's beginning
	if by > int(f.Off) || int(f.Len)+by > packet.MaxFrame {
		return false
	}
	f.Off = uint32(int(f.Off) - by)
	f.Len = uint32(int(f.Len) + by)
	in.L3, in.L4, in.End = uint16(n), uint16(int(in.L4)+by), uint32(int(in.End)+by)
	if in.Frag != 0 {
		in.Frag = uint16(int(in.Frag) + by)
	}
	return true
}
