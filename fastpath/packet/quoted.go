package packet

// lastQuote is the last byte at which a quote may begin: far behind all that may
// stand before one, and so that offsets into its headers fit 16 bits.
const lastQuote = 1 << 15

// ParseQuoted reads the datagram that an ICMP error quotes, between bytes at
// (outer.L4+ICMPLen) and end (outer.End) of the frame, into in; in.End is
// where the quote ends. A quote is cut short and routers touch it, so neither
// its length nor its checksum is verified: its IP headers and the ports have
// to be there.
//
// Parsed: TCP, UDP or SCTP, with ports. IPsec: with those of ISAKMP, as Parse has
// it. ICMP and OtherProto: another protocol, whose header is at L4 and may be cut. Fragment: not the datagram's
// first part, so there are no ports.
func ParseQuoted(frame []byte, at, end int, in *Info) Result {
	*in = Info{}
	if at < 0 || at > lastQuote || end > len(frame) || end > MaxFrame || at >= end {
		return Truncated
	}
	in.L3, in.End = uint16(at), uint32(end)
	switch frame[at] >> 4 {
	case 4:
		return quoted4(frame[:end], at, in)
	case 6:
		return quoted6(frame[:end], at, in)
	}
	return BadHeader
}

// quoted4 reads a quoted IPv4 datagram from byte at to the frame's end.
func quoted4(frame []byte, at int, in *Info) Result {
	h := IPv4(frame[at:])
	if len(h) < IPv4Len {
		return Truncated
	}
	in.Family = 4
	hlen, total := h.HeaderLen(), h.TotalLen()
	if hlen < IPv4Len || total < hlen {
		return BadHeader
	}
	addresses4(h, in)
	if total < len(h) {
		in.End = uint32(at + total)
	}
	if hlen > len(h) {
		return Truncated
	}
	bits := h.fragBits()
	if bits&ipv4DF != 0 {
		in.Flags |= FlagDF
	}
	in.L4 = uint16(at + hlen)
	return quotedPorts(frame, bits&ipv4MF != 0, bits&ipv4Offset == 0, in)
}

// quoted6 reads a quoted IPv6 datagram from byte at to the frame's end.
func quoted6(frame []byte, at int, in *Info) Result {
	h := IPv6(frame[at:])
	if len(h) < IPv6Len {
		return Truncated
	}
	in.Family = 6
	addresses6(h, in)
	if total := IPv6Len + h.PayloadLen(); total < len(h) {
		in.End = uint32(at + total)
	}
	if badAddresses6(in) {
		return BadAddress
	}
	l4, r := extensions(frame, at+IPv6Len, int(in.End), in)
	if r != Parsed {
		return r
	}
	in.L4 = uint16(l4)
	part := in.Flags&FlagFragment != 0
	return quotedPorts(frame, part, !part || in.Flags&FlagFirst != 0, in)
}

// quotedPorts reads the ports at in.L4. part: the datagram is a fragment;
// first: of offset 0.
func quotedPorts(frame []byte, part, first bool, in *Info) Result {
	if !first {
		in.Flags |= FlagFragment
		return Fragment
	}
	if part {
		in.Flags |= FlagFragment | FlagFirst
	}
	switch in.Proto {
	case ProtoTCP, ProtoUDP, ProtoSCTP:
		t := frame[in.L4:in.End]
		if len(t) < 4 {
			return Truncated
		}
		in.SrcPort, in.DstPort = be.Uint16(t), be.Uint16(t[2:])
		return Parsed
	case ProtoICMP, ProtoICMPv6:
		return ICMP
	case ProtoESP, ProtoAH:
		in.SrcPort, in.DstPort = isakmpPort, isakmpPort
		return IPsec
	}
	return OtherProto
}

// ParseTunnelled is ParseQuoted for the packet inside the quoted one that outer
// describes, which may be of IP in IP, GRE or GUE: OtherProto if it is not, or
// has what no tunnel of ours has (keys, control messages).
func ParseTunnelled(frame []byte, outer, in *Info) Result {
	at, t := int(outer.L4), frame[outer.L4:outer.End]
	switch {
	case outer.Proto == ProtoIPv4 || outer.Proto == ProtoIPv6:
	case outer.Proto == ProtoGRE && len(t) >= 4 && be.Uint16(t)&^greSum == 0 && (be.Uint16(t[2:]) == EtherIPv4 || be.Uint16(t[2:]) == EtherIPv6):
		at += 4 + 4*int(t[0]>>7)
	case outer.Proto == ProtoUDP && len(t) >= UDPLen+4 && t[UDPLen]&^gueOptions == 0 && (t[UDPLen+1] == ProtoIPv4 || t[UDPLen+1] == ProtoIPv6):
		at += UDPLen + 4 + 4*int(t[UDPLen]&gueOptions)
	default:
		return OtherProto
	}
	return ParseQuoted(frame, at, int(outer.End), in)
}

const (
	greSum     = 0x8000 // four more bytes, with a checksum (RFC 2784 section 2.1)
	gueOptions = 0x1f   // their length, in words (draft-ietf-intarea-gue section 3.1)
)
