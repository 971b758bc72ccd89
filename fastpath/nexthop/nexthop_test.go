package nexthop

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/sluice-lb/sluice/lb/flow"
)

var (
	clientMAC = [6]byte{2, 0, 0, 0, 1, 0x0a}
	routerMAC = [6]byte{2, 0, 0, 0, 1, 0xfe}
	serverMAC = [6]byte{2, 0, 0, 0, 2, 0x0b}
	fabricMAC = [6]byte{2, 0, 0, 0, 2, 0xfe}
	eth0MAC   = [6]byte{2, 0, 0, 0, 0, 1}
	eth1MAC   = [6]byte{2, 0, 0, 0, 0, 2}
)

func addr(s string) *flow.Addr {
	a := flow.FromNetip(netip.MustParseAddr(s))
	return &a
}

func prefixes(s ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, x := range s {
		p = append(p, netip.MustParsePrefix(x))
	}
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// network is the director of the examples: clients and a router on eth0,
// servers on eth1, a VLAN and a VLAN in a VLAN on top of it.
func network(t testing.TB) *Table {
	t.Helper()
	var b Builder
	eth0 := b.AddInterface(Interface{
		Name: "eth0", Index: 2, Port: 0, MAC: eth0MAC, MTU: 1500, Up: true,
		Addrs: prefixes("10.0.1.1/24", "10.0.1.100/32", "fe80::1/64", "fd00:1::1/64", "fd00:1::100/128"),
	})
	eth1 := b.AddInterface(Interface{
		Name: "eth1", Index: 3, Port: 1, MAC: eth1MAC, MTU: 9000, Up: true,
		Addrs: prefixes("10.0.2.1/24", "10.0.2.129/25", "fe80::1/64", "fd00:2::1/64"),
	})
	vlan, err := b.AddVLAN(Interface{Name: "eth1.100", Index: 4, Up: true, Addrs: prefixes("10.0.100.1/24")})
	must(t, err)
	inner, err := b.AddVLAN(Interface{Name: "eth1.100.200", Index: 5, Up: true, MTU: 1400, Addrs: prefixes("10.0.200.1/24")})
	must(t, err)
	down := b.AddInterface(Interface{Name: "eth2", Port: 2, MTU: 1500, Addrs: prefixes("10.0.3.1/24")})
	tun := b.AddInterface(Interface{Name: "wg0", Port: -1, MTU: 1420, Up: true})
	none, gw := netip.Addr{}, netip.MustParseAddr("10.0.1.254")
	route := func(prefix, via string, iface int, src string, mtu int) {
		v, s := none, none
		if via != "" {
			v = netip.MustParseAddr(via)
		}
		if src != "" {
			s = netip.MustParseAddr(src)
		}
		must(t, b.AddRoute(netip.MustParsePrefix(prefix), v, iface, s, mtu))
	}
	route("0.0.0.0/0", gw.String(), eth0, "", 0)
	route("0.0.0.0/0", "10.0.1.253", eth0, "", 0) // a second way
	route("172.16.0.0/16", "10.0.2.254", AnyInterface, "10.0.1.100", 1300)
	route("172.16.5.0/24", "10.0.2.253", AnyInterface, "", 0)
	route("192.0.2.0/24", "", tun, "", 0)
	route("192.0.3.0/24", "", down, "", 0)
	route("10.0.2.77/32", "10.0.2.254", eth1, "", 0)
	route("198.51.100.0/24", "fe80::fe%eth0", eth0, "", 0) // RFC 5549
	route("::/0", "fe80::fe", eth0, "", 0)
	must(t, b.AddBlackhole(netip.MustParsePrefix("172.16.6.0/24")))
	must(t, b.AddLocal(netip.MustParsePrefix("203.0.113.0/24")))
	for _, n := range []struct {
		addr  string
		mac   [6]byte
		iface int
	}{
		{"10.0.1.254", routerMAC, eth0},
		{"10.0.1.10", clientMAC, eth0},
		{"10.0.2.254", fabricMAC, eth1},
		{"10.0.2.11", serverMAC, eth1},
		{"10.0.2.11", fabricMAC, eth1}, // not the first: does not count
		{"10.0.2.77", serverMAC, eth1},
		{"10.0.2.200", serverMAC, eth1},
		{"10.0.2.12", serverMAC, eth0}, // on another link than the route
		{"10.0.100.5", serverMAC, vlan},
		{"10.0.200.5", serverMAC, inner},
		{"fe80::fe", routerMAC, eth0},
		{"fd00:2::11", serverMAC, eth1},
		{"10.0.3.5", serverMAC, down},
	} {
		must(t, b.AddNeighbor(netip.MustParseAddr(n.addr), n.mac, n.iface))
	}
	return b.Build(7)
}

func TestLookup(t *testing.T) {
	table := network(t)
	if table.Version != 7 || len(table.Interfaces) != 6 {
		t.Fatalf("version %d with %d interfaces, want 7 with 6", table.Version, len(table.Interfaces))
	}
	tests := []struct {
		stake, dst string
		onLink     bool // as DR's next hop
		state      State
		iface      string
		mac        [6]byte
		neighbor   string
		source     string
		mtu        uint16
	}{
		{"a neighbour", "10.0.2.11", false, Reachable, "eth1", serverMAC, "10.0.2.11", "10.0.2.1", 9000},
		{"a neighbour in the longer subnet: its address is the source", "10.0.2.200", false, Reachable, "eth1", serverMAC, "10.0.2.200", "10.0.2.129", 9000},
		{"an unknown neighbour", "10.0.2.13", false, Unresolved, "eth1", [6]byte{}, "10.0.2.13", "10.0.2.1", 9000},
		{"known on another link is unknown", "10.0.2.12", false, Unresolved, "eth1", [6]byte{}, "10.0.2.12", "10.0.2.1", 9000},
		{"the default route, its first way", "8.8.8.8", false, Reachable, "eth0", routerMAC, "10.0.1.254", "10.0.1.1", 1500},
		{"a longer prefix, with source and MTU", "172.16.1.1", false, Reachable, "eth1", fabricMAC, "10.0.2.254", "10.0.1.100", 1300},
		{"the longest, its gateway unknown", "172.16.5.1", false, Unresolved, "eth1", [6]byte{}, "10.0.2.253", "10.0.2.1", 9000},
		{"a blackhole in it", "172.16.6.1", false, Blackhole, "", [6]byte{}, "", "", 0},
		{"the host itself", "10.0.1.100", false, Local, "", [6]byte{}, "", "", 0},
		{"a local prefix", "203.0.113.9", false, Local, "", [6]byte{}, "", "", 0},
		{"an interface without addresses borrows one", "192.0.2.9", false, Unresolved, "wg0", [6]byte{}, "192.0.2.9", "10.0.1.1", 1420},
		{"a route through an interface that is down does not count", "192.0.3.9", false, Reachable, "eth0", routerMAC, "10.0.1.254", "10.0.1.1", 1500},
		{"nor does its subnet", "10.0.3.5", false, Reachable, "eth0", routerMAC, "10.0.1.254", "10.0.1.1", 1500},
		{"a VLAN's interface", "10.0.100.5", false, Reachable, "eth1.100", serverMAC, "10.0.100.5", "10.0.100.1", 9000},
		{"a VLAN in a VLAN", "10.0.200.5", false, Reachable, "eth1.100.200", serverMAC, "10.0.200.5", "10.0.200.1", 1400},
		{"an IPv6 gateway of an IPv4 route (RFC 5549)", "198.51.100.1", false, Reachable, "eth0", routerMAC, "fe80::fe", "10.0.1.1", 1500},
		{"IPv6 neighbour", "fd00:2::11", false, Reachable, "eth1", serverMAC, "fd00:2::11", "fd00:2::1", 9000},
		{"IPv6 default by a link-local gateway: a global source", "2001:db8::1", false, Reachable, "eth0", routerMAC, "fe80::fe", "fd00:1::1", 1500},
		{"IPv6 link-local is the first interface's", "fe80::fe", false, Reachable, "eth0", routerMAC, "fe80::fe", "fe80::1", 1500},
		{"IPv6 of the host", "fd00:1::100", false, Local, "", [6]byte{}, "", "", 0},
		{"a host route's gateway", "10.0.2.77", false, Reachable, "eth1", fabricMAC, "10.0.2.254", "10.0.2.1", 9000},
		{"but DR goes to the server itself (KNOWN_NH)", "10.0.2.77", true, Reachable, "eth1", serverMAC, "10.0.2.77", "10.0.2.1", 9000},
		{"DR to an unknown neighbour", "10.0.2.13", true, Unresolved, "eth1", [6]byte{}, "10.0.2.13", "10.0.2.1", 9000},
		{"DR to a server behind a router", "172.16.1.1", true, Reachable, "eth1", fabricMAC, "10.0.2.254", "10.0.1.100", 1300},
		{"DR to the host itself", "10.0.2.1", true, Local, "", [6]byte{}, "", "", 0},
	}
	for _, tt := range tests {
		dst := addr(tt.dst)
		h := table.Lookup(dst)
		if tt.onLink {
			h = table.OnLink(dst)
		}
		if h.State != tt.state || table.Hop(h.ID) != h {
			t.Errorf("%s: %s is %v (hop %d), want %v", tt.stake, tt.dst, h.State, h.ID, tt.state)
			continue
		}
		if tt.iface == "" {
			continue
		}
		out := table.Interfaces[h.Iface]
		if out.Name != tt.iface || h.DstMAC != tt.mac || h.SrcMAC != out.MAC || h.MTU != tt.mtu ||
			h.Source != *addr(tt.source) || h.Neighbor(dst) != *addr(tt.neighbor) {
			t.Errorf("%s: %s by %s to %v (%x) from %v (%x), MTU %d; want %s to %s (%x) from %s, MTU %d", tt.stake, tt.dst,
				out.Name, h.Neighbor(dst), h.DstMAC, h.Source, h.SrcMAC, h.MTU, tt.iface, tt.neighbor, tt.mac, tt.source, tt.mtu)
		}
		if h.VLANs != out.VLANs || h.VLAN != out.VLAN {
			t.Errorf("%s: leaves with tags %v of %d, interface has %v", tt.stake, h.VLAN, h.VLANs, out.VLAN)
		}
	}
	if h := table.Lookup(addr("10.0.200.5")); h.VLANs != 2 || h.VLAN != [2]uint16{100, 200} || h.TPID != [2]uint16{0x8100, 0x8100} ||
		table.Interfaces[h.Iface].Port != 1 || h.SrcMAC != eth1MAC {
		t.Errorf("a VLAN in a VLAN leaves with %+v", *h)
	}
}

func TestNoRoute(t *testing.T) {
	empty := (&Builder{}).Build(1)
	for _, dst := range []string{"10.0.0.1", "fd00::1"} {
		if h := empty.Lookup(addr(dst)); h.State != NoRoute {
			t.Errorf("%s in an empty table: %v, want no route", dst, h.State)
		}
		if h := empty.OnLink(addr(dst)); h.State != NoRoute || empty.IsLocal(addr(dst)) {
			t.Errorf("%s in an empty table is on-link or local", dst)
		}
	}
	if _, ok := empty.Source(0, false); ok {
		t.Error("an interface that is not there has an address")
	}
}

func TestIsLocalAndSource(t *testing.T) {
	table := network(t)
	for a, want := range map[string]bool{"10.0.1.1": true, "10.0.1.100": true, "10.0.1.2": false, "203.0.113.1": true, "fe80::1": true, "fd00:2::2": false, "10.0.3.1": true} {
		if got := table.IsLocal(addr(a)); got != want {
			t.Errorf("IsLocal(%s) = %t, want %t", a, got, want)
		}
	}
	for _, tt := range []struct {
		iface uint16
		v6    bool
		want  string
	}{{0, false, "10.0.1.1"}, {0, true, "fd00:1::1"}, {1, true, "fd00:2::1"}} {
		if got, ok := table.Source(tt.iface, tt.v6); !ok || got != *addr(tt.want) {
			t.Errorf("Source(%d, %t) = %v, want %s", tt.iface, tt.v6, got, tt.want)
		}
	}
	if a, ok := table.Source(2, true); ok {
		t.Errorf("eth1.100 has the IPv6 address %v, want none", a)
	}
	if a, ok := firstAddr(prefixes("fe80::5/64"), true); !ok || a != *addr("fe80::5") {
		t.Errorf("of an interface with a link-local address only: %v, want that", a)
	}
}

func TestOwns(t *testing.T) {
	table := network(t)
	for _, row := range []struct {
		stake string
		port  uint16
		vlan  [2]uint16
		mac   [6]byte
		want  bool
	}{
		{"the port's own address", 1, [2]uint16{}, eth1MAC, true},
		{"another port's", 0, [2]uint16{}, eth1MAC, false},
		{"another station's", 1, [2]uint16{}, serverMAC, false},
		{"a VLAN, by its parent's address", 1, [2]uint16{100}, eth1MAC, true},
		{"a VLAN in it", 1, [2]uint16{100, 200}, eth1MAC, true},
		{"the inner one alone is another", 1, [2]uint16{200}, eth1MAC, false},
		{"a VLAN that nobody knows", 1, [2]uint16{101}, eth1MAC, false},
		{"a VLAN of another port", 0, [2]uint16{100}, eth0MAC, false},
		{"a port that is down", 2, [2]uint16{}, [6]byte{}, true},
	} {
		if got := table.Owns(row.port, row.vlan, row.mac); got != row.want {
			t.Errorf("%s: %t, want %t", row.stake, got, row.want)
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	var b Builder
	b.AddInterface(Interface{Name: "eth0", Up: true, Addrs: prefixes("10.0.1.1/24")})
	if _, err := b.AddVLAN(Interface{Name: "eth0.5"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddVLAN(Interface{Name: "eth0.5.6"}); err != nil {
		t.Fatal(err)
	}
	none, ten := netip.Addr{}, netip.MustParsePrefix("10.0.0.0/8")
	vlan := func(name string) error { _, err := b.AddVLAN(Interface{Name: name}); return err }
	for _, tt := range []struct {
		stake string
		err   error
		want  error
	}{
		{"a gateway that is nowhere", b.AddRoute(ten, netip.MustParseAddr("192.0.2.1"), AnyInterface, none, 0), ErrGateway},
		{"no interface and no gateway", b.AddRoute(ten, none, AnyInterface, none, 0), ErrNoInterface},
		{"an interface out of range", b.AddRoute(ten, none, 3, none, 0), ErrNoInterface},
		{"no prefix", b.AddRoute(netip.Prefix{}, none, 0, none, 0), ErrPrefix},
		{"a blackhole without prefix", b.AddBlackhole(netip.Prefix{}), ErrPrefix},
		{"a local route without prefix", b.AddLocal(netip.Prefix{}), ErrPrefix},
		{"a neighbour without address", b.AddNeighbor(none, eth0MAC, 0), ErrPrefix},
		{"a neighbour on no interface", b.AddNeighbor(netip.MustParseAddr("10.0.1.2"), eth0MAC, -1), ErrNoInterface},
		{"a VLAN of nothing", vlan("eth9.5"), ErrVLANName},
		{"no VLAN", vlan("eth1"), ErrVLANName},
		{"VLAN 0", vlan("eth0.0"), ErrVLANName},
		{"VLAN 4095", vlan("eth0.4095"), ErrVLANName},
		{"VLAN 5000", vlan("eth0.5000"), ErrVLANName},
		{"a third tag", vlan("eth0.5.6.7"), ErrVLANName},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.stake, tt.err, tt.want)
		}
	}
	for len(b.interfaces) < maxInterfaces {
		b.AddInterface(Interface{})
	}
	if i := b.AddInterface(Interface{}); b.AddRoute(ten, none, i, none, 0) == nil {
		t.Error("a route through interface 65,536 is accepted")
	}
}

// TestLongestPrefix holds Lookup against the plain way, a walk over all
// routes, with random overlapping prefixes.
func TestLongestPrefix(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 50 {
		var b Builder
		eth0 := b.AddInterface(Interface{Name: "eth0", Up: true})
		var all []netip.Prefix
		random := func() netip.Addr {
			if r.IntN(2) == 0 {
				return netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(4)), byte(r.IntN(256))})
			}
			return netip.AddrFrom16([16]byte{0: 0xfd, 2: byte(r.IntN(4)), 9: byte(r.IntN(4)), 15: byte(r.IntN(256))})
		}
		for range r.IntN(200) {
			a := random()
			p := netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
			// The source tells the routes apart.
			src := netip.AddrFrom4([4]byte{192, 0, byte(len(all) >> 8), byte(len(all))})
			must(t, b.AddRoute(p, netip.Addr{}, eth0, src, 0))
			all = append(all, p)
		}
		table := b.Build(1)
		for range 500 {
			a := random()
			best := -1
			for i, p := range all {
				if p.Contains(a) && (best < 0 || p.Bits() > all[best].Bits()) {
					best = i
				}
			}
			dst := flow.FromNetip(a)
			h := table.Lookup(&dst)
			if best < 0 {
				if h.State != NoRoute {
					t.Fatalf("seed %d: %v is %v, want no route", seed, a, h.State)
				}
				continue
			}
			if want := flow.From4([4]byte{192, 0, byte(best >> 8), byte(best)}); h.Source != want {
				t.Fatalf("seed %d: %v takes the route with source %v, want that of %v", seed, a, h.Source, all[best])
			}
		}
	}
}

