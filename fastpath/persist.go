package fastpath

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// schedulePersistent gives the packet at place at of b, asking for what in
// says, a new connection to the server of its client's template; if there is no
// template whose server may be used, to one that the scheduler picks, with a new
// template (K-PERS-1).
func (p *Pipeline) schedulePersistent(b *Batch, at int, in *packet.Info, svc *lb.Service) Verdict {
	real, control, v := p.template(&b.Pkts[at], in, svc, lb.NoReal)
	if control == 0 {
		if v == DropNoServer {
			return p.leave(b, at, in, svc)
		}
		return v
	}
	port := in.DstPort
	if own := p.snap.Reals[real].Port; port == svc.Port && own != 0 {
		port = own
	}
	return p.connectHeld(b, at, in, svc, real, port, control)
}

// connectHeld is connect under a template that was held for the connection,
// which lets go of it if it is not made or of one packet.
func (p *Pipeline) connectHeld(b *Batch, at int, in *packet.Info, svc *lb.Service, real uint32, port uint16, control conn.ID) Verdict {
	v := p.connect(b, at, in, svc, real, port, control)
	if once := b.Pkts[at].once; v != Forward || once {
		s, id := p.templates.Find(control)
		if s.Unhold(id); once && !b.Pkts[at].Reply && !quotes(&b.Pkts[at]) {
			s.At(id).Packets++
		}
		s.Unlock()
	}
	return v
}

// template finds or makes the template for k, asking for what in says, and holds
// it for a connection: its server, and what names it. The server has to be want
// unless that is lb.NoReal. control 0: there is none, and v is k's verdict.
func (p *Pipeline) template(k *Packet, in *packet.Info, svc *lb.Service, want uint32) (real uint32, control conn.ID, v Verdict) {
	call, ok := callID(k, svc)
	if !ok {
		return lb.NoReal, 0, DropNoCallID
	}
	key := templateKey(in, svc)
	key.ClientPort = p.templates.Tag(call)
	s := p.templates.Lock(&key)
	defer s.Unlock()
	id := s.Template(&key, call)
	if id != 0 && !p.usable(s.At(id), want) {
		s.Invalidate(id)
		id = 0
	}
	if id == 0 {
		if want == lb.NoReal {
			want = p.pick(k, in, svc)
		}
		if want == lb.NoReal {
			return want, 0, DropNoServer
		}
		if id = p.addTemplate(s, &key, call, in, svc, want); id == 0 {
			return want, 0, DropTableFull
		}
	}
	s.Hold(id)
	s.Touch(id, p.now) // each connection begins its time anew
	return s.At(id).Real, s.Control(id), Forward
}

// templateKey is what a client's template is filed under (K-PERS-2, K-PERS-3):
// the network of the client, and the service that it addressed.
func templateKey(in *packet.Info, svc *lb.Service) flow.Key {
	key := flow.Key{Client: masked(in.Src, svc.ClientMask), Local: in.Dst, Proto: in.Proto, Side: flow.ClientSide}
	switch {
	case in.DstPort == svc.Port:
		if svc.Port != ftpPort {
			key.LocalPort = in.DstPort
		}
	case svc.Mark != 0:
		key.Proto, key.Local = 0, markAddr(svc.Mark, in.Family)
	}
	return key
}

// markAddr is the virtual address of a mark's templates: the mark as an IPv4
// address, in the first bytes of one of the packet's family.
func markAddr(mark uint32, family uint8) flow.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], mark)
	if family == 4 {
		return flow.From4(b)
	}
	var a flow.Addr
	copy(a[:], b[:])
	return a
}

// masked returns the bits of a that mask has.
func masked(a, mask flow.Addr) flow.Addr {
	for i := range a {
		a[i] &= mask[i]
	}
	return a
}

// usable says whether a template still leads to a server, to want unless that is
// lb.NoReal (K-PERS-4, K-PERS-5).
func (p *Pipeline) usable(t *conn.Conn, want uint32) bool {
	if t.Real == lb.NoReal || !p.snap.Reals[t.Real].Available || want != lb.NoReal && want != t.Real {
		return false
	}
	return p.snap.Sysctl.ExpireQuiescentTemplate == 0 || p.snap.Reals[t.Real].Weight != 0
}

// addTemplate makes the template of a client, or of a call of its, to real,
// counted as a persistent connection; 0: there is no room.
func (p *Pipeline) addTemplate(s *conn.Stripe, key *flow.Key, call []byte, in *packet.Info, svc *lb.Service, real uint32) conn.ID {
	r := &p.snap.Reals[real]
	t := conn.Conn{
		Client: key.Client, Virtual: key.Local, ClientPort: key.ClientPort, VirtualPort: key.LocalPort, Proto: key.Proto, Real: real,
		Flags: conn.Template | conn.Flags(r.Forward), Stamp: p.now, Timeout: clock.FromDuration(svc.Persistence.Timeout),
	}
	if in.DstPort == svc.Port && svc.Port != ftpPort {
		t.RealPort = r.Port
	}
	if in.Family == 6 {
		t.Flags |= conn.V6
	}
	id, ok := s.Add(&t, call)
	if !ok {
		return 0
	}
	p.snap.BindTemplate(p.rows, real)
	return id
}

// assure marks the template of c: its client was seen to talk with its server
// (K-CONN-14). Once is enough for a connection.
func (p *Pipeline) assure(c *conn.Conn) {
	if c.Flags&conn.Assured != 0 || !c.Control.IsTemplate() {
		return
	}
	c.Flags |= conn.Assured
	s, id := p.templates.Find(c.Control)
	s.At(id).State = conn.TemplateAssured
	s.Unlock()
}

// expireTemplate ends a template whose timer fired, or re-arms it while it has
// connections (K-CONN-6, K-CONN-13).
func (p *Pipeline) expireTemplate(s *conn.Stripe, id conn.ID) clock.Ticks {
	t := s.At(id)
	if s.Held(id) > 0 {
		return conn.HeldTicks
	}
	p.snap.UnbindTemplate(p.rows, t.Real)
	s.Delete(id)
	return 0
}
