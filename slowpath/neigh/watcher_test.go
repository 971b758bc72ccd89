package neigh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/internal/testnet"
	"github.com/sluice-lb/sluice/lb/flow"
)

// until waits for what the kernel and the Watcher bring about between them.
func until(t *testing.T, what string, got func() string, want string) {
	t.Helper()
	for deadline := time.Now().Add(8 * time.Second); ; time.Sleep(time.Millisecond) {
		s := got()
		if s == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s, want %s", what, s, want)
		}
	}
}

// plan is a director with a client side and two links to servers.
func plan() testnet.Plan {
	return testnet.Plan{
		Links: []testnet.Link{
			{
				A: testnet.End{In: "director", Name: "eth0", MAC: "02:00:00:00:00:01", Addrs: []string{"10.0.1.1/24", "fd00:1::1/64"}},
				B: testnet.End{In: "client", Name: "eth0", MAC: "02:00:00:00:01:0a", Addrs: []string{"10.0.1.10/24", "fd00:1::10/64"}},
			},
			{
				A: testnet.End{In: "director", Name: "eth1", MAC: "02:00:00:00:00:02", Addrs: []string{"10.0.2.1/24"}},
				B: testnet.End{In: "server", Name: "eth0", MAC: "02:00:00:00:02:0b", Addrs: []string{"10.0.2.11/24"}},
			},
			{
				A: testnet.End{In: "director", Name: "mgmt0", Addrs: []string{"192.168.0.1/24"}},
				B: testnet.End{In: "server", Name: "mgmt0", Addrs: []string{"192.168.0.2/24"}},
			},
		},
		VIPs: []testnet.VIP{{In: "director", Addr: "10.0.1.100"}},
	}
}

// watch opens a Watcher of eth0 and eth1 in the director and runs it until the test ends.
func watch(t *testing.T, n *testnet.Network, c Config) *Watcher {
	t.Helper()
	w := opened(t, n, c)
	run(t, w)
	return w
}

