package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// behindRouter is routed, with a router between the client and the director:
//
//	client 10.0.0.10 ── 10.0.0.1 router 10.0.1.254 ── 10.0.1.1 director 10.0.2.1 ── 10.0.2.11 server1
func behindRouter() testnet.Plan {
	p := routed(1)
	p.Links = []testnet.Link{
		{
			A: testnet.End{In: "client", Name: "eth0", Addrs: []string{"10.0.0.10/24", "fd00::10/64"}},
			B: testnet.End{In: "router", Name: "eth0", Addrs: []string{"10.0.0.1/24", "fd00::1/64"}},
		},
		{
			A: testnet.End{In: "router", Name: "eth1", Addrs: []string{"10.0.1.254/24", "fd00:1::254/64"}},
			B: testnet.End{In: "director", Name: "eth0", MAC: directorMAC0, Addrs: []string{"10.0.1.1/24", "fd00:1::1/64"}},
		},
	}
	p.Routes = slices.DeleteFunc(p.Routes, func(r testnet.Route) bool { return r.In == "client" })
	for _, way := range []struct{ client, router, director string }{{"10.0.0.1", "10.0.1.254", "10.0.1.1"}, {"fd00::1", "fd00:1::254", "fd00:1::1"}} {
		p.Routes = append(p.Routes,
			testnet.Route{In: "client", To: "default", Via: way.client},
			testnet.Route{In: "router", To: "default", Via: way.director},
			testnet.Route{In: "director", To: "default", Via: way.router})
	}
	p.Sysctls = append(p.Sysctls,
		testnet.Sysctl{In: "router", Key: "net.ipv4.ip_forward", Value: "1"},
		testnet.Sysctl{In: "router", Key: "net.ipv6.conf.all.forwarding", Value: "1"})
	return p
}

// hop is a line of traceroute's.
var hop = regexp.MustCompile(`(?m)^ *\d+ +(\S+)`)

// traceroute runs it from the client, one probe at a time and a hop, and returns what it
// printed and the hops' addresses.
func traceroute(t *testing.T, n *testnet.Network, address, args string) (out string, hops []string) {
	t.Helper()
	all := append([]string{"-n", "-q", "1", "-N", "1", "-w", "3", "-m", "4"}, strings.Fields(args)...)
	out, err := n.In("client").Run("traceroute", append(all, address)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range hop.FindAllStringSubmatch(out, -1) {
		hops = append(hops, line[1])
	}
	return out, hops
}

// Traceroute by UDP, ICMP and TCP ends at the VIP, and the director is a hop
// that shows itself as the VIP, as kernel IPVS does (K-PATH-8). To echo
// requests the director is the end of the way. Its counters tell each probe.
func TestTraceroute(t *testing.T) {
	needTool(t, "traceroute", "traceroute")
	const config = `services:
  - {protocol: udp, address: 203.0.113.10, port: 80, scheduler: rr, forward: nat, servers: [{address: 10.0.2.11, port: 8080}]}
  - {protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, forward: nat, servers: [{address: 10.0.2.11, port: 8080}]}
  - {protocol: udp, address: 203.0.113.30, port: 80, scheduler: rr, forward: tun, servers: [{address: 10.0.2.11}]}
  - {protocol: tcp, address: 203.0.113.30, port: 80, scheduler: rr, forward: tun, servers: [{address: 10.0.2.11}]}
  - {protocol: udp, address: "2001:db8::10", port: 80, scheduler: rr, forward: nat, servers: [{address: "fd00:2::11", port: 8080}]}
  - {protocol: tcp, address: "2001:db8::10", port: 80, scheduler: rr, forward: nat, servers: [{address: "fd00:2::11", port: 8080}]}
  - {protocol: udp, address: "2001:db8::30", port: 80, scheduler: rr, forward: tun, servers: [{address: "fd00:2::11"}]}
  - {protocol: tcp, address: "2001:db8::30", port: 80, scheduler: rr, forward: tun, servers: [{address: "fd00:2::11"}]}
`
	plan := behindRouter()
	plan.VIPs = []testnet.VIP{{In: server(0), Addr: "203.0.113.30"}, {In: server(0), Addr: "2001:db8::30"}}
	n := testnet.New(t, plan)
	if _, err := n.Decapsulate(server(0)); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{":80", ":8080"} {
		echoTCP(t, n.In(server(0)), port) // none of UDP: the server's port unreachable is the end
	}
	d := start(t, n, config)
	for _, vip := range []struct{ method, address, router string }{
		{"NAT", "203.0.113.10", "10.0.0.1"},
		{"TUN", "203.0.113.30", "10.0.0.1"},
		{"NAT v6", "2001:db8::10", "fd00::1"},
		{"TUN v6", "2001:db8::30", "fd00::1"},
	} {
		for _, by := range []struct {
			protocol, args      string
			hops                []string
			exceeded, conns, me uint64 // probes that died at the director, that began a connection, that it answered itself
		}{
			{"UDP", "-U -p 80", []string{vip.router, vip.address, vip.address}, 1, 2, 0},
			{"ICMP", "-I", []string{vip.router, vip.address}, 0, 0, 1},
			{"TCP", "-T -p 80", []string{vip.router, vip.address, vip.address}, 1, 2, 0},
		} {
			// A traceroute now and then does not see any answer of TCP's that
			// its host has received: another one does.
			var before control.AllStats
			var hops []string
			var out string
			for try := 0; try < 5 && !slices.Equal(hops, by.hops); try++ {
				before = d.quiet()
				out, hops = traceroute(t, n, vip.address, by.args)
			}
			if !slices.Equal(hops, by.hops) {
				t.Errorf("%s by %s: hops %v, want %v:\n%s", vip.method, by.protocol, hops, by.hops, out)
			}
			now := d.quiet()
			since := func(reason string) uint64 { return now.Totals.Dropped[reason] - before.Totals.Dropped[reason] }
			if conns := now.Sum.Conns - before.Sum.Conns; since("ttl_exceeded") != by.exceeded || since("echo") != by.me || conns != by.conns {
				t.Errorf("%s by %s: %d exceeded their TTL, %d began connections, %d echoes were answered; want %d, %d, %d; %s",
					vip.method, by.protocol, since("ttl_exceeded"), conns, since("echo"), by.exceeded, by.conns, by.me, d.counters())
			}
			if sent := now.SlowPath.Errors["sent"] - before.SlowPath.Errors["sent"]; sent != by.exceeded+by.me {
				t.Errorf("%s by %s: %d messages of the director's own, want %d", vip.method, by.protocol, sent, by.exceeded+by.me)
			}
		}
	}
}
