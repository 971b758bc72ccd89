package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

// request accounts a packet from the client on its connection (K-PATH-3,
// steps 8 to 12), or schedules it anew if the connection's time is over.
func (p *Pipeline) request(b *Batch, at int) {
	k := &b.Pkts[at]
	c := p.conns.At(k.conn)
	if p.reusable(k, c) {
		p.rewrite(b, b.cur) // packets before this one still need the connection
		p.expireNow(k.conn)
		p.miss(b, at)
		return
	}
	if c.Real != lb.NoReal && !p.snap.Reals[c.Real].Available {
		if p.snap.Sysctl.ExpireNoDestConn == 0 {
			k.Verdict = DropServerGone // until it returns or the timer ends (K-CONN-10)
			return
		}
		p.rewrite(b, b.cur) // packets before this one still need the connection
		p.expireNow(k.conn)
		p.miss(b, at)
		return
	}
	p.track(k, c)
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
	k.real, k.Hop = c.Real, p.hops.Lookup(&c.Client)
	if k.Verdict = p.routed(k); k.Verdict != Forward {
		return // routing comes before IPVS on this way: nothing is counted
	}
	p.count(k, c.Real, true)
	p.transition(k, c)
}

// routed is the verdict of routing on a reply.
func (p *Pipeline) routed(k *Packet) Verdict {
	switch k.Hop.State {
	case nexthop.NoRoute, nexthop.Blackhole:
		return DropNoRoute
	case nexthop.Local:
		return Pass // the director itself is the client
	}
	if k.Info.TTL <= 1 {
		return DropTTL
	}
	v, _ := p.fits(k, int(k.Hop.MTU), false)
	return v
}

// count adds k to the counters of its server and service (K-STAT-1): IP bytes
// as received, in either direction.
func (p *Pipeline) count(k *Packet, real uint32, out bool) {
	if real == lb.NoReal || !p.snap.Reals[real].Available {
		return
	}
	bytes := uint64(k.Info.End - k.Info.L3)
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
// timer (section 1.7). In the usual case, no change, that is one store.
func (p *Pipeline) transition(k *Packet, c *conn.Conn) {
	dir := conn.Input
	switch {
	case k.Reply:
		dir = conn.Output
		c.Flags &^= conn.NoOutput // a reply was seen after all
	case c.Flags&conn.NoOutput != 0:
		dir = conn.InputOnly
	}
	state := c.State
	switch c.Proto {
	case packet.ProtoTCP:
		state = conn.NextTCP(p.defence.secure, dir, state, k.Info.Event)
	case packet.ProtoSCTP:
		state = conn.NextSCTP(dir, state, k.Info.Event)
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
		c.Stamp = p.now
	}
}

// recount moves c between its server's active and inactive connections when
// it enters state (K-CONN-7). UDP connections stay inactive.
func (p *Pipeline) recount(c *conn.Conn, state conn.State) {
	if c.Real == lb.NoReal {
		return
	}
	row := p.rows.Real(c.Real)
	active, wasActive := conn.Active(c.Proto, state), c.Flags&conn.Inactive == 0
	switch {
	case wasActive && !active:
		row.Active.Add(-1)
		row.Inactive.Add(1)
		c.Flags |= conn.Inactive
	case !wasActive && active:
		row.Inactive.Add(-1)
		row.Active.Add(1)
		c.Flags &^= conn.Inactive
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
		return k.Info.Event == packet.EventInit
	}
	return false
}

// Expire runs the timers that are due, at most budget of them; it says
// whether more are waiting.
func (p *Pipeline) Expire(now clock.Ticks, budget int) (more bool) {
	p.now = now
	more = p.conns.Advance(now, budget, p.expireOne)
	if p.sweep != 0 {
		p.sweepGone(budget)
		more = more || p.sweep != 0
	}
	p.defend(budget)
	return p.templates.Advance(p.worker, p.steering.Workers(), now, budget, p.expireOneTemplate) || more
}

// sweepGone ends connections of removed servers, at most budget entries of the
// table a call, and at its end their templates (K-CONN-10).
func (p *Pipeline) sweepGone(budget int) {
	gone := func(c *conn.Conn) bool { return c.Real != lb.NoReal && !p.snap.Reals[c.Real].Available }
	p.sweep = p.conns.Scan(p.sweep, budget, func(id conn.ID, c *conn.Conn) {
		if gone(c) {
			p.expireNow(id)
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
		return p.conns.At(id).Timeout
	}
	p.remove(id)
	return 0
}

// expireNow ends a connection before its time, unless it controls others.
func (p *Pipeline) expireNow(id conn.ID) {
	if p.conns.Held(id) == 0 {
		p.remove(id)
	}
}

// remove takes a connection off its server's counts and out of the table.
func (p *Pipeline) remove(id conn.ID) {
	c := p.conns.At(id)
	if c.Real != lb.NoReal {
		row := p.rows.Real(c.Real)
		if c.Flags&conn.Inactive != 0 {
			row.Inactive.Add(-1)
		} else {
			row.Active.Add(-1)
		}
		p.snap.Unbound(c.Real)
		row.Refs.Add(-1)
	}
	p.release(c)
	p.conns.Delete(id)
	p.removed = true
}
