package main

import (
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

// What was learnt of the path to a server goes with its next hop, and with nothing
// less.
func TestRerouted(t *testing.T) {
	const server = "198.51.100.11"
	addr := netip.MustParseAddr
	type way struct {
		via  string
		up   bool // of its interface
		mtu  int
		mac  bool // the gateway's is known
		many bool // a second gateway
	}
	table := func(version uint64, w way, others ...string) *nexthop.Table {
		var b nexthop.Builder
		for i, name := range append(others, "eth0", "eth1") {
			subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(len(others) + 9 - i), 1}), 24)
			b.AddInterface(nexthop.Interface{Name: name, Up: w.up || name != "eth1", MTU: w.mtu, Addrs: []netip.Prefix{subnet}})
		}
		iface := len(others) + 1 // eth1, which has 10.0.8.0/24
		to := netip.MustParsePrefix("198.51.100.0/24")
		var err error
		if w.many {
			err = b.AddWays(to, []nexthop.Way{{Via: addr(w.via), Iface: iface}, {Via: addr("10.0.8.253"), Iface: iface}}, netip.Addr{}, 0)
		} else {
			err = b.AddRoute(to, addr(w.via), iface, netip.Addr{}, 0)
		}
		if err == nil && w.mac {
			err = b.AddNeighbor(addr(w.via), [6]byte{2}, iface)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Build(version)
	}
	usual := way{via: "10.0.8.254", up: true}
	for _, row := range []struct {
		stake     string
		was, is   way
		others    []string // interfaces that are new
		forgotten bool
	}{
		{"nothing new", usual, usual, nil, false},
		{"the gateway's MAC becomes known", usual, way{via: "10.0.8.254", up: true, mac: true}, nil, false},
		{"another MTU of the link", usual, way{via: "10.0.8.254", up: true, mtu: 1400}, nil, false},
		{"an interface more, so that numbers move", usual, usual, []string{"eth9"}, false},
		{"another gateway", usual, way{via: "10.0.8.1", up: true}, nil, true},
		{"a second gateway", usual, way{via: "10.0.8.254", up: true, many: true}, nil, true},
		{"two, as before", way{via: "10.0.8.254", up: true, many: true}, way{via: "10.0.8.254", up: true, many: true}, nil, false},
		{"its link went down", usual, way{via: "10.0.8.254"}, nil, true},
	} {
		d := lb.NewDirector(1)
		if err := d.AddService(lb.ServiceSpec{
			Key:     lb.ServiceKey{Proto: lb.ProtoTCP, Addr: addr("203.0.113.10"), Port: 80},
			Servers: []lb.RealSpec{{Key: lb.RealKey{Addr: addr(server), Port: 80}, Forward: lb.TUN}, {Key: lb.RealKey{Addr: addr("198.51.100.12"), Port: 80}, Forward: lb.TUN}},
		}); err != nil {
			t.Fatal(err)
		}
		d.Paths(func(a flow.Addr, p *lb.Path) {
			if a.Netip() == addr(server) { // of the other nothing is known
				p.Learn(3, 4, 1300, 1500, true, 4, 1000)
			}
		})
		n := rerouted(d, table(1, row.was), table(2, row.is, row.others...), 2000)
		left := d.Current().Reals[0].Path.At(2000)
		if (n == 1) != row.forgotten || n > 1 || (left == 0) != row.forgotten {
			t.Errorf("%s: %d forgotten, %d is known, want forgotten %t", row.stake, n, left, row.forgotten)
		}
	}
}
