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
			k.Verdict = p.relate(b, i)
		}
	}
}

// relate finds the connection that an ICMP error is about and sends it on.
func (p *Pipeline) relate(b *Batch, at int) Verdict {
	k := &b.Pkts[at]
	var quoted packet.Info
	frame := k.Chunk[k.Off : k.Off+k.Len]
	result := packet.ParseQuoted(frame, int(k.Info.L4)+packet.ICMPLen, int(k.Info.End), &quoted)
	if result == packet.Parsed || result == packet.OtherProto {
		if v := p.relatedTunnel(k, frame, &quoted); v != Related {
			return v
		}
	}
	if result != packet.Parsed && result != packet.IPsec || quoted.Family != k.Info.Family || quoted.Family == 4 && !p.v4 || quoted.Family == 6 && !p.v6 {
		return Pass
	}
	// What it is about went the other way: asked is the packet of its sender's
	// that would have been answered by that.
	asked := packet.Info{
		Src: quoted.Dst, Dst: quoted.Src, SrcPort: quoted.DstPort, DstPort: quoted.SrcPort,
		Proto: quoted.Proto, Family: quoted.Family,
	}
	var key flow.Key
	keyOf(&asked, false, &key)
	if k.conn = p.conns.Lookup(&key); k.conn != 0 { // it was sent to a server
		return p.relatedReply(k, &quoted, p.conns.At(k.conn))
	}
	keyOf(&asked, true, &key)
	if k.conn = p.conns.Lookup(&key); k.conn != 0 { // it was sent to a client
		return p.relatedRequest(k, &quoted, p.conns.At(k.conn))
	}
	client, port := &asked.Src, asked.SrcPort
	if !p.snap.IsVIP(&quoted.Src) && (p.snap.IsReal(&quoted.Dst) || p.snap.IsVIP(&quoted.Dst)) {
		client, port = &quoted.Src, quoted.SrcPort
	}
	if p.elsewhere(k, key.Proto, client, port) {
		return Handoff
	}
	return p.scheduleError(b, at, &quoted, &asked)
}

// scheduleError gives an ICMP error about a packet of no connection one by what
// it quotes, and sends it to the server that a packet of that client would get
// (K-ICMP-4). The connection is in its protocol's first state for 3 s.
func (p *Pipeline) scheduleError(b *Batch, at int, quoted, asked *packet.Info) Verdict {
	k := &b.Pkts[at]
	if p.snap.Sysctl.ScheduleICMP == 0 {
		return Pass
	}
	svc := p.service(k, asked)
	if svc == nil {
		return Pass
	}
	if v := p.scheduleNew(b, at, asked, svc); v != Forward {
		return v
	}
	return p.relatedRequest(k, quoted, p.connOf(b, at))
}

// relatedReply translates an error that a server or a router behind it sent
// about a NAT connection, and counts it (K-ICMP-3).
func (p *Pipeline) relatedReply(k *Packet, quoted *packet.Info, c *conn.Conn) Verdict {
	if k.Own {
		rewrite.Keep(&k.Frame, &k.Info)
	}
	k.Reply = true
	p.along(k, p.hops.Lookup(&k.Info.Dst), &k.Info.Dst, c)
	local := k.Hop.State == nexthop.Local // to the director itself: it stays here
	if v := p.routed(k); v != Forward && !local {
		return v
	}
	if !local && !rewrite.ICMPOut(&k.Frame, &k.Info, quoted, &c.Virtual, c.VirtualPort) {
		return DropICMPChecksum
	}
	p.count(k, c.Real, true)
	if local {
		return Pass
	}
	return p.out(k, &k.Info.Dst)
}

// relatedRequest sends an error from the client's side to the connection's
// server by its method (K-ICMP-2). The checksum of ICMPv6 is not looked at. One
// that was not for this host has been routed before (K-ICMP-6): one hop more.
func (p *Pipeline) relatedRequest(k *Packet, quoted *packet.Info, c *conn.Conn) Verdict {
	if k.Info.Family == 4 && !rewrite.ICMPRight(&k.Frame, &k.Info) {
		return DropICMPChecksum
	}
	if dst := &k.Info.Dst; *dst != c.Virtual && !p.isHere(dst) {
		if k.Info.TTL <= 1 {
			return DropTTL
		}
		rewrite.Forward(&k.Frame, &k.Info)
		k.Info.TTL--
	}
	k.real = c.Real
	p.count(k, c.Real, false)
	return p.toServer(k, quoted, c)
}

// relatedTunnel is the verdict of an error about what was sent in a tunnel: it
// becomes one about the packet inside (K-ICMP-5). Related: it is not about that.
func (p *Pipeline) relatedTunnel(k *Packet, frame []byte, quoted *packet.Info) Verdict {
	real, ok := p.snap.FindTunnel(quoted.Proto, &quoted.Dst, quoted.DstPort)
	if !ok || !p.isHere(&k.Info.Dst) {
		return Related
	}
	var inner packet.Info
	if result := packet.ParseTunnelled(frame, quoted, &inner); result != packet.Parsed && result != packet.IPsec {
		return Related
	}
	var key flow.Key
	keyOf(&inner, true, &key)
	if k.conn = p.conns.Lookup(&key); k.conn == 0 {
		if p.elsewhere(k, key.Proto, &inner.Src, inner.SrcPort) {
			return Handoff
		}
		return Pass
	}
	if !rewrite.ICMPRight(&k.Frame, &k.Info) {
		return DropICMPChecksum
	}
	c, server := p.conns.At(k.conn), &p.snap.Reals[real]
	asked := p.realHops[real].hop != nil || c.Real != real // the kernel asks the connection's server
	p.along(k, p.wayTo(real, lb.TUN), &server.Addr, c)
	m := packet.ICMPHeader(frame[k.Info.L4:])
	k.MTU = server.Path.Learn(m.Type(), m.Code(), m.Rest(), k.Hop.MTU, asked, k.Info.Family, p.now)
	k.Inner, k.Info = inner.L3-k.Info.L3, inner
	p.count(k, c.Real, true) // the kernel counts what it takes out of the error; and then the one to the client, see Answered
	return DropTunnelError
}

// isHere says whether a packet to an address is for this host, not forwarded.
func (p *Pipeline) isHere(dst *flow.Addr) bool { return p.snap.IsVIP(dst) || p.hops.IsLocal(dst) }
