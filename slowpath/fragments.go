package slowpath

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/slowpath/frag"
)

// expireAtOnce bounds the datagrams that are given up in one Tick.
const expireAtOnce = 256

// fragments is what a Path has for fragments: those that wait, and the memory of
// datagrams that are complete.
type fragments struct {
	waiting *frag.Reassembler
	cutter  *frag.Cutter
	free    []*Datagram
	sizes   []uint16 // scratch
	long    []byte   // an oversize frame, with headroom
}

// lostAs are the fates of fragments that are dropped.
var lostAs = [frag.Reasons]Fate{
	frag.Malformed: FragmentMalformed, frag.Tiny: FragmentTiny, frag.Overlap: FragmentOverlap, frag.Duplicate: FragmentDuplicate,
	frag.Stale: FragmentStale, frag.Expired: FragmentExpired, frag.Crowded: FragmentCrowded,
}

func (p *Path) newFragments() fragments {
	return fragments{
		waiting: frag.New(p.cfg.Limits.Fragments, func(why frag.Reason, n int) { p.countMany(Fragment, lostAs[why], n) }),
		cutter:  frag.NewCutter(p.cfg.Seed),
		free:    newDatagrams(),
		long:    make([]byte, headroom+p.cfg.Limits.FrameBytes),
	}
}

// gather keeps a fragment. If its datagram is complete with it, that goes to the
// worker that the fragment came from. There is memory for it: Take sees to that.
func (p *Path) gather(m *Meta, frame []byte, now int64) {
	var in packet.Info
	if packet.Parse(frame, &in) != packet.Fragment {
		p.count(Fragment, FragmentMalformed)
		return
	}
	origin := frag.Origin{Cause: p.cfg.Cause(), At: now, Iface: m.Iface, Worker: m.Worker, Request: !m.Virtual.IsZero(), Own: m.Own}
	id, whole := p.frags.waiting.Add(frame, &in, origin, now)
	if !whole {
		return
	}
	of := p.frags.waiting.Of(id)
	last := len(p.frags.free) - 1
	d := p.frags.free[last]
	p.frags.free = p.frags.free[:last]
	d.Off = room
	d.Len = uint32(p.frags.waiting.Assemble(id, d.Chunk[room:]))
	d.Meta = Meta{Iface: of.Iface, Own: of.Own}
	d.Parts, d.Largest, d.Handed = uint16(of.Parts), of.Largest, false
	d.id, d.df, d.v6 = id, of.DF, in.Family == 6
	d.remember()
	p.countMany(Fragment, Gathered, of.Parts)
	p.cfg.Deliver(m.Worker, d)
}

// takeBack does what a worker asks for a datagram.
func (p *Path) takeBack(d *Datagram) {
	switch d.Kind {
	case Elsewhere:
		if d.Owner != d.Worker || p.cfg.Learner.Forget() {
			d.Handed = true
			p.cfg.Deliver(d.Owner, d)
			return
		}
		p.countMany(Elsewhere, HoldLost, int(d.Parts))
	case Nothing:
	case Host:
		p.passAll(d)
	case Oversize:
		p.splitDatagram(d)
	default:
		p.count(d.Kind, p.reply(&d.Meta, d.frame(), p.cfg.Now()))
	}
	p.frags.waiting.Release(d.id)
	p.frags.free = append(p.frags.free, d)
}

// passAll gives a datagram to the host's stack: its fragments as they came, unless
// it was rewritten on its way.
func (p *Path) passAll(d *Datagram) {
	if !d.rewritten() || p.cfg.Part != nil {
		p.frags.waiting.Fragments(d.id, func(o frag.Origin, frame []byte) {
			if p.cfg.Part != nil {
				p.cfg.Part(&o, frame)
			}
			p.count(Host, p.toHost(&Meta{Iface: o.Iface}, frame))
		})
		return
	}
	fate := Passed
	if !p.cut(&d.Frame, p.howCut(d, int(d.Largest)), func(frame []byte) bool {
		fate = p.toHost(&d.Meta, frame)
		return fate == Passed
	}) {
		fate = HostRefused
	}
	p.countMany(Host, fate, int(d.Parts))
}

