package slowpath

import (
	"slices"
	"time"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb/flow"
)

// headroom is what is left free in front of a frame, in bytes, for the VLAN tags
// of a way that has more of them than the frame.
const headroom = 16

// none ends the lists of places.
const none = -1

// hold keeps frames until their next hops are known: packets, or messages of our own,
// so that neither push out the others. Its memory is one piece, cut
// into places; each place is in the list of its next hop and in that of all, oldest
// first in both, or in the free list.
type hold struct {
	limits         Limits
	own            bool // ICMP messages of ours
	mem            []byte
	placeBytes     int
	places         []place
	free           int // first free place
	used           int
	oldest, newest int
	hops           []*waiting // in the order of their deadlines
	find           map[neighbour]*waiting
}

// place keeps one frame.
type place struct {
	meta         Meta
	length       int
	of           *waiting
	next         int // of the same next hop, or free
	older, newer int
}

// neighbour is a next hop on an interface.
type neighbour struct {
	addr  flow.Addr
	iface uint16
}

// waiting is a next hop that is being asked for.
type waiting struct {
	neighbour
	deadline    int64 // nanoseconds of the clock
	first, last int   // places
	n           int
}

// newHold makes the memory. There is one place more than is ever left in
// use, so that a frame is stored before another makes room.
func newHold(l Limits, own bool) hold {
	h := hold{
		limits: l, own: own, placeBytes: headroom + l.FrameBytes, places: make([]place, l.HoldFrames+1),
		oldest: none, newest: none, find: map[neighbour]*waiting{},
	}
	h.mem = make([]byte, len(h.places)*h.placeBytes)
	for i := range h.places {
		h.places[i].next = i + 1
	}
	h.places[len(h.places)-1].next = none
	return h
}

// holds are what keeps frames.
func (p *Path) holds() [2]*hold { return [...]*hold{&p.packets, &p.messages} }

// chunk returns a place's memory.
func (h *hold) chunk(i int) []byte { return h.mem[i*h.placeBytes : (i+1)*h.placeBytes] }

// put stores a frame, at most FrameBytes long, as the newest of its next hop. asked says
// whether that hop was waited for before.
func (h *hold) put(m *Meta, frame []byte, n neighbour, now int64) (w *waiting, asked bool) {
	w, asked = h.find[n]
	if !asked {
		w = &waiting{neighbour: n, deadline: now + int64(h.limits.HoldTime), first: none, last: none}
		h.hops, h.find[n] = append(h.hops, w), w
	}
	i := h.free
	p := &h.places[i]
	h.free = p.next
	*p = place{meta: *m, length: len(frame), of: w, next: none, older: h.newest, newer: none}
	copy(h.chunk(i)[headroom:], frame)
	if w.last == none {
		w.first = i
	} else {
		h.places[w.last].next = i
	}
	if h.newest == none {
		h.oldest = i
	} else {
		h.places[h.newest].newer = i
	}
	w.last, h.newest = i, i
	w.n++
	h.used++
	return w, asked
}

// take removes w's oldest frame from the lists, and w itself with its last one. The
// place and its memory stay as they are until giveBack.
func (h *hold) take(w *waiting) int {
	i := w.first
	p := &h.places[i]
	if w.first = p.next; w.first == none {
		w.last = none
		h.forget(w)
	}
	w.n--
	h.used--
	if p.older == none {
		h.oldest = p.newer
	} else {
		h.places[p.older].newer = p.newer
	}
	if p.newer == none {
		h.newest = p.older
	} else {
		h.places[p.newer].older = p.older
	}
	return i
}

// forget ends the wait for w; its frames stay.
func (h *hold) forget(w *waiting) {
	if h.find[w.neighbour] == w {
		delete(h.find, w.neighbour)
		h.hops = slices.DeleteFunc(h.hops, func(x *waiting) bool { return x == w })
	}
}

// giveBack frees a place that was taken.
func (h *hold) giveBack(i int) {
	h.places[i].next, h.places[i].of = h.free, nil
	h.free = i
}

// way returns the next hop of a packet with this Meta, in the current table.
func (p *Path) way(m *Meta) *nexthop.Hop {
	t := p.cfg.Tables()
	h := t.Lookup(&m.Target)
	if m.Direct {
		h = t.OnLink(&m.Target)
	}
	return t.Choose(h, &m.Target, m.Flow)
}

// keep stores a frame in h that has no MAC address to go to, or sends it at once if it
// has one by now.
func (p *Path) keep(h *hold, m *Meta, frame []byte, now int64) {
	hop := p.way(m)
	if len(frame) > h.limits.FrameBytes {
		p.ended(h, m, HoldLost)
		return
	}
	if hop.State != nexthop.Unresolved {
		// The worker's table was older. The frame is sent from memory that
		// has headroom; what cannot be sent is as if its next hop had vanished.
		p.ended(h, m, p.sendFrom(p.copied(frame), len(frame), m, hop))
		return
	}
	n := neighbour{addr: hop.Neighbor(&m.Target), iface: hop.Iface}
	w, asked := h.put(m, frame, n, now)
	p.countHeld(h.own, 1)
	if !asked {
		p.cfg.Resolve(w.iface, &w.addr)
	}
	switch {
	case w.n > h.limits.HoldEach:
		p.drop(h, w)
	case h.used > h.limits.HoldFrames:
		p.drop(h, h.places[h.oldest].of)
	}
}

