package neigh

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
)

// newLink is a link as the kernel tells of it: RTM_NEWLINK of rtnetlink(7), read by the
// library. This machine's kernel may have neither VLAN devices nor bonds.
func newLink(t *testing.T, index int32, name string, up bool, attributes ...[]byte) netlink.Link {
	t.Helper()
	flags := uint32(0)
	if up {
		flags = unix.IFF_UP | unix.IFF_RUNNING
	}
	head := nl.IfInfomsg{IfInfomsg: unix.IfInfomsg{Type: unix.ARPHRD_ETHER, Index: index, Flags: flags}}
	b := slices.Concat(head.Serialize(), attr(unix.IFLA_IFNAME, append([]byte(name), 0)...), attr32(unix.IFLA_MTU, 1500),
		attr(unix.IFLA_ADDRESS, 2, 0, 0, 0, 0, byte(index)), slices.Concat(attributes...))
	l, err := netlink.LinkDeserialize(nil, b)
	must(t, err)
	return l
}

// info is an IFLA_LINKINFO: of the link itself, or of it as a slave.
func info(kindOf, dataOf int, kind string, data ...[]byte) []byte {
	return attr(unix.IFLA_LINKINFO, slices.Concat(attr(kindOf, append([]byte(kind), 0)...), attr(dataOf, slices.Concat(data...)...))...)
}

func vlan(id, protocol uint16) []byte {
	return info(nl.IFLA_INFO_KIND, nl.IFLA_INFO_DATA, "vlan",
		attr(nl.IFLA_VLAN_ID, binary.NativeEndian.AppendUint16(nil, id)...), attr(nl.IFLA_VLAN_PROTOCOL, binary.BigEndian.AppendUint16(nil, protocol)...))
}

func bond(mode netlink.BondMode, active uint32) []byte {
	data := attr(nl.IFLA_BOND_MODE, byte(mode))
	if active > 0 {
		data = append(data, attr32(nl.IFLA_BOND_ACTIVE_SLAVE, active)...)
	}
	return info(nl.IFLA_INFO_KIND, nl.IFLA_INFO_DATA, "bond", data)
}

func memberOf(master uint32, state netlink.BondSlaveState, mii netlink.BondSlaveMiiStatus) []byte {
	return append(attr32(unix.IFLA_MASTER, master), info(nl.IFLA_INFO_SLAVE_KIND, nl.IFLA_INFO_SLAVE_DATA, "bond",
		attr(nl.IFLA_BOND_SLAVE_STATE, byte(state)), attr(nl.IFLA_BOND_SLAVE_MII_STATUS, byte(mii)))...)
}