func opened(t *testing.T, n *testnet.Network, c Config) *Watcher {
	t.Helper()
	if c.Ports = []string{"eth0", "eth1"}; c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	var w *Watcher
	if err := n.In("director").Do(func() (err error) {
		w, err = Open(c)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

func run(t *testing.T, w *Watcher) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// goes returns where the current table sends a destination.
func (w *Watcher) goes(dst string) func() string {
	return func() string { return leads(w.Table(), dst) }
}

// resolve asks for the next hop to a destination as the slow path would.
func (w *Watcher) resolveFor(dst string) {
	to := flow.FromNetip(ip(dst))
	h := w.Table().Lookup(&to)
	next := h.Neighbor(&to)
	w.Resolve(h.Iface, &next)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLearns(t *testing.T) {
	n := testnet.New(t, plan())
	director := n.In("director")
	must(t, director.AddRoute("10.9.0.0/16", "10.0.2.254", ""))
	must(t, director.SetNeighbor("eth1", "10.0.2.254", "02:00:00:00:02:fe"))
	w := opened(t, n, Config{})
	defer w.Close()
	for _, row := range []struct{ stake, dst, want string }{
		{"what is there when it opens is in the first table", "10.9.1.1", "eth1 port 1 to 0200000002fe mtu 1500"},
		{"an address of an interface", "10.0.1.1", "local"},
		{"an address on lo", "10.0.1.100", "local"},
		{"IPv6", "fd00:1::1", "local"},
		{"a neighbour not yet known", "10.0.2.11", "eth1 port 1 asks 10.0.2.11"},
		{"by an interface of the host's", "192.168.0.2", "mgmt0 port -1 asks 192.168.0.2"},
		{"no default route", "198.51.100.1", "no route"},
	} {
		if got := leads(w.Table(), row.dst); got != row.want {
			t.Errorf("%s: %s goes %s, want %s", row.stake, row.dst, got, row.want)
		}
	}
	if got := w.Table().Interfaces[0]; got.MAC != mac(0, 1) || got.Index == 0 || !got.Up {
		t.Errorf("eth0 is %+v, want its MAC address and index, up", got)
	}
}

func TestResolves(t *testing.T) {
	n := testnet.New(t, plan())
	w := watch(t, n, Config{})
	for _, row := range []struct{ stake, dst, want string }{
		{"a server that nobody has talked to", "10.0.2.11", "eth1 port 1 to 02000000020b mtu 1500"},
		{"an IPv6 neighbour", "fd00:1::10", "eth0 port 0 to 02000000010a mtu 1500"},
	} {
		w.resolveFor(row.dst)
		until(t, row.stake, w.goes(row.dst), row.want)
	}
	if c := w.Counters(); c.Asked < 2 || c.Unasked != 0 || c.Tables < 2 {
		t.Errorf("counters %+v, want two neighbours asked for and tables built", c)
	}
	w.Resolve(99, &flow.Addr{})
	if c := w.Counters(); c.Unasked != 1 {
		t.Errorf("counters %+v, want the interface that is not there counted", c)
	}
}

func TestServerAnnouncesItsNewMAC(t *testing.T) {
	n := testnet.New(t, plan())
	w := watch(t, n, Config{})
	w.resolveFor("10.0.2.11")
	until(t, "before", w.goes("10.0.2.11"), "eth1 port 1 to 02000000020b mtu 1500")
	// arp_notify makes the kernel announce a changed address by gratuitous ARP; the
	// director's locktime would have it ignored so soon after the first answer.
	must(t, n.In("director").Sysctl("net.ipv4.neigh.eth1.locktime", "0"))
	must(t, n.In("server").Sysctl("net.ipv4.conf.eth0.arp_notify", "1"))
	setMAC(t, n.In("server"), "eth0", "02:00:00:00:02:77")
	until(t, "after", w.goes("10.0.2.11"), "eth1 port 1 to 020000000277 mtu 1500")
}

func setMAC(t *testing.T, s *testnet.Namespace, dev, address string) {
	t.Helper()
	link, err := s.Netlink().LinkByName(dev)
	must(t, err)
	hw, err := net.ParseMAC(address)
	must(t, err)
	must(t, s.Netlink().LinkSetHardwareAddr(link, hw))
}

func TestServerChangesItsMACSilently(t *testing.T) {
	n := testnet.New(t, plan())
	// The kernel's patience, shortened: reachable for 100 ms, then probed at once.
	for key, value := range map[string]string{
		"base_reachable_time_ms": "100", "delay_first_probe_time": "0", "retrans_time_ms": "50",
		"ucast_solicit": "1", "mcast_solicit": "3", "locktime": "0",
	} {
		must(t, n.In("director").Sysctl("net.ipv4.neigh.eth1."+key, value))
	}
	w := watch(t, n, Config{Refresh: 20 * time.Millisecond})
	w.Keep([]netip.Addr{ip("10.0.2.11")})
	until(t, "a kept server is resolved before any packet", w.goes("10.0.2.11"), "eth1 port 1 to 02000000020b mtu 1500")
	setMAC(t, n.In("server"), "eth0", "02:00:00:00:02:77")
	until(t, "and confirmed although the kernel sees no packet to it", w.goes("10.0.2.11"), "eth1 port 1 to 020000000277 mtu 1500")

	must(t, n.In("server").SetUp("eth0", false))
	must(t, n.In("director").SetUp("eth1", false))
	until(t, "a link that goes down", w.goes("10.0.2.11"), "no route")
	must(t, n.In("director").SetUp("eth1", true))
	must(t, n.In("server").SetUp("eth0", true))
	until(t, "when it comes back the server is asked for again", w.goes("10.0.2.11"), "eth1 port 1 to 020000000277 mtu 1500")
}

func TestLinkFlap(t *testing.T) {
	n := testnet.New(t, plan())
	w := watch(t, n, Config{})
	w.resolveFor("10.0.2.11")
	until(t, "before", w.goes("10.0.2.11"), "eth1 port 1 to 02000000020b mtu 1500")
	up := func() string { return fmt.Sprint(w.Table().Interfaces[1].Up) }

	must(t, n.In("server").SetUp("eth0", false)) // the carrier is lost, the director's end stays up
	until(t, "the carrier is lost", up, "false")
	must(t, n.In("server").SetUp("eth0", true))
	until(t, "the carrier is back", up, "true")
	until(t, "and its subnet", func() string { return w.goes("10.0.2.11")()[:11] }, "eth1 port 1")

	must(t, n.In("director").SetUp("eth1", false))
	until(t, "the operator takes it down", up, "false")
	until(t, "its routes are gone with it", w.goes("10.0.2.11"), "no route")
	must(t, n.In("director").SetUp("eth1", true))
	until(t, "and up again", up, "true")
	w.resolveFor("10.0.2.11")
	until(t, "all as before", w.goes("10.0.2.11"), "eth1 port 1 to 02000000020b mtu 1500")
}

func TestRouteMoves(t *testing.T) {
	n := testnet.New(t, plan())
	director := n.In("director")
	must(t, director.SetNeighbor("eth0", "10.0.1.254", "02:00:00:00:01:fe"))
	must(t, director.SetNeighbor("eth1", "10.0.2.254", "02:00:00:00:02:fe"))
	w := watch(t, n, Config{})
	must(t, director.AddRoute("default", "10.0.1.254", ""))
	until(t, "a route appears", w.goes("198.51.100.1"), "eth0 port 0 to 0200000001fe mtu 1500")
	must(t, director.AddRoute("default", "10.0.2.254", ""))
	until(t, "it moves to the other interface", w.goes("198.51.100.1"), "eth1 port 1 to 0200000002fe mtu 1500")

	must(t, director.Netlink().RouteAdd(&netlink.Route{Dst: ipNet("198.51.100.0/24"), Type: unix.RTN_UNREACHABLE}))
	until(t, "an unreachable route hides it", w.goes("198.51.100.1"), "blackhole")
}

func ipNet(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

func TestVLAN(t *testing.T) {
	n := testnet.New(t, plan())
	w := watch(t, n, Config{})
	for in, parent := range map[string]string{"director": "eth1", "server": "eth0"} {
		s := n.In(in)
		for _, v := range []struct {
			name string
			id   int
			tpid netlink.VlanProtocol
		}{{"outer", 7, netlink.VLAN_PROTOCOL_8021AD}, {"inner", 8, netlink.VLAN_PROTOCOL_8021Q}} {
			link, err := s.Netlink().LinkByName(parent)
			must(t, err)
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = v.name, link.Attrs().Index
			err = s.Netlink().LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: v.id, VlanProtocol: v.tpid})
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("this kernel has no VLAN devices (CONFIG_VLAN_8021Q); TestViewTable covers their tags")
			}
			must(t, err)
			must(t, s.SetUp(v.name, true))
			parent = v.name
		}
	}
	must(t, n.In("director").AddAddr("inner", "10.0.8.1/24"))
	must(t, n.In("server").AddAddr("inner", "10.0.8.11/24"))
	until(t, "VLANs made while it runs", w.goes("10.0.8.11"), "inner port 1 tag 0x88a8:7 tag 0x8100:8 asks 10.0.8.11")
	w.resolveFor("10.0.8.11")
	until(t, "and neighbours in them", w.goes("10.0.8.11"), "inner port 1 tag 0x88a8:7 tag 0x8100:8 to 02000000020b mtu 1500")
}

func TestOverrideChanges(t *testing.T) {
	n := testnet.New(t, plan())
	var log strings.Builder
	w := watch(t, n, Config{Override: Network{Interfaces: []Interface{{Name: "eth9"}}}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "eth9") {
		t.Errorf("the log does not mention the interface that is not there: %q", log.String())
	}
	w.SetOverride(Network{Neighbors: []Neighbor{{Addr: ip("10.0.2.11"), MAC: mac(0x99), Interface: "eth1"}}})
	until(t, "a reload's network section", w.goes("10.0.2.11"), "eth1 port 1 to 020000000099 mtu 1500")
	w.SetOverride(Network{})
	until(t, "and its end", w.goes("10.0.2.11"), "eth1 port 1 asks 10.0.2.11")
}

func TestEventsLost(t *testing.T) {
	n := testnet.New(t, plan())
	changed := make(chan uint64, 1024)
	w := opened(t, n, Config{OnChange: func(table *nexthop.Table) { changed <- table.Version }})
	raw, err := w.events.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4096) }))
	must(t, err)
	// More than the buffer holds, before anybody reads.
	link, err := n.In("director").Netlink().LinkByName("eth1")
	must(t, err)
	for i := 20; i < 220; i++ {
		must(t, n.In("director").Netlink().NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: net.IPv4(10, 0, 2, byte(i)), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 2, byte(i)},
		}))
	}
	run(t, w)
	until(t, "the last of the lost", w.goes("10.0.2.219"), "eth1 port 1 to 0200000002db mtu 1500")
	if c := w.Counters(); c.Resyncs == 0 {
		t.Errorf("counters %+v: nothing was lost, so the test shows nothing", c)
	}
	var versions []uint64
	for len(changed) > 0 {
		versions = append(versions, <-changed)
	}
	if len(versions) < 2 || versions[0] != 1 || !slices.IsSorted(versions) {
		t.Errorf("told of versions %v, want each from the first", versions)
	}
}
