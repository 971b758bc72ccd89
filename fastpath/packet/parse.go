package packet

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Parse takes a frame apart into in, all of which it sets. What is read is
// what the kernel's IPVS needs: a TCP header's 20 bytes but not whether its
// data offset is right, UDP's 8 but not its length field, SCTP's common header
// and its first chunk's. Of IPv4 the header checksum is verified.
func Parse(frame []byte, in *Info) Result {
	*in = Info{}
	if uint(len(frame))-EthernetLen > MaxFrame-EthernetLen {
		if len(frame) > MaxFrame {
			return BadHeader
		}
		return Truncated
	}
	if frame[0]&1 != 0 {
		in.Flags = FlagGroup
	}
	etherType, at := be.Uint16(frame[12:]), EthernetLen
	if etherType == EtherVLAN || etherType == EtherQinQ {
		if etherType, at = tags(frame, etherType, in); at == 0 {
			return Truncated
		}
	}
	switch etherType {
	case EtherIPv4:
		in.L3 = uint16(at)
		return parse4(frame, at, in)
	case EtherIPv6:
		in.L3 = uint16(at)
		return parse6(frame, at, in)
	}
	return NotIP
}

// tags reads the VLAN tags and returns the EtherType behind them and where
// what it names begins; 0: the frame ends within a tag.
func tags(frame []byte, etherType uint16, in *Info) (uint16, int) {
	at := EthernetLen
	for range MaxTags {
		if etherType != EtherVLAN && etherType != EtherQinQ {
			break
		}
		tag := frame[at:]
		if len(tag) < TagLen {
			return 0, 0
		}
		if id := be.Uint16(tag) & 0xfff; id != 0 {
			in.VLAN[in.VLANs&1] = id
			in.VLANs++
		}
		etherType = be.Uint16(tag[2:])
		at += TagLen
	}
	return etherType, at
}

// parse4 reads the IPv4 datagram that begins at byte at of the frame.
func parse4(frame []byte, at int, in *Info) Result {
	h := IPv4(frame[at:])
	if len(h) < IPv4Len {
		return Truncated
	}
	in.Family = 4
	hlen, total := h.HeaderLen(), h.TotalLen()
	switch {
	case h.Version() != 4 || hlen < IPv4Len || total < hlen:
		return BadHeader
	case total > len(h):
		return Truncated
	}
	if hlen == IPv4Len {
		if !csum.Right4(h) {
			return BadChecksum
		}
	} else if csum.Fold(csum.Sum(h[:hlen], 0)) != 0 {
		return BadChecksum
	}
	l4, end := at+hlen, at+total
	addresses4(h, in)
	in.L4, in.End = uint16(l4), uint32(end)
	if badSource4(h) {
		return BadAddress
	}
	bits := h.fragBits()
	if bits&ipv4DF != 0 {
		in.Flags |= FlagDF
	}
	if bits&(ipv4MF|ipv4Offset) != 0 {
		return fragment(frame, l4, end, bits&ipv4Offset == 0, in)
	}
	return transport(frame, l4, end, in)
}

// addresses4 fills in what the header says for itself; in is zero so far.
func addresses4(h IPv4, in *Info) {
	_ = h[IPv4Len-1]
	mapped(&in.Src, binary.LittleEndian.Uint32(h[12:]))
	mapped(&in.Dst, binary.LittleEndian.Uint32(h[16:]))
	in.TTL, in.Proto, in.TOS = h.TTL(), h.Protocol(), h.TOS()
}

// mapped makes a, which is zero, the mapped form of an IPv4 address, v's first
// byte being its lowest. One store: flow.From4 copies byte for byte.
func mapped(a *flow.Addr, v uint32) {
	binary.LittleEndian.PutUint64(a[8:], uint64(v)<<32|0xffff0000)
}

// badSource4 says whether no host can have the source address: this network,
// loopback, a group or everyone (RFC 1122 section 3.2.1.3).
func badSource4(h IPv4) bool {
	return h[12] == 0 || h[12] == 127 || h[12]&0xf0 == 0xe0 || be.Uint32(h[12:]) == 0xffffffff
}

