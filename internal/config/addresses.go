package config

import (
	"fmt"
	"net"
	"net/netip"
)

// unicast is an address of one host. K-DST-3 (multicast and broadcast
// servers are refused); K-PROTO-V6 (a server may not be link-local).
func unicast(linkLocal bool) shape {
	return textual("an IPv4 or IPv6 address", func(s string) (any, error) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, errOther
		}
		return a, checkUnicast(a, linkLocal)
	})
}

func checkUnicast(a netip.Addr, linkLocal bool) error {
	var kind string
	switch {
	case a.Zone() != "":
		kind = "has a zone"
	case a.Is4In6():
		return fmt.Errorf("%s is an IPv4 address in IPv6 form, want %s", a, a.Unmap())
	case a.IsUnspecified():
		kind = "is the unspecified address"
	case a.IsMulticast():
		kind = "is a multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		kind = "is the broadcast address"
	case !linkLocal && a.Is6() && a.IsLinkLocalUnicast():
		kind = "is a link-local address"
	default:
		return nil
	}
	return fmt.Errorf("%s %s, want a unicast address", a, kind)
}

// network is a prefix without host bits, like 10.0.0.0/24.
func network() shape {
	return textual("a network like 10.0.1.0/24 or 2001:db8::/32", func(s string) (any, error) {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() {
			return nil, errOther
		}
		if p.Masked() != p {
			return nil, fmt.Errorf("%s has host bits, want %s", p, p.Masked())
		}
		return p, nil
	})
}

// hostPrefix is the address of an interface with its network's length.
func hostPrefix() shape {
	return textual("an address with its prefix length like 10.0.1.1/24", func(s string) (any, error) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, errOther
		}
		return p, checkUnicast(p.Addr(), true)
	})
}

// clientMask is by what persistence groups clients: a prefix length, or a mask of
// IPv4.
type clientMask struct {
	Prefix int
	Mask   netip.Addr
}

func netmask() shape {
	length := integer(1, 128)
	want := "a prefix length 1..128, or a mask of IPv4 like 255.255.255.0"
	return shape{want: want, scalar: func(tag, text string) (any, error) {
		if tag == tagText {
			mask, err := netip.ParseAddr(text)
			if err != nil || !mask.Is4() {
				return nil, fmt.Errorf("%q, want %s", text, want)
			}
			return clientMask{Mask: mask}, nil
		}
		v, err := length.scalar(tag, text)
		if err != nil {
			return nil, err
		}
		return clientMask{Prefix: v.(int)}, nil
	}}
}

// hardware is an Ethernet address of one station.
func hardware() shape {
	return textual(`an Ethernet address like "02:00:00:00:00:01"`, func(s string) (any, error) {
		m, err := net.ParseMAC(s)
		if err != nil || len(m) != 6 {
			return nil, errOther
		}
		if m[0]&1 != 0 || MAC(m) == (MAC{}) {
			return nil, fmt.Errorf("%s is not the address of a station (multicast or zero)", m)
		}
		return MAC(m), nil
	})
}
