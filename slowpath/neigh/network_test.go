package neigh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/lb/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mac(last ...byte) (m [6]byte) {
	m[0] = 2
	copy(m[6-len(last):], last)
	return m
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// leads says in words where a table sends a packet: "eth1.100 tags=[100] → MAC mtu 1500", or the state
// and the neighbour that is wanted.
func leads(t *nexthop.Table, dst string) string {
	to := flow.FromNetip(ip(dst))
	h := t.Lookup(&to)
	switch h.State {
	case nexthop.Reachable, nexthop.Unresolved:
	default:
		return h.State.String()
	}
	i := &t.Interfaces[h.Iface]
	s := fmt.Sprintf("%s port %d", i.Name, i.Port)
	for v := range h.VLANs {
		s += fmt.Sprintf(" tag %#x:%d", h.TPID[v], h.VLAN[v])
	}
	if h.State == nexthop.Unresolved {
		return s + " asks " + h.Neighbor(&to).String()
	}
	return s + fmt.Sprintf(" to %x mtu %d", h.DstMAC, h.MTU)
}

// example is the network section of a two-armed node.
func example() Network {
	return Network{
		Interfaces: []Interface{
			{Name: "eth1.7.8", Addresses: []netip.Prefix{prefix("10.0.8.1/24")}}, // children may stand first
			{Name: "eth1.7", Addresses: []netip.Prefix{prefix("10.0.7.1/24")}, MTU: 1400},
			{Name: "eth0", MAC: mac(0, 1), Addresses: []netip.Prefix{prefix("203.0.113.1/24"), prefix("2001:db8::1/64")}},
			{Name: "eth1", MAC: mac(1, 1), MTU: 9000, Addresses: []netip.Prefix{prefix("10.0.1.1/24")}},
		},
		Routes: []Route{{To: prefix("0.0.0.0/0"), Via: ip("203.0.113.254")}, {To: prefix("10.5.0.0/16"), Interface: "eth1"}},
		Neighbors: []Neighbor{
			{Addr: ip("203.0.113.254"), MAC: mac(0xfe), Interface: "eth0"},
			{Addr: ip("10.0.1.11"), MAC: mac(1, 0x11), Interface: "eth1"},
			{Addr: ip("10.0.7.11"), MAC: mac(7, 0x11), Interface: "eth1.7"},
			{Addr: ip("10.0.8.11"), MAC: mac(8, 0x11), Interface: "eth1.7.8"},
			{Addr: ip("2001:db8::9"), MAC: mac(9), Interface: "eth0"},
		},
	}
}

func TestFromConfig(t *testing.T) {
	table, err := FromConfig([]string{"eth0", "eth1", "eth2"}, example())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ stake, dst, want string }{
		{"a client by the default route", "198.51.100.7", "eth0 port 0 to 0200000000fe mtu 1500"},
		{"a server on-link", "10.0.1.11", "eth1 port 1 to 020000000111 mtu 9000"},
		{"a server in a VLAN", "10.0.7.11", "eth1.7 port 1 tag 0x8100:7 to 020000000711 mtu 1400"},
		{"a server in a VLAN in a VLAN", "10.0.8.11", "eth1.7.8 port 1 tag 0x8100:7 tag 0x8100:8 to 020000000811 mtu 1400"},
		{"IPv6", "2001:db8::9", "eth0 port 0 to 020000000009 mtu 1500"},
		{"an on-link route without a neighbour", "10.5.1.2", "eth1 port 1 asks 10.5.1.2"},
		{"an address of the node", "10.0.1.1", "local"},
		{"no IPv6 default route", "2001:db8:1::1", "no route"},
	} {
		if got := leads(table, row.dst); got != row.want {
			t.Errorf("%s: %s goes %s, want %s", row.stake, row.dst, got, row.want)
		}
	}
	var names []string
	for _, i := range table.Interfaces {
		names = append(names, fmt.Sprint(i.Name, " ", i.Port, " ", i.Up))
	}
	if want := []string{"eth0 0 true", "eth1 1 true", "eth2 2 false", "eth1.7 1 true", "eth1.7.8 1 true"}; !slices.Equal(names, want) {
		t.Errorf("interfaces %q, want the ports at their numbers: %q", names, want)
	}
}

// 802.1ad tags where the configuration says so, also on top of others.
func TestVLANProtocol(t *testing.T) {
	n := example()
	n.Interfaces[1].TPID = 0x88a8 // eth1.7
	for _, row := range []struct {
		stake string
		inner uint16
		want  string
	}{
		{"a service tag, and by default a customer's in it", 0, "eth1.7.8 port 1 tag 0x88a8:7 tag 0x8100:8 to 020000000811 mtu 1400"},
		{"two service tags", 0x88a8, "eth1.7.8 port 1 tag 0x88a8:7 tag 0x88a8:8 to 020000000811 mtu 1400"},
	} {
		n.Interfaces[0].TPID = row.inner
		table, err := FromConfig([]string{"eth0", "eth1"}, n)
		if got := leads(table, "10.0.8.11"); err != nil || got != row.want {
			t.Errorf("%s: %s, %v; want %s", row.stake, got, err, row.want)
		}
		v := view{links: map[int]*link{1: {name: "eth1", index: 1, mac: mac(1, 1), mtu: 1400, up: true}, 2: {name: "eth0", index: 2, up: true}}}
		live, err := v.table(1, newPlaces([]string{"eth0", "eth1"}), &n)
		if got := leads(live, "10.0.8.11"); err != nil || got != row.want {
			t.Errorf("%s, on a running node: %s, %v; want %s", row.stake, got, err, row.want)
		}
	}
	v := known()
	table, err := v.table(1, newPlaces([]string{"eth0", "eth1"}), &Network{Interfaces: []Interface{{Name: "inner", TPID: 0x88a8}}})
	if got, want := leads(table, "10.0.8.11"), "inner port 1 tag 0x88a8:7 tag 0x88a8:8 to 020000000811 mtu 1500"; err != nil || got != want {
		t.Errorf("a VLAN of the kernel's, overridden: %s, %v; want %s", got, err, want)
	}
}

func TestFromConfigErrors(t *testing.T) {
	n := Network{
		Interfaces: []Interface{{Name: "eth0", Addresses: []netip.Prefix{prefix("10.0.1.1/24")}}, {Name: "eth9.5"}, {Name: "eth0.4095"}},
		Routes:     []Route{{To: prefix("10.1.0.0/16"), Via: ip("10.0.9.1")}, {To: prefix("10.2.0.0/16"), Interface: "eth5"}, {To: prefix("10.3.0.0/16")}, {Via: ip("10.0.1.9")}},
		Neighbors:  []Neighbor{{Addr: ip("10.0.1.2"), Interface: "eth6"}, {Interface: "eth0"}},
	}
	table, err := FromConfig([]string{"eth0"}, n)
	for _, want := range []string{`"eth9.5"`, `"eth0.4095"`, "10.1.0.0/16 via 10.0.9.1", `route 10.2.0.0/16: interface "eth5"`, "route 10.3.0.0/16", "invalid Prefix", `neighbour 10.0.1.2: interface "eth6"`, "neighbour invalid IP"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not mention %s:\n%v", want, err)
		}
	}
	if !errors.Is(err, nexthop.ErrGateway) || !errors.Is(err, nexthop.ErrVLANName) || !errors.Is(err, nexthop.ErrNoInterface) {
		t.Errorf("%v does not wrap its causes", err)
	}
	if got := leads(table, "10.0.1.7"); got != "eth0 port 0 asks 10.0.1.7" {
		t.Errorf("what is right does not work: %s", got)
	}
}
