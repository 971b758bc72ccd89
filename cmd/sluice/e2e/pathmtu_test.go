package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// narrow is a line of routers with a link in the middle of each side:
//
//	client ─ router1 ═ router2 ─ director ─ router3 ═ router4 ─ server1
//	  10.9.1.10   10.9.2  10.0.1.1   10.0.2.1   10.9.3    10.9.4.11
//
// The double ones have the MTUs given, all others 1500. In IPv6 the same with
// fd00:91:: for 10.9.1, and so on. VIPs lead to the director.
func narrow(clients, servers int) testnet.Plan {
	type end struct{ in, net, host string }
	var p testnet.Plan
	link := func(a, b end, mtu int) {
		ends := [2]testnet.End{}
		for i, e := range []end{a, b} {
			dev := "eth0"
			if i == 0 && e.in != "client" {
				dev = "eth1"
			}
			v6 := "fd00:" + strings.TrimPrefix(strings.ReplaceAll(e.net, ".", ""), "10")
			ends[i] = testnet.End{In: e.in, Name: dev, MTU: mtu, Addrs: []string{e.net + "." + e.host + "/24", v6 + "::" + e.host + "/64"}}
		}
		p.Links = append(p.Links, testnet.Link{A: ends[0], B: ends[1]})
	}
	link(end{"client", "10.9.1", "10"}, end{"router1", "10.9.1", "1"}, 0)
	link(end{"router1", "10.9.2", "1"}, end{"router2", "10.9.2", "2"}, clients)
	link(end{"router2", "10.0.1", "254"}, end{"director", "10.0.1", "1"}, 0)
	link(end{"director", "10.0.2", "1"}, end{"router3", "10.0.2", "254"}, 0)
	link(end{"router3", "10.9.3", "1"}, end{"router4", "10.9.3", "2"}, servers)
	link(end{"router4", "10.9.4", "1"}, end{"server1", "10.9.4", "11"}, 0)
	for _, r := range []struct{ in, to, via string }{
		{"client", "default", "10.9.1.1"},
		{"router1", "default", "10.9.2.2"},
		{"router2", "default", "10.0.1.1"},
		{"router2", "10.9.1", "10.9.2.1"},
		{"director", "10.9.1", "10.0.1.254"},
		{"director", "10.9.4", "10.0.2.254"},
		{"router3", "default", "10.0.2.1"},
		{"router3", "10.9.4", "10.9.3.2"},
		{"router4", "default", "10.9.3.1"},
		{"server1", "default", "10.9.4.1"},
	} {
		six := func(net string) string { return "fd00:" + strings.TrimPrefix(strings.ReplaceAll(net, ".", ""), "10") }
		i := strings.LastIndexByte(r.via, '.')
		to4, to6 := r.to, r.to
		if r.to != "default" {
			to4, to6 = r.to+".0/24", six(r.to)+"::/64"
		}
		p.Routes = append(p.Routes, testnet.Route{In: r.in, To: to4, Via: r.via}, testnet.Route{In: r.in, To: to6, Via: six(r.via[:i]) + "::" + r.via[i+1:]})
	}
	for _, in := range []string{"router1", "router2", "director", "router3", "router4"} {
		p.Sysctls = append(p.Sysctls,
			testnet.Sysctl{In: in, Key: "net.ipv4.ip_forward", Value: "1"},
			testnet.Sysctl{In: in, Key: "net.ipv6.conf.all.forwarding", Value: "1"})
	}
	return p
}

// tunnels is a service for each family in each, by tunnel to server1.
var tunnels = []struct{ what, vip, server string }{
	{"v4 in v4", "203.0.113.30", "10.9.4.11"},
	{"v6 in v6", "2001:db8::30", "fd00:94::11"},
	{"v4 in v6", "203.0.113.40", "fd00:94::11"},
	{"v6 in v4", "2001:db8::40", "10.9.4.11"},
}

// client is the client's address in the family of a VIP.
func client(vip string) string {
	if strings.Contains(vip, ":") {
		return "fd00:91::10"
	}
	return "10.9.1.10"
}

