package slowpath

import (
	"net/netip"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/slowpath/frag"
)

// beforeIP is where the IP header of a message begins in the memory in which it is made.
const beforeIP = headroom + packet.EthernetLen

// message is what an ICMP error says: type, code and the second word.
type message struct {
	kind, code uint8
	rest       uint32
}

// messages are what each kind is answered with (K-ICMP-7): type and code, of
// IPv4 and of IPv6.
var messages = [Kinds]struct{ type4, code4, type6, code6 uint8 }{
	TimeExceeded:    {packet.ICMPTimeExceeded, 0, packet.ICMPv6TimeExceeded, 0},
	TooBig:          {packet.ICMPUnreachable, packet.ICMPFragNeeded, packet.ICMPv6TooBig, 0},
	PortUnreachable: {packet.ICMPUnreachable, packet.ICMPPortUnreachable, packet.ICMPv6Unreachable, packet.ICMPv6PortUnreachable},
	HostUnreachable: {packet.ICMPUnreachable, packet.ICMPHostUnreachable, packet.ICMPv6Unreachable, packet.ICMPv6AddressUnreachable},
	Fragment:        {packet.ICMPTimeExceeded, packet.ICMPFragmentTime, packet.ICMPv6TimeExceeded, packet.ICMPFragmentTime},
	Oversize:        {packet.ICMPUnreachable, packet.ICMPHostUnreachable, packet.ICMPv6Unreachable, packet.ICMPv6AddressUnreachable},
	NoNeighbour:     {packet.ICMPUnreachable, packet.ICMPHostUnreachable, packet.ICMPv6Unreachable, packet.ICMPv6AddressUnreachable},
}

// reply answers a packet as its kind asks.
func (p *Path) reply(m *Meta, frame []byte, now int64) Fate {
	switch m.Kind {
	case Echo:
		return p.echo(m, frame, now)
	case TunnelError:
		return p.relay(m, frame, now)
	}
	var in packet.Info
	if !p.fit(packet.Parse(frame, &in), &in) {
		p.countError(ErrorUnfit)
		return Unanswered
	}
	return p.report(m, answerTo(m, &in), frame, &in, now)
}

// answerTo is the message about the packet of in that m's kind asks for.
func answerTo(m *Meta, in *packet.Info) (msg message) {
	t := &messages[m.Kind]
	msg.kind, msg.code = t.type4, t.code4
	if in.Family == 6 {
		msg.kind, msg.code = t.type6, t.code6
	}
	if m.Kind == TooBig {
		msg.rest = uint32(m.MTU)
	}
	return msg
}

// unreachable answers a kept packet whose next hop failed. It is quoted as the
// client sent it: out of its tunnel and back at the virtual service, but with the TTL
// that it was about to leave with.
func (p *Path) unreachable(m *Meta, frame []byte, now int64) {
	var in packet.Info
	result := packet.Parse(frame, &in)
	if m.Inner > 0 && !result.Malformed() && (result != packet.Fragment || in.Flags&packet.FlagFirst != 0) {
		result = packet.ParseQuoted(frame, int(in.L3)+int(m.Inner), int(in.End), &in)
	}
	if !p.fit(result, &in) {
		p.countError(ErrorUnfit)
		return
	}
	if !m.Virtual.IsZero() && sameFamily(&m.Virtual, &in) {
		restore(frame, &in, &m.Virtual, m.VirtualPort)
	}
	p.report(m, answerTo(m, &in), frame, &in, now)
}

// restore writes the virtual service into a packet's destination. Its transport
// checksum stays as it is, as in the kernel's translation of quotes
// (K-ICMP-3).
func restore(frame []byte, in *packet.Info, vip *flow.Addr, port uint16) {
	if in.Family == 4 {
		h := packet.IPv4(frame[in.L3:])
		h.SetChecksum(csum.Apply(h.Checksum(), csum.ChangeAddr(&in.Dst, vip)))
		copy(h[16:20], vip[12:])
	} else {
		copy(frame[in.L3+24:in.L3+40], vip[:])
	}
	in.Dst = *vip
	if port != 0 && in.DstPort != 0 && in.FlowProto() == in.Proto { // IPsec has none of its own
		frame[in.L4+2], frame[in.L4+3] = byte(port>>8), byte(port)
		in.DstPort = port
	}
}

func sameFamily(a *flow.Addr, in *packet.Info) bool { return a.Is4() == (in.Family == 4) }

// fit says whether a packet may be answered with an ICMP error: not another error, not
// a fragment but the first, not what went to a group or comes from nobody
// (RFC 1812 section 4.3.2.7, RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
func (p *Path) fit(r packet.Result, in *packet.Info) bool {
	switch r {
	case packet.Parsed, packet.ICMP, packet.IPsec, packet.OtherProto, packet.Fragment:
	default:
		return false
	}
	later := r == packet.Fragment && in.Flags&packet.FlagFirst == 0
	return !later && !isError(in) && in.Flags&packet.FlagGroup == 0 && !p.group(&in.Dst) && !p.group(&in.Src)
}

