package slowpath

import (
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
)

// echo answers an echo request to a virtual service that the host does not own,
// as the host's stack would: a wrong checksum is dropped, and what went to or came
// from a group.
func (p *Path) echo(m *Meta, frame []byte, now int64) Fate {
	var in packet.Info
	r := packet.Parse(frame, &in)
	if r != packet.ICMP || !p.fit(r, &in) || !rewrite.ICMPRight(&rewrite.Frame{Chunk: frame, Len: uint32(len(frame))}, &in) {
		p.countError(ErrorUnfit)
		return Unanswered
	}
	kind := uint8(packet.ICMPEchoReply)
	if in.Family == 6 {
		kind = packet.ICMPv6EchoReply
	}
	hop, hash := p.wayBack(&in, kind, 0, now)
	if hop == nil {
		return Unanswered
	}
	p.answer = rewrite.EchoReply(p.answer[:beforeIP], &in, frame, p.ident)
	return p.answered(m, &in, hop, hash, now)
}