// tunnelServices is the services section of these.
func tunnelServices() string {
	config := "services:\n"
	for _, s := range tunnels {
		config += fmt.Sprintf("  - {protocol: tcp, address: %q, port: 80, scheduler: rr, forward: tun, servers: [{address: %q}]}\n", s.vip, s.server)
	}
	return config
}

// tunnelled is a director with these services, and its network, in which server1
// echoes what it is sent.
func tunnelled(t *testing.T, clients, servers int) (*testnet.Network, *director) {
	t.Helper()
	plan := narrow(clients, servers)
	for _, s := range tunnels {
		plan.VIPs = append(plan.VIPs, testnet.VIP{In: "server1", Addr: s.vip})
	}
	n := testnet.New(t, plan)
	if _, err := n.Decapsulate("server1"); err != nil {
		t.Fatal(err)
	}
	serveWeb(t, n.In("server1"), ":80")
	return n, start(t, n, tunnelServices())
}

// routeMTU is the MTU of a namespace's way to an address, as it knows it; 0: that of
// the interface.
func routeMTU(t *testing.T, s *testnet.Namespace, to string) int {
	t.Helper()
	routes, err := s.Netlink().RouteGet(net.ParseIP(to))
	if err != nil || len(routes) == 0 {
		t.Fatalf("route to %s: %d, %v", to, len(routes), err)
	}
	return routes[0].MTU
}

// mtus are the MTUs that ICMP errors told a namespace's eth0 meanwhile, each
// once, in their order.
func mtus(t *testing.T, s *testnet.Namespace, meanwhile func()) (told []string) {
	t.Helper()
	raw := openRaw(t, s, "eth0")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			f, err := raw.Receive(100 * time.Millisecond)
			if err == nil {
				if m := tooBig.FindStringSubmatch(packettest.Describe(f.Bytes)); m != nil && !slices.Contains(told, m[1]) {
					told = append(told, m[1])
				}
				continue
			}
			select {
			case <-stop:
				return
			default:
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
		}
	}()
	meanwhile()
	close(stop)
	<-done
	return told
}

var tooBig = regexp.MustCompile(`ICMP\((?:1\) type=3 code=4|58\) type=2 code=0) rest=0x0000([0-9a-f]{4}) csum=ok`)

// TCP from a server through a link of 1280 bytes between the director and the
// client, with nothing but path MTU discovery: the errors of the router before the link
// go to the VIP, by the director through the tunnel to the server, which learns.
func TestNarrowToClient(t *testing.T) {
	n, d := tunnelled(t, 1280, 0)
	b := newBrowser(n.In("client"), 3*patience)
	for i, s := range tunnels {
		t.Run(s.what, func(t *testing.T) {
			if _, err := b.post(netip.AddrPortFrom(netip.MustParseAddr(s.vip), 80).String(), noise(uint64(i), 300_000)); err != nil {
				t.Fatal(err)
			}
			if got := routeMTU(t, n.In("server1"), client(s.vip)); got != 1280 {
				t.Errorf("the server's way to the client has MTU %d, want the 1280 that it was told", got)
			}
			if errors := d.status().Interfaces[0].XDP["icmp"]; errors == 0 {
				t.Error("no ICMP error came by the clients' interface")
			}
			if s := d.services()[i]; s.Servers[0].PathMTU != 0 {
				t.Errorf("a path MTU of %d to the server was learnt from errors about the way to the client", s.Servers[0].PathMTU)
			}
		})
	}
}

