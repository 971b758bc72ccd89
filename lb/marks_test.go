package lb

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-lb/sluice/lb/flow"
)

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

func TestMarks(t *testing.T) {
	rules := []MarkRule{
		{Mark: 1, Interface: "eth1", Destination: prefix("203.0.113.7/32")},
		{Mark: 2, Proto: ProtoTCP, Destination: prefix("203.0.113.0/24"), PortLow: 80, PortHigh: 443},
		{Mark: 3, Source: prefix("198.51.100.0/24"), Destination: prefix("203.0.113.0/24")},
		{Mark: 4, Destination: prefix("203.0.113.7/32")},
		{Mark: 5, Interface: "nosuch"},
		{Mark: 6, Destination: prefix("::/0"), Proto: ProtoUDP},
		{Mark: 7, Source: prefix("198.51.0.0/16")},
		{Mark: 8, Proto: ProtoSCTP},
	}
	table := compileMarks(rules, []string{"eth0", "eth1"})
	for _, tt := range []struct {
		iface    int
		proto    uint8
		src, dst string
		port     uint16
		want     uint32
		why      string
	}{
		{1, ProtoTCP, "192.0.2.1", "203.0.113.7", 80, 1, "the first rule"},
		{0, ProtoTCP, "192.0.2.1", "203.0.113.7", 80, 2, "another interface; an earlier rule of a shorter prefix"},
		{0, ProtoTCP, "192.0.2.1", "203.0.113.7", 79, 4, "below the ports"},
		{0, ProtoTCP, "192.0.2.1", "203.0.113.7", 443, 2, "the last port"},
		{0, ProtoTCP, "192.0.2.1", "203.0.113.7", 444, 4, "above the ports"},
		{0, ProtoUDP, "198.51.100.9", "203.0.113.7", 80, 3, "by source, before the longer prefix"},
		{0, ProtoUDP, "198.51.100.9", "203.0.113.8", 80, 3, "by source"},
		{0, ProtoUDP, "198.51.101.9", "203.0.113.8", 80, 7, "by source, any destination"},
		{0, ProtoUDP, "192.0.2.1", "203.0.113.8", 80, 0, "no rule"},
		{0, ProtoUDP, "192.0.2.1", "192.0.2.2", 80, 0, "::/0 is not IPv4"},
		{0, ProtoUDP, "2001:db8::1", "2001:db8::2", 80, 6, "::/0 is IPv6"},
		{0, ProtoTCP, "2001:db8::1", "2001:db8::2", 80, 0, "another protocol"},
		{0, ProtoSCTP, "2001:db8::1", "2001:db8::2", 0, 8, "any address of any family, no port"},
	} {
		if got := table.Lookup(tt.iface, tt.proto, addr(tt.src), addr(tt.dst), tt.port); got != tt.want {
			t.Errorf("%+v: mark %d", tt, got)
		}
	}
}

// lookupTwin asks one rule after the other.
func lookupTwin(rules []MarkRule, names []string, iface int, proto uint8, src, dst netip.Addr, port uint16) uint32 {
	for _, r := range rules {
		switch {
		case r.Interface != "" && slices.Index(names, r.Interface) != iface:
		case r.Proto != 0 && r.Proto != proto:
		case r.Source.IsValid() && !r.Source.Contains(src):
		case r.Destination.IsValid() && !r.Destination.Contains(dst):
		case (r.PortLow != 0 || r.PortHigh != 0) && (port < r.PortLow || port > r.PortHigh):
		default:
			return r.Mark
		}
	}
	return 0
}

// TestMarksTwin holds the compiled table to the plain list.
func TestMarksTwin(t *testing.T) {
	address := func(v6 bool) *rapid.Generator[netip.Addr] {
		return rapid.Custom(func(t *rapid.T) netip.Addr {
			b := rapid.Uint16Range(0, 1023).Draw(t, "address")
			if v6 {
				return netip.AddrFrom16([16]byte{0x20, 1, byte(b >> 8), byte(b)})
			}
			return netip.AddrFrom4([4]byte{byte(b >> 8), byte(b), 0, byte(b)})
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b"}
		draw := rapid.Custom(func(t *rapid.T) MarkRule {
			v6 := rapid.Bool().Draw(t, "v6")
			net := func(what string) netip.Prefix {
				if rapid.Bool().Draw(t, "any "+what) {
					return netip.Prefix{}
				}
				bits := rapid.SampledFrom([]int{0, 7, 8, 14, 15, 16, 32}).Draw(t, what)
				return netip.PrefixFrom(address(v6).Draw(t, what), bits)
			}
			low := rapid.Uint16Range(0, 3).Draw(t, "low")
			return MarkRule{
				Mark: rapid.Uint32Range(1, 9).Draw(t, "mark"), Interface: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "interface"),
				Proto: rapid.SampledFrom([]uint8{0, 6, 17}).Draw(t, "proto"), Source: net("source"), Destination: net("destination"),
				PortLow: low, PortHigh: low + rapid.Uint16Range(0, 2).Draw(t, "ports"),
			}
		})
		rules := rapid.SliceOfN(draw, 0, 20).Draw(t, "rules")
		table := compileMarks(rules, names)
		for range 20 {
			v6 := rapid.Bool().Draw(t, "v6")
			src, dst := address(v6).Draw(t, "src"), address(v6).Draw(t, "dst")
			a, b := flow.FromNetip(src), flow.FromNetip(dst)
			iface, proto, port := rapid.IntRange(0, 2).Draw(t, "iface"), rapid.SampledFrom([]uint8{6, 17, 132}).Draw(t, "proto"), rapid.Uint16Range(0, 6).Draw(t, "port")
			got, want := table.Lookup(iface, proto, &a, &b, port), lookupTwin(rules, names, iface, proto, src, dst, port)
			if got != want {
				t.Fatalf("iface %d proto %d %s → %s port %d: mark %d, want %d", iface, proto, src, dst, port, got, want)
			}
		}
	})
}

