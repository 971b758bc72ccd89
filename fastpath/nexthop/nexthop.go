// Package nexthop says where a packet leaves: which interface, which tags,
// which MAC addresses.
//
// A Table is immutable. One goroutine builds tables from what the kernel or
// the configuration says and publishes each by an atomic pointer; every worker
// reads them without locks.
package nexthop

import (
	"net/netip"

	"github.com/sluice-lb/sluice/lb/flow"
)

// State says what to do with a packet for a destination.
type State uint8

// States of a Hop.
const (
	NoRoute    State = iota // nothing leads there
	Reachable               // write Hop's addresses and send
	Unresolved              // the neighbour's MAC address is not known
	Local                   // an address of the host
	Blackhole               // the operator wants it dropped
	Several                 // a route with several next hops: Choose one
)

// Hop is the next hop of a destination, in 64 bytes.
type Hop struct {
	// Gateway is the neighbour that the packet is handed to. It is zero if
	// that is the destination itself and not resolved, as one Hop stands for
	// all unresolved destinations of a subnet: ask Neighbor.
	Gateway flow.Addr
	Source  flow.Addr // the host's address for packets of its own this way: TUN's outer source, ICMP errors
	DstMAC  [6]byte   // the neighbour's, if Reachable
	SrcMAC  [6]byte   // the interface's
	VLAN    [2]uint16 // IDs of the tags to add, outer first
	TPID    [2]uint16 // their EtherTypes
	ID      uint32    // its place in the Table: Table.Hop(ID) is this Hop
	Iface   uint16    // index into Table.Interfaces; of Several into Table.groups
	MTU     uint16    // of the route, in bytes of IP datagram
	VLANs   uint8     // tags to add
	Prefix  uint8     // bits that the destinations of its route share
	State   State
}

// Neighbor returns the address whose MAC address is asked for to send to dst,
// the address that the Hop was looked up for.
func (h *Hop) Neighbor(dst *flow.Addr) flow.Addr {
	if h.Gateway.IsZero() {
		return *dst
	}
	return h.Gateway
}

// Interface is a network interface: a physical one, or a VLAN's on top of one.
type Interface struct {
	Name  string         // as the kernel's: "eth0", "eth0.100", "eth0.100.200"
	Index int            // the kernel's ifindex; 0 where there is no kernel
	Port  int            // index of the physical port that it leaves by; below 0: by none of ours
	VLANs uint8          // tags on the wire, 0 to 2
	VLAN  [2]uint16      // their IDs, outer first
	TPID  [2]uint16      // their EtherTypes; 0: 802.1Q
	MAC   [6]byte        // its address
	MTU   int            // in bytes of IP datagram
	Up    bool           // routes through an interface that is down do not count
	Addrs []netip.Prefix // its addresses, each with its subnet's length

	Bond    string   // of a bond its mode, as "802.3ad"
	Members []Member // of a bond
}

// Member is an interface that carries a bond's frames.
type Member struct {
	Name  string
	Index int     // the kernel's
	MAC   [6]byte // frames may be addressed to it, too
	Sends bool    // the bond's frames may leave by it now
}

// Table is what is known of the network around the host at one time.
type Table struct {
	Version    uint64
	Interfaces []Interface

	hops   []Hop     // hops[0] is NoRoute
	groups []group   // the next hops of those that are Several
	slots  []slot    // open hash table, at most half full
	routes [2]ladder // every destination, IPv4 and IPv6: local ones first, then routes
	onLink [2]ladder // the interfaces' subnets
	local  [2]ladder // the host's own addresses
}

// Hop returns the hop of this ID. An ID is good for one Table.
func (t *Table) Hop(id uint32) *Hop { return &t.hops[id] }

// Len is the number of hops: their IDs are below it.
func (t *Table) Len() int { return len(t.hops) }
