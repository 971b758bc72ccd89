package packet_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/flow"
)

const (
	group = "01:00:5e:00:00:01"
	ours  = "02:00:00:00:00:01"
	other = "02:00:00:00:01:fe"
	cip   = "10.0.1.10"
	vip   = "10.0.1.100"
	cip6  = "fd00:1::10"
	vip6  = "fd00:1::100"
)

var (
	eth = packettest.Eth(ours, other)
	ip4 = eth.IP4(cip, vip)
	ip6 = eth.IP6(cip6, vip6)
)

func addr(s string) flow.Addr { return flow.FromNetip(netip.MustParseAddr(s)) }

// info4 and info6 are what most packets of ip4 and ip6 have in common, changed
// by f.
func info4(f func(*packet.Info)) packet.Info {
	in := packet.Info{Src: addr(cip), Dst: addr(vip), L3: 14, L4: 34, Family: 4, TTL: 64}
	f(&in)
	return in
}

func info6(f func(*packet.Info)) packet.Info {
	in := packet.Info{Src: addr(cip6), Dst: addr(vip6), L3: 14, L4: 54, Family: 6, TTL: 64}
	f(&in)
	return in
}

func TestParse(t *testing.T) {
	tests := []struct {
		stake string
		p     packettest.Packet
		want  packet.Info
	}{
		{"TCP", ip4.TCP(1000, 80, packettest.SYN), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto, in.TCPFlags = 1000, 80, 54, 6, packet.SYN
		})},
		{"TTL, TOS, DF and padding", ip4.TTL(9).TOS(0xb9).DF().TCP(1000, 80, packettest.ACK).Pad(60), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto, in.TCPFlags, in.Event = 1000, 80, 54, 6, packet.ACK, flow.EventACK
			in.TTL, in.TOS, in.Flags = 9, 0xb9, packet.FlagDF
		})},
		{"UDP shorter than TCP's header", ip4.UDP(1000, 53), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto = 1000, 53, 42, 17
		})},
		{"UDP, padded", ip4.UDP(65535, 53).Payload([]byte("query")).Pad(60), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto = 65535, 53, 47, 17
		})},
		{"the largest datagram of IPv4", ip4.UDP(1, 2).Payload(make([]byte, 65535-28)), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto = 1, 2, 14+65535, 17
		})},
		{"and of IPv6", ip6.UDP(1, 2).Payload(make([]byte, 65535-8)), info6(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto = 1, 2, 54+65535, 17
		})},
		{"IPv4 options", ip4.Options(1, 1, 1, 0).TCP(1000, 80, 0), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.L4, in.End, in.Proto, in.Event = 1000, 80, 38, 58, 6, flow.EventNone
		})},
		{"a frame to a group", packettest.Eth(group, other).IP4(cip, vip).UDP(1, 2), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto, in.Flags = 1, 2, 42, 17, packet.FlagGroup
		})},
		{"also on the short way", packettest.Eth(group, other).IP4(cip, vip).TCP(1, 2, packettest.SYN), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto, in.TCPFlags, in.Flags = 1, 2, 54, 6, packet.SYN, packet.FlagGroup
		})},
		{"a VLAN tag", eth.VLAN(7).IP4(cip, vip).UDP(1, 2), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.L3, in.L4, in.End, in.Proto, in.VLANs, in.VLAN[0] = 1, 2, 18, 38, 46, 17, 1, 7
		})},
		{"two, the outer 802.1ad, with priorities", eth.Tag(0x88a8, 0xe000|100).Tag(0x8100, 0x2000|200).IP6(cip6, vip6).UDP(1, 2), info6(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.L3, in.L4, in.End, in.Proto, in.VLANs, in.VLAN = 1, 2, 22, 62, 70, 17, 2, [2]uint16{100, 200}
		})},
		{"a tag that only carries a priority is no VLAN", eth.Tag(0x8100, 0xe000).VLAN(200).IP4(cip, vip).UDP(1, 2), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.L3, in.L4, in.End, in.Proto, in.VLANs, in.VLAN[0] = 1, 2, 22, 42, 50, 17, 1, 200
		})},
		{"SCTP", ip4.SCTP(1000, 3868, 1), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto, in.Event = 1000, 3868, 50, 132, flow.EventInit
		})},
		{"IPv6 TCP with traffic class and flow label", ip6.TOS(0xb9).FlowLabel(0xfffff).TTL(9).TCP(1000, 80, packettest.RST), info6(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto, in.TCPFlags, in.Event = 1000, 80, 74, 6, packet.RST, flow.EventRST
			in.TOS, in.TTL = 0xb9, 9
		})},
		{"IPv6 with every extension header", ip6.HopByHop(6).DestOpts(14).Routing().AH().DestOpts(6).UDP(1, 2), info6(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.L4, in.End, in.Proto = 1, 2, 118, 126, 17
		})},
		{"the data offset of TCP is not IPVS's affair", ip4.TCP(1, 2, 0xc0|packettest.SYN), info4(func(in *packet.Info) {
			in.SrcPort, in.DstPort, in.End, in.Proto, in.TCPFlags = 1, 2, 54, 6, 0xc0|packet.SYN
		})},
	}
	for _, tt := range tests {
		in := packet.Info{Frag: 1, VLANs: 9, Event: 77, VLAN: [2]uint16{1, 2}, TCPFlags: 3, Flags: 0xff, Src: flow.Addr{1}, Dst: flow.Addr{1}} // of the packet before
		frame := tt.p.Bytes()
		if r := packet.Parse(frame, &in); r != packet.Parsed || in != tt.want {
			t.Errorf("%s: %s\n got %v %+v\nwant parsed %+v", tt.stake, packettest.Describe(frame), r, in, tt.want)
		}
	}
}

