// Package lb holds what a node balances: virtual services, their real servers
// and the rules between them, as the operator wants them (Spec) and as the
// workers read them (Snapshot).
//
// The Director is the sole writer. It compiles each change into a new,
// immutable Snapshot and publishes it by one atomic pointer; workers adopt it
// between batches. Counts live in Rows, one set a worker, written by that
// worker alone.
package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/lb/flow"
)

// IP protocol numbers of virtual services (K-SVC-3).
const (
	ProtoTCP  = 6
	ProtoUDP  = 17
	ProtoSCTP = 132
)

// ftpPort is the command port that K-SVC-1 knows.
const ftpPort = 21

// Spec is everything the operator wants of a node.
type Spec struct {
	Services []ServiceSpec
	Marks    []MarkRule // in order: the first that matches decides
	Timeouts Timeouts
	Sysctl   Sysctl
}

// Timeouts are those of ipvsadm --set; 0 keeps the default.
type Timeouts struct{ TCP, TCPFin, UDP time.Duration }

// With returns t with those of over that are not 0.
func (t Timeouts) With(over Timeouts) Timeouts {
	return Timeouts{TCP: cmp.Or(over.TCP, t.TCP), TCPFin: cmp.Or(over.TCPFin, t.TCPFin), UDP: cmp.Or(over.UDP, t.UDP)}
}

// ServiceKey is what tells one virtual service from another: protocol,
// address and port, or a firewall mark and a family.
type ServiceKey struct {
	Proto uint8 // ProtoTCP, ProtoUDP or ProtoSCTP; 0 of a mark service
	Addr  netip.Addr
	Port  uint16 // 0: every port, of a persistent service only (K-SVC-6)
	Mark  uint32 // not 0: a firewall mark service (K-PROTO-FWM)
	V6    bool   // family of a mark service; of others false, Addr tells
}

// RealKey is what tells one real server of a service from another (K-DST-1).
type RealKey struct {
	Addr netip.Addr
	Port uint16
}

// ServiceSpec is one virtual service. Servers stand in the order in which they
// would have been added; each goes to the head of the kernel's list (K-DST-2).
type ServiceSpec struct {
	Name           string // "": Key.DefaultName()
	Key            ServiceKey
	Scheduler      string       // one of sched.Names()
	SchedulerFlags []string     // as ipvsadm -b (K-SVC-4)
	Persistence    *Persistence // nil: none
	OnePacket      bool         // each datagram is scheduled afresh (K-CONN-8)
	MSS            MSS          // of TCP only
	Servers        []RealSpec
}

// MSS bounds the maximum segment size that the two ends of a TCP connection offer
// each other in what passes the director, in bytes of payload: 0 not at all,
// AutoMSS by the MTU of the ways.
type MSS uint16

// The least and greatest bounds that are taken, and AutoMSS: segments such that
// a packet fits both of the director's ways, and a TUN server's tunnel.
const (
	AutoMSS MSS = 1
	MinMSS  MSS = 88
	MaxMSS  MSS = 65495
)

// String returns "off", "auto" or the number.
func (m MSS) String() string {
	switch m {
	case 0:
		return "off"
	case AutoMSS:
		return "auto"
	}
	return strconv.Itoa(int(m))
}

// Persistence sends all connections of a client to one server (K-PERS-*).
type Persistence struct {
	Timeout time.Duration // whole seconds, at least 1
	Prefix  int           // length that groups clients; 0: Mask, without one 32 or 128, each for itself
	Mask    netip.Addr    // IPv4: a netmask that is no prefix of one bit or more, say 0.0.0.0; else not valid
	Engine  string        // "" or "sip"
}

// RealSpec is one real server of a service.
type RealSpec struct {
	Key          RealKey // port 0: the packet's own, in a service with a port too; DR and TUN servers of that have its port
	Weight       int32
	Forward      Forward
	Tunnel       Tunnel // if Forward is TUN
	Upper, Lower uint32 // connection thresholds, 0: off (K-DST-7)
}

// MarkRule marks the packets that meet every condition which it sets.
type MarkRule struct {
	Mark              uint32
	Interface         string       // "": any
	Proto             uint8        // 0: any
	Source            netip.Prefix // zero: any
	Destination       netip.Prefix // zero: any
	PortLow, PortHigh uint16       // destination ports; 0, 0: any
}

// Netmask returns the bits of a client's address that count, IPv4 mapped.
func (p *Persistence) Netmask(v6 bool) (mask flow.Addr) {
	length := p.Prefix
	if !v6 {
		length += 96
	}
	if p.Mask.IsValid() {
		mask, length = flow.FromNetip(p.Mask), 96
	}
	for i := range length {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// ProtoName returns "tcp", "udp", "sctp" or the number.
func ProtoName(proto uint8) string {
	switch proto {
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoSCTP:
		return "sctp"
	}
	return strconv.Itoa(int(proto))
}

// Is6 says whether the service's clients come by IPv6.
func (k ServiceKey) Is6() bool {
	if k.Mark != 0 {
		return k.V6
	}
	return k.Addr.Is6()
}

// DefaultName is the name of a service that was given none:
// PROTOCOL-ADDRESS-PORT, or fwmark-N or fwmark-N-ipv6.
func (k ServiceKey) DefaultName() string {
	switch {
	case k.Mark != 0 && k.V6:
		return fmt.Sprintf("fwmark-%d-ipv6", k.Mark)
	case k.Mark != 0:
		return fmt.Sprintf("fwmark-%d", k.Mark)
	}
	return fmt.Sprintf("%s-%s-%d", ProtoName(k.Proto), k.Addr, k.Port)
}

// String returns the key as ipvsadm lists it: "TCP 10.0.0.1:80", "FWM 7".
func (k ServiceKey) String() string {
	switch {
	case k.Mark != 0 && k.V6:
		return fmt.Sprintf("FWM %d IPv6", k.Mark)
	case k.Mark != 0:
		return fmt.Sprintf("FWM %d", k.Mark)
	}
	return strings.ToUpper(ProtoName(k.Proto)) + " " + netip.AddrPortFrom(k.Addr, k.Port).String()
}

// String returns "10.0.0.1:80" or "[2001:db8::1]:80".
func (k RealKey) String() string { return netip.AddrPortFrom(k.Addr, k.Port).String() }
