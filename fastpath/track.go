package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// request accounts a packet from the client on its connection (K-PATH-3,
// steps 8 to 12), or schedules it anew if the connection's time is over. The old
// connection still counts then until the next tick, as in the kernel.
func (p *Pipeline) request(b *Batch, at int) {
	k := &b.Pkts[at]
	c := p.conns.At(k.conn)
	switch {
	case p.reusable(k, c):
		if p.conns.Held(k.conn) == 0 {
			p.expireSoon(k.conn)
		}
	case c.Real == lb.NoReal || p.snap.Reals[c.Real].Available:
		p.track(k, c)
		return
	case p.snap.Sysctl.ExpireNoDestConn == 0:
		k.Verdict = DropServerGone // until it returns or the timer ends (K-CONN-10)
		return
	default:
		p.expireSoon(k.conn)
	}
	p.replaced = true
	id := k.conn
	p.miss(b, at)
	if k.Verdict == Pass {
		p.hostResets(k, id, c)
	}
}

// hostResets does to c, which k did not renew, what the host's answer to a TCP
// packet does: to the kernel that RST is its server's, unless it is NAT.
func (p *Pipeline) hostResets(k *Packet, id conn.ID, c *conn.Conn) {
	if c.Proto != packet.ProtoTCP || isNAT(c) || k.Info.Event == flow.EventRST {
		return
	}
	k.conn, k.Reply, k.Info.Event = id, true, flow.EventRST
	p.transition(k, c)
	k.conn, k.Reply = 0, false
}

// track counts a request on c and moves its state.
func (p *Pipeline) track(k *Packet, c *conn.Conn) {
	k.real = c.Real
	p.count(k, c.Real, false)
	p.transition(k, c)
	c.Packets++
}

// response accounts a packet from the server (K-PATH-4).
func (p *Pipeline) response(k *Packet, c *conn.Conn) {
	k.real = c.Real
	p.along(k, p.hops.Lookup(&c.Client), &c.Client, c)
	if k.Own {
		rewrite.Keep(&k.Frame, &k.Info)
	}
	k.Verdict = p.routed(k) // routing comes before IPVS on this way
	if k.Verdict == Forward && c.Flags&conn.Followed != 0 {
		if k.Verdict = DropHelper; p.helper.Look(&k.Frame, &k.Info, k.conn, true, p.snap, p.now) {
			k.Verdict = p.routed(k) // it may have grown
		}
	}
	if k.Verdict != Forward {
		return // nothing is counted
	}
	p.count(k, c.Real, true)
	p.transition(k, c)
}

// routed is the verdict of routing on a reply.
func (p *Pipeline) routed(k *Packet) Verdict {
	switch k.Hop.State {
	case nexthop.NoRoute, nexthop.Blackhole, nexthop.Local:
		return Pass // the host's routing answers or drops it, or the director itself is the client
	}
	if k.Info.TTL <= 1 {
		return DropTTL
	}
	k.MTU = k.Hop.MTU
	v, _ := p.fits(k, int(k.MTU), 0, false)
	return v
}

// count adds k to the counters of its server and service (K-STAT-1): IP bytes
// as received, in either direction.
func (p *Pipeline) count(k *Packet, real uint32, out bool) {
	p.tally(real, out, uint64(k.Info.Len()))
}

// tally counts a packet of that many bytes.
func (p *Pipeline) tally(real uint32, out bool, bytes uint64) {
	if real == lb.NoReal || !p.snap.Reals[real].Available {
		return
	}
	row, svc := p.rows.Real(real), p.rows.Service(p.snap.Reals[real].Service)
	if out {
		row.OutPackets++
		row.OutBytes += bytes
		svc.OutPackets++
		svc.OutBytes += bytes
		return
	}
	row.InPackets++
	row.InBytes += bytes
	svc.InPackets++
	svc.InBytes += bytes
}

// transition moves c to the state that k's event leads to and re-arms its
// timer (section 1.7).
func (p *Pipeline) transition(k *Packet, c *conn.Conn) {
	state := c.State
	switch c.Proto {
	case packet.ProtoTCP:
		state = conn.NextTCP(p.defence.secure, direction(k, c), state, k.Info.Event)
	case packet.ProtoSCTP:
		state = conn.NextSCTP(direction(k, c), state, k.Info.Event)
	default:
		if k.Info.Proto != packet.ProtoUDP {
			p.conns.Touch(k.conn, p.now) // AH and ESP know no state: the timeout stays, too
			return
		}
	}
	if state != c.State {
		p.recount(c, state)
		c.State = state
		if c.Proto == packet.ProtoTCP && state == conn.TCPEstablished || c.Proto == packet.ProtoSCTP && state == conn.SCTPEstablished {
			p.assure(c)
		}
	}
	if c.Proto == packet.ProtoUDP && k.Reply {
		p.assure(c)
	}
	timeout := p.snap.Timeouts.Of(c.Proto, state)
	switch {
	case k.once:
	case timeout != c.Timeout:
		p.conns.SetTimeout(k.conn, timeout, p.now)
	default:
		p.conns.Touch(k.conn, p.now)
	}
}

