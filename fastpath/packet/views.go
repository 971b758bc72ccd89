package packet

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/lb/flow"
)

var be = binary.BigEndian

// IPv4 is an IPv4 header (RFC 791) and what follows it; at least IPv4Len bytes.
type IPv4 []byte

// Version is 4 of a well-formed header.
func (h IPv4) Version() uint8 { return h[0] >> 4 }

// HeaderLen is the header's length with options, in bytes.
func (h IPv4) HeaderLen() int { return int(h[0]&15) * 4 }

// TOS is the type of service: DSCP and ECN.
func (h IPv4) TOS() uint8 { return h[1] }

// TotalLen is the datagram's length with this header, in bytes.
func (h IPv4) TotalLen() int { return int(be.Uint16(h[2:])) }

// ID names the datagram that a fragment is part of.
func (h IPv4) ID() uint16 { return be.Uint16(h[4:]) }

// fragment bits beside the offset.
const (
	ipv4DF     = 0x4000
	ipv4MF     = 0x2000
	ipv4Offset = 0x1fff
)

// fragBits holds DF, MF and the fragment's offset.
func (h IPv4) fragBits() uint16 { return be.Uint16(h[6:]) }

// DF says that the datagram must not be fragmented.
func (h IPv4) DF() bool { return h.fragBits()&ipv4DF != 0 }

// MoreFragments says that this is not the datagram's last part.
func (h IPv4) MoreFragments() bool { return h.fragBits()&ipv4MF != 0 }

// FragOffset is where in the datagram this part belongs, in bytes.
func (h IPv4) FragOffset() int { return int(h.fragBits()&ipv4Offset) * 8 }

// TTL is the time to live, in hops.
func (h IPv4) TTL() uint8 { return h[8] }

// Protocol is what follows the header.
func (h IPv4) Protocol() uint8 { return h[9] }

// Checksum is the header's.
func (h IPv4) Checksum() uint16 { return be.Uint16(h[10:]) }

// SetChecksum writes the header's checksum.
func (h IPv4) SetChecksum(sum uint16) { be.PutUint16(h[10:], sum) }

// Src is the source address.
func (h IPv4) Src() flow.Addr { return flow.From4([4]byte(h[12:16])) }

// Dst is the destination address.
func (h IPv4) Dst() flow.Addr { return flow.From4([4]byte(h[16:20])) }

// IPv6 is an IPv6 header (RFC 8200) and what follows it; at least IPv6Len
// bytes.
type IPv6 []byte

// Version is 6 of a well-formed header.
func (h IPv6) Version() uint8 { return h[0] >> 4 }

// TrafficClass is DSCP and ECN.
func (h IPv6) TrafficClass() uint8 { return uint8(be.Uint16(h) >> 4) }

// PayloadLen is the length of what follows the header, in bytes.
func (h IPv6) PayloadLen() int { return int(be.Uint16(h[4:])) }

// NextHeader is what follows the header.
func (h IPv6) NextHeader() uint8 { return h[6] }

// HopLimit is IPv6's TTL, in hops.
func (h IPv6) HopLimit() uint8 { return h[7] }

// Src is the source address.
func (h IPv6) Src() flow.Addr { return flow.Addr(h[8:24]) }

// Dst is the destination address.
func (h IPv6) Dst() flow.Addr { return flow.Addr(h[24:40]) }

// IPv6Fragment is an IPv6 fragment header (RFC 8200 section 4.5), 8 bytes.
type IPv6Fragment []byte

// Offset is where in the datagram this part belongs, in bytes.
func (h IPv6Fragment) Offset() int { return int(be.Uint16(h[2:]) &^ 7) }

// More says that this is not the datagram's last part.
func (h IPv6Fragment) More() bool { return h[3]&1 != 0 }

// ID names the datagram that a fragment is part of.
func (h IPv6Fragment) ID() uint32 { return be.Uint32(h[4:]) }

// ICMPHeader is an ICMP or ICMPv6 header of ICMPLen bytes and what follows it.
type ICMPHeader []byte

// Type says what the message is.
func (h ICMPHeader) Type() uint8 { return h[0] }

// Code says which kind of Type it is.
func (h ICMPHeader) Code() uint8 { return h[1] }

// SetChecksum writes the message's checksum.
func (h ICMPHeader) SetChecksum(sum uint16) { be.PutUint16(h[2:], sum) }

// Rest is the rest of the header: an error's MTU, for example.
func (h ICMPHeader) Rest() uint32 { return be.Uint32(h[4:]) }