func TestParseResults(t *testing.T) {
	first := ip4.Fragment(0, true, 9)
	tests := []struct {
		stake string
		p     packettest.Packet
		want  packet.Result
	}{
		{"ARP", eth.EtherType(packet.EtherARP).Payload(make([]byte, 46)), packet.NotIP},
		{"a third tag", eth.VLAN(1).VLAN(2).VLAN(3).IP4(cip, vip).UDP(1, 2), packet.NotIP},
		{"a length instead of a type (802.3)", eth.EtherType(46).Payload(make([]byte, 46)), packet.NotIP},
		{"source 127/8", eth.IP4("127.0.0.1", vip).UDP(1, 2), packet.BadAddress},
		{"source 127/8, as TCP, which has the short way", eth.IP4("127.0.0.1", vip).TCP(1, 2, 0), packet.BadAddress},
		{"source 0/8", eth.IP4("0.0.0.1", vip).TCP(1, 2, 0), packet.BadAddress},
		{"source a group", eth.IP4("224.0.0.1", vip).TCP(1, 2, 0), packet.BadAddress},
		{"source everyone", eth.IP4("255.255.255.255", vip).TCP(1, 2, 0), packet.BadAddress},
		{"source of class E is an address", eth.IP4("240.0.0.1", vip).TCP(1, 2, 0), packet.Parsed},
		{"IPv6 source a group", eth.IP6("ff02::1", vip6).TCP(1, 2, 0), packet.BadAddress},
		{"IPv6 source loopback", eth.IP6("::1", vip6).TCP(1, 2, 0), packet.BadAddress},
		{"ICMP echo", ip4.ICMP4(8, 0, 1), packet.ICMP},
		{"ICMP redirect is none that IPVS relates (K-ICMP-1)", ip4.ICMP4(5, 0, 0).Quote(ip4.UDP(1, 2), -1), packet.ICMP},
		{"ICMP unreachable", ip4.ICMP4(3, 3, 0).Quote(ip4.UDP(1, 2), -1), packet.ICMPError},
		{"ICMP source quench", ip4.ICMP4(4, 0, 0), packet.ICMPError},
		{"ICMP time exceeded", ip4.ICMP4(11, 0, 0), packet.ICMPError},
		{"ICMPv6 echo", ip6.ICMP6(128, 0, 1), packet.ICMP},
		{"ICMPv6 neighbour solicitation", ip6.ICMP6(135, 0, 0), packet.ICMP},
		{"ICMPv6 too big, behind options", ip6.HopByHop(6).ICMP6(2, 0, 1300), packet.ICMPError},
		{"any ICMPv6 error", ip6.ICMP6(127, 0, 0), packet.ICMPError},
		{"an ICMPv6 error behind a fragment header (K-ICMP-1)", ip6.Fragment(0, false, 1).ICMP6(1, 4, 0), packet.Fragment},
		{"all of a datagram behind one, which is to go [v6-frag-atomic]", ip6.Fragment(0, false, 9).UDP(1, 2), packet.Fragment},
		{"a fragment header behind another", ip6.Fragment(0, true, 9).Fragment(0, true, 9).UDP(1, 2), packet.BadHeader},
		{"ICMPv6 in IPv4", ip4.Proto(58).Payload(make([]byte, 8)), packet.OtherProto},
		{"ICMP in IPv6", ip6.Proto(1).Payload(make([]byte, 8)), packet.OtherProto},
		{"the first fragment", first.UDP(1, 2), packet.Fragment},
		{"another fragment", ip4.Fragment(1480, false, 9).Proto(17).Payload(make([]byte, 20)), packet.Fragment},
		{"a first fragment too short for ports", first.Proto(17).Payload(make([]byte, 3)), packet.Fragment},
		{"an IPv6 fragment", ip6.Fragment(1448, true, 9).Proto(17).Payload(make([]byte, 16)), packet.Fragment},
		{"the first IPv6 fragment", ip6.Fragment(0, true, 9).UDP(1, 2), packet.Fragment},
		{"ESP", ip4.Proto(50).Payload(make([]byte, 8)), packet.IPsec},
		{"AH", ip4.Proto(51).Payload(make([]byte, 24)), packet.IPsec},
		{"IPv6 ESP", ip6.Proto(50).Payload(make([]byte, 8)), packet.IPsec},
		{"GRE", ip4.Proto(47).Payload(make([]byte, 8)), packet.OtherProto},
		{"IPv6 no next header", ip6.Proto(59), packet.OtherProto},
		{"shorter than Ethernet", ip4.UDP(1, 2).Truncate(13), packet.Truncated},
		{"nothing", ip4.UDP(1, 2).Truncate(0), packet.Truncated},
		{"cut in a tag", eth.VLAN(1).IP4(cip, vip).UDP(1, 2).Truncate(17), packet.Truncated},
		{"cut in the second tag", eth.VLAN(1).VLAN(2).IP4(cip, vip).UDP(1, 2).Truncate(21), packet.Truncated},
		{"cut in IPv4's header", ip4.UDP(1, 2).Truncate(33), packet.Truncated},
		{"cut in IPv4's options", ip4.Options(1, 1, 1, 0).UDP(1, 2).Truncate(36), packet.Truncated},
		{"total length beyond the frame", ip4.TCP(1, 2, 0).Length(41), packet.Truncated},
		{"TCP header cut by the datagram, not by the frame", ip4.TCP(1, 2, 0).Length(39), packet.Truncated},
		{"UDP header cut by the datagram", ip4.UDP(1, 2).Length(27).Pad(60), packet.Truncated},
		{"SCTP without a chunk", ip4.SCTP(1, 2), packet.Truncated},
		{"ICMP cut", ip4.ICMP4(3, 3, 0).Length(27), packet.Truncated},
		{"cut in IPv6's header", ip6.UDP(1, 2).Truncate(53), packet.Truncated},
		{"payload length beyond the frame", ip6.UDP(1, 2).Length(9), packet.Truncated},
		{"IPv6 TCP cut by the payload length", ip6.TCP(1, 2, 0).Length(19), packet.Truncated},
		{"an extension header beyond the datagram", ip6.Ext(0, []byte{0, 9, 0, 0, 0, 0, 0, 0}).UDP(1, 2), packet.Truncated},
		{"half an extension header", ip6.HopByHop(6).Proto(17).Length(7), packet.Truncated},
		{"version 5", ip4.Version(5).TCP(1, 2, 0), packet.BadHeader},
		{"version 4 in IPv6", ip6.Version(4).TCP(1, 2, 0), packet.BadHeader},
		{"header of 4 words", ip4.HeaderWords(4).TCP(1, 2, 0), packet.BadHeader},
		{"total length within the header", ip4.TCP(1, 2, 0).Length(19), packet.BadHeader},
		{"options beyond the total length", ip4.HeaderWords(15).TCP(1, 2, 0), packet.BadHeader},
		{"nine extension headers", nine(), packet.BadHeader},
		{"longer than offsets can say", eth.EtherType(packet.EtherARP).Payload(make([]byte, packet.MaxFrame-13)), packet.BadHeader},
		{"wrong IPv4 checksum [nat-tcp-odd]", ip4.TCP(1, 2, 0).BadIPChecksum(), packet.BadChecksum},
		{"with options", ip4.Options(1, 1, 1, 0).TCP(1, 2, 0).BadIPChecksum(), packet.BadChecksum},
		{"a wrong TCP checksum is not IPVS's affair [nat-tcp-odd]", ip4.TCP(1, 2, 0).BadChecksum(), packet.Parsed},
	}
	seen := map[packet.Result]bool{}
	for _, tt := range tests {
		var in packet.Info
		frame := tt.p.Bytes()
		if got := packet.Parse(frame, &in); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.stake, got, tt.want)
		}
		seen[tt.want] = true
	}
	for r := range packet.Results {
		if !seen[r] {
			t.Errorf("no row gives %v", r)
		}
		if got, want := r.Malformed(), r == packet.Truncated || r == packet.BadHeader || r == packet.BadChecksum; got != want {
			t.Errorf("%v is malformed: %t, want %t", r, got, want)
		}
	}
}