func TestVLANLinks(t *testing.T) {
	parent := func(index uint32) []byte { return attr32(unix.IFLA_LINK, index) }
	var v view
	v.takeLinks([]netlink.Link{
		newLink(t, 2, "eth1", true),
		newLink(t, 3, "outer", true, parent(2), vlan(7, 0x88a8)),
		newLink(t, 4, "inner", true, parent(3), vlan(8, 0x8100)),
		newLink(t, 5, "elsewhere", true, parent(2), attr32(unix.IFLA_LINK_NETNSID, 1), vlan(9, 0x8100)),
		newLink(t, 6, "down", false, parent(2), vlan(10, 0x8100)),
	}, []netlink.Addr{{LinkIndex: 4, IPNet: ipNet("10.0.8.1/24")}, {LinkIndex: 5, IPNet: ipNet("10.0.9.1/24")}, {LinkIndex: 6, IPNet: ipNet("10.0.10.1/24")}})
	table, err := v.table(1, newPlaces([]string{"eth1"}), &Network{})
	must(t, err)
	for _, row := range []struct{ stake, dst, want string }{
		{"802.1Q in 802.1ad", "10.0.8.5", "inner port 0 tag 0x88a8:7 tag 0x8100:8 asks 10.0.8.5"},
		{"a VLAN whose parent is in another namespace: its index is another's", "10.0.9.5", "elsewhere port -1 asks 10.0.9.5"},
		{"a VLAN that is down", "10.0.10.5", "no route"},
	} {
		if got := leads(table, row.dst); got != row.want {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
	}
}

// members says in words what a table has of a bond: its members, ">" before those
// by which frames leave.
func members(i *nexthop.Interface) string {
	s := i.Bond + ":"
	for _, m := range i.Members {
		mark := " "
		if m.Sends {
			mark = " >"
		}
		s += mark + fmt.Sprint(m.Name, "/", m.Index)
	}
	return s
}

func TestBondLinks(t *testing.T) {
	const activeState, backup = netlink.BondStateActive, netlink.BondStateBackup
	const up, down = netlink.BondLinkUp, netlink.BondLinkDown
	link := func(index int32, up bool, master []byte) netlink.Link {
		return newLink(t, index, fmt.Sprintf("eth%d", index), up, master)
	}
	for _, row := range []struct {
		stake string
		links []netlink.Link
		want  string
	}{
		{"active-backup: the active one", []netlink.Link{
			newLink(t, 9, "bond0", true, bond(netlink.BOND_MODE_ACTIVE_BACKUP, 2)), link(2, true, memberOf(9, activeState, up)), link(3, true, memberOf(9, backup, up)),
		}, "active-backup: >eth2/2 eth3/3"},
		{"active-backup, none active", []netlink.Link{
			newLink(t, 9, "bond0", true, bond(netlink.BOND_MODE_ACTIVE_BACKUP, 0)), link(2, true, memberOf(9, backup, down)),
		}, "active-backup: eth2/2"},
		{"802.3ad: those of the active aggregate", []netlink.Link{
			newLink(t, 9, "bond0", true, bond(netlink.BOND_MODE_802_3AD, 0)), link(4, true, memberOf(9, activeState, up)), link(2, true, memberOf(9, activeState, up)), link(3, true, memberOf(9, backup, up)),
		}, "802.3ad: >eth2/2 eth3/3 >eth4/4"},
		{"xor: those that monitoring finds up", []netlink.Link{
			newLink(t, 9, "bond0", true, bond(netlink.BOND_MODE_BALANCE_XOR, 0)), link(2, true, memberOf(9, activeState, up)), link(3, true, memberOf(9, activeState, down)), link(4, false, memberOf(9, activeState, up)),
		}, "balance-xor: >eth2/2 eth3/3 eth4/4"},
		{"alb: the active one, whose address is the bond's", []netlink.Link{
			newLink(t, 9, "bond0", true, bond(netlink.BOND_MODE_BALANCE_ALB, 3)), link(2, true, memberOf(9, activeState, up)), link(3, true, memberOf(9, activeState, up)),
		}, "balance-alb: eth2/2 >eth3/3"},
		{"of another bond, or of none", []netlink.Link{
			newLink(t, 9, "bond0", true, bond(netlink.BOND_MODE_BALANCE_RR, 0)), link(2, true, memberOf(8, activeState, up)), link(3, true, nil),
			newLink(t, 8, "bond1", true, bond(netlink.BOND_MODE_BALANCE_RR, 0)),
		}, "balance-rr:"},
		{"a bridge's port", []netlink.Link{
			newLink(t, 9, "bond0", true, info(nl.IFLA_INFO_KIND, nl.IFLA_INFO_DATA, "bridge")), link(2, true, attr32(unix.IFLA_MASTER, 9)),
		}, ":"},
	} {
		if bondKind != "bond" && row.want == ":" {
			continue // a build in which bridges stand for bonds
		}
		var v view
		v.takeLinks(row.links, nil)
		table, err := v.table(1, newPlaces([]string{"bond0"}), &Network{})
		must(t, err)
		if got := members(&table.Interfaces[0]); got != row.want {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
	}
}

// What a bond's packets look like is the bond's, not its members'; a VLAN may be on top.
func TestBondTable(t *testing.T) {
	var v view
	v.takeLinks([]netlink.Link{
		newLink(t, 9, "bond0", true, bond(netlink.BOND_MODE_802_3AD, 0)),
		newLink(t, 2, "eth0", true, memberOf(9, netlink.BondStateActive, netlink.BondLinkUp)),
		newLink(t, 3, "eth1", true, memberOf(9, netlink.BondStateActive, netlink.BondLinkUp)),
		newLink(t, 4, "bond0.7", true, attr32(unix.IFLA_LINK, 9), vlan(7, 0x8100)),
	}, []netlink.Addr{{LinkIndex: 9, IPNet: ipNet("10.0.1.1/24")}, {LinkIndex: 4, IPNet: ipNet("10.0.7.1/24")}})
	v.neighbors = map[neighbor]state{{ip("10.0.1.5"), 9}: {nud: netlink.NUD_REACHABLE, mac: mac(5)}, {ip("10.0.7.5"), 4}: {nud: netlink.NUD_REACHABLE, mac: mac(7)}}
	table, err := v.table(1, newPlaces([]string{"bond0"}), &Network{})
	must(t, err)
	for dst, want := range map[string]string{
		"10.0.1.5": "bond0 port 0 to 020000000005 mtu 1500", "10.0.7.5": "bond0.7 port 0 tag 0x8100:7 to 020000000007 mtu 1500",
	} {
		if got := leads(table, dst); got != want {
			t.Errorf("%s goes %s, want %s", dst, got, want)
		}
	}
	for _, row := range []struct {
		stake string
		vlan  uint16
		mac   byte
		want  bool
	}{
		{"to the bond", 0, 9, true},
		{"to a member (balance-alb, fail_over_mac)", 0, 3, true},
		{"in the VLAN", 7, 4, true},
		{"in the VLAN, to a member", 7, 2, true},
		{"in another VLAN", 8, 9, false},
		{"to another", 0, 5, false},
	} {
		if got := table.Owns(0, [2]uint16{row.vlan}, mac(row.mac)); got != row.want {
			t.Errorf("a frame %s is ours: %t, want %t", row.stake, got, row.want)
		}
	}
}
