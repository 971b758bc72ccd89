package rewrite

import (
	"bytes"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/flow"
)

// The packets that errors quote: what left towards client and server.
var (
	toClient  = packettest.Eth(routerMAC, ourMAC).IP4(vip, cip)
	toServer  = packettest.Eth(routerMAC, ourMAC).IP4(cip, rip)
	toClient6 = packettest.Eth(routerMAC, ourMAC).IP6(vip6, cip6)
	toServer6 = packettest.Eth(routerMAC, ourMAC).IP6(cip6, rip6)
)

func TestICMP(t *testing.T) {
	const router, router6 = "10.0.2.254", "fd00:2::254"
	eth := packettest.Eth(ourMAC, routerMAC)
	// The quoted transport checksum stays what it was for the other address,
	// so that what is wanted is built from bytes.
	moved := func(p packettest.Packet, from, to packettest.Packet, n int) packettest.Packet {
		was, now := from.Datagram(), to.Datagram()
		at := int(was[0]&15) * 4
		if was[0]>>4 == 6 {
			at = 40
		}
		copy(now[at+4:], was[at+4:]) // behind the ports all stays
		if n < 0 || n > len(now) {
			n = len(now)
		}
		return p.Payload(now[:n])
	}
	answer, answer6 := toClient.TCP(80, 1000, packettest.ACK).Payload(payload), toClient6.UDP(53, 1000).Payload(payload)
	request, request6 := toServer.UDP(1000, 5353).Payload(payload), toServer6.TCP(1000, 8080, packettest.ACK).Payload(payload)
	tests := []struct {
		stake   string
		out     bool
		in      packettest.Packet
		want    packettest.Packet
		refused bool
	}{
		{
			"in: a router's error about 28 bytes of an answer goes to the server", false,
			eth.IP4(router, vip).ICMP4(3, 4, 1400).Quote(answer, 28),
			moved(eth.IP4(router, rip).TTL(63).ICMP4(3, 4, 1400), answer, toClient.IP4(rip, cip).TCP(8080, 1000, packettest.ACK).Payload(payload), 28), false,
		},
		{
			"in: the whole answer", false, eth.IP4(cip, vip).ICMP4(11, 0, 0).Quote(answer, -1),
			moved(eth.IP4(cip, rip).TTL(63).ICMP4(11, 0, 0), answer, toClient.IP4(rip, cip).TCP(8080, 1000, packettest.ACK).Payload(payload), -1), false,
		},
		{"in: wrong checksum", false, eth.IP4(cip, vip).ICMP4(3, 3, 0).Quote(answer, 28).BadChecksum(), packettest.Packet{}, true},
		{"in: it quotes a packet of the other family", false, eth.IP4(cip, vip).ICMP4(3, 3, 0).Quote(answer6, -1), packettest.Packet{}, true},
		{
			"in, IPv6", false, eth.IP6(cip6, vip6).ICMP6(2, 0, 1300).Quote(answer6, -1),
			moved(eth.IP6(cip6, rip6).TTL(63).ICMP6(2, 0, 1300), answer6, toClient6.IP6(rip6, cip6).UDP(8080, 1000).Payload(payload), -1), false,
		},
		{
			"in, IPv6: the checksum is not verified but made right", false, eth.IP6(cip6, vip6).ICMP6(2, 0, 1300).Quote(answer6, -1).BadChecksum(),
			moved(eth.IP6(cip6, rip6).TTL(63).ICMP6(2, 0, 1300), answer6, toClient6.IP6(rip6, cip6).UDP(8080, 1000).Payload(payload), -1), false,
		},
		{
			"out: whoever sent it, it comes from the VIP", true, eth.IP4(router, cip).ICMP4(11, 0, 0).Quote(request, 28),
			moved(eth.IP4(vip, cip).TTL(63).ICMP4(11, 0, 0), request, toServer.IP4(cip, vip).UDP(1000, 53).Payload(payload), 28), false,
		},
		{
			"out: a quoted header that the router left with a wrong checksum is made right", true,
			eth.IP4(rip, cip).ICMP4(3, 3, 0).Quote(request.BadIPChecksum(), 28),
			moved(eth.IP4(vip, cip).TTL(63).ICMP4(3, 3, 0), request, toServer.IP4(cip, vip).UDP(1000, 53).Payload(payload), 28), false,
		},
		{"out: wrong checksum", true, eth.IP4(rip, cip).ICMP4(3, 3, 0).Quote(request, 28).BadChecksum(), packettest.Packet{}, true},
		{
			"out: padding is cut off", true, eth.IP4(rip, cip).ICMP4(3, 3, 0).Quote(request, 28).Pad(80),
			moved(eth.IP4(vip, cip).TTL(63).ICMP4(3, 3, 0), request, toServer.IP4(cip, vip).UDP(1000, 53).Payload(payload), 28), false,
		},
		{
			"out, IPv6", true, eth.IP6(router6, cip6).ICMP6(1, 4, 0).Quote(request6, -1),
			moved(eth.IP6(vip6, cip6).TTL(63).ICMP6(1, 4, 0), request6, toServer6.IP6(cip6, vip6).TCP(1000, 53, packettest.ACK).Payload(payload), -1), false,
		},
		{"out, IPv6: wrong checksum", true, eth.IP6(rip6, cip6).ICMP6(1, 4, 0).Quote(request6, -1).BadChecksum(), packettest.Packet{}, true},
	}
	for _, tt := range tests {
		f := place(tt.in.Bytes(), headroom)
		in := parsed(t, content(f))
		q := quotedIn(t, content(f), in)
		a, port, rewrite := addr(rip), uint16(8080), ICMPIn
		if tt.out {
			a, port, rewrite = addr(vip), 53, ICMPOut
		}
		if in.Family == 6 {
			a = addr(map[bool]string{false: rip6, true: vip6}[tt.out])
		}
		before := bytes.Clone(content(f))
		if ok := rewrite(f, in, q, a, port); ok == tt.refused {
			t.Errorf("%s: translated %t, want %t", tt.stake, ok, !tt.refused)
			continue
		}
		want := before
		if !tt.refused {
			want = tt.want.Bytes()
		}
		if d := diff(content(f), want); d != "" {
			t.Errorf("%s: %s", tt.stake, d)
		}
	}
}

