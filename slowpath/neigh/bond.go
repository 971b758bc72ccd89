package neigh

import (
	"cmp"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
)

// bonding notes what the kernel says of a link as a bond, or as a bond's member.
func (l *link) bonding(k netlink.Link) {
	if k.Type() == bondKind {
		l.bond = bondKind
	}
	if b, ok := k.(*netlink.Bond); ok {
		l.bond = b.Mode.String()
		switch b.Mode {
		case netlink.BOND_MODE_ACTIVE_BACKUP, netlink.BOND_MODE_BALANCE_TLB, netlink.BOND_MODE_BALANCE_ALB:
			// The last two send by others too, each with a MAC address of its own;
			// under the bond's the network knows the active one alone.
			l.active = cmp.Or(max(b.ActiveSlave, 0), noMember)
		}
	}
	l.sends = l.up
	if s, ok := k.Attrs().Slave.(*netlink.BondSlave); ok {
		// By 802.3ad the state is backup outside of the active aggregate, too.
		l.sends = l.up && s.State == netlink.BondStateActive && s.MiiStatus == netlink.BondLinkUp
	}
}

// noMember is the index of no link.
const noMember = -1

// members are the links whose frames are those of a bond, by index; nil of
// another link.
func (v *view) members(bond *link) (all []nexthop.Member) {
	if bond.bond == "" {
		return nil
	}
	for _, l := range v.links {
		if l.master == bond.index {
			sends := l.sends && (bond.active == 0 || bond.active == l.index)
			all = append(all, nexthop.Member{Name: l.name, Index: l.index, MAC: l.mac, Sends: sends})
		}
	}
	slices.SortFunc(all, func(a, b nexthop.Member) int { return a.Index - b.Index })
	return all
}
