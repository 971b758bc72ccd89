package ftp

import (
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// waitTicks is for how long an announced connection waits: the timeout of LISTEN.
var waitTicks = func() clock.Ticks {
	t := conn.DefaultTimeouts()
	return t.Of(packet.ProtoTCP, conn.TCPListen)
}()

// announcement is a data connection that command connection by announces, of
// its virtual service and real server. Ports are in host order.
type announcement struct {
	by          conn.ID
	client      flow.Addr
	clientPort  uint16 // 0: not known yet
	virtualPort uint16
	realPort    uint16
}

// announce expects a data connection from now on, or anew, and returns it as it
// is expected. false: there is no room for it.
func (h *Helper) announce(snap *lb.Snapshot, a *announcement, now clock.Ticks) (expected conn.Conn, ok bool) {
	by := h.conns.At(a.by)
	c := conn.Conn{
		Client: a.client, Virtual: by.Virtual, ClientPort: a.clientPort, VirtualPort: a.virtualPort, RealPort: a.realPort,
		Proto: packet.ProtoTCP, State: conn.TCPListen, Flags: conn.Inactive | by.Flags&(conn.V6|conn.FwdMask), Real: by.Real,
		Stamp: now, Timeout: waitTicks, Control: h.control(by.Note),
	}
	if h.Follows(a.virtualPort) {
		c.Flags |= conn.Followed
	}
	server := flow.Key{
		Client: a.client, ClientPort: a.clientPort, Local: *h.conns.RealAddr(a.by), LocalPort: a.realPort,
		Proto: packet.ProtoTCP, Side: flow.ServerSide,
	}
	key := server // a server's port is announced once more by other words
	if a.clientPort == 0 {
		c.Flags |= conn.NoCPort
	} else {
		key = c.ClientKey()
		if id := h.conns.Lookup(&key); id != 0 { // a client's too, of a connection that has begun
			return listen(h.conns, id, now), true
		}
	}
	s := h.node.lock(&a.client)
	defer s.Unlock()
	if id := s.Lookup(&key); id != 0 {
		return listen(s.Table, id, now), true
	}
	if _, ok := s.Insert(&c, &server); !ok {
		return c, h.node.refuse(ExpectedFull)
	}
	snap.Bind(snap.Rows(h.worker), c.Real, false)
	h.conns.Hold(a.by)
	h.node.live.Add(1)
	h.node.counts.announced.Add(1)
	return c, true
}

// listen puts connection id of a table back to where it was announced, and
// returns it.
func listen(t *conn.Table, id conn.ID, now clock.Ticks) conn.Conn {
	c := t.At(id)
	c.State = conn.TCPListen
	t.SetTimeout(id, waitTicks, now)
	return *c
}

// Begin finds the announced connection that a packet without one begins: owner
// is its worker, -1: there is none. If that is this one, or the packet was handed
// here, the connection is now id in this worker's table; 0: its server is gone,
// and it waits for that to return (K-CONN-10).
func (h *Helper) Begin(in *packet.Info, handed bool, snap *lb.Snapshot) (id conn.ID, reply bool, owner int) {
	n := h.node
	if n.live.Load() == 0 || in.Proto != packet.ProtoTCP || in.SrcPort == 0 || in.DstPort == 0 {
		return 0, false, -1
	}
	s, at, port := n.find(in)
	if at == 0 {
		reply = true
		s, at, port = n.findReply(in)
	}
	if at == 0 {
		return 0, false, -1
	}
	defer s.Unlock()
	c := *s.At(at)
	if owner = h.worker; !handed {
		owner = n.Steering.Owner(c.Proto, &c.Client, port)
	}
	switch {
	case owner != h.worker, !reply && !snap.Reals[c.Real].Available && snap.Sysctl.ExpireNoDestConn == 0:
		return 0, reply, owner
	}
	c.ClientPort = port
	c.Flags &^= conn.NoCPort
	server := flow.Key{
		Client: c.Client, ClientPort: port, Local: *s.RealAddr(at), LocalPort: c.RealPort, Proto: c.Proto, Side: flow.ServerSide,
	}
	id, ok := h.conns.Insert(&c, &server)
	if !ok {
		return 0, false, -1 // it has no room, like any other new one
	}
	s.Delete(at)
	n.live.Add(-1)
	n.counts.begun.Add(1)
	return id, reply, owner
}

// Awaits says whether a packet of no connection comes from a server that command
// connections may lead to: one like it may be announced yet. Of removed servers
// nothing is known but that.
func (h *Helper) Awaits(in *packet.Info, snap *lb.Snapshot) bool {
	if in.Proto != packet.ProtoTCP {
		return false
	}
	if h.served != snap {
		h.served = snap
		clear(h.servers)
		for i := range snap.Reals {
			if r := &snap.Reals[i]; r.Forward == lb.NAT && h.leadsTo(snap, r) {
				h.servers[r.Addr] = struct{}{}
			}
		}
	}
	_, ok := h.servers[in.Src]
	return ok
}

// leadsTo says whether command connections may lead to a server: of an FTP service,
// one of every port, or one of a mark.
func (h *Helper) leadsTo(snap *lb.Snapshot, r *lb.Real) bool {
	if r.ID == lb.NoReal {
		return false
	}
	if r.Service == lb.NoService {
		return true
	}
	svc := snap.Services[r.Service]
	return svc.Mark != 0 || svc.Proto == lb.ProtoTCP && (svc.Port == 0 || h.Follows(svc.Port))
}

// find returns the announced connection that a client's packet begins, in its
// stripe, locked, and the client's port; 0: there is none, and nothing is locked.
func (n *Node) find(in *packet.Info) (s *conn.Stripe, at conn.ID, port uint16) {
	key := flow.Key{Client: in.Src, Local: in.Dst, ClientPort: in.SrcPort, LocalPort: in.DstPort, Proto: in.Proto, Side: flow.ClientSide}
	s = n.lock(&in.Src)
	if at = s.Lookup(&key); at == 0 {
		key.ClientPort = 0 // K-FWD-NOCPORT
		if at = s.Lookup(&key); at == 0 {
			s.Unlock()
		}
	}
	return s, at, in.SrcPort
}

// findReply is find for a packet of a server's, whose client's port is known
// (K-FTP-2).
func (n *Node) findReply(in *packet.Info) (s *conn.Stripe, at conn.ID, port uint16) {
	key := flow.Key{Client: in.Dst, Local: in.Src, ClientPort: in.DstPort, LocalPort: in.SrcPort, Proto: in.Proto, Side: flow.ServerSide}
	s = n.lock(&in.Dst)
	if at = s.Lookup(&key); at == 0 {
		s.Unlock()
	}
	return s, at, in.DstPort
}

// control is how a data connection's Control names the session that announced
// it: by worker and number. The topmost bit stays a template's.
func (h *Helper) control(session uint16) conn.ID { return conn.ID(h.worker)<<16 | conn.ID(session) }

// End takes note that a connection is over, dropped if its Timeout is 0: of its
// session, and at the one that announced it.
func (h *Helper) End(c *conn.Conn, now clock.Ticks) {
	if c.Note != 0 {
		h.forget(c.Note)
	}
	if c.Control == 0 || c.Control.IsTemplate() {
		return
	}
	by, session := h.node.helpers[c.Control>>16], uint16(c.Control)
	if by != h {
		by.post(session)
		return
	}
	id := h.sessions[session].conn
	h.conns.Unhold(id)
	if c.Timeout == 0 && h.conns.Held(id) == 0 {
		h.conns.SetTimeout(id, 1, now) // K-CONN-13
	}
}

// post has another worker release the command connection of a session of its.
func (h *Helper) post(session uint16) {
	h.mu.Lock()
	h.released = append(h.released, session)
	h.pending.Store(int32(len(h.released)))
	h.mu.Unlock()
}

// collect releases what others have posted.
func (h *Helper) collect() {
	if h.pending.Load() == 0 {
		return
	}
	h.mu.Lock()
	for _, session := range h.released {
		h.conns.Unhold(h.sessions[session].conn)
	}
	h.released = h.released[:0]
	h.pending.Store(0)
	h.mu.Unlock()
}

// Expire ends announced connections that nobody began in time, at most budget
// of each of this worker's stripes; more: others are due.
func (h *Helper) Expire(s *lb.Snapshot, now clock.Ticks, budget int) (more bool) {
	h.collect()
	if h.node.live.Load() == 0 {
		return false
	}
	h.snap = s
	return h.node.expected.Advance(h.worker, len(h.node.helpers), now, budget, h.endOne)
}

// expire ends an announced connection.
func (h *Helper) expire(s *conn.Stripe, id conn.ID) clock.Ticks {
	c := s.At(id)
	h.snap.Unbind(h.snap.Rows(h.worker), c.Real, c.Flags&conn.Inactive != 0)
	h.End(c, c.Stamp)
	s.Delete(id)
	h.node.live.Add(-1)
	h.node.counts.expired.Add(1)
	return 0
}