// isError says whether a packet, or what its first fragment shows, is an ICMP error or
// a redirect, for which the same holds.
func isError(in *packet.Info) bool {
	switch {
	case in.Family == 6 && in.Proto == packet.ProtoICMPv6:
		return in.Event < packet.ICMPv6Informational || in.Event == packet.ICMPv6Redirect
	case in.Family == 4 && in.Proto == packet.ProtoICMP:
		switch in.Event {
		case packet.ICMPUnreachable, packet.ICMPSourceQuench, packet.ICMPRedirect, packet.ICMPTimeExceeded, packet.ICMPParameter:
			return true
		}
	}
	return false
}

// group says whether an address is not one host's: multicast, or broadcast, of
// everyone or of a subnet here.
func (p *Path) group(a *flow.Addr) bool {
	ip := a.Netip()
	if ip.IsMulticast() || ip.IsUnspecified() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	if !ip.Is4() {
		return false
	}
	for i := range p.cfg.Tables().Interfaces {
		for _, prefix := range p.cfg.Tables().Interfaces[i].Addrs {
			if prefix.Contains(ip) && prefix.Bits() < 31 && lastOf(prefix) == ip {
				return true
			}
		}
	}
	return false
}

// lastOf returns the last address of an IPv4 prefix.
func lastOf(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// report sends msg about the packet that in describes to its source, or has it
// wait for the way there.
func (p *Path) report(m *Meta, msg message, frame []byte, in *packet.Info, now int64) Fate {
	hop, hash := p.wayBack(in, msg.kind, msg.code, now)
	if hop == nil {
		return Unanswered
	}
	from, ok := source(p.cfg.Tables(), hop, m, in)
	if !ok {
		p.countError(ErrorNoWay)
		return Unanswered
	}
	p.answer = rewrite.ICMPError(p.answer[:beforeIP], in, frame, from, msg.kind, msg.code, msg.rest, p.ident)
	if p.cfg.Answered != nil {
		p.cfg.Answered(m.Worker, p.answer[beforeIP:])
	}
	return p.answered(m, in, hop, hash, now)
}

// wayBack returns the next hop to a packet's source for an ICMP message of a type
// and code; nil: there is none by the node's interfaces, or the limits forbid it, which
// is counted.
func (p *Path) wayBack(in *packet.Info, kind, code uint8, now int64) (hop *nexthop.Hop, hash uint64) {
	t := p.cfg.Tables()
	key := flow.Key{Client: in.Src, Local: in.Dst, ClientPort: in.SrcPort, LocalPort: in.DstPort, Proto: in.Proto}
	hash = nexthop.FlowHash(&key) // an error to a client takes the way of its connection
	hop = t.Choose(t.Lookup(&in.Src), &in.Src, hash)
	if hop.State != nexthop.Reachable && hop.State != nexthop.Unresolved || t.Interfaces[hop.Iface].Port < 0 {
		p.countError(ErrorNoWay)
		return nil, 0
	}
	if !p.limits.allow(&in.Src, hop.Prefix, kind, code, now) {
		p.countError(ErrorLimited)
		return nil, 0
	}
	p.ident++
	return hop, hash
}

// answered has the ICMP message that was made sent, in fragments if it is too long for
// its way, or keeps it while its next hop is asked for. The first fragment
// then stands for the message.
func (p *Path) answered(m *Meta, in *packet.Info, hop *nexthop.Hop, hash uint64, now int64) Fate {
	made := packet.Info{Family: in.Family, L3: packet.EthernetLen, End: uint32(len(p.answer) - headroom)}
	f := rewrite.Frame{Chunk: p.answer, Off: headroom, Len: made.End}
	kept := Meta{Kind: m.Kind, Worker: m.Worker, Target: in.Src, Flow: hash, frames: 1}
	done := rewrite.Link(&f, &made, hop) && p.cut(&f, frag.Cut{Limit: int(hop.MTU)}, func(frame []byte) bool {
		if hop.State != nexthop.Unresolved {
			return p.emit(m, hop, frame)
		}
		p.keep(&p.messages, &kept, frame, now)
		kept.frames = 0
		return true
	})
	switch {
	case !done:
		p.countError(ErrorLost)
		return Unanswered
	case hop.State != nexthop.Unresolved:
		p.countError(ErrorSent)
	}
	return Answered
}

// emit has a finished frame sent by a hop's interface.
func (p *Path) emit(m *Meta, hop *nexthop.Hop, frame []byte) bool {
	p.out = Out{Worker: m.Worker, Iface: hop.Iface, Timer: p.inTimer}
	return p.cfg.Emit(&p.out, frame)
}

// source chooses the address that an error comes from: the virtual service's, or the
// director's on the way back.
func source(t *nexthop.Table, hop *nexthop.Hop, m *Meta, in *packet.Info) (flow.Addr, bool) {
	switch {
	case !m.Virtual.IsZero() && sameFamily(&m.Virtual, in):
		return m.Virtual, true
	case !hop.Source.IsZero() && sameFamily(&hop.Source, in):
		return hop.Source, true
	}
	return t.Source(hop.Iface, in.Family == 6)
}
