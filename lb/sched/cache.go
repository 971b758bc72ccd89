package sched

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Sizes of a cache. The kernel's has as many buckets, and begins to drop idle
// entries when it holds more than cacheEntries. This one has room for twice as
// many; full, it remembers nothing new until some were dropped.
const (
	cacheBits     = 10
	cacheBuckets  = 1 << cacheBits
	cacheEntries  = 16 * cacheBuckets
	cacheStripes  = 64
	stripeEntries = 2 * cacheEntries / cacheStripes
)

// Times of a cache (K-SCH-LBLC).
const (
	cacheIdle       = 6 * time.Minute // after which an entry may go when there are many
	cacheExpiration = 24 * time.Hour  // after which it goes, unless Sweep is told otherwise
	fullSweep       = 30              // each how manieth sweep looks for that
)

// cache remembers which servers a destination address was sent to, for lblc
// and lblcr and for all workers. Its memory is made at once and has no
// pointers. A lock covers one stripe and is only taken for a new connection.
type cache struct {
	expiration atomic.Int32 // in ticks
	entries    atomic.Int32
	stripes    []stripe // one, or cacheStripes

	sweeps int // the next one's number, of the sweeper alone
	rover  int // the bucket it looked at last
}

// stripe is a share of the buckets with memory of its own, in which entry and
// member 0 stand for none.
type stripe struct {
	mu          sync.Mutex
	buckets     []uint32 // first entry
	entries     []entry
	members     []member
	freeEntries uint32 // a list by next
	freeMembers uint32
	_           [32]byte
}

// entry is an address and the set of its servers.
type entry struct {
	addr     flow.Addr
	next     uint32      // in its bucket
	set      uint32      // first member
	size     int32       // of the set
	used     clock.Ticks // when a connection asked for it last
	modified clock.Ticks // when its set changed last
}

type member struct{ id, next uint32 }

// newCache returns an empty cache: for many addresses if the service takes
// many, else for the service's own.
func newCache(f Flags) *cache {
	stripes, entries, members := 1, 2, 1024
	if f&ManyDests != 0 {
		stripes, entries, members = cacheStripes, stripeEntries, 2*stripeEntries
	}
	c := &cache{stripes: make([]stripe, stripes), sweeps: 1}
	c.expiration.Store(ticks(cacheExpiration))
	for i := range c.stripes {
		s := &c.stripes[i]
		s.buckets = make([]uint32, cacheBuckets/stripes)
		s.entries, s.members = make([]entry, entries+1), make([]member, members+1)
		for e := entries; e > 0; e-- {
			s.entries[e].next, s.freeEntries = s.freeEntries, uint32(e)
		}
		for m := members; m > 0; m-- {
			s.members[m].next, s.freeMembers = s.freeMembers, uint32(m)
		}
	}
	return c
}

// planCache keeps the cache as long as the service keeps its scheduler.
func planCache(f Flags, _ []Dest, _ []Edit, previous any) any {
	if c, ok := previous.(*cache); ok {
		return c
	}
	return newCache(f)
}

// at returns the stripe that holds a bucket, and the bucket.
func (c *cache) at(bucket int) (*stripe, *uint32) {
	s := &c.stripes[bucket%len(c.stripes)]
	return s, &s.buckets[bucket/len(c.stripes)]
}

// lock returns the stripe of an address, locked, and the address's entry, nil
// if it has none.
func (c *cache) lock(addr *flow.Addr) (*stripe, *entry) {
	s, bucket := c.at(int(hash32(fold(addr), cacheBits)))
	s.mu.Lock()
	for e := *bucket; e != 0; e = s.entries[e].next {
		if s.entries[e].addr == *addr {
			return s, &s.entries[e]
		}
	}
	return s, nil
}

// remember adds server id to the set of an address; alone says that the set
// becomes that server. Without room for it nothing is remembered.
func (c *cache) remember(addr *flow.Addr, id uint32, alone bool, now clock.Ticks) {
	s, e := c.lock(addr)
	defer s.mu.Unlock()
	if e == nil {
		at := s.freeEntries
		if at == 0 || s.freeMembers == 0 {
			return
		}
		e = &s.entries[at]
		s.freeEntries = e.next
		_, bucket := c.at(int(hash32(fold(addr), cacheBits)))
		*e = entry{addr: *addr, next: *bucket, used: now}
		*bucket = at
		c.entries.Add(1)
	}
	if s.has(e, id) && (!alone || e.size == 1) {
		return
	}
	if alone {
		s.filter(e, func(uint32) bool { return false })
	}
	if at := s.freeMembers; at != 0 {
		m := &s.members[at]
		s.freeMembers = m.next
		m.id, m.next = id, e.set
		e.set = at
		e.size++
		e.modified = now
	}
}

