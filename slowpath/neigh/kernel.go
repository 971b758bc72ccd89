package neigh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// parts of a view, that are read again when something of theirs changed.
type parts uint8

const (
	partLinks parts = 1 << iota // with their addresses
	partRoutes
	partNeighbors
	partAll = partLinks | partRoutes | partNeighbors
)

// read brings parts of the view up to date. Of an error the old part stays.
func (v *view) read(h *netlink.Handle, what parts) error {
	var errs []error
	if what&partLinks != 0 {
		errs = append(errs, v.readLinks(h))
	}
	if what&partRoutes != 0 {
		errs = append(errs, v.readRoutes(h))
	}
	if what&partNeighbors != 0 {
		errs = append(errs, v.readNeighbors(h))
	}
	return errors.Join(errs...)
}

func (v *view) readLinks(h *netlink.Handle) error {
	list, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	links := map[int]*link{}
	for _, k := range list {
		a := k.Attrs()
		l := &link{name: a.Name, index: a.Index, mtu: a.MTU}
		copy(l.mac[:], a.HardwareAddr)
		// Running is administratively up, with a carrier or none to have.
		l.up = a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0
		if vlan, ok := k.(*netlink.Vlan); ok && a.NetNsID < 0 { // else the parent's index is another namespace's
			l.parent, l.tag, l.tpid = a.ParentIndex, uint16(vlan.VlanId), uint16(vlan.VlanProtocol)
		}
		links[a.Index] = l
	}
	for i := range addrs {
		a := &addrs[i]
		l := links[a.LinkIndex]
		p, ok := prefixOf(a.IPNet)
		if l == nil || !ok || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue // nobody may use an address that duplicate detection has not cleared
		}
		l.addrs = append(l.addrs, p)
	}
	v.links = links
	return nil
}

func (v *view) readRoutes(h *netlink.Handle) error {
	// Filtering for no table in particular gives all of them.
	list, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	v.addRoutes(list)
	return nil
}

// addRoutes makes the kernel's routes those of the view: of a prefix's the one with
// the least metric first.
func (v *view) addRoutes(list []netlink.Route) {
	slices.SortStableFunc(list, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	v.routes, v.locals = nil, nil
	for i := range list {
		v.addRoute(&list[i])
	}
}

// addRoute adds a route of the kernel's, if it is one that packets follow.
func (v *view) addRoute(k *netlink.Route) {
	to, ok := prefixOf(k.Dst)
	if !ok || k.Tos != 0 || k.Family != unix.AF_INET && k.Family != unix.AF_INET6 {
		return
	}
	switch {
	case k.Type == unix.RTN_LOCAL:
		v.locals = append(v.locals, to)
	case k.Table != unix.RT_TABLE_MAIN:
	case k.Type == unix.RTN_BLACKHOLE || k.Type == unix.RTN_UNREACHABLE || k.Type == unix.RTN_PROHIBIT:
		v.routes = append(v.routes, route{to: to, drop: true})
	case k.Type == unix.RTN_UNICAST && len(k.MultiPath) == 0:
		v.addWay(k, to, k.LinkIndex, k.Gw, k.Via, k.Flags)
	case k.Type == unix.RTN_UNICAST:
		for _, hop := range k.MultiPath {
			v.addWay(k, to, hop.LinkIndex, hop.Gw, hop.Via, hop.Flags)
		}
	}
}

// addWay adds one next hop of a route.
func (v *view) addWay(k *netlink.Route, to netip.Prefix, index int, gw net.IP, via netlink.Destination, flags int) {
	if flags&unix.RTNH_F_DEAD != 0 {
		return
	}
	r := route{to: to, index: index, mtu: k.MTU, via: addrOf(gw), src: addrOf(k.Src)}
	if other, ok := via.(*netlink.Via); ok { // a gateway of the other family
		r.via = addrOf(other.Addr)
	}
	v.routes = append(v.routes, r)
}

func (v *view) readNeighbors(h *netlink.Handle) error {
	list, err := h.NeighList(0, unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	v.neighbors = map[neighbor]state{}
	for i := range list {
		v.note(&list[i], false)
	}
	return nil
}

// note takes over what the kernel says of one neighbour, and says whether packets go
// another way because of it.
func (v *view) note(k *netlink.Neigh, gone bool) (changed bool) {
	n := neighbor{addr: addrOf(k.IP), index: k.LinkIndex}
	if !n.addr.IsValid() || k.Family != unix.AF_INET && k.Family != unix.AF_INET6 || k.Flags&netlink.NTF_PROXY != 0 {
		return false
	}
	was := v.neighbors[n]
	if gone {
		delete(v.neighbors, n)
		return was.known()
	}
	now := state{nud: k.State}
	if len(k.HardwareAddr) == len(now.mac) {
		copy(now.mac[:], k.HardwareAddr)
	}
	v.neighbors[n] = now
	return was.known() != now.known() || now.known() && was.mac != now.mac
}

// known says whether packets can be sent. A stale address is used until the
// kernel has found out better, as the kernel itself does. Group addresses, which the
// kernel lists too, are nobody's.
func (s state) known() bool {
	const valid = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE |
		netlink.NUD_PERMANENT | netlink.NUD_NOARP
	return s.nud&valid != 0 && s.mac != [6]byte{} && s.mac[0]&1 == 0
}

// prefixOf and addrOf turn the net package's forms into netip's.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	p := netip.PrefixFrom(addrOf(n.IP), ones)
	return p, p.IsValid()
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
