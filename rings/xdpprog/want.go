package xdpprog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Errors of Update for a Want that does not fit; nothing of it is applied.
var (
	ErrTooManyMarks   = errors.New("too many mark rules")
	ErrTooManyEntries = errors.New("too many services and real servers")
	ErrInvalid        = errors.New("invalid entry")
)

// Addr is an IPv6 address, or an IPv4 one mapped as in RFC 4291 2.5.5.2.
type Addr = [16]byte

// ServiceKey is a virtual service. Packets to it are redirected, and packets
// from it too: replies of DR and TUN servers on their way through (K-CONN-4).
type ServiceKey struct {
	Proto uint8 // TCP, UDP or SCTP
	Addr  Addr
	Port  uint16 // host order; 0: every port
}

// RealKey is a NAT real server. Packets from it are redirected, and ICMP errors
// about packets to it.
type RealKey struct {
	Proto uint8 // TCP, UDP or SCTP
	Addr  Addr
	Port  uint16 // host order; 0: every port
}

// TunnelKey is a TUN real server. ICMP errors about packets in a tunnel to it are
// redirected: of IP in IP, GRE, and UDP to the port.
type TunnelKey struct {
	Addr Addr
	Port uint16 // of GUE, host order; 0: it has none
}

// MarkRule redirects the TCP, UDP and SCTP packets that match all its fields.
// Fragments are matched without ports: they may show none.
type MarkRule struct {
	Ifindex             int          // where the packet comes in; 0: anywhere
	Proto               uint8        // TCP, UDP or SCTP; 0: each of them
	Source, Destination netip.Prefix // zero: any address of either family
	PortLow, PortHigh   uint16       // destination ports, host order; 0, 0: any
}

// Want is all that is to be redirected. An order has no meaning, and an entry
// may be there twice.
type Want struct {
	Services []ServiceKey
	Reals    []RealKey
	Tunnels  []TunnelKey
	Marks    []MarkRule
	// IPsec lists addresses of services and NAT real servers whose AH and ESP
	// packets are to be redirected as well (K-PROTO-AH/ESP); others' pass.
	IPsec []Addr
	// Echo lists addresses of services to which echo requests are redirected,
	// whole or in fragments: the host does not own them. Others' pass.
	Echo []Addr
}

// compiled is a Want in the shape of the program's tables.
type compiled struct {
	endpoints map[steerEndpoint]steerEndpointFlag
	addresses map[steerAddr]steerAddressFlag
	marks     []MarkRule
}

func (w *Want) compile(maxEntries int) (*compiled, error) {
	n := len(w.Services) + len(w.Reals) + len(w.Tunnels)
	c := &compiled{make(map[steerEndpoint]steerEndpointFlag, n), make(map[steerAddr]steerAddressFlag, n), w.Marks}
	for _, s := range w.Services {
		if !served(s.Proto) {
			return nil, fmt.Errorf("service %s port %d: protocol %d has no ports: %w", netip.AddrFrom16(s.Addr).Unmap(), s.Port, s.Proto, ErrInvalid)
		}
		c.endpoints[endpoint(s.Proto, s.Addr, s.Port)] |= steerEndpointFlagSERVICE
		flags := steerAddressFlagVIP
		if s.Port == 0 {
			flags |= steerAddressFlagVIP_ANY
		}
		c.addresses[words(s.Addr)] |= flags
	}
	for _, r := range w.Reals {
		if !served(r.Proto) {
			return nil, fmt.Errorf("real server %s port %d: protocol %d has no ports: %w", netip.AddrFrom16(r.Addr).Unmap(), r.Port, r.Proto, ErrInvalid)
		}
		c.endpoints[endpoint(r.Proto, r.Addr, r.Port)] |= steerEndpointFlagNAT_REAL
		flags := steerAddressFlagNAT
		if r.Port == 0 {
			flags |= steerAddressFlagNAT_ANY
		}
		c.addresses[words(r.Addr)] |= flags
	}
	for _, t := range w.Tunnels {
		c.addresses[words(t.Addr)] |= steerAddressFlagTUNNEL
		if t.Port != 0 {
			c.endpoints[endpoint(unix.IPPROTO_UDP, t.Addr, t.Port)] |= steerEndpointFlagGUE_REAL
		}
	}
	for _, a := range w.IPsec {
		if _, ok := c.addresses[words(a)]; !ok {
			return nil, fmt.Errorf("IPsec address %s is of no service or real server: %w", netip.AddrFrom16(a).Unmap(), ErrInvalid)
		}
		c.addresses[words(a)] |= steerAddressFlagIPSEC
	}
	for _, a := range w.Echo {
		if c.addresses[words(a)]&steerAddressFlagVIP == 0 {
			return nil, fmt.Errorf("echo address %s is of no service: %w", netip.AddrFrom16(a).Unmap(), ErrInvalid)
		}
		c.addresses[words(a)] |= steerAddressFlagECHO
	}
	if n := max(len(c.endpoints), len(c.addresses)); n > maxEntries {
		return nil, fmt.Errorf("%d entries, the XDP tables hold %d: %w", n, maxEntries, ErrTooManyEntries)
	}
	return c, checkMarks(w.Marks)
}

// checkMarks finds what cannot be among rules.
func checkMarks(rules []MarkRule) error {
	if len(rules) > MaxMarks {
		return fmt.Errorf("%d, the XDP program takes %d: %w", len(rules), MaxMarks, ErrTooManyMarks)
	}
	for i, r := range rules {
		switch {
		case r.Ifindex < 0 || r.Ifindex > 1<<31-1:
			return fmt.Errorf("mark rule %d: interface index %d: %w", i+1, r.Ifindex, ErrInvalid)
		case r.Proto != 0 && !served(r.Proto):
			return fmt.Errorf("mark rule %d: protocol %d has no ports: %w", i+1, r.Proto, ErrInvalid)
		case r.PortLow > r.PortHigh:
			return fmt.Errorf("mark rule %d: ports %d to %d: %w", i+1, r.PortLow, r.PortHigh, ErrInvalid)
		}
	}
	return nil
}

// served reports whether IPVS serves a protocol (and finds ports in it).
func served(proto uint8) bool {
	return proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_SCTP
}

func endpoint(proto uint8, a Addr, port uint16) steerEndpoint {
	return steerEndpoint{Addr: words(a), Port: wire(port), Proto: proto}
}

// words is an address as the program reads it: its bytes in wire order.
func words(a Addr) (w steerAddr) {
	for i := range w.W {
		w.W[i] = binary.NativeEndian.Uint32(a[4*i:])
	}
	return w
}
