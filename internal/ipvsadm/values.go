package ipvsadm

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sluice-lb/sluice/lb"
)

// spaces are what may lead a number, as in C.
const spaces = " \t\n\v\f\r"

// number reads a decimal number within low..high: white space and a sign may
// lead, nothing may follow.
func number(s string, low, high int64) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimLeft(s, spaces), 10, 64)
	return n, err == nil && n >= low && n <= high
}

// leadingNumber reads the number that a text begins with; -1: none.
func leadingNumber(s string) int {
	s = strings.TrimLeft(s, spaces)
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(s)
	}
	n, err := strconv.Atoi(s[:end])
	if err != nil {
		return -1
	}
	return n
}

// aton reads an IPv4 address in any form that inet_aton(3) knows: one to four
// numbers, decimal, octal (0…) or hexadecimal (0x…), the last of which fills
// the bytes that are left; what follows white space is not looked at.
func aton(s string) (a [4]byte, ok bool) {
	if end := strings.IndexAny(s, spaces); end >= 0 {
		s = s[:end]
	}
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return a, false
	}
	whole := uint64(0)
	for i, part := range parts {
		room := 8
		if i == len(parts)-1 {
			room = 32 - 8*i
		}
		if part == "" || part[0] < '0' || part[0] > '9' || strings.ContainsAny(part, "_oObB") {
			return a, false // Go's own notations
		}
		n, err := strconv.ParseUint(part, 0, room)
		if err != nil {
			return a, false
		}
		whole = whole<<room | n
	}
	binary.BigEndian.PutUint32(a[:], uint32(whole))
	return a, true
}

// mask returns what -M was given for a persistence; "" if it groups no clients.
func mask(p *lb.Persistence, v6 bool) string {
	switch {
	case p.Mask.IsValid():
		return p.Mask.String()
	case p.Prefix == 0 || p.Prefix == 32+96*b2i(v6):
		return ""
	case v6:
		return strconv.Itoa(p.Prefix)
	}
	var m [4]byte
	binary.BigEndian.PutUint32(m[:], ^uint32(0)<<(32-p.Prefix))
	return netip.AddrFrom4(m).String()
}

// endpoint reads "host[:port]", "[host]:port" or an IPv6 address alone; given
// tells whether there was a port. A host is an address, never a name: a
// director must not depend on DNS. A port is a number or the name of a
// service of the protocol.
func endpoint(s string, proto uint8, env *Env) (addr netip.Addr, port uint16, given, ok bool) {
	host, portText, given := s, "", false
	if inner, rest, bracketed := strings.Cut(strings.TrimPrefix(s, "["), "]"); strings.HasPrefix(s, "[") {
		host = inner
		if portText, given = strings.CutPrefix(rest, ":"); !bracketed || !given {
			return addr, 0, false, false
		}
	} else if colon := strings.IndexByte(s, ':'); colon >= 0 && strings.IndexByte(s[colon+1:], ':') < 0 {
		host, portText, given = s[:colon], s[colon+1:], true
	}
	if !given && strings.Trim(s, "0123456789") == "" {
		return addr, 0, false, false // ipvsadm takes a number alone for a port
	}
	if addr, ok = parseHost(host); !ok {
		return addr, 0, false, false
	}
	if strings.HasPrefix(s, "[") && addr.Is4() {
		return addr, 0, true, true // ipvsadm 1.31 does not look at this port
	}
	if given {
		if port, ok = parsePort(portText, proto, env); !ok {
			return addr, 0, false, false
		}
	}
	return addr, port, given, true
}

// parseHost reads an address. IPv4 in IPv6 form is refused: the kernel would
// take it for an IPv6 address that no packet has.
func parseHost(s string) (netip.Addr, bool) {
	if strings.Contains(s, ":") {
		a, err := netip.ParseAddr(s)
		return a, err == nil && a.Zone() == "" && !a.Is4In6()
	}
	a, ok := aton(s)
	return netip.AddrFrom4(a), ok
}

func parsePort(s string, proto uint8, env *Env) (uint16, bool) {
	if n, ok := number(s, 0, 65535); ok {
		return uint16(n), true
	}
	return env.services().port(s, proto)
}