func TestICMPError(t *testing.T) {
	eth := packettest.Eth(routerMAC, ourMAC)
	long, long6 := fromClient.DF().UDP(1000, 53).Payload(make([]byte, 1400)), fromClient6.UDP(1000, 53).Payload(make([]byte, 1400))
	tests := []struct {
		stake     string
		in, want  packettest.Packet
		typ, code uint8
		rest      uint32
	}{
		{
			"port unreachable from the VIP", fromClient.TCP(1000, 80, packettest.SYN).Pad(60),
			eth.IP4(vip, cip).TOS(0xc0).ID(7).ICMP4(3, 3, 0).Quote(fromClient.TCP(1000, 80, packettest.SYN), -1), 3, 3, 0,
		},
		{
			"TOS bits are copied, precedence is not (RFC 1812 4.3.2.5)", fromClient.TOS(0xbb).UDP(1000, 53),
			eth.IP4(vip, cip).TOS(0xda).ID(7).ICMP4(3, 3, 0).Quote(fromClient.TOS(0xbb).UDP(1000, 53), -1), 3, 3, 0,
		},
		{"576 bytes in all [nat-mtu]", long, eth.IP4(vip, cip).TOS(0xc0).ID(7).ICMP4(3, 4, 1300).Quote(long, 548), 3, 4, 1300},
		{"IPv6: 1280 bytes in all [v6-tun]", long6, eth.IP6(vip6, cip6).ICMP6(2, 0, 1460).Quote(long6, 1232), 2, 0, 1460},
		{
			"behind a tag", fromClient6.VLAN(7).TCP(1000, 80, packettest.SYN),
			eth.IP6(vip6, cip6).ICMP6(3, 0, 0).Quote(fromClient6.TCP(1000, 80, packettest.SYN), -1), 3, 0, 0,
		},
	}
	for _, tt := range tests {
		frame := tt.in.Bytes()
		in := parsed(t, frame)
		src := addr(vip)
		if in.Family == 6 {
			src = addr(vip6)
		}
		want := tt.want.Bytes()
		got := ICMPError(want[:packet.EthernetLen:packet.EthernetLen], in, frame, *src, tt.typ, tt.code, tt.rest, 7)
		if d := diff(got, want); d != "" {
			t.Errorf("%s: %s", tt.stake, d)
		}
	}
}

