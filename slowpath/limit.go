package slowpath

import (
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb/flow"
)

// pace is how fast a bucket fills and how much it holds, both in nanoseconds of
// the clock. The zero pace is no limit.
type pace struct{ interval, slack int64 }

// newPace returns the pace of burst tokens at once, perSecond in the long run; 0 a
// second: no limit.
func newPace(perSecond, burst int) pace {
	if perSecond <= 0 {
		return pace{}
	}
	return every(time.Second/time.Duration(perSecond), burst)
}

// every returns the pace of burst tokens at once, one an interval in the long
// run; an interval of 0: no limit.
func every(interval time.Duration, burst int) pace {
	return pace{interval: int64(interval), slack: int64(interval) * int64(burst-1)}
}

// bucket is a token bucket: when the tokens taken so far will have come back,
// in nanoseconds of the clock. The zero bucket is full.
type bucket int64

// has says whether a token is there now.
func (b bucket) has(p pace, now int64) bool { return p.interval == 0 || int64(b)-now <= p.slack }

// take takes a token that is there.
func (b *bucket) take(p pace, now int64) {
	if p.interval != 0 {
		*b = bucket(max(int64(*b), now) + p.interval)
	}
}

// TypeSet is a set of ICMP types.
type TypeSet [4]uint64

// ParseTypeSet reads a set as the kernel writes one: "0-1,3-127"; "" is empty.
func ParseTypeSet(s string) (set TypeSet, err error) {
	if s == "" {
		return set, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, both := strings.Cut(part, "-")
		if !both {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 8)
		to, err2 := strconv.ParseUint(last, 10, 8)
		if err1 != nil || err2 != nil || from > to {
			return TypeSet{}, fmt.Errorf("%q is not a range of ICMP types within 0-255", part)
		}
		for t := from; t <= to; t++ {
			set[t/64] |= 1 << (t % 64)
		}
	}
	return set, nil
}

// Has says whether a type is in the set.
func (s *TypeSet) Has(t uint8) bool { return s[t/64]>>(t%64)&1 != 0 }

// String writes the set as ParseTypeSet reads it.
func (s TypeSet) String() string {
	var parts []string
	for t := 0; t < 256; t++ {
		first := t
		for t < 256 && s.Has(uint8(t)) {
			t++
		}
		switch last := t - 1; {
		case last > first:
			parts = append(parts, fmt.Sprintf("%d-%d", first, last))
		case last == first:
			parts = append(parts, strconv.Itoa(first))
		}
	}
	return strings.Join(parts, ",")
}

// ICMPLimits limit the ICMP messages that a Path sends, by Linux's names and with
// its meanings: net.ipv4.icmp_* and, with a 6, net.ipv6.icmp.*. The zero
// ICMPLimits limit nothing.
type ICMPLimits struct {
	Ratelimit  time.Duration // between two to one destination, after a burst of 6; 0: no limit
	Ratemask   uint32        // a bit for each type of ICMP that is limited
	MsgsPerSec int           // to all destinations, ICMP and ICMPv6 together; 0: no limit
	MsgsBurst  int           // of these, at once
	Ratelimit6 time.Duration // of ICMPv6; shorter by the length of the route's prefix, as Linux has it
	Ratemask6  TypeSet       // types of ICMPv6 that are limited
}

// DefaultICMPLimits are Linux's. Echo replies, and those errors that path MTU
// discovery lives on, are not limited.
func DefaultICMPLimits() ICMPLimits {
	mask6, _ := ParseTypeSet("0-1,3-127")
	return ICMPLimits{
		Ratelimit: time.Second, Ratemask: 1<<3 | 1<<4 | 1<<11 | 1<<12, MsgsPerSec: 1000, MsgsBurst: 50,
		Ratelimit6: time.Second, Ratemask6: mask6,
	}
}

// burst is how many messages a destination that was left in peace may get at
// once.
const burst = 6

// peers is how many destinations of ICMP messages are remembered at once, a
// power of two. One that is pushed out by another begins again with a full bucket; the
// global limit holds all the same.
const peers = 4096

// limits are those of ICMP messages: for each destination and for all together.
type limits struct {
	ICMPLimits
	each, all pace
	each6     [5]pace // by a route's prefix: one of 32 bits less doubles the rate
	total     bucket
	seed      maphash.Seed
	peers     [peers]struct {
		addr flow.Addr
		left bucket
	}
}

// newLimits returns limits nobody has used yet.
func newLimits(l ICMPLimits) *limits {
	made := &limits{ICMPLimits: l, seed: maphash.MakeSeed(), each: every(l.Ratelimit, burst), all: newPace(l.MsgsPerSec, l.MsgsBurst)}
	for i := range made.each6 {
		made.each6[i] = every(l.Ratelimit6>>i, burst)
	}
	return made
}

// limited says whether messages of a type count at all. That a packet does not
// fit never does in IPv4.
func (l *limits) limited(v6 bool, kind, code uint8) bool {
	if v6 {
		return l.Ratemask6.Has(kind)
	}
	return l.Ratemask>>kind&1 != 0 && (kind != packet.ICMPUnreachable || code != packet.ICMPFragNeeded)
}

// allow says whether a message may be sent to dst now, and counts it if so.
// prefix is the length of the route there. Neither bucket pays for what the
// other refuses.
func (l *limits) allow(dst *flow.Addr, prefix, kind, code uint8, now int64) bool {
	v6 := !dst.Is4()
	if !l.limited(v6, kind, code) {
		return true
	}
	each := l.each
	if v6 {
		each = l.each6[(128-min(prefix, 128))/32]
	}
	p := &l.peers[maphash.Comparable(l.seed, *dst)&(peers-1)]
	if p.addr != *dst {
		p.addr, p.left = *dst, 0
	}
	if !p.left.has(each, now) || !l.total.has(l.all, now) {
		return false
	}
	p.left.take(each, now)
	l.total.take(l.all, now)
	return true
}
