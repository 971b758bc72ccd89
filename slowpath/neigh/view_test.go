package neigh

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// known is a view of two ports, VLANs on one, and an interface of the host's own.
func known() *view {
	return &view{
		links: map[int]*link{
			1: {name: "lo", index: 1, up: true, addrs: []netip.Prefix{prefix("127.0.0.1/8"), prefix("203.0.113.10/32")}},
			2: {name: "eth1", index: 2, mac: mac(1, 1), mtu: 1500, up: true, addrs: []netip.Prefix{prefix("10.0.1.1/24")}},
			3: {name: "eth0", index: 3, mac: mac(0, 1), mtu: 1500, up: true, addrs: []netip.Prefix{prefix("203.0.113.1/24")}},
			4: {name: "mgmt0", index: 4, mac: mac(2, 1), mtu: 1500, up: true, addrs: []netip.Prefix{prefix("192.168.0.1/24")}},
			5: {name: "inner", index: 5, parent: 6, tag: 8, tpid: 0x8100, mac: mac(1, 1), mtu: 1500, up: true, addrs: []netip.Prefix{prefix("10.0.8.1/24")}},
			6: {name: "outer", index: 6, parent: 2, tag: 7, tpid: 0x88a8, mac: mac(1, 1), mtu: 1500, up: true},
			7: {name: "third", index: 7, parent: 5, tag: 9, tpid: 0x8100, mtu: 1500, up: true, addrs: []netip.Prefix{prefix("10.0.9.1/24")}},
			8: {name: "mgmt0.5", index: 8, parent: 4, tag: 5, tpid: 0x8100, mtu: 1500, up: true, addrs: []netip.Prefix{prefix("192.168.5.1/24")}},
		},
		routes: []route{
			{to: prefix("0.0.0.0/0"), mtu: 1400, ways: []way{{ip("203.0.113.254"), 3, 1}}},
			{to: prefix("0.0.0.0/0"), ways: []way{{ip("10.0.1.254"), 2, 1}}},
			{to: prefix("10.66.0.0/16")},                                        // a blackhole
			{to: prefix("10.77.0.0/16"), ways: []way{{ip("10.0.1.77"), 99, 1}}}, // of a link that is gone
		},
		locals: []netip.Prefix{prefix("198.18.0.0/24")},
		neighbors: map[neighbor]state{
			{ip("203.0.113.254"), 3}: {netlink.NUD_REACHABLE, mac(0xfe)},
			{ip("10.0.1.254"), 2}:    {netlink.NUD_STALE, mac(1, 0xfe)},
			{ip("10.0.1.11"), 2}:     {netlink.NUD_INCOMPLETE, [6]byte{}},
			{ip("10.0.1.12"), 2}:     {netlink.NUD_FAILED, mac(1, 0x12)},
			{ip("10.0.1.255"), 2}:    {netlink.NUD_NOARP, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
			{ip("10.0.8.11"), 5}:     {netlink.NUD_PERMANENT, mac(8, 0x11)},
			{ip("192.168.0.9"), 4}:   {netlink.NUD_REACHABLE, mac(2, 9)},
			{ip("10.0.1.13"), 99}:    {netlink.NUD_REACHABLE, mac(1, 0x13)},
		},
	}
}

func TestViewTable(t *testing.T) {
	for _, row := range []struct {
		stake, dst, want string
		change           func(v *view, n *Network)
	}{
		{"the route with the least metric, with its MTU", "198.51.100.1", "eth0 port 0 to 0200000000fe mtu 1400", nil},
		{"its link is down: the next metric's", "198.51.100.1", "eth1 port 1 to 0200000001fe mtu 1500", func(v *view, _ *Network) { v.links[3].up = false }},
		{"all links down", "198.51.100.1", "no route", func(v *view, _ *Network) { v.links[3].up, v.links[2].up = false, false }},
		{"a blackhole is not the default route", "10.66.1.1", "blackhole", nil},
		{"a route through a link that is gone is not used", "10.77.1.1", "eth0 port 0 to 0200000000fe mtu 1400", nil},
		{"a VIP on lo", "203.0.113.10", "local", nil},
		{"a route of type local", "198.18.0.99", "local", nil},
		{"a neighbour that is being asked for", "10.0.1.11", "eth1 port 1 asks 10.0.1.11", nil},
		{"a neighbour that failed, its old address beside", "10.0.1.12", "eth1 port 1 asks 10.0.1.12", nil},
		{"never to a group address", "10.0.1.255", "eth1 port 1 asks 10.0.1.255", nil},
		{"two tags, the outer an 802.1ad one, by their parents' chain and not by name", "10.0.8.11", "inner port 1 tag 0x88a8:7 tag 0x8100:8 to 020000000811 mtu 1500", nil},
		{"three tags cannot be sent: the host does it", "10.0.9.5", "third port -1 asks 10.0.9.5", nil},
		{"an interface that is not the node's: the host sends it", "192.168.0.9", "mgmt0 port -1 asks 192.168.0.9", nil},
		{"nor a VLAN on one", "192.168.5.5", "mgmt0.5 port -1 asks 192.168.5.5", nil},
		{"the configuration's neighbour wins", "198.51.100.1", "eth0 port 0 to 020000000001 mtu 1400", func(_ *view, n *Network) {
			n.Neighbors = []Neighbor{{Addr: ip("203.0.113.254"), MAC: mac(1), Interface: "eth0"}}
		}},
		{"the configuration's route wins", "198.51.100.1", "eth1 port 1 asks 10.0.1.3", func(_ *view, n *Network) {
			n.Routes = []Route{{To: prefix("0.0.0.0/0"), Via: ip("10.0.1.3")}}
		}},
		{"the configuration's MTU wins", "10.0.1.254", "eth1 port 1 to 0200000001fe mtu 1300", func(_ *view, n *Network) {
			n.Interfaces = []Interface{{Name: "eth1", MTU: 1300}}
		}},
		{"and its addresses", "10.0.1.1", "eth0 port 0 to 0200000000fe mtu 1400", func(_ *view, n *Network) {
			n.Interfaces = []Interface{{Name: "eth1", Addresses: []netip.Prefix{prefix("10.99.0.1/24")}}}
		}},
		{"a VLAN that only the configuration knows", "10.0.7.5", "eth1.7.9 port 1 tag 0x8100:7 tag 0x8100:9 to 020000000705 mtu 1500", func(_ *view, n *Network) {
			n.Interfaces = []Interface{{Name: "eth1.7.9", Addresses: []netip.Prefix{prefix("10.0.7.1/24")}}, {Name: "eth1.7"}}
			n.Neighbors = []Neighbor{{Addr: ip("10.0.7.5"), MAC: mac(7, 5), Interface: "eth1.7.9"}}
		}},
		{"goes down with its port", "10.0.7.5", "eth0 port 0 to 0200000000fe mtu 1400", func(v *view, n *Network) {
			n.Interfaces = []Interface{{Name: "eth1.7", Addresses: []netip.Prefix{prefix("10.0.7.1/24")}}}
			v.links[2].up = false
		}},
	} {
		v, n := known(), Network{}
		if row.change != nil {
			row.change(v, &n)
		}
		p := newPlaces([]string{"eth0", "eth1"})
		table, err := v.table(1, p, &n)
		if err != nil {
			t.Errorf("%s: %v", row.stake, err)
		}
		if again, err := v.table(2, p, &n); err != nil || len(again.Interfaces) != len(table.Interfaces) || leads(again, row.dst) != row.want {
			t.Errorf("%s: the second time otherwise: %s, %v", row.stake, leads(again, row.dst), err)
		}
		if got := leads(table, row.dst); got != row.want {
			t.Errorf("%s: %s goes %s, want %s", row.stake, row.dst, got, row.want)
		}
	}
}

func TestViewTableWithoutWhatIsWrong(t *testing.T) {
	table, err := known().table(1, newPlaces([]string{"eth0", "eth1"}), &Network{
		Interfaces: []Interface{{Name: "eth7"}}, Routes: []Route{{To: prefix("10.3.0.0/16"), Via: ip("172.16.0.1")}},
	})
	if err == nil || !strings.Contains(err.Error(), "eth7") || !strings.Contains(err.Error(), "10.3.0.0/16") {
		t.Errorf("error %v, want both entries named", err)
	}
	if got := leads(table, "10.0.1.254"); got != "eth1 port 1 to 0200000001fe mtu 1500" {
		t.Errorf("what was learned does not work beside a wrong entry: %s", got)
	}
}

func TestPlacesStay(t *testing.T) {
	p := newPlaces([]string{"eth0", "eth1"})
	v := known()
	names := func() string {
		table, err := v.table(1, p, &Network{})
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, i := range table.Interfaces {
			s = append(s, fmt.Sprintf("%s/%d", i.Name, i.Port))
		}
		return strings.Join(s, " ")
	}
	for _, row := range []struct {
		stake  string
		change func()
		want   string
	}{
		{"ports at their numbers, whatever their kernel index", func() {}, "eth0/0 eth1/1 lo/-1 mgmt0/-1 inner/1 outer/1 third/-1 mgmt0.5/-1"},
		{"a port that is gone keeps its place", func() { delete(v.links, 3) }, "eth0/0 eth1/1 lo/-1 mgmt0/-1 inner/1 outer/1 third/-1 mgmt0.5/-1"},
		{"a VLAN on a port that is gone too, as workers may still name it; another interface's is used again", func() {
			delete(v.links, 5)
			delete(v.links, 7)
			v.links[20] = &link{name: "docker0", index: 20}
		}, "eth0/0 eth1/1 lo/-1 mgmt0/-1 inner/-1 outer/1 docker0/-1 mgmt0.5/-1"},
		{"what comes back has its old place or a new one", func() {
			v.links[21] = &link{name: "inner", index: 21, parent: 6, tag: 8, up: true}
			v.links[22] = &link{name: "third", index: 22}
			v.links[23] = &link{name: "eth0", index: 23, up: true}
		}, "eth0/0 eth1/1 lo/-1 mgmt0/-1 inner/1 outer/1 docker0/-1 mgmt0.5/-1 third/-1"},
	} {
		row.change()
		if got := names(); got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.stake, got, row.want)
		}
	}
}