// FuzzICMP translates any error that parses, there and back: the message and
// the quote are the same as before but for two TTLs, and all checksums that
// translation vouches for are right in between.
func FuzzICMP(f *testing.F) {
	eth := packettest.Eth(ourMAC, routerMAC)
	f.Add(eth.IP4(cip, vip).ICMP4(3, 3, 0).Quote(toClient.TCP(80, 1000, packettest.ACK), 28).Bytes(), uint16(8080))
	f.Add(eth.VLAN(7).IP4(cip, vip).ICMP4(3, 4, 1300).Quote(toClient.Options(1, 1, 1, 0).UDP(53, 1000).Payload(payload), -1).Bytes(), uint16(1))
	f.Add(eth.IP6(cip6, vip6).ICMP6(2, 0, 1300).Quote(toClient6.HopByHop(6).SCTP(1, 2, 1), -1).Bytes(), uint16(0))
	f.Fuzz(func(t *testing.T, frame []byte, port uint16) {
		frame = heal(frame)
		in, q := new(packet.Info), new(packet.Info)
		if packet.Parse(frame, in) != packet.ICMPError || in.TTL < 3 ||
			packet.ParseQuoted(frame, int(in.L4)+packet.ICMPLen, int(in.End), q) != packet.Parsed || q.Family != in.Family {
			return
		}
		frame = frame[:in.End]
		n, srcAt := 16, 8
		if in.Family == 4 {
			n, srcAt = 4, 12
		}
		ip := frame[in.L3:]
		packettest.PutChecksum(frame[in.L4:], in.Proto, ip[srcAt:srcAt+n], ip[srcAt+n:srcAt+2*n])
		to := *addr(rip)
		if in.Family == 6 {
			to = *addr(rip6)
		}
		g := place(frame, headroom)
		if !ICMPIn(g, in, q, &to, port) {
			t.Fatalf("%s: refused", packettest.Describe(frame))
		}
		got := content(g)
		now, quote := new(packet.Info), new(packet.Info)
		if r := packet.Parse(got, now); r != packet.ICMPError || now.Dst != to || now.Src != in.Src || now.TTL != in.TTL-1 {
			t.Fatalf("%s becomes %v, %s", packettest.Describe(frame), r, packettest.Describe(got))
		}
		ip = got[in.L3:]
		if !packettest.ChecksumOK(got[in.L4:], in.Proto, ip[srcAt:srcAt+n], ip[srcAt+n:srcAt+2*n]) {
			t.Errorf("%s: wrong ICMP checksum", packettest.Describe(got))
		}
		packet.ParseQuoted(got, int(in.L4)+packet.ICMPLen, int(in.End), quote)
		wanted := *q
		wanted.Src, wanted.SrcPort = to, port
		if *quote != wanted {
			t.Errorf("quote becomes %+v, want %+v", *quote, wanted)
		}
		if q.Family == 4 && packettest.Checksum(got[q.L3:q.L4]) != 0 {
			t.Errorf("%s: wrong checksum of the quoted header", packettest.Describe(got))
		}
		checkBack(t, frame, got, in, q, to)
	})
}

// checkBack undoes the translation by hand and compares the rest.
func checkBack(t *testing.T, frame, got []byte, in, q *packet.Info, to flow.Addr) {
	t.Helper()
	back := bytes.Clone(got)
	n, srcAt, ttlAt := 16, 8, 7
	if in.Family == 4 {
		n, srcAt, ttlAt = 4, 12, 8
		copy(back[in.L3+10:][:2], frame[in.L3+10:])
		copy(back[q.L3+10:][:2], frame[q.L3+10:])
	}
	back[int(in.L3)+ttlAt]++
	copy(back[int(in.L3)+srcAt+n:][:n], in.Dst[16-n:])
	copy(back[int(q.L3)+srcAt:][:n], q.Src[16-n:])
	be.PutUint16(back[q.L4:], q.SrcPort)
	copy(back[in.L4+2:][:2], frame[in.L4+2:])
	if d := diff(back, frame); d != "" {
		t.Errorf("to %v, and back by hand, differs %s", to, d)
	}
}