func nine() packettest.Packet {
	p := ip6
	for range 9 {
		p = p.DestOpts(6)
	}
	return p.UDP(1, 2)
}

// IPv4-mapped addresses in an IPv6 header would alias IPv4 connections.
func TestParseMapped(t *testing.T) {
	for _, at := range []int{22, 38} {
		frame := ip6.UDP(1, 2).Bytes()
		m := addr(cip)
		copy(frame[at:], m[:])
		if got := packet.Parse(frame, new(packet.Info)); got != packet.BadAddress {
			t.Errorf("mapped address at byte %d: %v, want bad_address", at, got)
		}
	}
}

func TestFragmentInfo(t *testing.T) {
	tests := []struct {
		stake string
		p     packettest.Packet
		flags packet.Flags
		dport uint16
		l4    uint16
	}{
		{"first: ports", ip4.Fragment(0, true, 9).UDP(1, 53), packet.FlagFragment | packet.FlagFirst, 53, 34},
		{"later: none", ip4.Fragment(8, true, 9).UDP(1, 53), packet.FlagFragment, 0, 34},
		{"IPv6 first", ip6.Fragment(0, true, 9).UDP(1, 53), packet.FlagFragment | packet.FlagFirst, 53, 62},
		{"IPv6, all of it", ip6.Fragment(0, false, 9).UDP(1, 53), packet.FlagFragment | packet.FlagFirst, 53, 62},
		{"IPv6 later: what follows the fragment header is not read", ip6.Fragment(8, false, 9).DestOpts(6).UDP(1, 53), packet.FlagFragment, 0, 62},
	}
	for _, tt := range tests {
		var in packet.Info
		packet.Parse(tt.p.Bytes(), &in)
		if in.Flags != tt.flags || in.DstPort != tt.dport || in.L4 != tt.l4 {
			t.Errorf("%s: flags %#x, port %d, L4 %d; want %#x, %d, %d", tt.stake, in.Flags, in.DstPort, in.L4, tt.flags, tt.dport, tt.l4)
		}
	}
}

