package frag

import (
	"hash/maphash"
	"reflect"

	"github.com/sluice-lb/sluice/fastpath/packet"
)

// Reassembler keeps fragments until their datagrams are complete. A frame lies in
// a chain of blocks. A fragment's number is that of its first block, a datagram's
// that of the first of its fragments to come, so that there is a record of each
// if there is a block.
type Reassembler struct {
	lost     func(Reason, int)
	timeouts [2]int64 // nanoseconds, by family
	share    int32    // blocks that a source may use

	store     store
	parts     []part
	datagrams []datagram
	sources   sources
	seed      maphash.Seed
	buckets   []int32 // datagrams that wait, by the hash of their keys
	ages      []links // they, by family
	ranks     []links // and by source
	waiting   [2]list
	parted    int    // their fragments
	serial    uint32 // of the last fragment
	scratch   []byte // a frame
	order     []int32
}

// part is a fragment that is kept.
type part struct {
	origin   Origin
	next     int32  // of its datagram, by offset
	off, end uint32 // which bytes of the datagram it holds
	body     uint32 // where they begin in its frame
	length   uint32 // of the frame
	serial   uint32 // of all that came
	l3       uint16 // where its IP header is
	joined   bool   // it came right behind what was the last by then
}

// datagram is one that waits, or is complete and not released yet.
type datagram struct {
	key
	chain       int32 // next of its bucket
	source      int32
	first, last int32  // parts
	deadline    int64  // nanoseconds of the clock
	seen        uint32 // its source's, when its last fragment came
	have, size  uint32 // bytes that are here, and that it has as far as is known
	largest     uint32 // fragment, in bytes of IP
	largestDF   uint32
	blocks      int32
	parts       int32
	family      uint8 // 0: IPv4, 1: IPv6
	ecn         uint8 // a bit for each of the four codes seen
	ended       bool  // size is final
}

// New returns an empty Reassembler. Its memory is made here. lost is told of
// fragments that it drops.
func New(l Limits, lost func(Reason, int)) *Reassembler {
	l = l.withDefaults()
	record := 6*reflect.TypeFor[int32]().Size() + 2*reflect.TypeFor[links]().Size() +
		reflect.TypeFor[part]().Size() + reflect.TypeFor[datagram]().Size() + reflect.TypeFor[source]().Size()
	n := max(l.Memory/(blockBytes+int(record)), 2)
	buckets := 1
	for buckets < n {
		buckets *= 2
	}
	r := &Reassembler{
		lost: lost, timeouts: [2]int64{int64(l.Timeout4), int64(l.Timeout6)}, share: int32(max(n*l.Share/100, 1)),
		store: newStore(n), parts: make([]part, n), datagrams: make([]datagram, n), sources: newSources(n, buckets),
		seed: maphash.MakeSeed(), buckets: make([]int32, buckets), ages: make([]links, n), ranks: make([]links, n),
		waiting: [2]list{emptyList, emptyList}, scratch: make([]byte, packet.MaxFrame), order: make([]int32, 0, maxParts),
	}
	for i := range r.buckets {
		r.buckets[i] = none
	}
	return r
}

// Waiting returns how many fragments wait for others of their datagrams.
func (r *Reassembler) Waiting() int { return r.parted }

// Add takes a fragment: frame is the whole frame and in what packet.Parse said
// of it, with the result packet.Fragment. now is in nanoseconds. If the datagram is
// complete with it, its number is returned; it is the caller's until Release.
func (r *Reassembler) Add(frame []byte, in *packet.Info, o Origin, now int64) (id int, complete bool) {
	var p piece
	why, alone, ok := read(frame, in, &p)
	d := r.find(&p.key)
	if d != none && r.stale(d) {
		r.end(d, Stale)
		d = none
	}
	if ok && d != none {
		why, alone, ok = r.agrees(d, &p)
	}
	if !ok {
		if d != none && !alone {
			r.end(d, why)
		}
		r.lost(why, 1)
		return 0, false
	}
	if d, ok = r.insert(d, &p, frame, o, now); !ok {
		r.lost(Crowded, 1)
		return 0, false
	}
	g := &r.datagrams[d]
	if !g.ended || g.have != g.size {
		return 0, false
	}
	r.withdraw(d)
	if g.mixed() || int(g.size)+r.header(g) > packet.MaxPayload {
		r.free(d, Malformed)
		return 0, false
	}
	return int(d), true
}

