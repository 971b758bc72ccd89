// Package neigh says what the network around the host looks like, as a
// nexthop.Table: learned from the kernel by netlink while the node runs, or from
// the configuration alone.
//
// A Watcher belongs to the goroutine of its Run, which alone builds tables;
// everybody else reads the current one through an atomic pointer. What is seen is the main
// routing table: no policy rules, no routes that depend on TOS. Of a route with several next
// hops those count whose link is up and whose gateway answers.
package neigh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
)

// Network is what the configuration says of the network. On a running node it
// overrides what was learned, entry by entry.
type Network struct {
	Interfaces []Interface
	Routes     []Route
	Neighbors  []Neighbor
}

// Interface is a port of the node, or a VLAN on one, which then its name says:
// "eth0.100", "eth0.100.200" (outer tag first). A VLAN need not exist in the kernel; but then
// nobody but the configuration knows its neighbours.
type Interface struct {
	Name      string
	MAC       [6]byte        // zero: as learned; of a VLAN its parent's
	MTU       int            // in bytes of IP datagram; 0: as learned, or 1500
	Addresses []netip.Prefix // none: as learned
	TPID      uint16         // of a VLAN, its tag's EtherType; 0: as learned, or 802.1Q
}

// Route is a route by a gateway, or on-link through an interface.
type Route struct {
	To        netip.Prefix
	Via       netip.Addr // not valid: on-link
	Interface string     // empty: the one whose subnet holds Via
}

// Neighbor is a neighbour's MAC address.
type Neighbor struct {
	Addr      netip.Addr
	MAC       [6]byte
	Interface string
}

// FromConfig builds the table that the configuration alone describes, as a
// replay needs it: nothing is asked of the host, every interface is up. ports are
// the node's interfaces in the order of their numbers; one that n does not have is
// down. The error names every entry that makes no sense.
func FromConfig(ports []string, n Network) (*nexthop.Table, error) {
	var b nexthop.Builder
	var errs []error
	index := map[string]int{}
	for port, name := range ports {
		i := nexthop.Interface{Name: name, Port: port}
		at := slices.IndexFunc(n.Interfaces, func(o Interface) bool { return o.Name == name })
		if at >= 0 {
			i.Up = true
			n.Interfaces[at].apply(&i)
		}
		index[name] = b.AddInterface(i)
	}
	for _, o := range n.parentsFirst() {
		if _, ok := index[o.Name]; ok {
			continue
		}
		i := nexthop.Interface{Name: o.Name, Up: true}
		o.apply(&i)
		at, err := b.AddVLAN(i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		index[o.Name] = at
	}
	errs = append(errs, n.ways(&b, index)...)
	return b.Build(1), errors.Join(errs...)
}

// parentsFirst returns the interfaces with each VLAN behind what it is on.
func (n *Network) parentsFirst() []Interface {
	return slices.SortedStableFunc(slices.Values(n.Interfaces), func(a, b Interface) int {
		return strings.Count(a.Name, ".") - strings.Count(b.Name, ".")
	})
}

// apply lays what o says over i.
func (o *Interface) apply(i *nexthop.Interface) {
	if o.MAC != [6]byte{} {
		i.MAC = o.MAC
	}
	if o.MTU > 0 {
		i.MTU = o.MTU
	}
	if len(o.Addresses) > 0 {
		i.Addrs = o.Addresses
	}
	if o.TPID != 0 {
		i.TPID[max(1, i.VLANs)-1] = o.TPID
	}
}

// ways adds the routes and neighbours to b; index is where interfaces are.
func (n *Network) ways(b *nexthop.Builder, index map[string]int) (errs []error) {
	for _, r := range n.Routes {
		at, ok := index[r.Interface]
		if r.Interface == "" {
			at, ok = nexthop.AnyInterface, true
		}
		if !ok {
			errs = append(errs, fmt.Errorf("route %v: interface %q: %w", r.To, r.Interface, nexthop.ErrNoInterface))
			continue
		}
		errs = append(errs, b.AddRoute(r.To, r.Via, at, netip.Addr{}, 0))
	}
	for _, x := range n.Neighbors {
		at, ok := index[x.Interface]
		if !ok {
			errs = append(errs, fmt.Errorf("neighbour %v: interface %q: %w", x.Addr, x.Interface, nexthop.ErrNoInterface))
			continue
		}
		errs = append(errs, b.AddNeighbor(x.Addr, x.MAC, at))
	}
	return errs
}