// Of the flags the first of RST, SYN, FIN, ACK decides (facts 1.7).
func TestTCPEvents(t *testing.T) {
	for flags := range 256 {
		want := flow.EventNone
		switch {
		case flags&packet.RST != 0:
			want = flow.EventRST
		case flags&packet.SYN != 0:
			want = flow.EventSYN
		case flags&packet.FIN != 0:
			want = flow.EventFIN
		case flags&packet.ACK != 0:
			want = flow.EventACK
		}
		for _, p := range []packettest.Packet{ip4.TCP(1, 2, uint8(flags)), ip6.TCP(1, 2, uint8(flags))} {
			var in packet.Info
			packet.Parse(p.Bytes(), &in)
			if in.Event != want || in.TCPFlags != uint8(flags) {
				t.Errorf("TCP flags %#02x: event %d, flags %#02x, want %d", flags, in.Event, in.TCPFlags, want)
			}
		}
	}
}

func TestSCTPEvents(t *testing.T) {
	tests := []struct {
		chunks []uint8
		want   uint8
	}{
		{[]uint8{0}, flow.EventData},
		{[]uint8{1}, flow.EventInit},
		{[]uint8{2}, flow.EventInitAck},
		{[]uint8{3}, flow.EventData},
		{[]uint8{4}, flow.EventData},
		{[]uint8{5}, flow.EventData},
		{[]uint8{6}, flow.EventAbort},
		{[]uint8{7}, flow.EventShutdown},
		{[]uint8{8}, flow.EventShutdownAck},
		{[]uint8{9}, flow.EventError},
		{[]uint8{10}, flow.EventCookieEcho},
		{[]uint8{11}, flow.EventCookieAck},
		{[]uint8{12}, flow.EventData},
		{[]uint8{13}, flow.EventData},
		{[]uint8{14}, flow.EventShutdownComplete},
		{[]uint8{200}, flow.EventData},
		{[]uint8{10, 6}, flow.EventAbort}, // bundled
		{[]uint8{11, 6}, flow.EventAbort},
		{[]uint8{10, 0}, flow.EventCookieEcho},
		{[]uint8{0, 6}, flow.EventData}, // only behind a cookie
	}
	for _, tt := range tests {
		var in packet.Info
		if r := packet.Parse(ip4.SCTP(1, 2, tt.chunks...).Bytes(), &in); r != packet.Parsed || in.Event != tt.want {
			t.Errorf("chunks %v: %v, event %d, want %d", tt.chunks, r, in.Event, tt.want)
		}
		if got, want := in.Flags&packet.FlagAbort != 0, tt.chunks[0] == 6; got != want {
			t.Errorf("chunks %v: the first is ABORT: %v, want %v", tt.chunks, got, want)
		}
	}
	// The next chunk begins at a multiple of 4, within the packet.
	for _, tt := range []struct {
		stake string
		value string // COOKIE ECHO's length field and what follows
		want  uint8
	}{
		{"a cookie of 1 byte and padding, then ABORT", "\x00\x05c\x00\x00\x00\x06\x00\x00\x04", flow.EventAbort},
		{"a length beyond the packet", "\xff\xffcookie", flow.EventCookieEcho},
		{"a length less than the chunk header", "\x00\x03\x06\x00\x00\x04", flow.EventCookieEcho},
		{"ABORT cut", "\x00\x04\x06\x00\x00", flow.EventCookieEcho},
	} {
		frame := ip4.SCTP(1, 2).Payload([]byte("\x0a\x00" + tt.value)).Bytes()
		var in packet.Info
		if r := packet.Parse(frame, &in); r != packet.Parsed || in.Event != tt.want {
			t.Errorf("%s: %v, event %d, want %d", tt.stake, r, in.Event, tt.want)
		}
	}
}

