package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// What comes from a server or a service and is of no connection is the host's,
// and the XDP program may learn to pass the rest of its flow. Should a
// connection be made later whose replies would look the same, all that was
// learnt is forgotten before its first packet goes on
// (docs/decisions/019-flows-learnt.md).

// learn marks k's flow as one to be learnt. Nothing is where a packet of the flow
// could be more than passed: refused, with nat_icmp_send, IPsec's, or announced
// later.
func (p *Pipeline) learn(k *Packet) {
	if k.Own || len(p.learnt) >= p.maxLearnt || p.snap.Sysctl.NATICMPSend != 0 || k.Info.FlowProto() != k.Info.Proto ||
		p.helper != nil && p.helper.Awaits(&k.Info, p.snap) {
		return
	}
	keyOf(&k.Info, false, &p.replyKey)
	p.learnt[p.replyKey] = struct{}{}
	k.Learn = true
}

// serverKey makes replyKey that of c's replies, and returns it if c is NAT: it is
// then found by it.
func (p *Pipeline) serverKey(c *conn.Conn) *flow.Key {
	p.replyKey = flow.Key{Client: c.Client, Local: c.Virtual, ClientPort: c.ClientPort, LocalPort: c.VirtualPort, Proto: c.Proto, Side: flow.ServerSide}
	if !isNAT(c) {
		return nil
	}
	if p.helper != nil && c.Proto == packet.ProtoTCP && p.helper.Follows(c.VirtualPort) {
		c.Flags |= conn.Followed
	}
	p.replyKey.Local, p.replyKey.LocalPort = p.snap.Reals[c.Real].Addr, c.RealPort
	return &p.replyKey
}

// Forget says that no flow is learnt any more. It is called between batches.
func (p *Pipeline) Forget() { clear(p.learnt) }
