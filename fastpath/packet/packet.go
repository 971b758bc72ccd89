// Package packet finds its way through a frame: Ethernet, VLAN tags, IPv4 and
// IPv6 with what lies between them and TCP, UDP, SCTP or ICMP.
//
// Its functions are pure, allocate nothing and read no byte beyond the frame,
// whatever the frame says of itself. An Info belongs to whoever parses into
// it.
package packet

import "github.com/sluice-lb/sluice/lb/flow"

// MaxFrame is the longest frame that Parse takes, in bytes: the largest IPv6
// datagram behind two VLAN tags. Offsets of headers fit 16 bits all the same.
const MaxFrame = EthernetLen + MaxTags*TagLen + IPv6Len + MaxPayload

// MaxPayload is the most that an IP header can say follows it, in bytes; in
// IPv4 that counts the header itself.
const MaxPayload = 1<<16 - 1

// MaxTags is how many VLAN tags are looked behind.
const MaxTags = 2

// Info is what Parse found, in 60 bytes. Offsets count bytes from the frame's
// first; those that were not reached are 0. Ports are in host order.
type Info struct {
	Src, Dst         flow.Addr
	SrcPort, DstPort uint16          // TCP, UDP, SCTP
	End              uint32          // end of the IP datagram: Ethernet padding is behind it
	L3               uint16          // where the IP header is
	L4               uint16          // where the transport header is, or what follows the IP headers
	Frag             uint16          // where the IPv6 fragment header is; 0: none
	Family           uint8           // 4 or 6; 0: not IP
	Proto            uint8           // transport protocol, behind extension headers
	TTL              uint8           // or hop limit
	VLANs            uint8           // tags in VLAN; a tag with ID 0 only carries a priority and is not counted
	VLAN             [MaxTags]uint16 // VLAN IDs, outer tag first
	TOS              uint8           // or traffic class
	Event            uint8           // what moves the connection's state, one of package flow's; of ICMP the type
	TCPFlags         uint8           // FIN to CWR; 0 for other protocols
	Flags            Flags
}

// Flags say what is special about a packet.
type Flags uint8

// Flags of a packet.
const (
	FlagFragment Flags = 1 << iota // part of a datagram, first or not; an IPv6 "atomic" fragment is whole and has it not
	FlagFirst                      // the part with the transport header
	FlagDF                         // IPv4: don't fragment
	FlagGroup                      // destination MAC is multicast or broadcast
	FlagAbort                      // SCTP: the first chunk is ABORT; Event may be that of a later one
)

// Result says what Parse made of a frame. Up to OtherProto the frame is well
// formed as far as it was read; from Truncated on it is not.
type Result uint8

// Results.
const (
	Parsed      Result = iota // TCP, UDP or SCTP, whole: all of Info is set
	IPsec                     // ESP, or AH in IPv4, whole: all of Info, its ports those of the ISAKMP connection that it follows (K-PROTO-AH/ESP)
	NotIP                     // another EtherType, or more than MaxTags tags
	BadAddress                // a source that no host can have, or an IPv6 address that stands for an IPv4 one: for the host to judge
	ICMP                      // ICMP or ICMPv6 that reports no error, or none that IPVS relates (K-ICMP-1)
	ICMPError                 // ICMP or ICMPv6 error; ParseQuoted reads what it quotes
	Fragment                  // part of a datagram, or all of one behind an IPv6 fragment header; ports are set if it has them
	OtherProto                // another protocol (K-PROTO-OTHER)
	Truncated                 // the frame or the datagram ends before its headers do
	BadHeader                 // a header contradicts itself, or too many extension headers
	BadChecksum               // of the IPv4 header
	Results                   // how many there are
)

var resultNames = [Results]string{
	Parsed: "parsed", NotIP: "not_ip", BadAddress: "bad_address", ICMP: "icmp", ICMPError: "icmp_error",
	Fragment: "fragment", IPsec: "ipsec", OtherProto: "other_protocol",
	Truncated: "truncated", BadHeader: "bad_header", BadChecksum: "ip_checksum",
}

// String returns the result's counter name.
func (r Result) String() string {
	if r < Results {
		return resultNames[r]
	}
	return "unknown"
}

// FlowProto returns the protocol of the connection that the packet belongs to:
// its own, or of IPsec's UDP, whose ISAKMP connection it follows
// (K-PROTO-AH/ESP).
func (in *Info) FlowProto() uint8 {
	if in.Proto == ProtoESP || in.Proto == ProtoAH {
		return ProtoUDP
	}
	return in.Proto
}

// Len returns the IP datagram's length in bytes.
func (in *Info) Len() int { return int(in.End) - int(in.L3) }

// Malformed says whether the host would drop the frame too.
func (r Result) Malformed() bool { return r >= Truncated }