// TCP to a server through a link between director and server that is narrower
// than anybody knows: the errors about the tunnel's packets become errors to
// the client, with an MTU less by the tunnel's header, and the node learns.
func TestNarrowToServer(t *testing.T) {
	for _, row := range []struct {
		service int
		mtu     int
		told    []string // to the client, in the order of their first time
		learnt  uint16
	}{
		// Of IPv4 the first error tells of what was before, as Linux has it.
		{0, 1280, []string{"05c8", "04ec"}, 1280}, // 1480, then 1260
		{1, 1400, []string{"05b4", "0550"}, 1400}, // 1460, then 1360
		{2, 1280, []string{"05b4", "04d8"}, 1280}, // 1460, then 1240
		{1, 1280, []string{"05b4", "0500"}, 1280}, // 1460, then 1280: of less IPv6 knows nothing, and the tunnel's packets are fragmented
		{3, 1280, []string{"05c8"}, 0},            // 1480; the outer packet, without DF, is fragmented on the way
	} {
		s := tunnels[row.service]
		t.Run(fmt.Sprintf("%s, %d", s.what, row.mtu), func(t *testing.T) {
			t.Parallel()
			n, d := tunnelled(t, 0, row.mtu)
			b := newBrowser(n.In("client"), 3*patience)
			told := mtus(t, n.In("client"), func() {
				for i := range 3 {
					if _, err := b.post(netip.AddrPortFrom(netip.MustParseAddr(s.vip), 80).String(), noise(uint64(i), 300_000)); err != nil {
						t.Fatalf("request %d: %v", i, err)
					}
				}
			})
			if !slices.Equal(told, row.told) {
				t.Errorf("the client was told the MTUs %v, want %v", told, row.told)
			}
			service := d.services()[row.service]
			if got := service.Servers[0].PathMTU; got != row.learnt {
				t.Errorf("learnt is a path MTU of %d, want %d", got, row.learnt)
			}
			all := d.quiet()
			errors := all.Totals.Dropped["tunnel_error"]
			if answered := all.SlowPath.Packets["tunnel_error"]["answered"]; errors != answered || (errors > 0) != (row.learnt > 0) {
				t.Errorf("%d errors about the tunnel, %d answered; learnt %d", errors, answered, row.learnt)
			}
			// The answers meet the same link: router4's errors about them, to the VIP, came this way too.
			if came := d.status().Interfaces[1].XDP["icmp"]; came <= errors {
				t.Errorf("%d ICMP errors came by the servers' interface, %d were about the tunnel; none about answers", came, errors)
			}
			if got := routeMTU(t, n.In("server1"), client(s.vip)); got != row.mtu {
				t.Errorf("the server's way to the client has MTU %d, want %d", got, row.mtu)
			}
			if too := all.Totals.Dropped["too_big"]; too == 0 || too != all.SlowPath.Packets["too_big"]["answered"] {
				t.Errorf("%d packets were too big, %d answered", too, all.SlowPath.Packets["too_big"]["answered"])
			}
			if sent := all.SlowPath.Errors["sent"]; sent != errors+all.Totals.Dropped["too_big"] {
				t.Errorf("%d errors sent, want those about %d packets in the tunnel and %d before it", sent, errors, all.Totals.Dropped["too_big"])
			}
			if service.Stats.Conns != 3 || service.Stats.InPackets == 0 {
				t.Errorf("counted %+v, want 3 connections", service.Stats)
			}
			d.configure(strings.ReplaceAll(tunnelServices(), "scheduler: rr", "scheduler: wrr"))
			if answer[control.Reload](d, "reload"); d.services()[row.service].Servers[0].PathMTU != row.learnt {
				t.Error("a reload forgot what was learnt")
			}
		})
	}
}

// With segments bounded, by NAT in both directions, nobody on a narrow way has to
// be told of it.
func TestBoundedSegments(t *testing.T) {
	n := testnet.New(t, narrow(1280, 1280))
	serveWeb(t, n.In("server1"), ":80")
	d := start(t, n, `services:
  - {protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, mss: 1240, servers: [{address: 10.9.4.11}]}
  - {protocol: tcp, address: "2001:db8::10", port: 80, scheduler: rr, mss: 1220, servers: [{address: "fd00:94::11"}]}
`)
	b := newBrowser(n.In("client"), patience)
	for _, vip := range []string{"203.0.113.10", "2001:db8::10"} {
		told := mtus(t, n.In("client"), func() {
			if _, err := b.post(netip.AddrPortFrom(netip.MustParseAddr(vip), 80).String(), noise(1, 300_000)); err != nil {
				t.Fatal(err)
			}
		})
		if mtu := routeMTU(t, n.In("server1"), client(vip)); len(told) > 0 || mtu != 0 {
			t.Errorf("%s: the client was told the MTUs %v, the server %d, want neither", vip, told, mtu)
		}
	}
	if s := d.services()[0]; s.MSS != "1240" {
		t.Errorf("the service shows MSS %q, want 1240", s.MSS)
	}
}
