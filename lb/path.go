package lb

import (
	"maps"
	"math"
	"sync/atomic"
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Bounds of what ICMP errors may teach of a path, Linux's defaults: the least
// MTU by family, in bytes of IP (net.ipv4.route.min_pmtu; RFC 8200 section 5),
// and for how long it holds (net.ipv4.route.mtu_expires).
const (
	minPath4    = 552
	minPath6    = 1280
	pathExpires = 600 * time.Second
)

// Path is the MTU of the way to an address, as far as ICMP errors about tunnel
// packets told (K-ICMP-5). All real servers of the address share it, in all
// snapshots, until the last of them is forgotten. Any goroutine may use it.
type Path struct {
	state atomic.Uint64 // when it ends, in ticks, above 32 bits of MTU; 0: nothing was learnt
}

// At returns the MTU that was learnt, in bytes of IP; 0: none, or too long ago.
// It is one load and a compare: every packet to a tunnel asks.
func (p *Path) At(now clock.Ticks) uint16 {
	s := p.state.Load()
	if s == 0 || int32(now-clock.Ticks(s>>32)) >= 0 {
		return 0
	}
	return uint16(s)
}

// Left returns for how long the MTU will hold.
func (p *Path) Left(now clock.Ticks) time.Duration {
	if p.At(now) == 0 {
		return 0
	}
	return (clock.Ticks(p.state.Load()>>32) - now).Duration()
}

// Types and codes of the errors that tell of an MTU.
const (
	icmpUnreachable, icmpFragNeeded = 3, 4
	icmpv6TooBig                    = 2
)

// Learn takes what an ICMP error of a family (4 or 6) says: type, code and the
// second word. It returns the MTU to report to the sender of what was too big, in bytes
// of IP outside the tunnel; 0: the error is about something else. route is
// the MTU of the path's route.
//
// The first error that teaches something makes Linux report the route's MTU, of
// IPv4 at least, whose senders learn the rest with their next packet; or what the
// error says, if no packet asked for the route since the server was last
// edited (K-DST-10). sluice reports the same, and of IPv6 the new one.
func (p *Path) Learn(kind, code uint8, rest uint32, route uint16, asked bool, family uint8, now clock.Ticks) uint16 {
	switch {
	case family == 6 && kind == icmpv6TooBig:
		_, is := p.learn(uint16(min(rest, math.MaxUint16)), route, minPath6, now)
		return is
	case family == 4 && kind == icmpUnreachable && code == icmpFragNeeded:
		was, is := p.learn(uint16(rest), route, minPath4, now)
		switch {
		case !asked && uint16(rest) != 0:
			return uint16(rest)
		case was == route:
			return was
		}
		return is
	}
	return 0
}

// learn takes the MTU that an error reports, and returns what held before and
// what holds now. As in Linux a path only ever gets narrower, down to a limit,
// and what was learnt in the last five minutes is not learnt again.
func (p *Path) learn(reported, route, least uint16, now clock.Ticks) (was, is uint16) {
	old := p.state.Load()
	was = route
	if m := p.At(now); m != 0 {
		was = min(was, m)
	}
	is = min(was, max(reported, least))
	if reported > was || is == uint16(old) && p.Left(now) > pathExpires/2 {
		return was, is
	}
	end := now + clock.FromDuration(pathExpires)
	p.state.CompareAndSwap(old, uint64(end)<<32|uint64(is)) // else another worker has just learnt something
	return was, is
}

// Forget drops what was learnt: packets take another way now.
func (p *Path) Forget() { p.state.Store(0) }

// Paths calls visit for each address of real servers, removed ones too while they
// are remembered (K-DST-8). visit must not call the director.
func (d *Director) Paths(visit func(addr flow.Addr, p *Path)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for addr, p := range d.paths {
		visit(addr, p)
	}
}

// forget drops what has ended, before the clock wraps and it seems to hold again.
func (p *Path) forget(now clock.Ticks) {
	if s := p.state.Load(); s != 0 && p.At(now) == 0 {
		p.state.CompareAndSwap(s, 0)
	}
}

// pathTo returns the Path of an address.
func (c *compiler) pathTo(addr *flow.Addr) *Path {
	p := c.paths[*addr]
	if p == nil {
		p = &Path{}
		c.paths[*addr] = p
	}
	return p
}

// keepPaths drops the Paths that no server has any more.
func (c *compiler) keepPaths() {
	used := make(map[*Path]bool, len(c.paths))
	for i := range c.reals {
		used[c.reals[i].Path] = true
	}
	maps.DeleteFunc(c.paths, func(_ flow.Addr, p *Path) bool { return !used[p] })
}
