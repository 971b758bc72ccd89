package fastpath

import (
	"math/bits"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/lb/sched"
)

// Ports with a meaning of their own.
const (
	ftpDataPort = 20
	ftpPort     = 21
)

// miss decides about a packet without a connection: another worker's, one to
// schedule, one that a server sent of its own accord, or none of ours.
func (p *Pipeline) miss(b *Batch, at int) {
	k, in := &b.Pkts[at], &b.Pkts[at].Info
	k.conn, k.Reply = 0, false
	svc := p.service(k, in)
	fromServer := svc == nil && (k.Own || p.snap.IsReal(&in.Src) || p.snap.IsVIP(&in.Src))
	if svc == nil && !fromServer && in.FlowProto() == in.Proto && (p.helper == nil || !p.snap.IsVIP(&in.Dst)) {
		k.Verdict = Pass // not even an announced connection's that is another worker's
		return
	}
	client, port := &in.Src, in.SrcPort
	if fromServer {
		client, port = &in.Dst, in.DstPort
	}
	if p.elsewhere(k, in.FlowProto(), client, port) {
		k.Verdict = Handoff
		return
	}
	switch {
	case k.Own:
		k.Verdict = Pass // its connection is over, or it never had one
	case fromServer:
		k.Verdict = p.strayReply(b, at)
	case svc == nil:
		k.Verdict = Pass
	case p.refused(in):
		k.Verdict = DropNATReply // the reply's turn comes before the request's (K-PATH-1)
	default:
		if k.Verdict = p.scheduleNew(b, at, in, svc); k.Verdict == Forward {
			p.track(k, p.connOf(b, at))
		}
	}
}

// elsewhere says whether another worker has a client's connections: k.Owner.
func (p *Pipeline) elsewhere(k *Packet, proto uint8, client *flow.Addr, port uint16) bool {
	k.Owner = uint16(p.steering.Owner(proto, client, port))
	return int(k.Owner) != p.worker && !k.Handed
}

// quotes says whether k is an ICMP error: what it asks for is not in its own
// header.
func quotes(k *Packet) bool {
	return k.Info.Proto == packet.ProtoICMP || k.Info.Proto == packet.ProtoICMPv6
}

// service finds the service that k, asking for what in says, is for (K-SVC-1);
// nil if none.
func (p *Pipeline) service(k *Packet, in *packet.Info) *lb.Service {
	switch in.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
	default:
		return nil // K-PROTO-AH/ESP, K-PROTO-OTHER
	}
	mark := uint32(0)
	if p.snap.Marks != nil && !in.Dst.Netip().IsMulticast() { // a group is no local address (K-PATH-2)
		mark = p.snap.Marks.Lookup(int(k.Iface), k.Info.Proto, &k.Info.Src, &k.Info.Dst, k.Info.DstPort)
	}
	return p.snap.Find(in.Proto, &in.Dst, in.DstPort, mark)
}

// refused says whether a packet without a connection is a NAT server's that
// nat_icmp_send answers (K-PATH-4); not one that ends a connection, nor IPsec.
func (p *Pipeline) refused(in *packet.Info) bool {
	ends := in.Proto == packet.ProtoTCP && in.TCPFlags&packet.RST != 0 || in.Flags&packet.FlagAbort != 0
	if p.snap.Sysctl.NATICMPSend == 0 || ends || in.FlowProto() != in.Proto {
		return false
	}
	_, ok := p.snap.FindNATReal(in.Proto, &in.Src, in.SrcPort)
	return ok
}

// strayReply is the verdict of a packet from a real server that belongs to no
// connection (K-PATH-4): it may begin one, or be refused. Routing comes before
// IPVS on this way.
func (p *Pipeline) strayReply(b *Batch, at int) Verdict {
	k, in := &b.Pkts[at], &b.Pkts[at].Info
	refused := p.refused(in)
	caller, calls := p.caller(in)
	if !refused && !calls {
		p.learn(k)
		return Pass
	}
	k.Hop = p.hops.Choose(p.hops.Lookup(&in.Dst), &in.Dst, 0)
	if k.Hop.State == nexthop.Local {
		if refused {
			return DropNATReply
		}
		return Pass
	}
	k.Reply = true
	if v := p.routed(k); v != Forward {
		return v
	}
	if calls && p.callOut(b, at, caller) {
		return k.Verdict
	}
	if refused {
		rewrite.Forward(&k.Frame, in) // the kernel quotes the packet as it would have left
		return DropNATReply
	}
	k.Reply = false
	return Pass
}

// opening says whether a packet may begin a connection (K-PROTO-*).
func (p *Pipeline) opening(in *packet.Info) bool {
	switch in.Proto {
	case packet.ProtoTCP:
		return in.TCPFlags&packet.RST == 0 && (in.TCPFlags&packet.SYN != 0 || p.snap.Sysctl.SloppyTCP != 0)
	case packet.ProtoSCTP:
		return in.Event == flow.EventInit || in.Flags&packet.FlagAbort == 0 && p.snap.Sysctl.SloppySCTP != 0
	}
	return true
}

