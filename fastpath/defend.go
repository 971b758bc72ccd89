package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

// Times and sizes of the defences (K-DEF-*), in ticks and connections.
const (
	defendEvery  = 100      // the level is looked at each second
	settled      = 60 * 100 // a connection that was silent for so long may be dropped
	connsPerPage = 32       // of 4 KiB: the unit of amemthresh
	dropShare    = 32       // drop_entry looks at this part of the table each second
	dropPackets  = 8        // and spares connections of more packets
)

// Modes of the defences, as their tunables have them.
const (
	defendAuto   = 1 // while resources are short; the kernel shows 2 then
	defendAlways = 3
)

// defence is a worker's state of drop_packet, drop_entry and secure_tcp. The
// kernel looks at free memory; here it is the free entries of the connection
// table, amemthresh being in pages of 4 KiB, but never more than an eighth of
// the table; and the free frames of the UMEM, an eighth (docs/OPERATING.md).
type defence struct {
	checked  clock.Ticks
	rate     int // drop one of so many new connections; 0: none
	count    int
	secure   bool                 // the secure_tcp table
	from     conn.ID              // where drop_entry goes on
	left     int                  // entries that it still looks at
	spared   [dropPackets + 1]int // by packets: candidates until the next is dropped
	dropping bool

	stripe        int     // of the templates, where drop_entry goes on too
	fromTemplate  conn.ID // in that stripe
	leftTemplates int
}

// defend sets the level of the defences once a second, or at once when the
// tunables changed, and does a part of drop_entry's work: at most budget
// entries.
func (p *Pipeline) defend(budget int) {
	d, s := &p.defence, &p.snap.Sysctl
	if p.now-d.checked >= defendEvery {
		p.setDefence()
		if s.DropEntry != 0 && d.dropping {
			p.random = p.random*6364136223846793005 + 1442695040888963407
			d.from = 1 + conn.ID(p.random>>40)%conn.ID(p.conns.Max())
			d.left = max(1, p.conns.Max()/dropShare)
			if p.worker == 0 {
				d.stripe, d.fromTemplate, d.leftTemplates = p.templates.Sample(p.random, dropShare)
			}
		}
	}
	if n := min(budget, d.leftTemplates); n > 0 {
		d.leftTemplates -= n
		d.fromTemplate = p.templates.ScanStripe(d.stripe, d.fromTemplate, n, p.dropTemplate)
	}
	if d.left == 0 {
		return
	}
	n := min(budget, d.left)
	d.left -= n
	d.from = p.conns.Scan(d.from, n, func(id conn.ID, c *conn.Conn) {
		if p.dispensable(id, c) {
			p.dropConn(id, c)
		}
	})
}

// setDefence decides what is on now: what is short is room for connections, or
// packet memory.
func (p *Pipeline) setDefence() {
	d, s := &p.defence, &p.snap.Sysctl
	d.checked = p.now
	rate := shortage(p.conns.Max()-p.conns.Len(), min(max(1, s.AMemThresh*connsPerPage), max(1, p.conns.Max()/8)))
	if p.room != nil {
		free, frames := p.room()
		if r := shortage(free, frames/8); r != 0 && (rate == 0 || r < rate) {
			rate = r
		}
	}
	on := func(mode int) bool { return mode == defendAlways || mode != 0 && rate != 0 }
	d.secure, d.dropping, d.rate = on(s.SecureTCP), on(s.DropEntry), 0
	if p.kept = &stays[0]; d.secure {
		p.kept = &stays[1]
	}
	switch {
	case s.DropPacket == defendAlways:
		d.rate = s.AMDropRate
	case on(s.DropPacket):
		d.rate = rate
	}
}

// shortage returns 0 while there is enough free of something, else one of how
// many new connections drop_packet refuses (K-DEF-3).
func shortage(free, threshold int) int {
	if free >= threshold {
		return 0
	}
	return threshold / (threshold - free)
}

// dropsPacket says whether a new connection is refused by drop_packet: the
// first, and then each rate-th (K-DEF-3).
func (d *defence) dropsPacket() bool {
	if d.rate == 0 {
		return false
	}
	if d.count--; d.count > 0 {
		return false
	}
	d.count = d.rate
	return true
}

// dispensable says whether drop_entry ends a connection (K-DEF-2).
func (p *Pipeline) dispensable(id conn.ID, c *conn.Conn) bool {
	if p.conns.Held(id) > 0 {
		return false
	}
	switch c.Proto {
	case packet.ProtoTCP:
		switch c.State {
		case conn.TCPSynRecv, conn.TCPSynAck:
			return true
		case conn.TCPEstablished:
		default:
			return false
		}
	case packet.ProtoSCTP:
		switch c.State {
		case conn.SCTPInit1, conn.SCTPInit:
			return true
		case conn.SCTPEstablished:
		default:
			return false
		}
	}
	return p.quiet(c)
}

// quiet says whether drop_entry's turn has come to a connection that was silent
// for long and never said much.
func (p *Pipeline) quiet(c *conn.Conn) bool {
	if p.now-c.Stamp < settled || c.Packets == 0 || c.Packets > dropPackets {
		return false
	}
	left := &p.defence.spared[c.Packets]
	if *left--; *left > 0 {
		return false
	}
	*left = int(c.Packets)
	return true
}

// dropTemplate ends a template for drop_entry, if it holds nothing and is not
// ASSURED, or of one-packet connections and quiet (K-DEF-2).
func (p *Pipeline) dropTemplate(s *conn.Stripe, id conn.ID, t *conn.Conn) {
	if s.Held(id) > 0 {
		return
	}
	drop := t.State != conn.TemplateAssured
	if slot := p.snap.Reals[t.Real].Service; slot != lb.NoService && p.snap.Services[slot].OnePacket {
		drop = p.quiet(t)
	}
	if drop {
		p.expireTemplate(s, id)
	}
}

// dropConn ends a connection before its time, and what it belongs to if nothing
// else does: the one that announced it, a template that is not ASSURED
// (K-CONN-13).
func (p *Pipeline) dropConn(id conn.ID, c *conn.Conn) {
	control := c.Control
	c.Timeout = 0
	p.remove(id)
	if !control.IsTemplate() {
		return
	}
	s, t := p.templates.Find(control)
	if s.Held(t) == 0 && s.At(t).State != conn.TemplateAssured {
		p.expireTemplate(s, t)
	}
	s.Unlock()
}