func TestParseQuoted(t *testing.T) {
	tests := []struct {
		stake string
		p     packettest.Packet
		keep  int // bytes of the quoted datagram; -1: all
		want  packet.Result
		sport uint16
		end   int // of the quote
	}{
		{"28 bytes of TCP: ports are there", ip4.TCP(80, 1000, 0), 28, packet.Parsed, 80, 28},
		{"24 bytes: the ports only", ip4.TCP(80, 1000, 0), 24, packet.Parsed, 80, 24},
		{"23 bytes: not even they", ip4.TCP(80, 1000, 0), 23, packet.Truncated, 0, 23},
		{"a wrong header checksum is the router's affair", ip4.UDP(80, 1000).BadIPChecksum(), -1, packet.Parsed, 80, 28},
		{"options", ip4.Options(1, 1, 1, 0).UDP(80, 1000), -1, packet.Parsed, 80, 32},
		{"options cut", ip4.Options(1, 1, 1, 0).UDP(80, 1000), 22, packet.Truncated, 0, 22},
		{"what follows the quoted datagram is not of it", ip4.UDP(80, 1000).Payload(make([]byte, 20)).Length(28), -1, packet.Parsed, 80, 28},
		{"SCTP", ip4.SCTP(80, 1000, 0), 28, packet.Parsed, 80, 28},
		{"the first fragment of a datagram", ip4.Fragment(0, true, 1).UDP(80, 1000), -1, packet.Parsed, 80, 28},
		{"another one", ip4.Fragment(8, true, 1).UDP(80, 1000), -1, packet.Fragment, 0, 28},
		{"a tunnel's packet", ip4.Encap(ip4.UDP(80, 1000)), -1, packet.OtherProto, 0, 48},
		{"an echo", ip4.ICMP4(8, 0, 0), -1, packet.ICMP, 0, 28},
		{"ESP has the ports of ISAKMP", ip4.Proto(50).Payload(make([]byte, 8)), -1, packet.IPsec, 500, 28},
		{"IPv6", ip6.TCP(80, 1000, 0), 48, packet.Parsed, 80, 48},
		{"IPv6 behind extension headers", ip6.HopByHop(6).DestOpts(6).UDP(80, 1000), -1, packet.Parsed, 80, 64},
		{"IPv6 extension header cut", ip6.HopByHop(14).UDP(80, 1000), 50, packet.Truncated, 0, 50},
		{"IPv6 header cut", ip6.UDP(80, 1000), 39, packet.Truncated, 0, 39},
		{"IPv6 fragment", ip6.Fragment(8, true, 1).UDP(80, 1000), -1, packet.Fragment, 0, 56},
		{"IPv6 first fragment", ip6.Fragment(0, true, 1).UDP(80, 1000), -1, packet.Parsed, 80, 56},
		{"a loopback source in IPv6", eth.IP6("::1", vip6).UDP(80, 1000), -1, packet.BadAddress, 0, 48},
		{"nothing", ip4.UDP(1, 2), 0, packet.Truncated, 0, 0},
		{"19 bytes", ip4.UDP(1, 2), 19, packet.Truncated, 0, 19},
		{"version 5", ip4.Version(5).UDP(1, 2), -1, packet.BadHeader, 0, 28},
		{"header of 3 words", ip4.HeaderWords(3).UDP(1, 2), -1, packet.BadHeader, 0, 28},
	}
	for _, tt := range tests {
		const at = 14 + 20 + 8
		frame := eth.IP4(vip, cip).ICMP4(3, 3, 0).Quote(tt.p, tt.keep).Bytes()
		var q packet.Info
		r := packet.ParseQuoted(frame, at, len(frame), &q)
		if r != tt.want || q.SrcPort != tt.sport || int(q.End) != at+tt.end && tt.end > 0 {
			t.Errorf("%s: %v, port %d, end %d; want %v, %d, %d", tt.stake, r, q.SrcPort, int(q.End)-at, tt.want, tt.sport, tt.end)
		}
	}
	frame := ip4.ICMP4(3, 3, 0).Quote(ip4.UDP(80, 1000), -1).Bytes()
	var q packet.Info
	for _, bad := range [][2]int{{-1, 10}, {len(frame), len(frame)}, {20, len(frame) + 1}, {30, 20}} {
		if r := packet.ParseQuoted(frame, bad[0], bad[1], &q); r != packet.Truncated {
			t.Errorf("ParseQuoted from %d to %d of %d: %v, want truncated", bad[0], bad[1], len(frame), r)
		}
	}
}

