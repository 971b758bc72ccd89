package nexthop

import (
	"encoding/binary"
	"math/bits"

	"github.com/sluice-lb/sluice/lb/flow"
)

// A ladder lists the kinds of prefix that may hold an address, in the order
// in which they are asked: the longest first. A host has a handful of prefix
// lengths, and each costs one probe of the hash table.
type ladder []rung

// rung is one prefix length: its mask, and its class, which keeps prefixes of
// equal bits and other meaning apart in the hash table.
type rung struct {
	hi, lo uint64
	class  uint32
}

// Classes: below neighborClass a ladder's prefix length, from there on the
// neighbours of an interface, and from ownClass on what a port's frames are
// addressed to.
const (
	neighborClass = 1 << 16
	ownClass      = 2 << 16
)

// slot is one entry of the hash table: 128 bits of address, its class, and
// the hop that it leads to; hop 0: free.
type slot struct {
	hi, lo uint64
	class  uint32
	hop    uint32
}

// Lookup returns the next hop towards dst, as the kernel's routing would: the
// host's own addresses first, then the route with the longest prefix, then
// the neighbour. It never returns nil. Of several next hops Choose has to
// choose.
func (t *Table) Lookup(dst *flow.Addr) *Hop {
	return t.resolve(t.match(t.routes[family(dst)], dst), dst)
}

// OnLink returns the next hop towards a real server that is served by direct
// routing: dst itself, whatever gateway a route names, if it is in the subnet
// of an interface (KNOWN_NH, K-FWD-DR); else as Lookup.
func (t *Table) OnLink(dst *flow.Addr) *Hop {
	if h := t.match(t.onLink[family(dst)], dst); h != 0 && !t.IsLocal(dst) {
		return t.resolve(h, dst)
	}
	return t.Lookup(dst)
}

// seed keeps these hashes apart from those of tables.
var seed = flow.Seed{0x51a7e0c0de5eed01, 0x9e3779b97f4a7c15}

// FlowHash is what Choose chooses by: equal for all packets of a connection, by
// its client's key, whoever asks.
func FlowHash(k *flow.Key) uint64 { return k.Hash(&seed) }

// Choose returns the next hop of a flow towards dst, where h, looked up for dst,
// is Several; else it returns h.
func (t *Table) Choose(h *Hop, dst *flow.Addr, flowHash uint64) *Hop {
	if h.State != Several {
		return h
	}
	g := &t.groups[h.Iface]
	return t.resolve(g.ways[g.bucket[flowHash>>32*buckets>>32]], dst)
}

// IsLocal reports whether a is an address of the host.
func (t *Table) IsLocal(a *flow.Addr) bool {
	return t.match(t.local[family(a)], a) != 0
}

// Owns reports whether a frame that came in by port with tags of these VLAN IDs,
// outer first, 0 for none, is addressed by mac to an interface of the host.
func (t *Table) Owns(port uint16, vlan [2]uint16, mac [6]byte) bool {
	hi, lo := own(vlan, mac)
	return t.find(hi, lo, ownClass+uint32(port)) != 0
}

// own is the key of what frames are addressed to.
func own(vlan [2]uint16, mac [6]byte) (hi, lo uint64) {
	return uint64(vlan[0])<<32 | uint64(vlan[1])<<16 | uint64(mac[0])<<8 | uint64(mac[1]), uint64(binary.BigEndian.Uint32(mac[2:]))
}

// halves returns the two halves of an address as numbers.
func halves(a *flow.Addr) (hi, lo uint64) {
	return binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
}

// family is the index of a's family: 0 IPv4, 1 IPv6.
func family(a *flow.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// match returns the hop of the first rung of l that holds dst; 0: none.
func (t *Table) match(l ladder, dst *flow.Addr) uint32 {
	hi, lo := halves(dst)
	for i := range l {
		r := &l[i]
		if h := t.find(hi&r.hi, lo&r.lo, r.class); h != 0 {
			return h
		}
	}
	return 0
}

// resolve turns the hop of an on-link route into that of the neighbour dst, if
// it is known.
func (t *Table) resolve(id uint32, dst *flow.Addr) *Hop {
	h := &t.hops[id]
	if h.State != Unresolved || !h.Gateway.IsZero() {
		return h
	}
	hi, lo := halves(dst)
	if n := t.find(hi, lo, neighborClass+uint32(h.Iface)); n != 0 {
		return &t.hops[n]
	}
	return h
}

// find returns the hop under a key of the hash table; 0: there is none.
func (t *Table) find(hi, lo uint64, class uint32) uint32 {
	mask := uint32(len(t.slots) - 1)
	for i := hash(hi, lo, class); ; i++ {
		s := &t.slots[i&mask]
		if s.hop == 0 || s.lo == lo && s.hi == hi && s.class == class {
			return s.hop
		}
	}
}

// hash mixes a key by one 64×64→128 bit multiplication.
func hash(hi, lo uint64, class uint32) uint32 {
	a, b := bits.Mul64(lo^0x9e3779b97f4a7c15, hi^uint64(class)<<32^0xd1b54a32d192ed03)
	return uint32((a ^ b) >> 16)
}
