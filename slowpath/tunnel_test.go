package slowpath

import (
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

// K-ICMP-5: an error about a packet in a tunnel of ours is answered with one
// to the packet's sender, from the virtual service. IPv4 in IPv4 as recorded with
// Linux 6.1, which leaves the rest to its tunnels; that by RFC 2473 and RFC 4213.
func TestTunnelError(t *testing.T) {
	const (
		head4 = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:0a IP ttl=64 id=0x0001 tos=0xc0 10.0.1.100 > 10.0.1.10 ICMP(1) "
		head6 = "eth0: 02:00:00:00:00:01 > 02:00:00:00:01:10 IP6 hlim=64 fd00:1::100 > fd00:1::10 ICMP(58) "
		syn4  = " csum=ok quoting {IP ttl=63 id=0x1000 DF 10.0.1.10:1000 > 10.0.1.100:80 TCP [S] len=0}"
		syn6  = " csum=ok quoting {IP6 hlim=63 [fd00:1::10]:1000 > [fd00:1::100]:80 TCP [S] len=0}"
	)
	in4, in6 := fromClient().TTL(63).TCP(1000, 80, packettest.SYN), fromClient6().TTL(63).TCP(1000, 80, packettest.SYN)
	back := packettest.Eth(nicMAC, "02:00:00:00:02:fe")
	error4, error6 := back.IP4("10.0.2.254", "10.0.2.1"), back.IP6("fd00:2::254", "fd00:2::1")
	out4, out6 := back.IP4("10.0.2.1", server), back.IP6("fd00:2::1", "fd00:2::11")
	// icmp is an error whose quote is a packet behind headers of that many bytes.
	icmp := func(outer packettest.Packet, kind, code uint8, rest uint32, tunnel, inside packettest.Packet, gap ...byte) packettest.Packet {
		datagram := append(append(tunnel.Proto(4).Datagram(), gap...), inside.Datagram()...)
		if outer.Datagram()[0]>>4 == 6 {
			return outer.ICMP6(kind, code, rest).Payload(datagram)
		}
		return outer.ICMP4(kind, code, rest).Payload(datagram)
	}
	gue := make([]byte, 12)
	for _, row := range []struct {
		stake string
		inner uint16 // bytes before the client's packet
		mtu   uint16 // of the tunnel's packet
		frame packettest.Packet
		want  string // "": nothing is sent
	}{
		{"protocol unreachable: as it is [tun-icmp-from-rs]", 48, 0, icmp(error4, 3, 2, 0, out4, in4), head4 + "type=3 code=2 rest=0x00000000" + syn4},
		{"a rest of whatever meaning", 48, 0, icmp(error4, 3, 13, 0xdeadbeef, out4, in4), head4 + "type=3 code=13 rest=0xdeadbeef" + syn4},
		{"source quench", 48, 0, icmp(error4, 4, 0, 0, out4, in4), head4 + "type=4 code=0 rest=0x00000000" + syn4},
		{"time exceeded", 48, 0, icmp(error4, 11, 1, 0, out4, in4), head4 + "type=11 code=1 rest=0x00000000" + syn4},
		{"behind outer options", 52, 0, icmp(error4.Options(1, 1, 1, 0), 3, 1, 0, out4, in4), head4 + "type=3 code=1 rest=0x00000000" + syn4},
		{"frag needed: less the header [tun-icmp-from-rs]", 48, 1500, icmp(error4, 3, 4, 1400, out4, in4), head4 + "type=3 code=4 rest=0x000005c8" + syn4},
		{"frag needed, quoted header with options", 52, 1400, icmp(error4, 3, 4, 1400, out4.Options(1, 1, 1, 0), in4), head4 + "type=3 code=4 rest=0x00000560" + syn4},
		{"frag needed of GUE: less all its headers", 60, 1400, icmp(error4, 3, 4, 1400, out4, in4, gue...), head4 + "type=3 code=4 rest=0x00000558" + syn4},
		{"less than any path", 48, 60, icmp(error4, 3, 4, 60, out4, in4), head4 + "type=3 code=4 rest=0x00000044" + syn4},
		{"frag needed about a packet that may be fragmented", 48, 1400, icmp(error4, 3, 4, 1400, out4, packettest.Eth(nicMAC, clientMAC).IP4(client, vip).TCP(1000, 80, 0)), ""},
		{"about a later fragment", 48, 0, icmp(error4, 3, 1, 0, out4, fromClient().Fragment(8, false, 1).Proto(6)), ""},
		{"about the first", 48, 0, icmp(error4, 3, 1, 0, out4, in4.Fragment(0, true, 1)), head4 + "type=3 code=1 rest=0x00000000 csum=ok quoting {IP ttl=63 id=0x0001 DF frag=0 more=true 10.0.1.10:1000 > 10.0.1.100:80 TCP [S] len=0}"},
		{"IPv6 in IPv4, frag needed", 48, 1400, icmp(error4, 3, 4, 1400, out4, in6), head6 + "type=2 code=0 rest=0x00000564" + syn6},
		{"IPv6 in IPv4, not below IPv6's least", 48, 1290, icmp(error4, 3, 4, 1290, out4, in6), head6 + "type=2 code=0 rest=0x00000500" + syn6},
		{"IPv6 in IPv4, unreachable", 48, 0, icmp(error4, 3, 3, 0, out4, in6), head6 + "type=1 code=3 rest=0x00000000" + syn6},
		{"IPv6 in IPv4, time exceeded", 48, 0, icmp(error4, 11, 0, 0, out4, in6), head6 + "type=1 code=3 rest=0x00000000" + syn6},
		{"IPv4 in IPv6, too big", 88, 1400, icmp(error6, 2, 0, 1400, out6, in4), head4 + "type=3 code=4 rest=0x00000550" + syn4},
		{"IPv4 in IPv6, unreachable", 88, 0, icmp(error6, 1, 3, 0, out6, in4), head4 + "type=3 code=1 rest=0x00000000" + syn4},
		{"IPv4 in IPv6, no such header there", 88, 0, icmp(error6, 4, 1, 40, out6, in4), head4 + "type=3 code=1 rest=0x00000000" + syn4},
		{"IPv6 in IPv6, too big", 88, 1400, icmp(error6, 2, 0, 1400, out6, in6), head6 + "type=2 code=0 rest=0x00000550" + syn6},
		{"IPv6 in IPv6, too big for IPv6 inside", 88, 1280, icmp(error6, 2, 0, 1280, out6, in6), head6 + "type=2 code=0 rest=0x00000500" + syn6},
		{"IPv6 in IPv6, unreachable", 88, 0, icmp(error6, 1, 4, 0, out6, in6), head6 + "type=1 code=4 rest=0x00000000" + syn6},
		{"IPv6 in IPv6: a pointer into the outer header means nothing", 88, 0, icmp(error6, 4, 1, 6, out6, in6), head6 + "type=1 code=3 rest=0x00000000" + syn6},
		{"not an error at all", 48, 0, icmp(error4, 8, 0, 0, out4, in4), ""},
		{"a place beyond the frame", 4000, 0, icmp(error4, 3, 1, 0, out4, in4), ""},
		{"to a group", 48, 0, icmp(error4, 3, 1, 0, out4, fromClient().IP4(client, "224.0.0.1").TCP(1000, 80, 0)), ""},
	} {
		s := set(t, Limits{})
		m := Meta{Kind: TunnelError, Inner: row.inner, MTU: row.mtu, Virtual: addr(vip)}
		if strings.HasPrefix(row.want, head6) {
			m.Virtual = addr(vip6)
		}
		s.Handle(&m, row.frame.Bytes())
		if row.want == "" {
			s.check(t, row.stake, nil, "tunnel_error unanswered 1, error not_answerable 1")
		} else {
			s.check(t, row.stake, []string{row.want}, "tunnel_error answered 1, error sent 1")
		}
	}

	// It quotes as much as an error may, and is limited by what it says.
	s := set(t, Limits{ICMP: DefaultICMPLimits()})
	long := icmp(error4, 3, 1, 0, out4, in4.Payload(make([]byte, 1000)))
	for range 8 {
		s.Handle(&Meta{Kind: TunnelError, Inner: 48, Virtual: addr(vip)}, long.Bytes())
	}
	if len(s.frames[0]) != 14+576 || len(s.sent) != 6 {
		t.Errorf("%d bytes, %d of 8 sent, want 590, 6", len(s.frames[0]), len(s.sent))
	}
	for range 8 {
		s.Handle(&Meta{Kind: TunnelError, Inner: 48, MTU: 1400, Virtual: addr(vip)}, icmp(error4, 3, 4, 1400, out4, in4).Bytes())
	}
	if len(s.sent) != 14 {
		t.Errorf("%d sent, want 14: errors about size are not limited", len(s.sent))
	}
}
