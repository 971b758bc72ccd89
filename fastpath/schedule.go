package fastpath

import (
	"math/bits"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/lb/sched"
)

const (
	ftpPort     = 21
	ftpDataPort = 20
)

// miss decides about a packet without a connection: another worker's, one to
// schedule, or none of ours.
func (p *Pipeline) miss(b *Batch, at int) {
	k := &b.Pkts[at]
	k.conn, k.Reply = 0, false
	svc := p.service(k)
	if svc == nil && !p.snap.IsReal(&k.Info.Src) {
		k.Verdict = Pass
		return
	}
	if !k.Handed && p.steering.Workers() > 1 {
		client, port := &k.Info.Src, k.Info.SrcPort
		if svc == nil {
			client, port = &k.Info.Dst, k.Info.DstPort
		}
		if owner := p.steering.Owner(k.Info.Proto, client, port); owner != p.worker {
			k.Verdict, k.Owner = Handoff, uint16(owner)
			return
		}
	}
	if svc == nil {
		k.Verdict = p.strayReply(k)
		return
	}
	k.Verdict = p.scheduleNew(b, at, svc)
}

// service finds the service that k asks for (K-SVC-1), nil if none.
func (p *Pipeline) service(k *Packet) *lb.Service {
	in := &k.Info
	switch in.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
	default:
		return nil // K-PROTO-AH/ESP, K-PROTO-OTHER
	}
	mark := uint32(0)
	if p.snap.Marks != nil {
		mark = p.snap.Marks.Lookup(int(k.Iface), in.Proto, &in.Src, &in.Dst, in.DstPort)
	}
	return p.snap.Find(in.Proto, &in.Dst, in.DstPort, mark)
}

// strayReply is the verdict of a packet from a real server that belongs to
// no connection (K-PATH-4).
func (p *Pipeline) strayReply(k *Packet) Verdict {
	in := &k.Info
	reset := in.Proto == packet.ProtoTCP && in.TCPFlags&packet.RST != 0 ||
		in.Proto == packet.ProtoSCTP && in.Event == packet.EventAbort
	if p.snap.Sysctl.NATICMPSend != 0 && !reset && p.snap.IsNATReal(in.Proto, &in.Src, in.SrcPort) {
		if in.TTL <= 1 {
			return Pass // routing comes before IPVS on this way, and answers
		}
		rewrite.Forward(&k.Frame, in) // the error quotes the packet as routing left it
		return DropNATReply
	}
	return Pass
}

// scheduleNew gives k a new connection to a server of svc, and its verdict if
// there is none (K-PATH-6, K-PROTO-*).
func (p *Pipeline) scheduleNew(b *Batch, at int, svc *lb.Service) Verdict {
	k := &b.Pkts[at]
	in := &k.Info
	sysctl := &p.snap.Sysctl
	switch in.Proto {
	case packet.ProtoTCP:
		if in.TCPFlags&packet.RST != 0 || in.TCPFlags&packet.SYN == 0 && sysctl.SloppyTCP == 0 {
			return Pass
		}
	case packet.ProtoSCTP:
		if in.Event == packet.EventAbort || in.Event != packet.EventInit && sysctl.SloppySCTP == 0 {
			return Pass
		}
	}
	if p.defence.dropsPacket() {
		return DropDefence
	}
	if svc.Mark == 0 && in.SrcPort == ftpDataPort && in.Proto != packet.ProtoSCTP {
		return Pass // K-CONN-12
	}
	if svc.Persistence != nil {
		return p.schedulePersistent(b, at, svc)
	}
	if svc.Mark == 0 && in.DstPort != svc.Port {
		return p.leave(k, svc) // K-SVC-6: port 0 wants persistence
	}
	id := p.pick(k, svc)
	if id == lb.NoReal {
		return p.leave(k, svc)
	}
	port := p.snap.Reals[id].Port
	if port == 0 {
		port = in.DstPort
	}
	return p.connect(b, at, svc, id, port, 0)
}

// pick has svc's scheduler choose a server for k; lb.NoReal: there is none.
func (p *Pipeline) pick(k *Packet, svc *lb.Service) uint32 {
	in := &k.Info
	p.random = p.random*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator
	p.query = sched.Query{
		Client: in.Src, Dest: in.Dst, ClientPort: in.SrcPort, DestPort: in.DstPort, Proto: in.Proto,
		Now: p.now, Random: bits.ReverseBytes64(p.random),
	}
	at := p.scheds[svc.Slot].Pick(&p.query, p.snap)
	if at < 0 {
		return lb.NoReal
	}
	return svc.Dests[at].ID
}

// leave is the verdict when no server is available (K-PATH-6).
func (p *Pipeline) leave(k *Packet, svc *lb.Service) Verdict {
	if svc.Port == ftpPort && k.Info.DstPort != ftpPort && svc.Mark == 0 {
		return Pass
	}
	return DropNoServer
}

// connect makes the connection of k to port of real server id, under the
// template that control names (0: none), and counts k on it.
func (p *Pipeline) connect(b *Batch, at int, svc *lb.Service, id uint32, port uint16, control conn.ID) Verdict {
	k, in := &b.Pkts[at], &b.Pkts[at].Info
	real := &p.snap.Reals[id]
	c := conn.Conn{
		Client: in.Src, Virtual: in.Dst, ClientPort: in.SrcPort, VirtualPort: in.DstPort,
		RealPort: port, Proto: in.Proto, Real: id, Control: control,
		Flags: conn.Inactive | conn.Flags(real.Forward), Stamp: p.now, Timeout: conn.InitialTicks,
	}
	if real.Forward != lb.NAT {
		c.Flags |= conn.NoOutput
	}
	if in.Family == 6 {
		c.Flags |= conn.V6
	}
	cp := &b.once[at]
	if svc.OnePacket && in.Proto == packet.ProtoUDP {
		c.Flags |= conn.OnePacket // freed right after the packet (K-CONN-8)
		*cp, k.once = c, true
	} else {
		if k.conn = p.insert(&c, real); k.conn == 0 {
			return DropTableFull
		}
		cp = p.conns.At(k.conn)
		row := p.rows.Real(id)
		row.Inactive.Add(1)
		row.Refs.Add(1)
		p.snap.Bound(id)
		p.added = true
	}
	p.rows.Real(id).Conns++
	p.rows.Service(svc.Slot).Conns++
	p.track(k, cp)
	return Forward
}

// insert puts c into the table, by its server's key too if it is NAT.
func (p *Pipeline) insert(c *conn.Conn, real *lb.Real) conn.ID {
	id, _ := p.conns.Insert(c, p.serverKey(c, &real.Addr))
	return id
}

// serverKey returns the key by which replies from the server at addr find c, in
// scratch memory; nil if c is not NAT.
func (p *Pipeline) serverKey(c *conn.Conn, addr *flow.Addr) *flow.Key {
	if !isNAT(c) {
		return nil
	}
	p.replyKey = flow.Key{
		Client: c.Client, Local: *addr, ClientPort: c.ClientPort, LocalPort: c.RealPort,
		Proto: c.Proto, Side: flow.ServerSide,
	}
	return &p.replyKey
}
