package main

import (
	"slices"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

// reroute follows the next hops to servers. The first table is there before the
// director is.
func (n *node) reroute(t *nexthop.Table) {
	was := n.hops
	n.hops = t
	if was == nil {
		return
	}
	if forgotten := rerouted(n.director, was, t, clock.TicksAt(clock.System{}.Now())); forgotten > 0 {
		n.log.Info("other ways to servers: what was learnt of their MTU is forgotten", "servers", forgotten)
	}
}

// rerouted forgets what was learnt of the paths to servers that other next hops
// lead to in table is than in was, as Linux does, which keeps it with the route.
// It returns how many these were.
func rerouted(d *lb.Director, was, is *nexthop.Table, now clock.Ticks) (forgotten int) {
	d.Paths(func(addr flow.Addr, p *lb.Path) {
		if p.At(now) != 0 && !slices.Equal(hopsTo(was, &addr), hopsTo(is, &addr)) {
			p.Forget()
			forgotten++
		}
	})
	return forgotten
}

// hopTo is a neighbour that packets are handed to.
type hopTo struct {
	neighbor flow.Addr
	iface    string
}

// hopsTo are those that lead to an address; none if nothing does.
func hopsTo(t *nexthop.Table, addr *flow.Addr) (hops []hopTo) {
	for _, h := range t.Ways(t.Lookup(addr), addr) {
		if h.State == nexthop.Reachable || h.State == nexthop.Unresolved {
			hops = append(hops, hopTo{h.Neighbor(addr), t.Interfaces[h.Iface].Name})
		}
	}
	return hops
}
