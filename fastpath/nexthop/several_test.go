package nexthop

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/lb/flow"
)

// fabric is a host with four uplinks, eth0 to eth3, whose gateways are 10.0.N.254
// and fe80::N.
func fabric(t testing.TB) *Builder {
	t.Helper()
	b := new(Builder)
	for i := range 4 {
		b.AddInterface(Interface{
			Name: fmt.Sprintf("eth%d", i), Port: i, MAC: eth0MAC, MTU: 1500 - i, Up: true,
			Addrs: prefixes(fmt.Sprintf("10.0.%d.1/24", i), fmt.Sprintf("fd00:%d::1/64", i)),
		})
		must(t, b.AddNeighbor(netip.MustParseAddr(fmt.Sprintf("10.0.%d.254", i)), routerMAC, i))
	}
	return b
}

// uplink is the way by the gateway of eth i.
func uplink(i, weight int) Way {
	return Way{Via: netip.AddrFrom4([4]byte{10, 0, byte(i), 254}), Iface: i, Weight: weight}
}

// flows are hashes of so many connections.
func flows(n int) []uint64 {
	r := rand.New(rand.NewPCG(1, 2))
	all := make([]uint64, n)
	for i := range all {
		k := flow.Key{Client: flow.From4([4]byte{198, 51, 100, byte(r.IntN(256))}), Local: flow.From4([4]byte{203, 0, 113, 10}), ClientPort: uint16(r.IntN(1 << 16)), LocalPort: 80, Proto: 6}
		all[i] = FlowHash(&k)
	}
	return all
}

// shares says how many of a number of flows to dst take each interface.
func shares(t *Table, dst string, hashes []uint64) (n [4]int) {
	h := t.Lookup(addr(dst))
	for _, f := range hashes {
		n[t.Choose(h, addr(dst), f).Iface]++
	}
	return n
}

func TestShares(t *testing.T) {
	all := netip.MustParsePrefix("0.0.0.0/0")
	hashes := flows(50_000)
	for _, row := range []struct {
		stake  string
		ways   []Way
		change func(b *Builder)
		want   [4]int // in parts of their sum
	}{
		{"equal weights", []Way{uplink(0, 1), uplink(1, 1), uplink(2, 1), uplink(3, 1)}, nil, [4]int{1, 1, 1, 1}},
		{"no weight is 1", []Way{uplink(0, 0), uplink(1, 1)}, nil, [4]int{1, 1, 0, 0}},
		{"by weight", []Way{uplink(0, 3), uplink(1, 1)}, nil, [4]int{3, 1, 0, 0}},
		{"by the largest weights", []Way{uplink(0, 65535), uplink(1, 1), uplink(2, 65535)}, nil, [4]int{1, 0, 1, 0}},
		{"by weights that do not divide the buckets", []Way{uplink(0, 7), uplink(1, 11), uplink(2, 13), uplink(3, 256)}, nil, [4]int{7, 11, 13, 256}},
		{"a link that is down: the others, by weight", []Way{uplink(0, 1), uplink(1, 5), uplink(2, 3)}, func(b *Builder) { b.interfaces[1].Up = false }, [4]int{1, 0, 3, 0}},
		{"a gateway that has failed: the others", []Way{uplink(0, 1), {Via: uplink(1, 1).Via, Iface: 1, Failed: true}}, nil, [4]int{1, 0, 0, 0}},
		{"all gateways have failed: still all", []Way{{Via: uplink(0, 1).Via, Failed: true}, {Via: uplink(1, 1).Via, Iface: 1, Failed: true}}, nil, [4]int{1, 1, 0, 0}},
		{"one that has failed, the other's link is down: better than none", []Way{uplink(0, 1), {Via: uplink(1, 1).Via, Iface: 1, Failed: true}}, func(b *Builder) { b.interfaces[0].Up = false }, [4]int{0, 1, 0, 0}},
		{"the same next hop twice counts twice", []Way{uplink(0, 1), uplink(0, 1), uplink(1, 1)}, nil, [4]int{2, 1, 0, 0}},
	} {
		b := fabric(t)
		must(t, b.AddWays(all, row.ways, netip.Addr{}, 0))
		if row.change != nil {
			row.change(b)
		}
		got, sum := shares(b.Build(1), "198.51.100.1", hashes), 0
		for _, w := range row.want {
			sum += w
		}
		for i, w := range row.want {
			// Half a percent of all flows: a thousandth by the buckets, the rest by chance.
			if diff := got[i] - len(hashes)*w/sum; diff*diff > (len(hashes)/200)*(len(hashes)/200) {
				t.Errorf("%s: %v of %d flows, want in the ratio of %v", row.stake, got, len(hashes), row.want)
				break
			}
		}
	}
}