func (r *Reassembler) bucket(k *key) *int32 {
	return &r.buckets[maphash.Comparable(r.seed, *k)&uint64(len(r.buckets)-1)]
}

// find returns the datagram of a key that waits, or none.
func (r *Reassembler) find(k *key) int32 {
	d := *r.bucket(k)
	for d != none && r.datagrams[d].key != *k {
		d = r.datagrams[d].chain
	}
	return d
}

// stale says whether too many other fragments of its source came since d's last
// one, and counts the one that just came. IPv6 has idents enough.
func (r *Reassembler) stale(d int32) bool {
	g := &r.datagrams[d]
	s := &r.sources.all[g.source]
	if g.family == 0 && s.seen+1-g.seen > maxDistance {
		return true
	}
	s.seen++
	g.seen = s.seen
	return false
}

// agrees says whether a fragment may be part of d: d ends where it says, and has
// none of its bytes yet.
func (r *Reassembler) agrees(d int32, p *piece) (why Reason, alone, ok bool) {
	g := &r.datagrams[d]
	if p.end > g.size && g.ended || p.end < g.size && !p.more {
		return Malformed, g.family == 1, false
	}
	if g.parts >= maxParts {
		return Malformed, false, false
	}
	next := r.next(g, r.before(g, p.off))
	switch {
	case next == none || p.end <= r.parts[next].off:
		return 0, false, true
	case p.off < r.parts[next].off:
		return Overlap, false, false
	}
	end := r.parts[next].end
	for next = r.parts[next].next; next != none && r.parts[next].joined; next = r.parts[next].next {
		end = r.parts[next].end // Linux takes these for one
	}
	if p.end <= end {
		return Duplicate, true, false
	}
	return Overlap, false, false
}

// before returns the last part of g that ends at off or before, or none.
func (r *Reassembler) before(g *datagram, off uint32) int32 {
	if r.parts[g.last].end <= off {
		return g.last // they usually come in order
	}
	at := int32(none)
	for p := g.first; r.parts[p].end <= off; p = r.parts[p].next {
		at = p
	}
	return at
}

// next returns the part of g behind at, or its first.
func (r *Reassembler) next(g *datagram, at int32) int32 {
	if at == none {
		return g.first
	}
	return r.parts[at].next
}

// insert keeps a fragment as part of d, or of a datagram of its own if d is none,
// whose number it returns. false: there is no room.
func (r *Reassembler) insert(d int32, p *piece, frame []byte, o Origin, now int64) (int32, bool) {
	src := r.sources.hold(&p.src)
	defer r.sources.letGo(src)
	blocks := int32(blocksFor(len(frame)))
	if !r.room(d, src, blocks) {
		if d != none {
			r.end(d, Crowded)
		}
		return none, false
	}
	i := r.store.put(frame)
	r.serial++
	r.parts[i] = part{serial: r.serial, origin: o, next: none, off: p.off, end: p.end, body: p.body, length: uint32(len(frame)), l3: p.l3}
	if d == none {
		d = i
		r.begin(d, src, p, now)
	}
	g := &r.datagrams[d]
	r.chainIn(g, i)
	r.sources.all[src].blocks += blocks
	g.blocks += blocks
	g.parts++
	r.parted++
	g.have += p.end - p.off
	g.size, g.ended = max(g.size, p.end), g.ended || !p.more
	g.largest = max(g.largest, p.length)
	if p.df {
		g.largestDF = max(g.largestDF, p.length)
	}
	g.ecn |= 1 << p.ecn
	return d, true
}

// begin makes d a datagram without parts.
func (r *Reassembler) begin(d, src int32, p *piece, now int64) {
	s := &r.sources.all[src]
	s.users++
	s.seen++
	bucket := r.bucket(&p.key)
	r.datagrams[d] = datagram{
		key: p.key, chain: *bucket, source: src, first: none, last: none,
		deadline: now + r.timeouts[p.family], seen: s.seen, family: p.family,
	}
	*bucket = d
	r.waiting[p.family].append(r.ages, d)
	s.ranks.append(r.ranks, d)
}