// fragment sorts out part of a datagram: its first has ports, if it is long
// enough.
func fragment(frame []byte, l4, end int, first bool, in *Info) Result {
	in.Flags |= FlagFragment
	if first {
		in.Flags |= FlagFirst
		transport(frame, l4, end, in)
	}
	return Fragment
}

// transport reads the transport header between l4 and end, in.Proto's.
func transport(frame []byte, l4, end int, in *Info) Result {
	t := frame[l4:end]
	switch in.Proto {
	case ProtoTCP:
		if len(t) < TCPLen {
			return Truncated
		}
		in.SrcPort, in.DstPort = be.Uint16(t), be.Uint16(t[2:])
		in.TCPFlags = t[13]
		in.Event = TCPEvent(t[13])
		return Parsed
	case ProtoUDP:
		if len(t) < UDPLen {
			return Truncated
		}
		in.SrcPort, in.DstPort = be.Uint16(t), be.Uint16(t[2:])
		return Parsed
	case ProtoSCTP:
		if len(t) < SCTPLen+ChunkLen {
			return Truncated
		}
		in.SrcPort, in.DstPort = be.Uint16(t), be.Uint16(t[2:])
		if in.Event = sctpEvent(t[SCTPLen:]); sctpEvents[t[SCTPLen]] == flow.EventAbort {
			in.Flags |= FlagAbort
		}
		return Parsed
	case ProtoICMP, ProtoICMPv6:
		return icmp(t, in)
	case ProtoESP, ProtoAH:
		in.SrcPort, in.DstPort = isakmpPort, isakmpPort
		return IPsec
	}
	return OtherProto
}

// icmp tells errors from other messages (K-ICMP-1).
func icmp(t []byte, in *Info) Result {
	if (in.Proto == ProtoICMP) != (in.Family == 4) {
		return OtherProto
	}
	if len(t) < ICMPLen {
		return Truncated
	}
	in.Event = ICMPHeader(t).Type()
	if in.Family == 4 {
		switch in.Event {
		case ICMPUnreachable, ICMPSourceQuench, ICMPTimeExceeded:
			return ICMPError
		}
		return ICMP
	}
	if in.Event >= ICMPv6Informational {
		return ICMP
	}
	return ICMPError
}

// tcpEvents gives the event of FIN, SYN, RST and ACK, the flags' own bits
// being the index.
var tcpEvents = func() (e [ACK << 1]uint8) {
	for flags := range e {
		switch {
		case flags&RST != 0:
			e[flags] = flow.EventRST
		case flags&SYN != 0:
			e[flags] = flow.EventSYN
		case flags&FIN != 0:
			e[flags] = flow.EventFIN
		case flags&ACK != 0:
			e[flags] = flow.EventACK
		default:
			e[flags] = flow.EventNone
		}
	}
	return e
}()

// TCPEvent returns the event of a TCP header's flags.
func TCPEvent(flags uint8) uint8 { return tcpEvents[flags&(FIN|SYN|RST|ACK)] }

// sctpEvents gives the event of a chunk type (RFC 9260 section 3.2); those
// not named here are EventData.
var sctpEvents = [256]uint8{
	1: flow.EventInit, 2: flow.EventInitAck, 6: flow.EventAbort, 7: flow.EventShutdown, 8: flow.EventShutdownAck, 9: flow.EventError,
	10: flow.EventCookieEcho, 11: flow.EventCookieAck, 14: flow.EventShutdownComplete,
}

// sctpEvent returns the event of a packet with these chunks, at least one
// chunk header. An ABORT bundled behind COOKIE ECHO or COOKIE ACK counts in
// their place (facts 1.7).
func sctpEvent(chunks []byte) uint8 {
	event := sctpEvents[chunks[0]]
	if event != flow.EventCookieEcho && event != flow.EventCookieAck {
		return event
	}
	n := int(be.Uint16(chunks[2:]))
	next := (n + 3) &^ 3 // chunks begin at multiples of 4
	if n >= ChunkLen && next+ChunkLen <= len(chunks) && sctpEvents[chunks[next]] == flow.EventAbort {
		return flow.EventAbort
	}
	return event
}
