package packettest

import (
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Describe says in a line what a frame is, with "BAD" at each checksum that
// is wrong, for the messages of failing tests. It reads any bytes.
func Describe(frame []byte) string {
	if len(frame) < 14 {
		return fmt.Sprintf("%d bytes, less than Ethernet's header", len(frame))
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s > %s", net.HardwareAddr(frame[6:12]), net.HardwareAddr(frame[:6]))
	etherType, rest := be.Uint16(frame[12:]), frame[14:]
	for (etherType == 0x8100 || etherType == 0x88a8) && len(rest) >= 4 {
		fmt.Fprintf(&s, " tag=%#04x:%d", etherType, be.Uint16(rest)&0xfff)
		etherType, rest = be.Uint16(rest[2:]), rest[4:]
	}
	if etherType != 0x0800 && etherType != 0x86dd {
		fmt.Fprintf(&s, " type=%#04x %d bytes", etherType, len(rest))
		return s.String()
	}
	s.WriteString(" " + describeIP(rest, false))
	return s.String()
}

// describeIP describes a datagram; of a quoted one the end may be missing, and
// its transport checksum says nothing.
func describeIP(b []byte, quoted bool) string {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && b[0]&15 >= 5 && len(b) >= int(b[0]&15)*4:
		return describe4(b, quoted)
	case len(b) >= 40 && b[0]>>4 == 6:
		return describe6(b, quoted)
	}
	return fmt.Sprintf("IP cut or broken %x", b)
}

func describe4(b []byte, quoted bool) string {
	hlen, total, bits := int(b[0]&15)*4, int(be.Uint16(b[2:])), be.Uint16(b[6:])
	s := fmt.Sprintf("IP ttl=%d id=%#04x", b[8], be.Uint16(b[4:]))
	for _, x := range []struct {
		shown bool
		text  string
	}{
		{bits&0x4000 != 0, " DF"},
		{b[1] != 0, fmt.Sprintf(" tos=%#02x", b[1])},
		{bits&0x3fff != 0, fmt.Sprintf(" frag=%d more=%t", int(bits&0x1fff)*8, bits&0x2000 != 0)},
		{hlen > 20, fmt.Sprintf(" opts=%x", b[20:hlen])},
		{Checksum(b[:hlen]) != 0, " ipcsum=BAD"},
		{total > len(b) && !quoted || total < hlen, fmt.Sprintf(" length=%d of %d", total, len(b))},
		{total < len(b), fmt.Sprintf(" pad=%d", len(b)-total)},
	} {
		if x.shown {
			s += x.text
		}
	}
	if total >= hlen && total < len(b) {
		b = b[:total]
	}
	return s + describeL4(b[hlen:], b[9], b[12:16], b[16:20], bits&0x1fff != 0, quoted || bits&0x2000 != 0)
}

func describe6(b []byte, quoted bool) string {
	word, plen := be.Uint32(b), int(be.Uint16(b[4:]))
	s := fmt.Sprintf("IP6 hlim=%d", b[7])
	if tc := word >> 20 & 0xff; tc != 0 {
		s += fmt.Sprintf(" tc=%#02x", tc)
	}
	if flow := word & 0xfffff; flow != 0 {
		s += fmt.Sprintf(" flow=%#x", flow)
	}
	body := b[40:]
	if plen > len(body) && !quoted || plen < len(body) {
		s += fmt.Sprintf(" length=%d of %d", plen, len(body))
	}
	if plen < len(body) {
		body = body[:plen]
	}
	proto, later := b[6], false
	for len(body) >= 8 && slices.Contains([]uint8{0, 43, 44, 51, 60}, proto) {
		n := int(body[1])*8 + 8
		switch proto {
		case 44:
			n = 8
			s += fmt.Sprintf(" frag=%d more=%t id=%#x", be.Uint16(body[2:])&^7, body[3]&1 != 0, be.Uint32(body[4:]))
			later = be.Uint16(body[2:])&^7 != 0
			quoted = quoted || body[3]&1 != 0
		case 51:
			n = int(body[1])*4 + 8
		}
		s += fmt.Sprintf(" ext=%d", proto)
		if n > len(body) {
			return s + "(cut)"
		}
		if proto, body = body[0], body[n:]; later {
			break
		}
	}
	return s + describeL4(body, proto, b[8:24], b[24:40], later, quoted)
}

// describeL4 describes what follows the IP headers; cut: the checksum cannot
// be verified.
func describeL4(b []byte, proto uint8, src, dst []byte, later, cut bool) string {
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	names := map[uint8]string{6: "TCP", 17: "UDP", 132: "SCTP"}
	least := map[uint8]int{6: 20, 17: 8, 132: 12, 1: 8, 58: 8}[proto]
	if names[proto] != "" && !later && len(b) >= 4 {
		s := fmt.Sprintf(" %s > %s %s", netip.AddrPortFrom(from, be.Uint16(b)), netip.AddrPortFrom(to, be.Uint16(b[2:])), names[proto])
		if len(b) < least {
			return s + " (cut)"
		}
		if proto == 6 {
			s += " [" + flagNames(b[13]) + "]"
		}
		return s + fmt.Sprintf(" len=%d%s", len(b)-least, verdict(b, proto, src, dst, cut))
	}
	s := fmt.Sprintf(" %s > %s", from, to)
	switch {
	case (proto == 1 || proto == 58) && !later && len(b) >= 8:
		s += fmt.Sprintf(" ICMP(%d) type=%d code=%d rest=%#08x%s", proto, b[0], b[1], be.Uint32(b[4:]), verdict(b, proto, src, dst, cut))
		if proto == 1 && slices.Contains([]uint8{3, 4, 5, 11, 12}, b[0]) || proto == 58 && b[0] < 128 {
			s += " quoting {" + describeIP(b[8:], true) + "}"
		}
		return s
	case (proto == 4 || proto == 41) && !later:
		return s + fmt.Sprintf(" tunnel=%d {%s}", proto, describeIP(b, cut))
	}
	return s + fmt.Sprintf(" proto=%d %d bytes", proto, len(b))
}

// verdict says whether a segment's checksum is right.
func verdict(b []byte, proto uint8, src, dst []byte, cut bool) string {
	switch {
	case cut:
		return ""
	case proto == 17 && b[6] == 0 && b[7] == 0:
		return " csum=none"
	case ChecksumOK(b, proto, src, dst):
		return " csum=ok"
	}
	return " csum=BAD"
}

// ChecksumOK says whether the checksum of a segment, as long as its header at
// least, is right: of TCP, UDP, SCTP, ICMP or ICMPv6.
func ChecksumOK(s []byte, proto uint8, src, dst []byte) bool {
	switch proto {
	case 132:
		t := slices.Clone(s)
		copy(t[8:12], []byte{0, 0, 0, 0})
		crc := crc32.Checksum(t, crc32.MakeTable(crc32.Castagnoli))
		return crc == uint32(s[8])|uint32(s[9])<<8|uint32(s[10])<<16|uint32(s[11])<<24
	case 1:
		return Checksum(s) == 0
	}
	return Checksum(slices.Concat(src, dst, []byte{0, byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s)), 0, proto}, s)) == 0
}

// flagNames shows TCP flags as tcpdump does.
func flagNames(f uint8) string {
	s := ""
	for i, c := range "FSRPAUEC" {
		if f>>i&1 != 0 {
			s += string(c)
		}
	}
	return s
}
