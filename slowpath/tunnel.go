package slowpath

import "github.com/sluice-lb/sluice/fastpath/packet"

// relay answers the sender of a packet that went into a tunnel of ours, and
// that an ICMP error came back about (K-ICMP-5).
func (p *Path) relay(m *Meta, frame []byte, now int64) Fate {
	var outer, in packet.Info
	if packet.Parse(frame, &outer) != packet.ICMPError {
		p.countError(ErrorUnfit)
		return Unanswered
	}
	result := packet.ParseQuoted(frame, int(outer.L3)+int(m.Inner), int(outer.End), &in)
	msg, ok := relayed(packet.ICMPHeader(frame[outer.L4:outer.End]), &outer, &in, int(m.MTU))
	if !ok || !p.fit(result, &in) {
		p.countError(ErrorUnfit)
		return Unanswered
	}
	return p.report(m, msg, frame, &in, now)
}

// The least MTU that an IPv6 host takes to heart (RFC 8200 section 5), and that
// an IPv4 one does (RFC 791).
const (
	leastMTU4 = 68
	leastMTU6 = 1280
)

// relayed says what an error e about a tunnel's packet, which outer brought,
// tells the sender of the packet in inside it. mtu is what the tunnel's packet may
// measure, 0 if e is not about that. Nothing is said of its MTU to a sender who lets
// packets be fragmented.
//
// Within a family type and code stay, as with Linux, which knows IPv4 only.
// Across families, and where a type speaks of the outer header, the sender
// is told that its destination cannot be reached (RFC 2473 section 8,
// RFC 4213 section 3.4).
func relayed(e packet.ICMPHeader, outer, in *packet.Info, mtu int) (msg message, ok bool) {
	if tooBig(e, outer.Family) {
		mtu -= int(in.L3) - int(outer.L4) - packet.ICMPLen // the tunnel's headers, which the error quotes
		if in.Family == 6 {
			return message{packet.ICMPv6TooBig, 0, uint32(max(mtu, leastMTU6))}, true
		}
		return message{packet.ICMPUnreachable, packet.ICMPFragNeeded, uint32(max(mtu, leastMTU4))}, in.Flags&packet.FlagDF != 0
	}
	switch {
	case outer.Family == in.Family && (in.Family == 4 || e.Type() != packet.ICMPv6Parameter):
		return message{e.Type(), e.Code(), e.Rest()}, true
	case in.Family == 6:
		return message{packet.ICMPv6Unreachable, packet.ICMPv6AddressUnreachable, 0}, true
	}
	return message{packet.ICMPUnreachable, packet.ICMPHostUnreachable, 0}, true
}

// tooBig says whether an error is about the size of a packet.
func tooBig(e packet.ICMPHeader, family uint8) bool {
	if family == 6 {
		return e.Type() == packet.ICMPv6TooBig
	}
	return e.Type() == packet.ICMPUnreachable && e.Code() == packet.ICMPFragNeeded
}
