package nexthop

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/sluice-lb/sluice/lb/flow"
)

// ErrWays reports a route with more next hops than a group holds.
var ErrWays = errors.New("a route has at most 255 next hops, the rest is left out")

const (
	maxWays   = 255
	maxGroups = 1 << 16 // of a Table; routes with other ones have their first next hop
)

// Way is one next hop of a route.
type Way struct {
	Via    netip.Addr // the gateway; not valid: on-link
	Iface  int        // index of the interface
	Weight int        // its share, in proportion to the others'; 0 counts as 1
	Failed bool       // its gateway does not answer: used only if all have failed
}

// buckets is how many pieces the flows of a group are cut into: a prime, so that
// every step through them meets all. A share is right to a thousandth.
const buckets = 1021

// group is the next hops of a route with several: their IDs, and by which of them
// the flows of each bucket go.
type group struct {
	ways   []uint32
	bucket [buckets]uint8
}

// share fills the buckets, as Maglev does (Eisenbud et al., NSDI 2016, section
// 3.4): the ways choose in turns, by weight, each the next free one in an order
// of its own. So the shares are exact, and when a way comes or goes few flows of
// the others move. seeds tell the ways apart, whatever their places.
func (g *group) share(weights []int, seeds []uint64) {
	var taken [buckets]bool
	at, step, has := make([]uint64, len(weights)), make([]uint64, len(weights)), make([]int, len(weights))
	for i, s := range seeds {
		at[i], step[i] = s>>32%buckets, 1+s&(1<<32-1)%(buckets-1)
	}
	for range buckets {
		turn := 0
		for i := range weights {
			if (has[i]+1)*weights[turn] < (has[turn]+1)*weights[i] {
				turn = i
			}
		}
		for taken[at[turn]] {
			at[turn] = (at[turn] + step[turn]) % buckets
		}
		taken[at[turn]] = true
		g.bucket[at[turn]] = uint8(turn)
		has[turn]++
	}
}

// several returns the ID of the hop that stands for these ways of a route: that
// of the only one, or one to Choose by. Ways through interfaces that are down do
// not count, nor those that have failed, unless all have. 0: there is none.
func (b *builds) several(r *route) uint32 {
	var up, well []Way
	for _, w := range r.ways {
		if !b.interfaces[w.Iface].Up {
			continue
		}
		if up = append(up, w); !w.Failed {
			well = append(well, w)
		}
	}
	if len(well) == 0 {
		well = up
	}
	if len(well) == 0 {
		return hopNoRoute
	}
	if len(well) == 1 || len(b.t.groups) == maxGroups {
		return b.hop(r, &well[0])
	}
	var g group
	var weights []int
	var seeds []uint64
	var name []byte
	for i := range well {
		id, weight := b.hop(r, &well[i]), max(1, well[i].Weight)
		h := b.t.Hop(id)
		k := flow.Key{Client: h.Gateway, LocalPort: h.Iface}
		g.ways, weights, seeds = append(g.ways, id), append(weights, weight), append(seeds, FlowHash(&k))
		name = binary.BigEndian.AppendUint64(name, uint64(id)<<32|uint64(weight))
	}
	if id, ok := b.groups[string(name)]; ok {
		return id
	}
	g.share(weights, seeds)
	b.t.groups = append(b.t.groups, g)
	id := b.add(Hop{State: Several, Iface: uint16(len(b.t.groups) - 1)})
	b.groups[string(name)] = id
	return id
}

// Ways returns all next hops towards dst by h, the hop that it was looked up
// by: those of a route with several, or h alone.
func (t *Table) Ways(h *Hop, dst *flow.Addr) (all []*Hop) {
	if h.State != Several {
		return []*Hop{h}
	}
	for _, id := range t.groups[h.Iface].ways {
		all = append(all, t.resolve(id, dst))
	}
	return all
}