// The packet of a tunnel is quoted inside the quote.
func TestParseTunnelled(t *testing.T) {
	in4, in6 := ip4.TCP(80, 1000, 0).Datagram(), ip6.TCP(80, 1000, 0).Datagram()
	gre := func(head ...byte) func([]byte) packettest.Packet {
		return func(b []byte) packettest.Packet { return ip4.Proto(47).Payload(append(head, b...)) }
	}
	gue := func(head ...byte) func([]byte) packettest.Packet {
		return func(b []byte) packettest.Packet { return ip4.UDP(5, 6080).Payload(append(head, b...)) }
	}
	for _, tt := range []struct {
		stake string
		wrap  func([]byte) packettest.Packet
		want  packet.Result // of either family inside
	}{
		{"IP in IP", func(b []byte) packettest.Packet { return ip4.Proto(4).Payload(b) }, packet.Parsed},
		{"6 in 4", func(b []byte) packettest.Packet { return ip4.Proto(41).Payload(b) }, packet.Parsed},
		{"behind options", func(b []byte) packettest.Packet { return ip4.Options(1, 1, 1, 0).Proto(4).Payload(b) }, packet.Parsed},
		{"GRE", gre(0, 0, 8, 0), packet.Parsed},
		{"GRE of IPv6", gre(0, 0, 0x86, 0xdd), packet.Parsed},
		{"GRE with checksum", gre(0x80, 0, 8, 0, 1, 2, 0, 0), packet.Parsed},
		{"GRE with a key", gre(0x20, 0, 8, 0, 1, 2, 3, 4), packet.OtherProto},
		{"GRE with a number", gre(0x10, 0, 8, 0, 1, 2, 3, 4), packet.OtherProto},
		{"PPTP's GRE", gre(0, 1, 8, 0), packet.OtherProto},
		{"GRE of ARP", gre(0, 0, 8, 6), packet.OtherProto},
		{"GUE", gue(0, 4, 0, 0), packet.Parsed},
		{"GUE of IPv6", gue(0, 41, 0, 0), packet.Parsed},
		{"GUE with two words of options", gue(2, 4, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8), packet.Parsed},
		{"GUE with more than there is", gue(31, 4, 0, 0), packet.Truncated},
		{"GUE's control message", gue(0x20, 4, 0, 0), packet.OtherProto},
		{"GUE version 1 has no header", gue(0x40, 4, 0, 0), packet.OtherProto},
		{"UDP in GUE", gue(0, 17, 0, 0), packet.OtherProto},
		{"not a tunnel's", func(b []byte) packettest.Packet { return ip4.TCP(1, 2, 0).Payload(b) }, packet.OtherProto},
	} {
		for family, b := range map[uint8][]byte{4: in4, 6: in6} {
			frame := ip4.ICMP4(3, 4, 1400).Quote(tt.wrap(b), -1).Bytes()
			var outer, inner packet.Info
			packet.ParseQuoted(frame, 42, len(frame), &outer)
			r := packet.ParseTunnelled(frame, &outer, &inner)
			if r != tt.want || r == packet.Parsed && (inner.Family != family || inner.SrcPort != 80 || int(inner.L3) != len(frame)-len(b)) {
				t.Errorf("%s, IPv%d inside: %v %+v, want %v", tt.stake, family, r, inner, tt.want)
			}
			for n := int(outer.L4); n < len(frame); n++ { // cut anywhere: nothing beyond is read
				cut := outer
				cut.End = uint32(n)
				if r := packet.ParseTunnelled(slices.Clip(frame[:n]), &cut, &inner); r == packet.Parsed && int(inner.L4)+4 > n {
					t.Errorf("%s, IPv%d, cut at %d: has ports at %d", tt.stake, family, n, inner.L4)
				}
			}
		}
	}
}