func TestNote(t *testing.T) {
	v := view{neighbors: map[neighbor]state{}}
	k := netlink.Neigh{LinkIndex: 2, Family: unix.AF_INET, IP: net.IPv4(10, 0, 0, 1).To4()}
	for _, row := range []struct {
		stake   string
		nud     int
		mac     byte
		gone    bool
		changed bool
	}{
		{"asked for: packets still have nowhere to go", netlink.NUD_INCOMPLETE, 0, false, false},
		{"found", netlink.NUD_REACHABLE, 1, false, true},
		{"stale: still used", netlink.NUD_STALE, 1, false, false},
		{"probed: still used", netlink.NUD_PROBE, 1, false, false},
		{"another MAC address", netlink.NUD_REACHABLE, 2, false, true},
		{"failed", netlink.NUD_FAILED, 2, false, true},
		{"forgotten after it failed", 0, 0, true, false},
		{"found again", netlink.NUD_PERMANENT, 3, false, true},
		{"forgotten", 0, 0, true, true},
	} {
		k.State, k.HardwareAddr = row.nud, nil
		if row.mac != 0 {
			k.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, row.mac}
		}
		if got := v.note(&k, row.gone); got != row.changed {
			t.Errorf("%s: changed %t, want %t", row.stake, got, row.changed)
		}
	}
	k.State, k.HardwareAddr, k.Flags = netlink.NUD_PERMANENT, net.HardwareAddr{2, 0, 0, 0, 0, 1}, netlink.NTF_PROXY
	if v.note(&k, false) {
		t.Error("a proxy entry is not a neighbour")
	}
	k.Flags, k.Family = 0, unix.AF_BRIDGE
	if v.note(&k, false) {
		t.Error("a bridge's forwarding entry is not a neighbour")
	}
}