// scheduleNew gives the packet at place at of b, asking for what in says, a new
// connection to a server of svc: Forward. Otherwise it returns the packet's
// verdict (K-PATH-6).
func (p *Pipeline) scheduleNew(b *Batch, at int, in *packet.Info, svc *lb.Service) Verdict {
	k := &b.Pkts[at]
	switch {
	case !quotes(k) && !p.opening(in):
		return Pass
	case p.defence.dropsPacket():
		return DropDefence
	case in.SrcPort == ftpDataPort:
		return Pass // K-CONN-12
	case svc.Persistence != nil:
		return p.schedulePersistent(b, at, in, svc)
	case svc.Mark == 0 && in.DstPort != svc.Port:
		return p.leave(b, at, in, svc) // K-SVC-6: port 0 wants persistence
	}
	id := p.pick(k, in, svc)
	if id == lb.NoReal {
		return p.leave(b, at, in, svc)
	}
	port := p.snap.Reals[id].Port
	if port == 0 {
		port = in.DstPort
	}
	return p.connect(b, at, in, svc, id, port, 0)
}

// pick has svc's scheduler choose a server for k; lb.NoReal: there is none.
func (p *Pipeline) pick(k *Packet, in *packet.Info, svc *lb.Service) uint32 {
	p.random = p.random*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator
	p.query = sched.Query{
		Client: in.Src, Dest: in.Dst, ClientPort: in.SrcPort, DestPort: in.DstPort, Proto: in.Proto,
		Now: p.now, Random: bits.ReverseBytes64(p.random),
	}
	if quotes(k) {
		p.query.Dest = in.Src // the kernel's dh, lblc and lblcr look at the quote as it stands (K-SCH-DH)
	}
	at := p.scheds[svc.Slot].Pick(&p.query, &p.loads)
	if at < 0 {
		return lb.NoReal
	}
	return svc.Dests[at].ID
}

// leave is what becomes of a packet when no server is available (K-PATH-6). An
// ICMP error is not answered with another.
func (p *Pipeline) leave(b *Batch, at int, in *packet.Info, svc *lb.Service) Verdict {
	if svc.Mark != 0 && p.snap.Sysctl.CacheBypass != 0 && !quotes(&b.Pkts[at]) {
		// To be bypassed it has to be of the world, and to have a way there. The
		// kernel sees the first alone, but knows each address of the host's, if it
		// is of IPv4: any other station's of IPv6 will do.
		switch state := p.hops.Lookup(&in.Dst).State; {
		case in.Family == 6, state == nexthop.Reachable, state == nexthop.Unresolved, state == nexthop.Several:
			return p.connect(b, at, in, svc, lb.NoReal, 0, 0)
		}
	}
	if svc.Port == ftpPort && in.DstPort != ftpPort {
		return Pass
	}
	return DropNoServer
}

// connect makes the connection of the packet at place at of b, asking for what
// in says, to port of real server id, under the template that control names
// (0: none). lb.NoReal: it bypasses the service.
func (p *Pipeline) connect(b *Batch, at int, in *packet.Info, svc *lb.Service, id uint32, port uint16, control conn.ID) Verdict {
	k := &b.Pkts[at]
	c := conn.Conn{
		Client: in.Src, Virtual: in.Dst, ClientPort: in.SrcPort, VirtualPort: in.DstPort,
		RealPort: port, Proto: in.Proto, Real: id, Control: control,
		Flags: conn.Flags(lb.Bypass), Stamp: p.now, Timeout: conn.InitialTicks,
	}
	if id != lb.NoReal {
		c.Flags = conn.Inactive | conn.Flags(p.snap.Reals[id].Forward)
		if !isNAT(&c) {
			c.Flags |= conn.NoOutput
		}
	}
	if in.Family == 6 {
		c.Flags |= conn.V6
	}
	if svc.OnePacket && in.Proto == packet.ProtoUDP {
		c.Flags |= conn.OnePacket // freed right after the packet (K-CONN-8)
		b.once[at], k.once = c, true
	} else {
		server := p.serverKey(&c)
		if _, learnt := p.learnt[p.replyKey]; learnt {
			k.Owner = uint16(p.worker)
			return Handoff // its replies would not come here
		}
		if k.conn, _ = p.conns.Insert(&c, server); k.conn == 0 {
			return DropTableFull
		}
	}
	p.added = p.added || !k.once
	if id != lb.NoReal {
		p.snap.Bind(p.rows, id, k.once)
		p.rows.Real(id).Conns++
		p.rows.Service(svc.Slot).Conns++
	}
	return Forward
}