func TestViews(t *testing.T) {
	h := packet.IPv4(ip4.TTL(9).TOS(0xb9).ID(77).DF().Options(1, 1, 1, 0).UDP(1, 2).Bytes()[14:])
	if h.Version() != 4 || h.HeaderLen() != 24 || h.TOS() != 0xb9 || h.TotalLen() != 32 || h.ID() != 77 || !h.DF() ||
		h.MoreFragments() || h.FragOffset() != 0 || h.TTL() != 9 || h.Protocol() != 17 || h.Src() != addr(cip) || h.Dst() != addr(vip) {
		t.Errorf("IPv4 %x reads wrong", []byte(h[:24]))
	}
	f := packet.IPv4(ip4.Fragment(1480, true, 5).Proto(17).Bytes()[14:])
	if !f.MoreFragments() || f.FragOffset() != 1480 || f.DF() || f.ID() != 5 {
		t.Errorf("IPv4 fragment %x reads wrong", []byte(f))
	}
	v6 := packet.IPv6(ip6.TOS(0xb9).FlowLabel(0xfffff).TTL(9).Fragment(1448, true, 0xabcdef01).Proto(17).Payload(make([]byte, 8)).Bytes()[14:])
	if v6.Version() != 6 || v6.TrafficClass() != 0xb9 || v6.PayloadLen() != 16 || v6.NextHeader() != 44 || v6.HopLimit() != 9 ||
		v6.Src() != addr(cip6) || v6.Dst() != addr(vip6) {
		t.Errorf("IPv6 %x reads wrong", []byte(v6[:40]))
	}
	if g := packet.IPv6Fragment(v6[40:]); g.Offset() != 1448 || !g.More() || g.ID() != 0xabcdef01 {
		t.Errorf("IPv6 fragment header %x reads wrong", []byte(g[:8]))
	}
	m := packet.ICMPHeader(ip4.ICMP4(3, 4, 1300).Bytes()[34:])
	if m.Type() != 3 || m.Code() != 4 || m.Rest() != 1300 || binary.BigEndian.Uint16(m[2:]) == 0 {
		t.Errorf("ICMP %x reads wrong", []byte(m))
	}
	if m.SetChecksum(0x1234); binary.BigEndian.Uint16(m[2:]) != 0x1234 {
		t.Error("ICMP checksum does not stay")
	}
	if h.SetChecksum(0x1234); h.Checksum() != 0x1234 {
		t.Error("IPv4 checksum does not stay")
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for r := range packet.Results {
		if seen[r.String()] || r.String() == "" || strings.ContainsAny(r.String(), " -") {
			t.Errorf("Result %d has the counter name %q", r, r)
		}
		seen[r.String()] = true
	}
	if got := packet.Results.String(); got != "unknown" {
		t.Errorf("a Result out of range is named %q", got)
	}
}
