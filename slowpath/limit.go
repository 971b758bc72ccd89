package slowpath

import (
	"hash/maphash"

	"github.com/sluice-lb/sluice/lb/flow"
)

// Rate is a token bucket: Burst at once, PerSecond in the long run. A
// PerSecond of 0 is no limit.
type Rate struct{ PerSecond, Burst int }

// bucket is the state of a Rate: when the tokens taken so far will have come back,
// in nanoseconds of the clock. The zero bucket is full.
type bucket int64

// has says whether a token is there now.
func (b bucket) has(r Rate, now int64) bool {
	return r.PerSecond <= 0 || int64(b)-now <= r.interval()*int64(r.Burst-1)
}

// take takes a token that is there.
func (b *bucket) take(r Rate, now int64) {
	if r.PerSecond > 0 {
		*b = bucket(max(int64(*b), now) + r.interval())
	}
}

// interval is the time in which one token comes back, in nanoseconds.
func (r Rate) interval() int64 { return 1e9 / int64(r.PerSecond) }

// peers is how many destinations of ICMP errors are remembered at once, a
// power of two. One that is pushed out by another begins again with a full bucket; the
// global limit holds all the same.
const peers = 4096

// limits are those of ICMP errors: for each destination and for all together.
type limits struct {
	each, all Rate
	total     bucket
	seed      maphash.Seed
	peers     [peers]struct {
		addr flow.Addr
		left bucket
	}
}

// allow says whether an error may be sent to dst now, and counts it if so. Neither
// bucket pays for what the other refuses.
func (l *limits) allow(dst *flow.Addr, now int64) bool {
	if l.each.PerSecond <= 0 && l.all.PerSecond <= 0 {
		return true
	}
	p := &l.peers[maphash.Comparable(l.seed, *dst)&(peers-1)]
	if p.addr != *dst {
		p.addr, p.left = *dst, 0
	}
	if !p.left.has(l.each, now) || !l.total.has(l.all, now) {
		return false
	}
	p.left.take(l.each, now)
	l.total.take(l.all, now)
	return true
}
