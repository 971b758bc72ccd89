package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/sip"
	"github.com/sluice-lb/sluice/lb"
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

// caller says which server sent a datagram that may begin a connection, if one
// did: a NAT server, with a port, of a SIP service (K-PE-3).
func (p *Pipeline) caller(in *packet.Info) (real uint32, ok bool) {
	if in.Proto != packet.ProtoUDP || in.SrcPort == 0 {
		return 0, false
	}
	if real, ok = p.snap.FindNATReal(in.Proto, &in.Src, in.SrcPort); !ok {
		return 0, false
	}
	svc := p.snap.Services[p.snap.Reals[real].Service]
	return real, svc.Persistence != nil && svc.Persistence.Engine == engineSIP && svc.Port != 0
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
