package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// related handles the ICMP errors of b: each quotes a packet, and goes the
// way of that packet's connection (K-ICMP-2, K-ICMP-3).
func (p *Pipeline) related(b *Batch) {
	for i := range b.Pkts[:b.N] {
		if k := &b.Pkts[i]; k.Verdict == Related {
			k.Verdict = p.relate(k)
		}
	}
}

// relate finds the connection that an ICMP error is about and sends it on.
func (p *Pipeline) relate(k *Packet) Verdict {
	if k.Info.Family == 4 && !p.v4 || k.Info.Family == 6 && !p.v6 {
		return Pass
	}
	var quoted packet.Info
	frame := k.Chunk[k.Off : k.Off+k.Len]
	if packet.ParseQuoted(frame, int(k.Info.L4)+packet.ICMPLen, int(k.Info.End), &quoted) != packet.Parsed {
		return Pass
	}
	// From the server's side: it quotes what was sent to the server.
	key := flow.Key{
		Client: quoted.Src, Local: quoted.Dst, ClientPort: quoted.SrcPort, LocalPort: quoted.DstPort,
		Proto: quoted.Proto, Side: flow.ServerSide,
	}
	if k.conn = p.conns.Lookup(&key); k.conn != 0 {
		return p.relatedReply(k, &quoted, p.conns.At(k.conn))
	}
	// From the client's side: it quotes what was sent to the client.
	back := flow.Key{
		Client: quoted.Dst, Local: quoted.Src, ClientPort: quoted.DstPort, LocalPort: quoted.SrcPort,
		Proto: quoted.Proto, Side: flow.ClientSide,
	}
	if k.conn = p.conns.Lookup(&back); k.conn != 0 {
		return p.relatedRequest(k, &quoted, p.conns.At(k.conn))
	}
	if k.Handed || p.steering.Workers() == 1 {
		return Pass
	}
	client, port := &quoted.Src, quoted.SrcPort
	if p.snap.IsVIP(&quoted.Src) {
		client, port = &quoted.Dst, quoted.DstPort
	}
	if owner := p.steering.Owner(quoted.Proto, client, port); owner != p.worker {
		k.Owner = uint16(owner)
		return Handoff
	}
	return Pass
}

// relatedReply translates an error that a server or a router behind it sent
// about a NAT connection, and counts it (K-ICMP-3).
func (p *Pipeline) relatedReply(k *Packet, quoted *packet.Info, c *conn.Conn) Verdict {
	if k.Info.TTL <= 1 {
		return DropTTL
	}
	k.Reply, k.Hop = true, p.hops.Lookup(&c.Client)
	if k.Hop.State == nexthop.NoRoute || k.Hop.State == nexthop.Blackhole {
		return DropNoRoute
	}
	if !rewrite.ICMPOut(&k.Frame, &k.Info, quoted, &c.Virtual, c.VirtualPort) {
		return DropICMPChecksum
	}
	p.count(k, c.Real, true)
	return p.out(k, &c.Client)
}

// relatedRequest sends an error from the client's side to the connection's
// server by its method (K-ICMP-2).
func (p *Pipeline) relatedRequest(k *Packet, quoted *packet.Info, c *conn.Conn) Verdict {
	if c.Real == lb.NoReal {
		return DropServerGone
	}
	k.real = c.Real
	if !isNAT(c) {
		p.count(k, c.Real, false)
		return p.toServer(k, c)
	}
	real := &p.snap.Reals[c.Real]
	k.Hop = p.wayTo(c.Real)
	if v, ok := p.passable(k, real.Forward, real.V6); !ok {
		return v
	}
	if !rewrite.ICMPIn(&k.Frame, &k.Info, quoted, &real.Addr, c.RealPort) {
		return DropICMPChecksum
	}
	p.count(k, c.Real, false)
	return p.out(k, &real.Addr)
}