// chainIn puts part i where it belongs in g.
func (r *Reassembler) chainIn(g *datagram, i int32) {
	if g.first == none {
		g.first, g.last = i, i
		return
	}
	at := r.before(g, r.parts[i].off)
	r.parts[i].next = r.next(g, at)
	if at == none {
		g.first = i
		return
	}
	r.parts[at].next = i
	if at == g.last {
		g.last = i
		r.parts[i].joined = r.parts[at].end == r.parts[i].off
	}
}

// room ends old datagrams other than d until there are that many blocks for a
// fragment of src: its own if it has its share, else anyone's. It says whether it
// succeeded.
func (r *Reassembler) room(d, src, blocks int32) bool {
	for s := &r.sources.all[src]; s.blocks+blocks > r.share; {
		old := s.ranks.oldestBut(r.ranks, d)
		if old == none {
			return false
		}
		r.end(old, Crowded)
	}
	for r.store.free < int(blocks) {
		old, other := r.waiting[0].oldestBut(r.ages, d), r.waiting[1].oldestBut(r.ages, d)
		if old == none || other != none && r.born(other) < r.born(old) {
			old = other
		}
		if old == none {
			return false
		}
		r.end(old, Crowded)
	}
	return true
}

// born returns when the first fragment of d came.
func (r *Reassembler) born(d int32) int64 {
	return r.datagrams[d].deadline - r.timeouts[r.datagrams[d].family]
}

// mixed says whether the ECN codes of its fragments exclude each other: some by a
// sender that knows ECN, some by one that does not (RFC 3168 section 5.3).
func (g *datagram) mixed() bool { return g.ecn&1 != 0 && g.ecn != 1 }

// withdraw takes d out of what waits.
func (r *Reassembler) withdraw(d int32) {
	g := &r.datagrams[d]
	at := r.bucket(&g.key)
	for *at != d {
		at = &r.datagrams[*at].chain
	}
	*at = g.chain
	r.waiting[g.family].remove(r.ages, d)
	r.sources.all[g.source].ranks.remove(r.ranks, d)
	r.parted -= int(g.parts)
}

// end gives up d, which waits.
func (r *Reassembler) end(d int32, why Reason) {
	r.withdraw(d)
	r.free(d, why)
}

// free drops the fragments of d, which waits no more.
func (r *Reassembler) free(d int32, why Reason) {
	r.lost(why, int(r.datagrams[d].parts))
	r.Release(int(d))
}

// Release gives the memory of a complete datagram back.
func (r *Reassembler) Release(id int) {
	g := &r.datagrams[id]
	for p := g.first; p != none; {
		next := r.parts[p].next
		r.store.giveBack(p)
		p = next
	}
	r.sources.all[g.source].blocks -= g.blocks
	r.sources.letGo(g.source)
}

// Expire gives up datagrams whose time is over, at most most of them. Of one
// whose first fragment is there, answer gets that: its sender is to be told.
func (r *Reassembler) Expire(now int64, most int, answer func(o Origin, first []byte)) {
	for range most {
		d, due := r.oldest()
		if d == none || due > now {
			return
		}
		if first := r.datagrams[d].first; r.parts[first].off == 0 {
			answer(r.parts[first].origin, r.frame(first))
		}
		r.end(d, Expired)
	}
}

// NextDue returns when Expire has work, in nanoseconds; false: never.
func (r *Reassembler) NextDue() (int64, bool) {
	d, due := r.oldest()
	return due, d != none
}

// oldest returns the datagram whose time is over first, and when that is.
func (r *Reassembler) oldest() (d int32, due int64) {
	d = r.waiting[0].oldest
	if other := r.waiting[1].oldest; d == none || other != none && r.datagrams[other].deadline < r.datagrams[d].deadline {
		d = other
	}
	if d == none {
		return none, 0
	}
	return d, r.datagrams[d].deadline
}

// frame returns a fragment as it came, until the next call.
func (r *Reassembler) frame(i int32) []byte {
	return r.store.get(r.scratch[:r.parts[i].length], i, 0)
}
