package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const defaultMTU = 1500

// addLink makes a veth pair, both ends addressed and up.
func (n *Network) addLink(l Link) error {
	mac, err := parseMAC(l.A.MAC)
	if err != nil {
		return err
	}
	peerMAC, err := parseMAC(l.B.MAC)
	if err != nil {
		return err
	}
	a, b := n.In(l.A.In), n.In(l.B.In)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = l.A.Name, mac
	attrs.MTU = orDefault(l.A.MTU, defaultMTU)
	attrs.NumRxQueues, attrs.NumTxQueues = orDefault(l.A.RxQueues, 1), orDefault(l.A.TxQueues, 1)
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr = l.B.Name, peerMAC
	veth.PeerNamespace = netlink.NsFd(b.handle)
	veth.PeerMTU = uint32(orDefault(l.B.MTU, defaultMTU))
	veth.PeerNumRxQueues, veth.PeerNumTxQueues = uint32(orDefault(l.B.RxQueues, 1)), uint32(orDefault(l.B.TxQueues, 1))
	if err := a.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth pair: %w", err)
	}
	// Namespaces vanish some time after their last user; cables do at once.
	n.onClose(func() error {
		link, err := a.links.LinkByName(l.A.Name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil // somebody else, a test perhaps, took it away
		}
		if err != nil {
			return err
		}
		return a.links.LinkDel(link)
	})
	n.ends = append(n.ends, l.A, l.B)
	return errors.Join(a.finish(l.A), b.finish(l.B))
}

// awaitCarriers returns when all interfaces pass packets. The kernel gets to
// this up to a second after a link's second end went up, and drops until then.
func (n *Network) awaitCarriers() error {
	for _, e := range n.ends {
		if err := await(func() (bool, error) {
			link, err := n.In(e.In).links.LinkByName(e.Name)
			return err == nil && link.Attrs().OperState == netlink.OperUp, err
		}); err != nil {
			return fmt.Errorf("carrier of %s in %s: %w", e.Name, e.In, err)
		}
	}
	return nil
}

// await returns when done says so, or its error; after 10 s it gives up.
func await(done func() (bool, error)) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return os.ErrDeadlineExceeded
		}
	}
}

// orDefault returns v, or what 0 stands for.
func orDefault(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return v
}

// addAddrs gives the interfaces their addresses.
func (n *Network) addAddrs() error {
	for _, e := range n.ends {
		for _, addr := range e.Addrs {
			if err := n.In(e.In).AddAddr(e.Name, addr); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish takes a new interface up, without offloads.
func (s *Namespace) finish(e End) error {
	if err := s.DisableOffloads(e.Name); err != nil {
		return err
	}
	return s.SetUp(e.Name, true)
}

func (n *Network) addSwitch(w Switch) error {
	s := n.In(w.Name)
	// The bridge is a plain one: its own stack is silent.
	if err := s.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "bridge", orDefault(w.MTU, defaultMTU)
	snooping := false // would want multicast queriers before it lets neighbour discovery through
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := s.links.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	for _, e := range w.Ends {
		port := End{In: w.Name, Name: e.In, MTU: w.MTU, RxQueues: e.TxQueues, TxQueues: e.RxQueues}
		if err := n.addLink(Link{e, port}); err != nil {
			return err
		}
		link, err := s.links.LinkByName(port.Name)
		if err != nil {
			return err
		}
		if err := s.links.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("port of %s: %w", e.In, err)
		}
	}
	return s.SetUp("bridge", true)
}

// SetUp takes an interface up or down.
func (s *Namespace) SetUp(dev string, up bool) error {
	link, err := s.links.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", dev, s.name, err)
	}
	if up {
		return s.links.LinkSetUp(link)
	}
	return s.links.LinkSetDown(link)
}

// MAC returns an interface's hardware address.
func (s *Namespace) MAC(dev string) (net.HardwareAddr, error) {
	link, err := s.links.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", dev, s.name, err)
	}
	return link.Attrs().HardwareAddr, nil
}

// AddAddr gives an interface, which must be up, an address, "10.0.1.1/24". It
// is usable at once: the kernel's worker that makes an IPv6 one local is waited for.
func (s *Namespace) AddAddr(dev, prefix string) error {
	link, err := s.links.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", dev, s.name, err)
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return fmt.Errorf("address %q: %w", prefix, err)
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := s.links.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add %s to %s in %s: %w", prefix, dev, s.name, err)
	}
	if err := await(func() (bool, error) {
		routes, err := s.links.RouteGet(addr.IP)
		return len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, ignore(err, unix.ENETUNREACH, unix.EHOSTUNREACH)
	}); err != nil {
		return fmt.Errorf("%s does not become local in %s: %w", prefix, s.name, err)
	}
	return nil
}

// ignore returns err unless it is one of the others.
func ignore(err error, others ...error) error {
	for _, other := range others {
		if errors.Is(err, other) {
			return nil
		}
	}
	return err
}

// AddVIP makes the namespace a server of the address: see VIP.
func (s *Namespace) AddVIP(addr string) error {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return err
	}
	return errors.Join(
		s.Sysctl("net.ipv4.conf.all.arp_ignore", "1"),   // answer only for addresses of the asked interface
		s.Sysctl("net.ipv4.conf.all.arp_announce", "2"), // and ask with such a one
		s.AddAddr("lo", netip.PrefixFrom(a, a.BitLen()).String()))
}

// AddRoute adds a route: see Route. An existing one to the same prefix is replaced.
func (s *Namespace) AddRoute(to, via, dev string) error {
	route := netlink.Route{}
	if to != "default" {
		dst, err := netlink.ParseIPNet(to)
		if err != nil {
			return fmt.Errorf("route to %q: %w", to, err)
		}
		route.Dst = dst
	}
	if via != "" {
		gw, err := netip.ParseAddr(via)
		if err != nil {
			return fmt.Errorf("route via %q: %w", via, err)
		}
		route.Gw = gw.AsSlice()
	}
	if dev != "" {
		link, err := s.links.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("%s in %s: %w", dev, s.name, err)
		}
		route.LinkIndex = link.Attrs().Index
	}
	if err := s.links.RouteReplace(&route); err != nil {
		return fmt.Errorf("route to %s in %s: %w", to, s.name, err)
	}
	return nil
}

// SetNeighbor sets a permanent entry of the ARP or neighbour table, as
// AddRoute does for routes.
func (s *Namespace) SetNeighbor(dev, addr, mac string) error {
	link, err := s.links.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", dev, s.name, err)
	}
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return err
	}
	hw, err := parseMAC(mac)
	if err != nil {
		return err
	}
	return s.links.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: hw,
	})
}

// parseMAC reads an Ethernet address; an empty one is nil.
func parseMAC(s string) (net.HardwareAddr, error) {
	if s == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(s)
	if err == nil && len(mac) != 6 {
		err = fmt.Errorf("address %s: not an Ethernet address", s)
	}
	return mac, err
}