// has says whether a server is in the set of e.
func (s *stripe) has(e *entry, id uint32) bool {
	for m := e.set; m != 0; m = s.members[m].next {
		if s.members[m].id == id {
			return true
		}
	}
	return false
}

// filter drops from the set of e what keep does not want.
func (s *stripe) filter(e *entry, keep func(id uint32) bool) {
	for link := &e.set; *link != 0; {
		at := *link
		m := &s.members[at]
		if keep(m.id) {
			link = &m.next
			continue
		}
		*link = m.next
		m.next, s.freeMembers = s.freeMembers, at
		e.size--
	}
}

// drop removes the entries of a bucket that are not to stay and returns how
// many those were.
func (c *cache) drop(bucket int, stay func(*entry) bool) (n int) {
	s, first := c.at(bucket)
	s.mu.Lock()
	defer s.mu.Unlock()
	for link := first; *link != 0; {
		at := *link
		e := &s.entries[at]
		if stay(e) {
			link = &e.next
			continue
		}
		s.filter(e, func(uint32) bool { return false })
		*link = e.next
		e.next, s.freeEntries = s.freeEntries, at
		n++
	}
	c.entries.Add(-int32(n))
	return n
}

// Sweep lets the cache of a plan of lblc or lblcr drop old entries; other
// plans have none. It is called once a minute, by one goroutine, off the
// workers. expiration is the sysctl lblc_expiration or lblcr_expiration: each
// 30th call drops what was not used for that long, the others what was not
// used for 6 minutes, as long as there are more than 16,384 entries.
func Sweep(plan any, now clock.Ticks, expiration time.Duration) {
	c, ok := plan.(*cache)
	if !ok {
		return
	}
	limit := ticks(expiration)
	c.expiration.Store(limit)
	goal := math.MaxInt
	if c.sweeps%fullSweep == 0 {
		c.sweeps = 1
	} else {
		excess := int(c.entries.Load()) - cacheEntries
		if excess <= 0 {
			c.sweeps++
			return
		}
		limit, goal = ticks(cacheIdle), min(excess*4/3, cacheEntries/2)
	}
	// A worker's clock may be a little ahead: ages are signed.
	for range cacheBuckets {
		c.rover = (c.rover + 1) % cacheBuckets
		goal -= c.drop(c.rover, func(e *entry) bool { return int32(now-e.used) < limit })
		if goal <= 0 {
			return
		}
	}
}

// ticks is a time of a cache; one below zero, which the kernel takes, is always
// over.
func ticks(d time.Duration) int32 { return int32(d / clock.TickNanos) }

// Cached adds to ids the servers that the cache of a plan of lblc or lblcr
// names; other plans have none.
func Cached(plan any, ids map[uint32]bool) {
	c, ok := plan.(*cache)
	if !ok {
		return
	}
	for bucket := range cacheBuckets {
		s, first := c.at(bucket)
		s.mu.Lock()
		for e := *first; e != 0; e = s.entries[e].next {
			for m := s.entries[e].set; m != 0; m = s.members[m].next {
				ids[s.members[m].id] = true
			}
		}
		s.mu.Unlock()
	}
}

// places is what lblc and lblcr have in common: the service's cache, and where
// the servers that it names stand in the adopted slice.
type places struct {
	*cache
	dests []Dest
	byID  map[uint32]int
}

func (p *places) Adopt(dests []Dest, plan any) {
	p.cache, p.dests, p.byID = plan.(*cache), dests, make(map[uint32]int, len(dests))
	for i := range dests {
		p.byID[dests[i].ID] = i
	}
}

// usable returns the index of a server that belongs to the service and has a
// weight, or -1.
func (p *places) usable(id uint32) int {
	if i, ok := p.byID[id]; ok && p.dests[i].Weight > 0 {
		return i
	}
	return -1
}

// crowded says whether a server has more active connections than weight while
// another has less than half of that.
func (p *places) crowded(i int, l Loads) bool {
	if active, _ := l.Load(p.dests[i].ID); active <= p.dests[i].Weight {
		return false
	}
	for i := range p.dests {
		d := &p.dests[i]
		if active, _ := l.Load(d.ID); int64(active)*2 < int64(d.Weight) {
			return true
		}
	}
	return false
}

// least returns the server that wlc would take, or -1: an address that nobody asked
// for before is rare enough to go through the list.
func (p *places) least(l Loads) int {
	best, bestCost := -1, uint64(0)
	for i := range p.dests {
		d := &p.dests[i]
		if !available(d, l) {
			continue
		}
		if c := overhead(l.Load(d.ID)); best < 0 || heavier(bestCost, p.dests[best].Weight, c, d.Weight) {
			best, bestCost = i, c
		}
	}
	return best
}
