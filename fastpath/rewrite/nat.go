package rewrite

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Where transport headers have their checksums.
const (
	tcpChecksum  = 16
	udpChecksum  = 6
	sctpChecksum = 8
)

// NATIn sends a client's packet to a server: dst:dport, of the packet's
// family, becomes its destination (K-FWD-NAT). in stays what was parsed.
func NATIn(f *Frame, in *packet.Info, dst *flow.Addr, dport uint16) {
	nat(f, in, destination, dst, dport)
}

// NATOut sends a server's packet to its client: the virtual service src:sport
// becomes its source.
func NATOut(f *Frame, in *packet.Info, src *flow.Addr, sport uint16) {
	nat(f, in, source, src, sport)
}

// nat gives a packet another endpoint and adjusts the checksums by what that
// changes, so that right ones stay right and wrong ones wrong (RFC 1624).
// Protocols without ports get the address only (K-PROTO-AH/ESP).
func nat(f *Frame, in *packet.Info, which end, addr *flow.Addr, port uint16) {
	b := f.bytes(in)
	change := setAddr(b, in.L3, in.Family, which, addr)
	hop(b, in, change)
	segment := b[in.L4:]
	switch in.Proto {
	case packet.ProtoTCP:
		change += setPort(segment, which, port)
		sum := segment[tcpChecksum:][:2]
		be.PutUint16(sum, csum.Apply(be.Uint16(sum), change))
	case packet.ProtoUDP:
		change += setPort(segment, which, port)
		natUDP(b, in, change)
	case packet.ProtoSCTP:
		// Its CRC covers no address: it is left alone, right or wrong, unless
		// the port changes, and then made right (K-PROTO-SCTP).
		if be.Uint16(segment[2*which:]) != port {
			setPort(segment, which, port)
			binary.LittleEndian.PutUint32(segment[sctpChecksum:], csum.SCTP(segment))
		}
	}
}

// setPort writes a port and returns the change.
func setPort(segment []byte, which end, now uint16) csum.Change {
	p := segment[2*which:][:2]
	was := be.Uint16(p)
	be.PutUint16(p, now)
	return csum.Change16(was, now)
}

// natUDP adjusts the checksum of a rewritten UDP datagram. One that has none
// gets one, whether or not its port changed, as from the kernel, and like the
// kernel's over all that the IP datagram holds (K-PROTO-UDP).
func natUDP(b []byte, in *packet.Info, change csum.Change) {
	segment := b[in.L4:]
	sum := segment[udpChecksum:][:2]
	if was := be.Uint16(sum); was != 0 {
		be.PutUint16(sum, csum.NonZero(csum.Apply(was, change)))
		return
	}
	be.PutUint16(sum, csum.NonZero(checksum(b, in, packet.ProtoUDP)))
}

// checksum works out the checksum of a segment whose checksum field is 0, with
// the pseudo header of the addresses that are in the packet b now.
func checksum(b []byte, in *packet.Info, proto uint8) uint16 {
	var src, dst flow.Addr
	if in.Family == 4 {
		h := packet.IPv4(b[in.L3:])
		src, dst = h.Src(), h.Dst()
	} else {
		h := packet.IPv6(b[in.L3:])
		src, dst = h.Src(), h.Dst()
	}
	segment := b[in.L4:]
	return csum.Fold(csum.Sum(segment, csum.Pseudo(&src, &dst, proto, len(segment))))
}
