package xdpprog

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// MaxMarks is the number of mark rules a Want may have: what a set of them has
// bits for.
const MaxMarks = 64 * len(steerMarkRow{}.Word)

// marks is the mark rules as the kernel has them.
type marks struct {
	nets  *ebpf.Map // networks and interfaces, by generation
	outer *ebpf.Map // the table in force
	inner *ebpf.MapSpec

	rules      []MarkRule // in force
	generation uint32
	keys       []steerMarkNet // of the generation
	stale      []steerMarkNet // of others, to be deleted
}

// markTable is mark rules in the shape of the program's tables.
type markTable struct {
	nets map[steerMarkNet]steerMarkRow // of generation 0
	rows []steerMarkRow                // the first ones; the others are empty
}

// set makes want the rules in force. The kernel changes tables between two
// packets and returns when no packet is on its way by the old one, so that its
// networks may go then.
func (m *marks) set(want []MarkRule) error {
	if err := m.clean(); err != nil {
		return err
	}
	if slices.Equal(want, m.rules) {
		return nil
	}
	t, generation := compileMarks(want), m.generation+1
	t.rows[0].Word[0] |= uint64(generation) << 32
	var keys []steerMarkNet
	for k, row := range t.nets {
		k.Generation = generation
		if err := m.nets.Put(k, row); err != nil {
			m.stale = append(m.stale, keys...)
			return fmt.Errorf("network of a mark rule: %w", err)
		}
		keys = append(keys, k)
	}
	if err := m.swap(t.rows); err != nil {
		m.stale = append(m.stale, keys...)
		return err
	}
	m.rules, m.generation = slices.Clone(want), generation
	m.stale, m.keys = append(m.stale, m.keys...), keys
	return m.clean()
}

// swap makes a table of these rows the one in force.
func (m *marks) swap(rows []steerMarkRow) error {
	inner, err := ebpf.NewMap(m.inner)
	if err != nil {
		return err
	}
	defer inner.Close() // the outer map holds its own reference
	at := make([]steerMarkRows, len(rows))
	for i := range at {
		at[i] = steerMarkRows(i)
	}
	if _, err := inner.BatchUpdate(at, rows, nil); err != nil {
		return fmt.Errorf("write mark rules: %w", err)
	}
	return m.outer.Put(uint32(0), inner)
}

// clean deletes the networks that no table needs any more.
func (m *marks) clean() error {
	for len(m.stale) > 0 {
		last := len(m.stale) - 1
		if err := m.nets.Delete(m.stale[last]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove the network of a mark rule: %w", err)
		}
		m.stale = m.stale[:last]
	}
	return nil
}

// ruleSet returns the set of the rules that match says, as a row.
func ruleSet(rules []MarkRule, match func(*MarkRule) bool) (row steerMarkRow) {
	for i := range rules {
		if match(&rules[i]) {
			row.Word[i/64] |= 1 << (i % 64)
		}
	}
	return row
}

// compileMarks returns the tables of rules, which are valid.
func compileMarks(rules []MarkRule) *markTable {
	t := &markTable{nets: map[steerMarkNet]steerMarkRow{}}
	t.rows = make([]steerMarkRow, steerMarkRowsMARK_CLASSES)
	t.rows[0].Word[0] = uint64(len(rules)+63) / 64
	t.addNetworks(rules, steerMarkSideMARK_DESTINATION, func(r *MarkRule) netip.Prefix { return r.Destination })
	if slices.ContainsFunc(rules, func(r MarkRule) bool { return r.Source.IsValid() }) {
		t.rows[0].Word[1] |= 1
		t.addNetworks(rules, steerMarkSideMARK_SOURCE, func(r *MarkRule) netip.Prefix { return r.Source })
	}
	if slices.ContainsFunc(rules, func(r MarkRule) bool { return r.Ifindex != 0 }) {
		t.rows[0].Word[1] |= 1 << 32
		t.addInterfaces(rules)
	}
	for i, proto := range []uint8{6, 17, 132, 0} {
		for family := range 2 {
			t.rows[int(steerMarkRowsMARK_PROTOCOLS)+4*family+i] = ruleSet(rules, func(r *MarkRule) bool {
				return r.isOf(family == 1) && (r.Proto == 0 || proto == 0 || r.Proto == proto)
			})
		}
	}
	t.addPorts(rules)
	return t
}

