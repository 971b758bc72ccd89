package packet

// EtherTypes.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherVLAN = 0x8100 // IEEE 802.1Q customer tag
	EtherQinQ = 0x88a8 // IEEE 802.1ad service tag
	EtherIPv6 = 0x86dd
)

// IP protocol numbers; those of IPv6 extension headers are in ipv6.go.
const (
	ProtoICMP   = 1
	ProtoIPv4   = 4 // IP in IP (RFC 2003)
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoIPv6   = 41 // IPv6 in IP (RFC 4213, RFC 2473)
	ProtoGRE    = 47
	ProtoESP    = 50
	ProtoAH     = 51
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// isakmpPort is both ports of ISAKMP's usual connections (RFC 2408 section 2.5.1).
const isakmpPort = 500

// TCP flags in Info.TCPFlags (RFC 9293 section 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// ICMP types and codes (RFC 792, RFC 1191).
const (
	ICMPEchoReply    = 0
	ICMPUnreachable  = 3
	ICMPSourceQuench = 4
	ICMPRedirect     = 5
	ICMPEcho         = 8
	ICMPTimeExceeded = 11
	ICMPParameter    = 12

	ICMPFragmentTime    = 1 // time exceeded: to put a datagram together (also ICMPv6)
	ICMPHostUnreachable = 1
	ICMPPortUnreachable = 3
	ICMPFragNeeded      = 4
)

// ICMPv6 types and codes (RFC 4443). Types from ICMPv6Informational on report
// no error.
const (
	ICMPv6Unreachable   = 1
	ICMPv6TooBig        = 2
	ICMPv6TimeExceeded  = 3
	ICMPv6Parameter     = 4
	ICMPv6Informational = 128
	ICMPv6Echo          = 128
	ICMPv6EchoReply     = 129
	ICMPv6Redirect      = 137 // RFC 4861

	ICMPv6AddressUnreachable = 3
	ICMPv6PortUnreachable    = 4
)

// Lengths of headers, in bytes.
const (
	EthernetLen = 14
	TagLen      = 4
	IPv4Len     = 20 // without options
	IPv6Len     = 40
	TCPLen      = 20 // without options
	UDPLen      = 8
	SCTPLen     = 12 // the common header
	ChunkLen    = 4  // the header of an SCTP chunk
	ICMPLen     = 8  // type, code, checksum and the rest of the header
)
