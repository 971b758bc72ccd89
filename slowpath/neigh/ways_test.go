package neigh

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// ipIn runs commands of ip(8) in a namespace: one a line.
func ipIn(t *testing.T, s *testnet.Namespace, lines string) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip (iproute2) is not installed; TestRoutes covers what the kernel says of such routes")
	}
	for line := range strings.Lines(lines) {
		if args := strings.Fields(line); len(args) > 0 {
			if out, err := s.Run("ip", args...); err != nil {
				t.Fatalf("ip %s: %v: %s", strings.TrimSpace(line), err, out)
			}
		}
	}
}

// Routes with several next hops, as ip-route(8) and ip-nexthop(8) make them, in both
// families, and what becomes of them.
func TestWays(t *testing.T) {
	for _, row := range []struct{ stake, make, dst, want, change, after string }{
		{"next hops of a route, its link goes down: the other", "route add 10.9.0.0/16 nexthop via 10.0.1.254 weight 4 nexthop via 10.0.2.254", "10.9.1.1", "eth0 0.8, eth1 0.2", "link set eth0 down", "eth1 1.0"},
		{"another weight", "route add 10.9.0.0/16 nexthop via 10.0.1.254 nexthop via 10.0.2.254", "10.9.1.1", "eth0 0.5, eth1 0.5", "route replace 10.9.0.0/16 nexthop via 10.0.1.254 nexthop via 10.0.2.254 weight 9", "eth0 0.1, eth1 0.9"},
		{"a route with one instead", "route add 10.9.0.0/16 nexthop via 10.0.1.254 nexthop via 10.0.2.254", "10.9.1.1", "eth0 0.5, eth1 0.5", "route replace 10.9.0.0/16 via 10.0.2.254", "eth1 1.0"},
		{"all links down: the next metric", "route add 10.9.0.0/16 metric 9 via 192.168.0.2\nroute add 10.9.0.0/16 nexthop via 10.0.1.254 nexthop via 10.0.2.254", "10.9.1.1", "eth0 0.5, eth1 0.5", "link set eth0 down\nlink set eth1 down", "mgmt0 1.0"},
		{"by interfaces alone", "route add 10.9.0.0/16 nexthop dev eth0 nexthop dev eth1 weight 3", "10.9.1.1", "eth0 0.2, eth1 0.8", "route del 10.9.0.0/16", "eth0 1.0"},
		{"by gateways of IPv6 (RFC 5549)", "route add 10.9.0.0/16 nexthop via inet6 fd00:1::fe dev eth0 nexthop via 10.0.2.254", "10.9.1.1", "eth0 0.5, eth1 0.5", "link set eth1 down", "eth0 1.0"},
		{"IPv6, by link-local gateways", "-6 route add 2001:db8::/32 nexthop via fe80::fe dev eth0 weight 4 nexthop via fe80::fe dev eth1", "2001:db8::1", "eth0 0.8, eth1 0.2", "link set eth0 down", "eth1 1.0"},
		{"IPv6, another one appended", "-6 route add 2001:db8::/32 via fe80::fe dev eth0", "2001:db8::1", "eth0 1.0", "-6 route append 2001:db8::/32 via fe80::fe dev eth1", "eth0 0.5, eth1 0.5"},
		{"a nexthop object that moves", "nexthop add id 1 via 10.0.1.254 dev eth0\nroute add 10.9.0.0/16 nhid 1", "10.9.1.1", "eth0 1.0", "nexthop replace id 1 via 10.0.2.254 dev eth1", "eth1 1.0"},
		{"a group of objects, another weight", "nexthop add id 1 via 10.0.1.254 dev eth0\nnexthop add id 2 via 10.0.2.254 dev eth1\nnexthop add id 3 group 1,4/2\nroute add 10.9.0.0/16 nhid 3", "10.9.1.1", "eth0 0.8, eth1 0.2", "nexthop replace id 3 group 1/2,9", "eth0 0.1, eth1 0.9"},
		{"a resilient group, its object goes with the link", "nexthop add id 1 via 10.0.1.254 dev eth0\nnexthop add id 2 via 10.0.2.254 dev eth1\nnexthop add id 3 group 1/2 type resilient buckets 32\nroute add 10.9.0.0/16 nhid 3", "10.9.1.1", "eth0 0.5, eth1 0.5", "link set eth1 down", "eth0 1.0"},
		{"a group of IPv6", "nexthop add id 1 via fe80::fe dev eth0\nnexthop add id 2 via fe80::fe dev eth1\nnexthop add id 3 group 1/2,4\n-6 route add 2001:db8::/32 nhid 3", "2001:db8::1", "eth0 0.2, eth1 0.8", "nexthop del id 2", "eth0 1.0"},
		{"objects that routes are not told of (nexthop_compat_mode 0)", "compat 0\nnexthop add id 1 via 10.0.1.254 dev eth0\nnexthop add id 2 via 10.0.2.254 dev eth1\nnexthop add id 3 group 1,4/2\nroute add 10.9.0.0/16 nhid 3", "10.9.1.1", "eth0 0.8, eth1 0.2", "nexthop replace id 3 group 1/2,9", "eth0 0.1, eth1 0.9"},
	} {
		t.Run(row.stake, func(t *testing.T) {
			t.Parallel()
			n := testnet.New(t, plan())
			director := n.In("director")
			if rest, ok := strings.CutPrefix(row.make, "compat 0\n"); ok {
				row.make = rest
				if err := director.Sysctl("net.ipv4.nexthop_compat_mode", "0"); err != nil {
					t.Skip("this kernel has no nexthop_compat_mode (Linux 5.5)", err)
				}
			}
			ipIn(t, director, "route add default via 10.0.1.254\n-6 route add default via fe80::fe dev eth0")
			w := watch(t, n, Config{})
			goes := func() string { return ways(w.Table(), row.dst) }
			ipIn(t, director, row.make)
			until(t, row.make, goes, row.want)
			ipIn(t, director, row.change)
			until(t, row.change, goes, row.after)
		})
	}
}

// A gateway that does not answer any more is left out, as with Linux's
// fib_multipath_use_neigh, and is back when it answers.
func TestGatewayFails(t *testing.T) {
	n := testnet.New(t, plan())
	director := n.In("director")
	for _, dev := range []string{"eth0", "eth1"} {
		for key, value := range map[string]string{
			"base_reachable_time_ms": "100", "delay_first_probe_time": "0", "retrans_time_ms": "50", "ucast_solicit": "1", "mcast_solicit": "2",
		} {
			must(t, director.Sysctl("net.ipv4.neigh."+dev+"."+key, value))
		}
	}
	must(t, n.In("server").AddAddr("eth0", "10.0.2.254/24"))
	must(t, n.In("client").AddAddr("eth0", "10.0.1.254/24"))
	ipIn(t, director, "route add 10.9.0.0/16 nexthop via 10.0.1.254 nexthop via 10.0.2.254")
	w := watch(t, n, Config{Refresh: 20 * time.Millisecond})
	goes := func() string { return ways(w.Table(), "10.9.1.1") }
	until(t, "both answer", goes, "eth0 0.5, eth1 0.5")
	ipIn(t, n.In("server"), "addr del 10.0.2.254/24 dev eth0")
	until(t, "one is gone", goes, "eth0 1.0")
	ipIn(t, n.In("client"), "addr del 10.0.1.254/24 dev eth0")
	until(t, "both are gone: there is nothing better", goes, "eth0 0.5, eth1 0.5")
	must(t, n.In("server").AddAddr("eth0", "10.0.2.254/24"))
	until(t, "one is back", goes, "eth1 1.0")
}