// isOf says whether a rule's prefixes let it match packets of a family.
func (r *MarkRule) isOf(v6 bool) bool {
	return (!r.Source.IsValid() || r.Source.Addr().Is6() == v6) && (!r.Destination.IsValid() || r.Destination.Addr().Is6() == v6)
}

// bits is the number of a prefix's bits among the 128 of an address here; 0: it
// holds any.
func bits(p netip.Prefix) int {
	if p.IsValid() && p.Addr().Is4() {
		return p.Bits() + 96
	}
	return max(p.Bits(), 0)
}

// mapped is a prefix with IPv4 mapped into IPv6.
func mapped(p netip.Prefix) netip.Prefix {
	if !p.IsValid() {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.AddrFrom16(p.Masked().Addr().As16()), bits(p)) // 16 bytes stay IPv6
}

// addNetworks files the prefixes of one side, each with the rules whose prefix
// holds it.
func (t *markTable) addNetworks(rules []MarkRule, side steerMarkSide, of func(*MarkRule) netip.Prefix) {
	all := make([]netip.Prefix, len(rules))
	for i := range rules {
		all[i] = mapped(of(&rules[i]))
	}
	for _, p := range all {
		key := steerMarkNet{Length: uint32(64 + p.Bits()), Side: side, Addr: words(p.Addr().As16())}
		if _, ok := t.nets[key]; ok {
			continue
		}
		i := -1
		t.nets[key] = ruleSet(rules, func(*MarkRule) bool {
			i++
			return all[i].Bits() <= p.Bits() && holds(all[i], p.Addr())
		})
	}
}

// holds is p.Contains, which takes no mapped address.
func holds(p netip.Prefix, a netip.Addr) bool {
	n, err := a.Prefix(p.Bits())
	return err == nil && n.Addr() == p.Addr()
}

// addInterfaces files the interfaces that rules name, and all others.
func (t *markTable) addInterfaces(rules []MarkRule) {
	add := func(key steerMarkNet, index int) {
		key.Side = steerMarkSideMARK_INTERFACE
		key.Addr.W[0] = uint32(index)
		t.nets[key] = ruleSet(rules, func(r *MarkRule) bool { return r.Ifindex == 0 || r.Ifindex == index })
	}
	add(steerMarkNet{Length: 64}, 0)
	for i := range rules {
		if index := rules[i].Ifindex; index != 0 {
			add(steerMarkNet{Length: 64 + 32}, index)
		}
	}
}

// addPorts gives each port its class and each class its rules: another one
// begins where a range does, and behind its end.
func (t *markTable) addPorts(rules []MarkRule) {
	bounds := map[int]bool{0: true}
	for i := range rules {
		low, high := rules[i].ports()
		bounds[low], bounds[high+1] = true, true
	}
	class := -1
	for port := range 1 << 16 {
		if bounds[port] {
			class++
			t.rows = append(t.rows, ruleSet(rules, func(r *MarkRule) bool {
				low, high := r.ports()
				return low <= port && port <= high
			}))
		}
		const perRow, perWord = MaxMarks / 16, 4
		row := &t.rows[int(steerMarkRowsMARK_PORTS)+port/perRow]
		row.Word[port%perRow/perWord] |= uint64(class) << (16 * (port % perWord))
	}
}

// ports is the range of a rule.
func (r *MarkRule) ports() (low, high int) {
	if r.PortLow == 0 && r.PortHigh == 0 {
		return 0, 0xffff
	}
	return int(r.PortLow), int(r.PortHigh)
}