// cut has a frame's datagram cut.
func (p *Path) cut(f *rewrite.Frame, how frag.Cut, emit func(frame []byte) bool) bool {
	var in packet.Info
	packet.Parse(f.Chunk[f.Off:][:f.Len], &in)
	return p.frags.cutter.Do(f, &in, how, emit)
}

// howCut says how Linux cuts a datagram that it put together for a way of that MTU:
// into fragments not longer than those that came (IPv6: or than its least MTU), but
// for a tunnel of the other family; one of IPv6 that is longer than these, or one of IPv4 that it
// forwards, as it came if its fragments fit.
func (p *Path) howCut(d *Datagram, mtu int) frag.Cut {
	var in packet.Info
	packet.Parse(d.frame(), &in)
	how, whole := frag.Cut{Limit: mtu, DF: d.df}, mtu
	if (in.Family == 6) == d.v6 {
		whole = min(mtu, int(d.Largest))
		how.Limit = whole
		if d.v6 {
			how.Limit = min(mtu, max(whole, leastMTU6))
		}
	}
	if !d.v6 && !d.Silent || d.v6 && in.Len() <= whole {
		return how
	}
	how.Sizes = p.frags.waiting.Sizes(d.id, p.frags.sizes[:0])
	p.frags.sizes = how.Sizes
	if d.Inner > 0 { // the first has the headers in front of the datagram
		first := int(in.End) - int(in.L4)
		for _, n := range how.Sizes[1:] {
			first -= int(n)
		}
		how.Sizes[0] = uint16(first)
	}
	return how
}

// splitDatagram sends a datagram in fragments.
func (p *Path) splitDatagram(d *Datagram) {
	d.frames = int(d.Parts)
	p.send(&d.Meta, &d.Frame, p.howCut(d, int(d.MTU)))
}

// splitFrame sends a packet in fragments that came in one piece.
func (p *Path) splitFrame(m *Meta, frame []byte) {
	f := rewrite.Frame{Chunk: p.frags.long, Off: headroom, Len: uint32(copy(p.frags.long[headroom:], frame))}
	p.send(m, &f, frag.Cut{Limit: int(m.MTU)})
}

// send sends a datagram in fragments by the way that m tells. While its next hop
// is not known they wait; the first of them then stands for all frames that
// it came in.
func (p *Path) send(m *Meta, f *rewrite.Frame, how frag.Cut) {
	hop, frames, now := p.way(m), m.frames, p.cfg.Now()
	var in packet.Info
	packet.Parse(f.Chunk[f.Off:][:f.Len], &in)
	fate := Released
	switch hop.State {
	case nexthop.Unresolved:
		kept := p.frags.cutter.Do(f, &in, how, func(frame []byte) bool {
			p.keep(&p.packets, m, frame, now)
			m.frames = 0
			return true
		})
		if !kept && m.frames != 0 {
			p.countMany(Oversize, SplitLost, frames)
		}
		return
	case nexthop.Reachable:
		iface := &p.cfg.Tables().Interfaces[hop.Iface]
		if iface.Port >= 0 && iface.Up && rewrite.Link(f, &in, hop) &&
			p.frags.cutter.Do(f, &in, how, func(frame []byte) bool { return p.emit(m, hop, frame) }) {
			break
		}
		fallthrough
	default:
		fate = SplitLost
	}
	p.countMany(Oversize, fate, frames)
}

// expireFragments gives up datagrams that were not completed in time, and tells
// their senders (RFC 792, RFC 4443 section 3.3). What is not for a service has been
// routed in IPv4: its TTL is less by 1.
func (p *Path) expireFragments(now int64) {
	p.frags.waiting.Expire(now, expireAtOnce, func(o frag.Origin, frame []byte) {
		var in packet.Info
		if result := packet.Parse(frame, &in); o.Own || !p.fit(result, &in) {
			p.countError(ErrorUnfit)
			return
		}
		m := Meta{Kind: Fragment, Worker: o.Worker, Iface: o.Iface}
		if o.Request {
			m.Virtual = in.Dst
		} else if in.Family == 4 {
			f := rewrite.Frame{Chunk: frame, Len: uint32(len(frame))}
			rewrite.Forward(&f, &in)
		}
		p.report(&m, answerTo(&m, &in), frame, &in, now)
	})
}
