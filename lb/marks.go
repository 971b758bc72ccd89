package lb

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/lb/flow"
)

// MarkTable gives packets their firewall marks: that of the first rule which
// matches. Rules are filed by destination network; a lookup asks once for each
// prefix length that occurs, so a packet that no rule names costs few loads
// however many rules there are. It is immutable.
type MarkTable struct {
	lengths []markLength
	rules   []markRule // grouped by destination, in the operator's order within a group
}

// markLength is one length of destination prefixes; nets finds a group's first
// rule by the destination, cut to the length.
type markLength struct {
	mask flow.Addr
	nets index
}

type markRule struct {
	source, sourceMask flow.Addr
	low, high          uint16
	mark               uint32
	order              uint32 // place in the operator's list
	iface              int32  // index of the interface; -1: any
	proto              uint8  // 0: any
	family             uint8  // 4, 6; 0: any
	last               bool   // of its group
}

const anyInterface = -1

// compileMarks returns the table of rules, nil if there are none. interfaces
// says which index a name has; rules for other names match nothing.
func compileMarks(rules []MarkRule, interfaces []string) *MarkTable {
	if len(rules) == 0 {
		return nil
	}
	type group struct {
		mask, net flow.Addr
	}
	groups := map[group][]markRule{}
	var order []group
	for i := range rules {
		r := &rules[i]
		c := markRule{mark: r.Mark, order: uint32(i), proto: r.Proto, low: r.PortLow, high: r.PortHigh, iface: anyInterface}
		if c.low == 0 && c.high == 0 {
			c.high = 0xffff
		}
		if r.Interface != "" {
			c.iface = int32(slices.Index(interfaces, r.Interface))
			if c.iface < 0 {
				continue
			}
		}
		for _, p := range []netip.Prefix{r.Source, r.Destination} {
			if p.IsValid() {
				c.family = 4 + 2*uint8(b2i(p.Addr().Is6()))
			}
		}
		var g group
		c.source, c.sourceMask = network(r.Source)
		g.net, g.mask = network(r.Destination)
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], c)
	}
	t := &MarkTable{}
	slices.SortStableFunc(order, func(a, b group) int { return slices.Compare(b.mask[:], a.mask[:]) })
	for i := 0; i < len(order); {
		end := i
		for end < len(order) && order[end].mask == order[i].mask {
			end++
		}
		l := markLength{mask: order[i].mask, nets: newIndex(end - i)}
		for ; i < end; i++ {
			l.nets.add(0, &order[i].net, 0, uint32(len(t.rules)))
			t.rules = append(t.rules, groups[order[i]]...)
			t.rules[len(t.rules)-1].last = true
		}
		t.lengths = append(t.lengths, l)
	}
	return t
}

// network returns a prefix as a mapped network and mask; the zero prefix as
// all zero, which holds every address.
func network(p netip.Prefix) (net, mask flow.Addr) {
	if !p.IsValid() {
		return net, mask
	}
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	for i := range n {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	addr := flow.FromNetip(p.Addr())
	return masked(&addr, &mask), mask
}

func masked(a, mask *flow.Addr) (m flow.Addr) {
	binary.NativeEndian.PutUint64(m[:8], binary.NativeEndian.Uint64(a[:8])&binary.NativeEndian.Uint64(mask[:8]))
	binary.NativeEndian.PutUint64(m[8:], binary.NativeEndian.Uint64(a[8:])&binary.NativeEndian.Uint64(mask[8:]))
	return m
}

// Lookup returns the mark of a packet that came in by the interface with the
// given index, 0 if no rule matches. dport is 0 if the protocol has no ports.
func (t *MarkTable) Lookup(iface int, proto uint8, src, dst *flow.Addr, dport uint16) uint32 {
	if t == nil {
		return 0
	}
	mark, order := uint32(0), ^uint32(0)
	for i := range t.lengths {
		l := &t.lengths[i]
		net := masked(dst, &l.mask)
		at, found := l.nets.find(0, &net, 0)
		if !found {
			continue
		}
		for ; ; at++ {
			r := &t.rules[at]
			if r.order >= order {
				break // an earlier rule has matched
			}
			if r.matches(iface, proto, src, dst, dport) {
				mark, order = r.mark, r.order
				break
			}
			if r.last {
				break
			}
		}
	}
	return mark
}

// matches checks all but the destination's network.
func (r *markRule) matches(iface int, proto uint8, src, dst *flow.Addr, dport uint16) bool {
	if r.proto != 0 && r.proto != proto || dport < r.low || dport > r.high ||
		r.iface != anyInterface && int(r.iface) != iface {
		return false
	}
	if r.family != 0 && dst.Is4() != (r.family == 4) {
		return false
	}
	return masked(src, &r.sourceMask) == r.source
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