// A gateway of a route with several next hops that has failed is out until it
// answers, whatever the kernel tries meanwhile.
func TestNoteGate(t *testing.T) {
	gate := neighbor{ip("10.0.0.1"), 2}
	v := view{neighbors: map[neighbor]state{}, gates: map[neighbor]bool{gate: false}}
	k := netlink.Neigh{LinkIndex: 2, Family: unix.AF_INET, IP: net.IPv4(10, 0, 0, 1).To4()}
	for _, row := range []struct {
		stake                 string
		nud                   int
		gone, changed, failed bool
	}{
		{"asked for the first time: its flows wait for it", netlink.NUD_INCOMPLETE, false, false, false},
		{"failed", netlink.NUD_FAILED, false, true, true},
		{"asked for again", netlink.NUD_INCOMPLETE, false, false, true},
		{"failed again", netlink.NUD_FAILED, false, false, true},
		{"forgotten", 0, true, false, true},
		{"found", netlink.NUD_REACHABLE, false, true, false},
		{"stale", netlink.NUD_STALE, false, false, false},
		{"failed after it was known", netlink.NUD_FAILED, false, true, true},
	} {
		k.State, k.HardwareAddr = row.nud, net.HardwareAddr{2, 0, 0, 0, 0, 1}
		if got := v.note(&k, row.gone); got != row.changed || v.gates[gate] != row.failed {
			t.Errorf("%s: changed %t, failed %t; want %t, %t", row.stake, got, v.gates[gate], row.changed, row.failed)
		}
	}
	k.IP, k.State = net.IPv4(10, 0, 0, 2).To4(), netlink.NUD_FAILED
	if v.note(&k, false) || len(v.gates) != 1 {
		t.Error("a table is built for any neighbour that fails, so that a scan of a subnet builds many")
	}
}