func TestSeveralWays(t *testing.T) {
	b := fabric(t)
	server := netip.MustParseAddr("10.9.9.9")
	must(t, b.AddWays(netip.MustParsePrefix("10.9.0.0/16"), []Way{{Iface: 0}, {Iface: 1}}, netip.Addr{}, 1400)) // on-link, both
	must(t, b.AddNeighbor(server, serverMAC, 1))
	must(t, b.AddWays(netip.MustParsePrefix("10.8.0.0/16"), []Way{uplink(0, 1), uplink(1, 1)}, netip.Addr{}, 0))
	must(t, b.AddWays(netip.MustParsePrefix("10.7.0.0/16"), []Way{uplink(0, 1), uplink(1, 1)}, netip.Addr{}, 0))
	must(t, b.AddWays(netip.MustParsePrefix("2001:db8::/32"), []Way{
		{Via: netip.MustParseAddr("fe80::2%eth2"), Iface: 2}, {Via: netip.MustParseAddr("fe80::3"), Iface: 3},
	}, netip.Addr{}, 0))
	table := b.Build(1)
	for _, row := range []struct {
		stake, dst string
		want       [2]string
	}{
		{"on-link by two: the neighbour where it is known, asked for where not", "10.9.9.9", [2]string{"eth0 unresolved 10.9.9.9 mtu 1400", "eth1 reachable 10.9.9.9 mtu 1400"}},
		{"gateways, with their links' MTUs and sources", "10.8.1.1", [2]string{"eth0 reachable 10.0.0.254 mtu 1500", "eth1 reachable 10.0.1.254 mtu 1499"}},
		{"IPv6, by link-local gateways", "2001:db8::1", [2]string{"eth2 unresolved fe80::2 mtu 1498", "eth3 unresolved fe80::3 mtu 1497"}},
	} {
		dst := addr(row.dst)
		h := table.Lookup(dst)
		if h.State != Several {
			t.Errorf("%s: %v, want several", row.stake, h.State)
			continue
		}
		said := func(h *Hop) string {
			return fmt.Sprintf("%s %v %v mtu %d", table.Interfaces[h.Iface].Name, h.State, h.Neighbor(dst), h.MTU)
		}
		var ways []string
		for _, w := range table.Ways(h, dst) {
			ways = append(ways, said(w))
		}
		chosen := map[string]bool{}
		for _, f := range flows(100) {
			w := table.Choose(h, dst, f)
			if again := table.Choose(h, dst, f); again != w {
				t.Errorf("%s: a flow goes two ways", row.stake)
			}
			chosen[said(w)] = true
		}
		if !slices.Equal(ways, row.want[:]) || len(chosen) != 2 || !chosen[row.want[0]] || !chosen[row.want[1]] {
			t.Errorf("%s: ways %q, chosen %v, want %q", row.stake, ways, chosen, row.want)
		}
	}
	if table.Lookup(addr("10.8.1.1")) != table.Lookup(addr("10.7.1.1")) || len(table.groups) != 3 {
		t.Errorf("%d groups: routes with the same next hops have one each", len(table.groups))
	}
	one := table.Lookup(addr("10.0.0.254"))
	if table.Choose(one, addr("10.0.0.254"), 1) != one || !slices.Equal(table.Ways(one, addr("10.0.0.254")), []*Hop{one}) {
		t.Error("a route with one next hop has others")
	}
}

// When a way comes or goes, its own flows move, and few of the others'.
func TestFewFlowsMove(t *testing.T) {
	table := func(ways ...Way) *Table {
		b := fabric(t)
		must(t, b.AddWays(netip.MustParsePrefix("0.0.0.0/0"), ways, netip.Addr{}, 0))
		return b.Build(1)
	}
	before := table(uplink(0, 1), uplink(1, 1), uplink(2, 1), uplink(3, 1))
	after := table(uplink(3, 1), uplink(0, 1), uplink(2, 1)) // in another order, too
	dst, moved, stay := addr("198.51.100.1"), 0, 0
	for _, f := range flows(20_000) {
		was, is := before.Choose(before.Lookup(dst), dst, f).Iface, after.Choose(after.Lookup(dst), dst, f).Iface
		if was == 1 {
			continue
		}
		if stay++; was != is {
			moved++
		}
	}
	if moved > stay/10 {
		t.Errorf("%d of %d flows moved from a way that stayed, want a tenth at most", moved, stay)
	}
}

func TestAddWaysRefuses(t *testing.T) {
	b := fabric(t)
	ten := netip.MustParsePrefix("10.0.0.0/8")
	var many []Way
	for i := range maxWays + 1 {
		many = append(many, Way{Via: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Iface: 0})
	}
	for _, row := range []struct {
		stake string
		ways  []Way
		want  error
	}{
		{"none: nothing is added", nil, nil},
		{"an interface that is not there", []Way{uplink(0, 1), {Iface: 9}}, ErrNoInterface},
		{"a gateway that is nowhere", []Way{uplink(0, 1), {Via: netip.MustParseAddr("192.0.2.1"), Iface: AnyInterface}}, ErrGateway},
	} {
		if err := b.AddWays(ten, row.ways, netip.Addr{}, 0); !errors.Is(err, row.want) || len(b.routes) != 0 {
			t.Errorf("%s: %v with %d routes, want %v and none", row.stake, err, len(b.routes), row.want)
		}
	}
	if err := b.AddWays(ten, many, netip.Addr{}, 0); !errors.Is(err, ErrWays) {
		t.Errorf("%d ways: %v, want %v", len(many), err, ErrWays)
	}
	table := b.Build(1)
	if n := len(table.Ways(table.Lookup(addr("10.9.9.9")), addr("10.9.9.9"))); n != maxWays {
		t.Errorf("of too many ways %d are used, want %d", n, maxWays)
	}
}

func BenchmarkChoose(b *testing.B) {
	f := fabric(b)
	must(b, f.AddWays(netip.MustParsePrefix("0.0.0.0/0"), []Way{uplink(0, 3), uplink(1, 1)}, netip.Addr{}, 0))
	table, dst, k := f.Build(1), addr("198.51.100.1"), flow.Key{Client: *addr("198.51.100.1")}
	h := table.Lookup(dst)
	for b.Loop() {
		k.ClientPort++
		table.Choose(h, dst, FlowHash(&k))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/pkt")
}
