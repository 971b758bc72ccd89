package lb

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/sluice-lb/sluice/lb/flow"
)

// MarkTable gives packets their firewall marks: that of the first rule which
// matches. For each thing that rules look at (destination, source, port,
// interface, protocol) it knows the set of rules that a packet's value agrees
// with, a bit a rule in the operator's order; the first bit that all five have
// is the rule (Lakshman and Stiliadis, "High-speed policy-based packet
// forwarding", SIGCOMM 1998). A packet that no rule wants costs a few loads, and
// one more step for each 64 rules only if its addresses occur in rules. It is
// immutable.
type MarkTable struct {
	marks        []uint32 // by rule
	destinations networks
	sources      networks
	ports        *[1 << 16]uint16   // number of the set
	protos       *[2][1 << 8]uint16 // by family, IPv4 first
	ifaces       []uint16           // by index; the last is of all others
	sets         []ruleSet
}

// MaxMarkRules is how many rules a node may have: what the XDP program holds.
const MaxMarkRules = 1024

// ruleSet has the bit i%64 of word i/64 for rule i.
type ruleSet []uint64

// networks are prefixes that rules name, by length, the longest first.
type networks []prefixLength

// prefixLength finds the number of a network's set by an address, cut to the
// length.
type prefixLength struct {
	mask flow.Addr
	nets index
}

// compileMarks returns the table of rules, nil if there are none. interfaces
// says which index a name has; rules for other names match nothing.
func compileMarks(rules []MarkRule, interfaces []string) *MarkTable {
	if len(rules) == 0 {
		return nil
	}
	c := markCompiler{rules: rules, numbers: map[string]uint16{}}
	t := &MarkTable{ports: c.ports(), protos: new([2][1 << 8]uint16)}
	for _, r := range rules {
		t.marks = append(t.marks, r.Mark)
	}
	t.destinations = c.networks(func(r *MarkRule) netip.Prefix { return r.Destination })
	t.sources = c.networks(func(r *MarkRule) netip.Prefix { return r.Source })
	for family := range t.protos {
		for proto := range t.protos[family] {
			t.protos[family][proto] = c.number(func(r *MarkRule) bool {
				return r.isOf(family == 1) && (r.Proto == 0 || int(r.Proto) == proto)
			})
		}
	}
	for _, name := range append(slices.Clone(interfaces), "") {
		t.ifaces = append(t.ifaces, c.number(func(r *MarkRule) bool { return r.Interface == "" || r.Interface == name }))
	}
	t.sets = c.sets
	return t
}

// markCompiler numbers the sets that occur.
type markCompiler struct {
	rules   []MarkRule
	numbers map[string]uint16 // by the set's bytes
	sets    []ruleSet
}

// number returns the number of the set of rules that match says.
func (c *markCompiler) number(match func(*MarkRule) bool) uint16 {
	set := make(ruleSet, (len(c.rules)+63)/64)
	for i := range c.rules {
		if match(&c.rules[i]) {
			set[i/64] |= 1 << (i % 64)
		}
	}
	text := make([]byte, 0, 8*len(set))
	for _, word := range set {
		text = binary.NativeEndian.AppendUint64(text, word)
	}
	n, ok := c.numbers[string(text)]
	if !ok {
		n = uint16(len(c.sets))
		c.numbers[string(text)] = n
		c.sets = append(c.sets, set)
	}
	return n
}

// isOf says whether a rule's prefixes let it match packets of a family.
func (m *MarkRule) isOf(v6 bool) bool {
	return (!m.Source.IsValid() || m.Source.Addr().Is6() == v6) && (!m.Destination.IsValid() || m.Destination.Addr().Is6() == v6)
}

// ports returns the set's number of each port: it changes where a range begins
// or has ended.
func (c *markCompiler) ports() *[1 << 16]uint16 {
	bounds := map[int]bool{0: true}
	for _, r := range c.rules {
		bounds[int(r.PortLow)], bounds[int(r.PortHigh)+1] = true, true
	}
	table, now := new([1 << 16]uint16), uint16(0)
	for port := range table {
		if bounds[port] {
			now = c.number(func(r *MarkRule) bool {
				return r.PortLow == 0 && r.PortHigh == 0 || int(r.PortLow) <= port && port <= int(r.PortHigh)
			})
		}
		table[port] = now
	}
	return table
}

// networks files the prefixes of one side. A rule with a shorter prefix, or
// none, is in the sets of the longer ones that it holds.
func (c *markCompiler) networks(of func(*MarkRule) netip.Prefix) (n networks) {
	type prefix struct{ net, mask flow.Addr }
	all := make([]prefix, len(c.rules))
	for i := range c.rules {
		all[i].net, all[i].mask = network(of(&c.rules[i]))
	}
	distinct := slices.Clone(all)
	slices.SortFunc(distinct, func(a, b prefix) int {
		if order := slices.Compare(b.mask[:], a.mask[:]); order != 0 {
			return order
		}
		return slices.Compare(a.net[:], b.net[:])
	})
	distinct = slices.Compact(distinct)
	for i := 0; i < len(distinct); {
		end := i
		for end < len(distinct) && distinct[end].mask == distinct[i].mask {
			end++
		}
		l := prefixLength{mask: distinct[i].mask, nets: newIndex(end - i)}
		for ; i < end; i++ {
			p, k := &distinct[i], -1
			number := c.number(func(*MarkRule) bool {
				k++
				return masked(&p.net, &all[k].mask) == all[k].net && masked(&p.mask, &all[k].mask) == all[k].mask
			})
			l.nets.add(0, &p.net, 0, uint32(number))
		}
		n = append(n, l)
	}
	return n
}

// find returns the number of the set of the longest prefix that holds a; false:
// none does.
func (n networks) find(a *flow.Addr) (set uint32, ok bool) {
	for i := range n {
		net := masked(a, &n[i].mask)
		if set, ok = n[i].nets.find(0, &net, 0); ok {
			break
		}
	}
	return set, ok
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
	to, ok := t.destinations.find(dst)
	if !ok {
		return 0
	}
	from, ok := t.sources.find(src)
	if !ok {
		return 0
	}
	a, b, c, d := t.sets[from], t.sets[t.ports[dport]], t.sets[t.protos[b2i(!dst.Is4())][proto]], t.sets[t.ifaces[min(iface, len(t.ifaces)-1)]]
	for i, word := range t.sets[to] {
		if word &= a[i] & b[i] & c[i] & d[i]; word != 0 {
			return t.marks[i*64+bits.TrailingZeros64(word)]
		}
	}
	return 0
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
