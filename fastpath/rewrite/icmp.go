package rewrite

import (
	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

// ICMPIn translates an ICMP error from the client's side about a packet that
// a NAT connection sent to its client: it goes to the server, and the source
// that it quotes, VIP:vport, becomes real:rport (K-ICMP-2). quoted is what
// packet.ParseQuoted found in the same frame. It returns false, with nothing
// changed, if the ICMP checksum is wrong (K-ICMP-8) or the quoted packet is of
// the other family. An ICMPv6 checksum from this side is not verified but made
// anew, as by the kernel.
func ICMPIn(f *Frame, in, quoted *packet.Info, real *flow.Addr, rport uint16) bool {
	if in.Family != quoted.Family || in.Family == 4 && !ICMPRight(f, in) {
		return false
	}
	translate(f, in, quoted, destination, real, rport)
	return true
}

// ICMPOut translates an ICMP error from the server's side about a packet that
// a NAT connection sent to its server: its source, whoever that was, becomes
// the VIP, and the destination that it quotes, real:rport, virtual:vport
// (K-ICMP-3). It returns false, with nothing changed, as ICMPIn does.
func ICMPOut(f *Frame, in, quoted *packet.Info, virtual *flow.Addr, vport uint16) bool {
	if in.Family != quoted.Family || !ICMPRight(f, in) {
		return false
	}
	translate(f, in, quoted, source, virtual, vport)
	return true
}

// ICMPRight says whether the checksum of an ICMP or ICMPv6 message is right.
func ICMPRight(f *Frame, in *packet.Info) bool {
	return icmpSum(f.Chunk[f.Off:f.Off+in.End], in) == 0
}

// icmpSum is the checksum of the message of b, including the checksum in it.
func icmpSum(b []byte, in *packet.Info) uint16 {
	if in.Family == 4 {
		return csum.Fold(csum.Sum(b[in.L4:], 0))
	}
	return checksum(b, in, packet.ProtoICMPv6)
}

// translate gives the error another outer endpoint, and the packet that it
// quotes, which travelled the other way, the same one at its other end. The
// quoted IP header's checksum and the message's are made anew; the quoted
// transport checksum stays.
func translate(f *Frame, in, quoted *packet.Info, outer end, addr *flow.Addr, port uint16) {
	b := f.bytes(in)
	hop(b, in, setAddr(b, in.L3, in.Family, outer, addr))
	inner := destination - outer
	setAddr(b, quoted.L3, quoted.Family, inner, addr)
	if quoted.Family == 4 {
		h := packet.IPv4(b[quoted.L3:quoted.L4])
		h.SetChecksum(0)
		h.SetChecksum(csum.Fold(csum.Sum(h, 0)))
	}
	switch quoted.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
		setPort(b[quoted.L4:quoted.End], inner, port)
	}
	message := packet.ICMPHeader(b[in.L4:])
	message.SetChecksum(0)
	message.SetChecksum(icmpSum(b, in))
}
