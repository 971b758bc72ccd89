package packet

import "github.com/sluice-lb/sluice/lb/flow"

// IPv6 extension headers (RFC 8200 section 4, RFC 4302).
const (
	protoHopByHop = 0
	protoRouting  = 43
	protoFragment = 44
	protoDestOpts = 60
)

// maxExtensions is how many extension headers are looked behind: RFC 8200
// orders seven, and the work must have an end.
const maxExtensions = 8

// parse6 reads the IPv6 datagram that begins at byte at of the frame.
func parse6(frame []byte, at int, in *Info) Result {
	h := IPv6(frame[at:])
	if len(h) < IPv6Len {
		return Truncated
	}
	in.Family = 6
	end := at + IPv6Len + h.PayloadLen()
	if h.Version() != 6 {
		return BadHeader
	}
	if end > len(frame) {
		return Truncated
	}
	addresses6(h, in)
	in.End = uint32(end)
	if badAddresses6(in) {
		return BadAddress
	}
	return transport6(frame, at+IPv6Len, end, in)
}

// addresses6 fills in what the header says for itself.
func addresses6(h IPv6, in *Info) {
	_ = h[IPv6Len-1]
	copy(in.Src[:], h[8:24])
	copy(in.Dst[:], h[24:40])
	in.TTL, in.Proto, in.TOS = h.HopLimit(), h.NextHeader(), h.TrafficClass()
}

// badAddresses6 says whether the source is a group or the loopback address,
// or one of the two is an IPv4-mapped one: inside this program that is an
// IPv4 address, so that the packet could pass for another's.
func badAddresses6(in *Info) bool {
	return in.Src[0] == 0xff || in.Src.Is4() || in.Dst.Is4() || in.Src == flow.Addr{15: 1}
}

// transport6 goes to the transport header at l4, past extension headers if
// there are any, and reads it.
func transport6(frame []byte, l4, end int, in *Info) Result {
	switch in.Proto {
	case protoHopByHop, protoRouting, protoDestOpts, protoFragment, ProtoAH:
	default:
		in.L4 = uint16(l4)
		return transport(frame, l4, end, in)
	}
	l4, r := extensions(frame, l4, end, in)
	if r != Parsed {
		return r
	}
	in.L4 = uint16(l4)
	if in.Flags&FlagFragment != 0 {
		return fragment(frame, l4, end, in.Flags&FlagFirst != 0, in)
	}
	return transport(frame, l4, end, in)
}

// extensions walks along the extension headers from at and returns where they
// end: at the transport header, or behind the fragment header of a fragment
// that is not the first. It sets Proto, Frag and the fragment flags.
func extensions(frame []byte, at, end int, in *Info) (int, Result) {
	for range maxExtensions {
		h := frame[at:end]
		n := 8
		switch in.Proto {
		case protoHopByHop, protoRouting, protoDestOpts, protoFragment, ProtoAH:
			if len(h) < n {
				return at, Truncated
			}
		default:
			return at, Parsed
		}
		switch in.Proto {
		case protoFragment:
			f := IPv6Fragment(h)
			if in.Frag != 0 {
				return at, BadHeader // a part of a part
			}
			in.Frag = uint16(at)
			in.Flags |= FlagFragment
			if f.Offset() != 0 {
				in.Proto = h[0]
				return at + n, Parsed
			}
			in.Flags |= FlagFirst
		case ProtoAH:
			n = (int(h[1]) + 2) * 4
		default:
			n = (int(h[1]) + 1) * 8
		}
		if n > len(h) {
			return at, Truncated
		}
		in.Proto = h[0]
		at += n
	}
	return at, BadHeader
}