// direction is the way of k on its connection c.
func direction(k *Packet, c *conn.Conn) conn.Direction {
	switch {
	case k.Reply:
		c.Flags &^= conn.NoOutput // a reply was seen after all
		return conn.Output
	case c.Flags&conn.NoOutput != 0:
		return conn.InputOnly
	}
	return conn.Input
}

// recount moves c between its server's active and inactive connections when
// it enters state (K-CONN-7). UDP connections stay inactive.
func (p *Pipeline) recount(c *conn.Conn, state conn.State) {
	if c.Real == lb.NoReal {
		return
	}
	if active := conn.Active(c.Proto, state); active != (c.Flags&conn.Inactive == 0) {
		p.rows.Recount(c.Real, active)
		c.Flags ^= conn.Inactive
	}
}

// reusable says whether a packet that opens a connection takes the place of
// the one that it hit (K-CONN-9).
func (p *Pipeline) reusable(k *Packet, c *conn.Conn) bool {
	if !opens(k) {
		return false
	}
	if p.snap.Sysctl.ExpireNoDestConn != 0 && c.Real != lb.NoReal && p.snap.Reals[c.Real].Weight == 0 {
		return true
	}
	mode := p.snap.Sysctl.ConnReuseMode
	if mode == 0 || c.Control != 0 {
		return false
	}
	if c.Proto == packet.ProtoSCTP {
		return c.State == conn.SCTPClosed
	}
	return c.State == conn.TCPTimeWait || c.State == conn.TCPClose ||
		mode&2 != 0 && c.State == conn.TCPFinWait && c.Flags&conn.NoOutput != 0
}

// opens says whether k is a packet that opens a connection.
func opens(k *Packet) bool {
	switch k.Info.Proto {
	case packet.ProtoTCP:
		return k.Info.TCPFlags&packet.SYN != 0
	case packet.ProtoSCTP:
		return k.Info.Event == flow.EventInit
	}
	return false
}

// Expire runs the timers that are due, at most budget of them; it says
// whether more are waiting.
func (p *Pipeline) Expire(now clock.Ticks, budget int) (more bool) {
	p.now = now
	more = p.conns.Advance(now, budget, p.expireOne)
	if p.sweep != 0 && int32(now-p.sweepAt) >= 0 {
		p.sweepGone(budget)
		more = more || p.sweep != 0
	}
	p.defend(budget)
	more = p.helper != nil && p.helper.Expire(p.snap, now, budget) || more
	return p.templates.Advance(p.worker, p.steering.Workers(), now, budget, p.expireOneTemplate) || more
}

// sweepGone ends connections of removed servers, at most budget entries of the
// table a call, and at its end their templates (K-CONN-10).
func (p *Pipeline) sweepGone(budget int) {
	gone := func(c *conn.Conn) bool { return c.Real != lb.NoReal && !p.snap.Reals[c.Real].Available }
	p.sweep = p.conns.Scan(p.sweep, budget, func(id conn.ID, c *conn.Conn) {
		if gone(c) && p.conns.Held(id) == 0 {
			p.dropConn(id, c)
		}
	})
	if p.sweep == 0 && p.worker == 0 {
		p.templates.Scan(func(s *conn.Stripe, id conn.ID, c *conn.Conn) {
			if gone(c) && s.Held(id) == 0 {
				p.expireTemplate(s, id)
			}
		})
	}
}

// expire ends a connection whose timer fired, or re-arms it while it
// controls others (K-CONN-6, K-CONN-13).
func (p *Pipeline) expire(id conn.ID) clock.Ticks {
	if p.conns.Held(id) > 0 {
		return conn.HeldTicks
	}
	p.remove(id)
	return 0
}

// expireSoon has the timer of a connection fire at the next tick.
func (p *Pipeline) expireSoon(id conn.ID) { p.conns.SetTimeout(id, 1, p.now) }

// remove takes a connection off its server's counts and out of the table.
func (p *Pipeline) remove(id conn.ID) {
	c := p.conns.At(id)
	if c.Real != lb.NoReal {
		p.snap.Unbind(p.rows, c.Real, c.Flags&conn.Inactive != 0)
	}
	if c.Control.IsTemplate() && c.Flags&conn.OnePacket == 0 {
		s, template := p.templates.Find(c.Control)
		s.Unhold(template)
		s.Unlock()
	}
	if p.helper != nil {
		p.helper.End(c, p.now)
	}
	p.conns.Delete(id)
}
