// Package pathtest is the small network in which tests of the packet's way
// take place, and virtual services in words.
//
// Its values are made anew for each test, which owns them.
package pathtest

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
)

// The network of the tests: clients on port 0, servers on port 1.
const (
	ClientMAC = "02:00:00:00:01:0a"
	FrontMAC  = "02:00:00:00:00:01"
	BackMAC   = "02:00:00:00:00:02"
	ServerMAC = "02:00:00:00:02:0b"
	Client    = "10.0.1.10"
	VIP       = "10.0.1.100"
	Client6   = "fd00:1::10"
	VIP6      = "fd00:1::100"
)

// Routes returns the tests' next-hop table: servers .11 to .13 are known
// neighbours, .14 is not; clients beyond 172.16/12 come by a gateway.
func Routes(t testing.TB) *nexthop.Table {
	t.Helper()
	var b nexthop.Builder
	b.AddInterface(nexthop.Interface{Name: "eth0", Port: 0, MAC: mac(FrontMAC), MTU: 1500, Up: true, Addrs: prefixes("10.0.1.1/24", "fd00:1::1/64")})
	b.AddInterface(nexthop.Interface{Name: "eth1", Port: 1, MAC: mac(BackMAC), MTU: 1500, Up: true, Addrs: prefixes("10.0.2.1/24", "fd00:2::1/64")})
	add := func(iface int, addr, m string) {
		if err := b.AddNeighbor(netip.MustParseAddr(addr), mac(m), iface); err != nil {
			t.Fatal(err)
		}
	}
	add(0, Client, ClientMAC)
	add(0, Client6, ClientMAC)
	add(0, "10.0.1.254", "02:00:00:00:01:fe")
	for i := 11; i <= 13; i++ {
		m := fmt.Sprintf("02:00:00:00:02:%02x", i)
		add(1, fmt.Sprintf("10.0.2.%d", i), m)
		add(1, fmt.Sprintf("fd00:2::%d", i), m)
	}
	if err := b.AddRoute(netip.MustParsePrefix("172.16.0.0/12"), netip.MustParseAddr("10.0.1.254"), 0, netip.Addr{}, 0); err != nil {
		t.Fatal(err)
	}
	return b.Build(1)
}

func mac(s string) (m [6]byte) {
	var parts [6]int
	if _, err := fmt.Sscanf(s, "%x:%x:%x:%x:%x:%x", &parts[0], &parts[1], &parts[2], &parts[3], &parts[4], &parts[5]); err != nil {
		panic(err) // a mistake in a test's text
	}
	for i, p := range parts {
		m[i] = byte(p)
	}
	return m
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Service returns a virtual service in words: "tcp 10.0.1.100:80 rr", then its
// servers in the order of their addition: "nat 10.0.2.11:8080 1".
func Service(text string, servers ...string) lb.ServiceSpec {
	var proto, at, scheduler string
	scan(text, &proto, &at, &scheduler)
	ap := netip.MustParseAddrPort(at)
	s := lb.ServiceSpec{Key: lb.ServiceKey{Proto: map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}[proto], Addr: ap.Addr(), Port: ap.Port()}, Scheduler: scheduler}
	for _, text := range servers {
		var method, at string
		var weight int32
		scan(text, &method, &at, &weight)
		ap := netip.MustParseAddrPort(at)
		s.Servers = append(s.Servers, lb.RealSpec{
			Key:     lb.RealKey{Addr: ap.Addr(), Port: ap.Port()},
			Forward: map[string]lb.Forward{"nat": lb.NAT, "dr": lb.DR, "tun": lb.TUN}[method], Weight: weight,
		})
	}
	return s
}

// FromClient is a frame from the client's side, and FromServer one from the
// servers'.
func FromClient() packettest.Packet { return packettest.Eth(FrontMAC, ClientMAC) }

// FromServer is a frame from the servers' side.
func FromServer() packettest.Packet { return packettest.Eth(BackMAC, ServerMAC) }

// scan reads words into variables. It panics on others: that is a mistake in a
// test's text.
func scan(text string, to ...any) {
	if _, err := fmt.Sscan(text, to...); err != nil {
		panic(fmt.Sprintf("pathtest: %q: %v", text, err))
	}
}
