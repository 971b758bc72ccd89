package neigh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
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

// dumps is how the kernel is asked for all that it has of a kind.
type dumps struct {
	*netlink.Handle
	socket *nl.SocketHandle // for what the library does not know
}

// newDumps opens the sockets, in the calling thread's network namespace.
func newDumps() (*dumps, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, err
	}
	return &dumps{h, &nl.SocketHandle{Socket: s}}, nil
}

// close closes the sockets.
func (d *dumps) close() {
	d.Close()
	d.socket.Close()
}

// raw asks for all of a kind by a header of zeros of this size, and gives each answer
// of type want to f.
func (d *dumps) raw(ask, want, header int, f func(b []byte)) error {
	r := nl.NewNetlinkRequest(ask, unix.NLM_F_DUMP)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: d.socket}
	r.AddRawData(make([]byte, header))
	return r.ExecuteIter(unix.NETLINK_ROUTE, uint16(want), func(b []byte) bool { f(b); return true })
}

// read brings parts of the view up to date. Of an error the old part stays.
func (v *view) read(h *dumps, what parts) error {
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

func (v *view) readLinks(h *dumps) error {
	list, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	v.takeLinks(list, addrs)
	return nil
}

// takeLinks makes the kernel's links and addresses those of the view.
func (v *view) takeLinks(list []netlink.Link, addrs []netlink.Addr) {
	v.links = map[int]*link{}
	for _, k := range list {
		a := k.Attrs()
		l := &link{name: a.Name, index: a.Index, mtu: a.MTU, master: a.MasterIndex}
		copy(l.mac[:], a.HardwareAddr)
		// Running is administratively up, with a carrier or none to have.
		l.up = a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0
		if vlan, ok := k.(*netlink.Vlan); ok && a.NetNsID < 0 { // else the parent's index is another namespace's
			l.parent, l.tag, l.tpid = a.ParentIndex, uint16(vlan.VlanId), uint16(vlan.VlanProtocol)
		}
		l.bonding(k)
		v.links[a.Index] = l
	}
	for i := range addrs {
		a := &addrs[i]
		l := v.links[a.LinkIndex]
		p, ok := prefixOf(a.IPNet)
		if l == nil || !ok || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue // nobody may use an address that duplicate detection has not cleared
		}
		l.addrs = append(l.addrs, p)
	}
}

func (v *view) readNeighbors(h *dumps) error {
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
		return was.known() // a gate that has failed stays so until it answers
	}
	now := state{nud: k.State}
	if len(k.HardwareAddr) == len(now.mac) {
		copy(now.mac[:], k.HardwareAddr)
	}
	v.neighbors[n] = now
	if failed, gate := v.gates[n]; gate && (failed && now.known() || !failed && now.nud&netlink.NUD_FAILED != 0) {
		v.gates[n], changed = !failed, true
	}
	return changed || was.known() != now.known() || now.known() && was.mac != now.mac
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