func TestStateNames(t *testing.T) {
	for s, want := range map[State]string{NoRoute: "no route", Reachable: "reachable", Unresolved: "unresolved", Local: "local", Blackhole: "blackhole", Several: "several", 99: "unknown"} {
		if got := s.String(); got != want {
			t.Errorf("State %d is %q, want %q", s, got, want)
		}
	}
}

func TestHopSize(t *testing.T) {
	if n := reflect.TypeFor[Hop]().Size(); n != 64 {
		t.Errorf("a Hop has %d bytes, want 64: one cache line", n)
	}
}

func TestNoAllocation(t *testing.T) {
	b := fabric(t)
	must(t, b.AddWays(netip.MustParsePrefix("8.0.0.0/8"), []Way{uplink(0, 1), uplink(1, 1)}, netip.Addr{}, 0))
	table := b.Build(1)
	dsts := []*flow.Addr{addr("10.0.2.254"), addr("8.8.8.8"), addr("10.0.2.13"), addr("fd00:2::11"), addr("10.0.1.1")}
	if n := testing.AllocsPerRun(100, func() {
		for _, d := range dsts {
			if table.Choose(table.Lookup(d), d, 1) == nil || table.OnLink(d) == nil || table.IsLocal(d) && table.Version == 0 {
				t.Fail()
			}
		}
	}); n != 0 {
		t.Errorf("lookups allocate %v times, want 0", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	table := network(b)
	for _, bm := range []struct{ name, dst string }{
		{"neighbour", "10.0.2.11"}, {"default", "8.8.8.8"}, {"neighbour6", "fd00:2::11"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			dst := addr(bm.dst)
			for b.Loop() {
				table.Lookup(dst)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/pkt")
		})
	}
}