// copied returns scratch memory with the frame behind headroom.
func (p *Path) copied(frame []byte) []byte {
	copy(p.scratch[headroom:], frame)
	return p.scratch
}

// drop gives up w's oldest frame to make room.
func (p *Path) drop(h *hold, w *waiting) {
	i := h.take(w)
	p.countHeld(h.own, -1)
	p.ended(h, &h.places[i].meta, HoldFull)
	h.giveBack(i)
}

// ended counts the end of a frame that h was to keep.
func (p *Path) ended(h *hold, m *Meta, f Fate) {
	switch {
	case !h.own:
		p.countMany(m.Kind, f, m.frames)
	case m.frames == 0:
	case f == Released:
		p.countError(ErrorSent)
	case f == NeighbourFailed:
		p.countError(ErrorNeighbourFailed)
	default:
		p.countError(ErrorLost)
	}
}

// TableChanged sends the frames whose next hop the current table knows.
func (p *Path) TableChanged() {
	p.version = p.cfg.Tables().Version
	for _, h := range p.holds() {
		p.tryAgain(h)
	}
}

// tryAgain sends the frames of h whose next hop is known now.
func (p *Path) tryAgain(h *hold) {
	for i := 0; i < len(h.hops); {
		w := h.hops[i]
		m := &h.places[w.first].meta
		if hop := p.way(m); hop.State == nexthop.Unresolved {
			if n := (neighbour{hop.Neighbor(&m.Target), hop.Iface}); n != w.neighbour {
				p.cfg.Resolve(n.iface, &n.addr) // the route moved to another that is not known
			}
			i++
			continue
		}
		for w.n > 0 { // the last one takes w out of hops
			p.release(h, w)
		}
	}
}

// release sends w's oldest frame on its way as the current table has it.
func (p *Path) release(h *hold, w *waiting) {
	i := h.take(w)
	at := &h.places[i]
	p.countHeld(h.own, -1)
	p.ended(h, &at.meta, p.sendFrom(h.chunk(i), at.length, &at.meta, p.way(&at.meta)))
	h.giveBack(i)
}

// sendFrom gives a frame of n bytes, headroom bytes from chunk's start, the link header
// of its way and has it sent.
func (p *Path) sendFrom(chunk []byte, n int, m *Meta, hop *nexthop.Hop) Fate {
	if hop.State != nexthop.Reachable {
		return HoldLost
	}
	var in packet.Info
	packet.Parse(chunk[headroom:headroom+n], &in)
	f := rewrite.Frame{Chunk: chunk, Off: headroom, Len: uint32(n)}
	iface := &p.cfg.Tables().Interfaces[hop.Iface]
	if iface.Port < 0 || !iface.Up || in.Family == 0 || !rewrite.Link(&f, &in, hop) {
		return HoldLost
	}
	if !p.emit(m, hop, chunk[f.Off:f.Off+f.Len]) {
		return HoldLost
	}
	return Released
}

// Tick gives up the next hops that have had their time (3 s in Linux): each
// packet that waited for one is answered with ICMP host unreachable, in its order. And it
// gives up datagrams that were not completed.
func (p *Path) Tick(now int64) {
	p.inTimer = true
	for _, h := range p.holds() {
		for len(h.hops) > 0 && h.hops[0].deadline <= now {
			w := h.hops[0]
			h.forget(w) // before the answers, which may wait for it anew
			for w.n > 0 {
				p.fail(h, w, now)
			}
		}
	}
	p.expireFragments(now)
	p.inTimer = false
}

// fail ends the wait of w's oldest frame.
func (p *Path) fail(h *hold, w *waiting, now int64) {
	i := h.take(w)
	at := &h.places[i]
	p.countHeld(h.own, -1)
	p.ended(h, &at.meta, NeighbourFailed)
	if !h.own && !at.meta.Silent {
		p.unreachable(&at.meta, h.chunk(i)[headroom:headroom+at.length], now)
	}
	h.giveBack(i)
}

// NextDue returns the time at which Tick has work, in nanoseconds of the clock; false: none.
func (p *Path) NextDue() (due int64, ok bool) {
	due, ok = p.frags.waiting.NextDue()
	for _, h := range p.holds() {
		if hops := h.hops; len(hops) > 0 && (!ok || hops[0].deadline < due) {
			due, ok = hops[0].deadline, true
		}
	}
	return due, ok
}

// untilDue is NextDue as a span from now, at most limit.
func (p *Path) untilDue(now int64, limit time.Duration) time.Duration {
	due, ok := p.NextDue()
	if !ok {
		return limit
	}
	return min(max(time.Duration(due-now), 0), limit)
}
