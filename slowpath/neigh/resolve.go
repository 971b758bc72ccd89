package neigh

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/lb/flow"
)

// confirmEach is how many stale neighbours are confirmed in one round.
const confirmEach = 256

// Resolve asks the kernel to find out a neighbour's MAC address; what it finds
// comes with a later table. iface is an index of the current table. Any
// goroutine may call it, and it does not wait: when too much is asked for, it is
// counted and forgotten.
func (w *Watcher) Resolve(iface uint16, addr *flow.Addr) {
	t := w.current.Load()
	if int(iface) >= len(t.Interfaces) || t.Interfaces[iface].Index == 0 {
		w.counts.unasked.Add(1)
		return
	}
	w.want(neighbor{addr: addr.Netip(), index: t.Interfaces[iface].Index})
}

func (w *Watcher) want(n neighbor) {
	select {
	case w.ask <- n:
	default:
		w.counts.unasked.Add(1)
	}
}

// resolve asks the kernel what others want to know until ctx is done. The kernel answers at
// once, but only when it is done with other requests, so nobody else waits for it.
func (w *Watcher) resolve(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-w.ask:
			// NTF_USE does what a packet to the neighbour would do: a missing or
			// failed entry is resolved, a stale one is used and then probed.
			err := w.asks.NeighSet(&netlink.Neigh{LinkIndex: n.index, IP: n.addr.AsSlice(), Flags: netlink.NTF_USE})
			if err != nil {
				w.counts.unasked.Add(1)
				w.cfg.Log.Debug("kernel does not resolve a neighbour", "address", n.addr, "ifindex", n.index, "error", err)
				continue
			}
			w.counts.asked.Add(1)
		}
	}
}

// confirm keeps neighbours alive that the fast path may be using: the kernel sees no
// packets to them, so to it they go stale. The next hops of kept addresses and the
// gateways are resolved again even if they failed; other neighbours on the node's ports
// are confirmed when they are stale, a number of them each round in turn, and given up
// when they fail.
func (w *Watcher) confirm() {
	wanted := w.nextHops()
	for _, n := range wanted {
		if s := w.view.neighbors[n]; s.nud&^(netlink.NUD_STALE|netlink.NUD_FAILED) == 0 {
			w.want(n)
		}
	}
	var stale []neighbor
	for n, s := range w.view.neighbors {
		if l := w.view.links[n.index]; l != nil && s.nud == netlink.NUD_STALE && w.places.ours[w.places.byName[l.name]] {
			stale = append(stale, n)
		}
	}
	slices.SortFunc(stale, compare)
	first, _ := slices.BinarySearchFunc(stale, w.turn, compare)
	stale = slices.Concat(stale[first:], stale[:first])
	for _, n := range stale[:min(len(stale), confirmEach)] {
		w.want(n)
		w.turn = neighbor{addr: n.addr.Next(), index: n.index}
	}
}

func compare(a, b neighbor) int {
	return cmp.Or(cmp.Compare(a.index, b.index), a.addr.Compare(b.addr))
}

// nextHops returns the neighbours by which the kept addresses are reached, and the
// gateways of the routes, those on the node's ports.
func (w *Watcher) nextHops() []neighbor {
	w.mu.Lock()
	keep := w.keep
	w.mu.Unlock()
	t := w.current.Load()
	var found []neighbor
	add := func(h *nexthop.Hop, a netip.Addr) {
		if h.State != nexthop.Reachable && h.State != nexthop.Unresolved {
			return
		}
		if i := &t.Interfaces[h.Iface]; i.Port >= 0 && i.Index > 0 {
			to := flow.FromNetip(a)
			next := h.Neighbor(&to)
			found = append(found, neighbor{addr: next.Netip(), index: i.Index})
		}
	}
	for _, a := range keep {
		to := flow.FromNetip(a)
		for _, h := range t.Ways(t.Lookup(&to), &to) {
			add(h, a)
		}
		for _, h := range t.Ways(t.OnLink(&to), &to) {
			add(h, a)
		}
	}
	for i := range w.view.routes {
		for _, way := range w.view.routes[i].ways {
			if l := w.view.links[way.index]; l != nil && way.via.IsValid() {
				if at := w.places.byName[l.name]; w.places.ours[at] && t.Interfaces[at].Up {
					found = append(found, neighbor{addr: way.via, index: way.index})
				}
			}
		}
	}
	slices.SortFunc(found, compare)
	return slices.Compact(found)
}