func TestAgenda(t *testing.T) {
	far := time.Now().Add(time.Hour)
	a := agenda{refresh: far}
	if !a.next().Equal(far) {
		t.Error("nothing changed: only the refresh is due")
	}
	a.mark(partRoutes, time.Minute)
	first := a.next()
	a.mark(partLinks, 2*time.Minute)
	if !a.next().Equal(first) || a.stale != partRoutes|partLinks {
		t.Errorf("due %v with parts %b: a burst of changes must not put the table off, nor be lost", a.next().Sub(first), a.stale)
	}
	a = agenda{refresh: far, soonest: far.Add(-time.Minute)}
	a.mark(0, 0)
	if !a.next().Equal(a.soonest) {
		t.Error("built before the pause that the last table's cost asks for")
	}
}

func TestConfirmInTurn(t *testing.T) {
	// More stale neighbours than one round confirms: the rounds get around.
	p := newPlaces([]string{"eth1"})
	w := &Watcher{places: p, ask: make(chan neighbor, 1024)}
	w.view = view{links: map[int]*link{2: {name: "eth1", index: 2, up: true}}, neighbors: map[neighbor]state{}}
	var all []neighbor
	for i := range 600 {
		n := neighbor{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 2}
		w.view.neighbors[n] = state{netlink.NUD_STALE, mac(1)}
		all = append(all, n)
	}
	w.view.neighbors[neighbor{ip("10.1.0.1"), 2}] = state{netlink.NUD_FAILED, mac(1)}
	if err := w.build(); err != nil {
		t.Fatal(err)
	}
	var asked []neighbor
	for range 3 {
		w.confirm()
	}
	for len(w.ask) > 0 {
		asked = append(asked, <-w.ask)
	}
	if len(asked) != 3*confirmEach {
		t.Fatalf("%d asked in three rounds, want %d", len(asked), 3*confirmEach)
	}
	if !slices.Equal(asked[:600], all) || !slices.Equal(asked[600:], all[:3*confirmEach-600]) {
		t.Error("the rounds do not go through the neighbours in turn")
	}
}
