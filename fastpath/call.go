package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/sip"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

// engineSIP is the persistence engine that tells calls apart (K-PE-1).
const engineSIP = "sip"

// callID returns by which call k comes back to its server: none if svc has no
// persistence engine. false: the engine finds none in k, which is then dropped
// (K-PE-2).
func callID(k *Packet, svc *lb.Service) (call []byte, ok bool) {
	if svc.Persistence.Engine != engineSIP {
		return nil, true
	}
	if k.Info.Proto != packet.ProtoUDP {
		return nil, false
	}
	call = sip.CallID(k.Chunk[k.Off:][k.Info.L4+packet.UDPLen : k.Info.End])
	return call, call != nil
}

// adoptCallers notes the servers whose own datagrams may begin a connection:
// NAT servers of SIP services that have a port each (K-PE-3).
func (p *Pipeline) adoptCallers() {
	p.callers = nil
	for _, svc := range p.snap.Services {
		if svc == nil || svc.Persistence == nil || svc.Persistence.Engine != engineSIP || svc.Proto != lb.ProtoUDP || svc.Port == 0 {
			continue
		}
		for i := range svc.Dests {
			r := &p.snap.Reals[svc.Dests[i].ID]
			if r.Forward != lb.NAT || r.Port == 0 {
				continue
			}
			if p.callers == nil {
				p.callers = map[flow.Key]uint32{}
			}
			p.callers[flow.Key{Local: r.Addr, LocalPort: r.Port}] = r.ID
		}
	}
}

// caller says which server of a SIP service sent a datagram, if one did.
func (p *Pipeline) caller(in *packet.Info) (real uint32, ok bool) {
	if p.callers == nil || in.Proto != packet.ProtoUDP {
		return 0, false
	}
	real, ok = p.callers[flow.Key{Local: in.Src, LocalPort: in.SrcPort}]
	return real, ok
}

// callOut makes the connection of a datagram by which a server calls its
// client, and a template by which the client's answers, from whatever port, come
// back to that server (K-PE-3). false: it can't be made, and the datagram is
// none of ours.
func (p *Pipeline) callOut(b *Batch, at int, real uint32) bool {
	k := &b.Pkts[at]
	svc := p.snap.Services[p.snap.Reals[real].Service]
	asked := packet.Info{
		Src: k.Info.Dst, SrcPort: k.Info.DstPort, Dst: svc.Addr, DstPort: svc.Port,
		Proto: k.Info.Proto, Family: k.Info.Family,
	}
	_, control, _ := p.template(k, &asked, svc, real)
	if control == 0 || p.connectHeld(b, at, &asked, svc, real, k.Info.SrcPort, control) != Forward {
		return false
	}
	k.Verdict = Forward
	p.response(k, p.connOf(b, at))
	return true
}