// TestSetInterfaces: rules follow the interfaces' numbers.
func TestSetInterfaces(t *testing.T) {
	d := NewDirector(1)
	was := d.Current()
	d.SetInterfaces([]string{"eth0", "eth1"})
	if d.Current() != was {
		t.Error("interfaces were published although there are no rules")
	}
	_, err := d.Apply(Spec{Marks: []MarkRule{{Mark: 5, Interface: "eth1"}}})
	must(t, err)
	mark := func(iface int) uint32 {
		return d.Current().Marks.Lookup(iface, ProtoTCP, addr("10.0.0.1"), addr("10.0.0.2"), 80)
	}
	if mark(0) != 0 || mark(1) != 5 {
		t.Errorf("marks %d, %d, want 0, 5", mark(0), mark(1))
	}
	d.SetInterfaces([]string{"eth1"})
	if mark(0) != 5 || mark(1) != 0 {
		t.Errorf("marks %d, %d, want 5, 0", mark(0), mark(1))
	}
	was = d.Current()
	d.SetInterfaces([]string{"eth1"})
	if d.Current() != was {
		t.Error("the same interfaces were published again")
	}
	_, err = d.Apply(Spec{})
	must(t, err)
	if d.Current().Marks != nil {
		t.Error("rules are left")
	}
}

// manyRules are n rules that differ in one thing only.
func manyRules(n int, differ string) (rules []MarkRule) {
	for i := range n {
		r := MarkRule{Mark: uint32(i + 1), Proto: ProtoTCP}
		net := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
		switch differ {
		case "destination":
			r.Destination = net
		case "source":
			r.Source = net
		case "ports":
			r.PortLow, r.PortHigh = uint16(1000+3*i), uint16(1001+3*i)
		}
		rules = append(rules, r)
	}
	return rules
}

// TestMarksMost: as many rules as there may be, each found; one more is refused.
func TestMarksMost(t *testing.T) {
	for _, differ := range []string{"destination", "source", "ports"} {
		rules := manyRules(MaxMarkRules, differ)
		table := compileMarks(rules, nil)
		for i, r := range rules {
			src, dst, port := *addr("192.0.2.1"), *addr("192.0.2.2"), uint16(80)
			if r.Source.IsValid() {
				src = flow.FromNetip(r.Source.Addr())
			}
			if r.Destination.IsValid() {
				dst = flow.FromNetip(r.Destination.Addr())
			}
			if r.PortLow != 0 {
				port = r.PortHigh
			}
			if got := table.Lookup(0, ProtoTCP, &src, &dst, port); got != r.Mark {
				t.Errorf("%s: rule %d gives mark %d, want %d", differ, i, got, r.Mark)
			}
			if got := table.Lookup(0, ProtoUDP, &src, &dst, port); got != 0 {
				t.Errorf("%s: rule %d gives mark %d to UDP", differ, i, got)
			}
		}
	}
	_, err := NewDirector(1).Apply(Spec{Marks: manyRules(MaxMarkRules+1, "ports")})
	if !errors.Is(err, ErrMarkRule) {
		t.Errorf("%d rules: %v, want ErrMarkRule", MaxMarkRules+1, err)
	}
}

// BenchmarkMarks is a packet that no rule wants, and one that the last does, of
// rules that differ in one thing.
func BenchmarkMarks(b *testing.B) {
	for _, differ := range []string{"destination", "source", "ports"} {
		for _, n := range []int{1, 64, 256, 1024} {
			table := compileMarks(manyRules(n, differ), nil)
			last := addr(fmt.Sprintf("10.0.%d.%d", (n-1)>>8, (n-1)&255))
			for name, dst := range map[string]*flow.Addr{"none": addr("10.9.9.9"), "last": last} {
				b.Run(fmt.Sprintf("%s/rules=%d/%s", differ, n, name), func(b *testing.B) {
					port := map[string]uint16{"none": 80, "last": uint16(1000 + 3*(n-1))}[name]
					for b.Loop() {
						table.Lookup(0, ProtoTCP, dst, dst, port)
					}
				})
			}
		}
	}
}

// BenchmarkCompileMarks is what a change of the rules costs.
func BenchmarkCompileMarks(b *testing.B) {
	for _, differ := range []string{"destination", "ports"} {
		b.Run(differ, func(b *testing.B) {
			rules := manyRules(MaxMarkRules, differ)
			for b.Loop() {
				compileMarks(rules, nil)
			}
		})
	}
}
