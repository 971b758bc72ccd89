package rewrite

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/flow"
)

var payload = []byte("thirty-two random bytes and more")

// TestNAT builds both packets in words: the one that goes in and the one that
// has to come out.
func TestNAT(t *testing.T) {
	tests := []struct {
		stake   string
		reply   bool
		in, out packettest.Packet
		port    uint16
	}{
		{
			"TCP to another port", false, fromClient.DF().TCP(1000, 80, packettest.SYN),
			fromClient.IP4(cip, rip).DF().TTL(63).TCP(1000, 8080, packettest.SYN), 8080,
		},
		{
			"TCP's reply becomes the VIP's", true, fromServer.TCP(8080, 1000, packettest.ACK).Payload(payload),
			fromServer.IP4(vip, cip).TTL(63).TCP(80, 1000, packettest.ACK).Payload(payload), 80,
		},
		{
			"an odd length is summed to its last byte", false, fromClient.UDP(1000, 53).Payload(payload[:5]),
			fromClient.IP4(cip, rip).TTL(63).UDP(1000, 5353).Payload(payload[:5]), 5353,
		},
		{
			"UDP without checksum gets one, port changed [nat-udp]", false, fromClient.UDP(1000, 53).Payload(payload).NoChecksum(),
			fromClient.IP4(cip, rip).TTL(63).UDP(1000, 5353).Payload(payload), 5353,
		},
		{
			"and port kept [nat-udp-sameport]", false, fromClient.UDP(1000, 53).Payload(payload).NoChecksum(),
			fromClient.IP4(cip, rip).TTL(63).UDP(1000, 53).Payload(payload), 53,
		},
		{
			"and in replies", true, fromServer.UDP(5353, 1000).NoChecksum(),
			fromServer.IP4(vip, cip).TTL(63).UDP(53, 1000), 53,
		},
		{
			"options stay", false, fromClient.Options(1, 1, 1, 0).TCP(1000, 80, packettest.SYN),
			fromClient.IP4(cip, rip).Options(1, 1, 1, 0).TTL(63).TCP(1000, 8080, packettest.SYN), 8080,
		},
		{
			"TOS, ident and DF stay", false, fromClient.TOS(0xb9).ID(77).DF().TCP(1000, 80, 0),
			fromClient.IP4(cip, rip).TOS(0xb9).ID(77).DF().TTL(63).TCP(1000, 80, 0), 80,
		},
		{
			"Ethernet padding is cut off", false, fromClient.TCP(1000, 80, packettest.SYN).Pad(60),
			fromClient.IP4(cip, rip).TTL(63).TCP(1000, 8080, packettest.SYN), 8080,
		},
		{
			"a VLAN tag is left to Link", false, fromClient.VLAN(7).TCP(1000, 80, packettest.SYN),
			fromClient.VLAN(7).IP4(cip, rip).TTL(63).TCP(1000, 8080, packettest.SYN), 8080,
		},
		{
			"SCTP's CRC is made anew with a new port [nat-sctp-port]", false, fromClient.SCTP(1000, 3868, 1).BadChecksum(),
			fromClient.IP4(cip, rip).TTL(63).SCTP(1000, 9999, 1), 9999,
		},
		{
			"and left alone, wrong as it is, without [nat-sctp]", false, fromClient.SCTP(1000, 3868, 1).BadChecksum(),
			fromClient.IP4(cip, rip).TTL(63).SCTP(1000, 3868, 1).BadChecksum(), 3868,
		},
		{
			"SCTP's reply", true, fromServer.SCTP(9999, 1000, 2).Payload(payload),
			fromServer.IP4(vip, cip).TTL(63).SCTP(3868, 1000, 2).Payload(payload), 3868,
		},
		{
			"IPv6 TCP", false, fromClient6.TCP(1000, 80, packettest.SYN),
			fromClient6.IP6(cip6, rip6).TTL(63).TCP(1000, 8080, packettest.SYN), 8080,
		},
		{
			"IPv6 reply, with traffic class and flow label", true, fromServer6.TOS(0x2e).FlowLabel(0x12345).TCP(8080, 1000, packettest.ACK).Payload(payload),
			fromServer6.IP6(vip6, cip6).TOS(0x2e).FlowLabel(0x12345).TTL(63).TCP(80, 1000, packettest.ACK).Payload(payload), 80,
		},
		{
			"IPv6 extension headers stay", false, fromClient6.HopByHop(6).DestOpts(14).UDP(1000, 53).Payload(payload),
			fromClient6.IP6(cip6, rip6).HopByHop(6).DestOpts(14).TTL(63).UDP(1000, 53).Payload(payload), 53,
		},
		{
			"IPv6 UDP without checksum", false, fromClient6.UDP(1000, 53).Payload(payload).NoChecksum(),
			fromClient6.IP6(cip6, rip6).TTL(63).UDP(1000, 53).Payload(payload), 53,
		},
		{"IPv6 SCTP", false, fromClient6.SCTP(1000, 3868, 1), fromClient6.IP6(cip6, rip6).TTL(63).SCTP(1000, 9999, 1), 9999},
	}
	for _, tt := range tests {
		f := place(tt.in.Bytes(), headroom)
		in := parsed(t, content(f))
		to, from := addr(rip), addr(vip)
		if in.Family == 6 {
			to, from = addr(rip6), addr(vip6)
		}
		if tt.reply {
			NATOut(f, in, from, tt.port)
		} else {
			NATIn(f, in, to, tt.port)
		}
		if d := diff(content(f), tt.out.Bytes()); d != "" {
			t.Errorf("%s: %s", tt.stake, d)
		}
	}
}

// A UDP checksum that works out to 0 is sent as 0xffff, by adjustment and from
// scratch (RFC 768).
func TestNATUDPZero(t *testing.T) {
	for _, none := range []bool{false, true} {
		zeros := 0
		for x := range 1 << 16 {
			p := fromClient.UDP(1000, 53).Payload([]byte{byte(x >> 8), byte(x)})
			if none {
				p = p.NoChecksum()
			}
			f := place(p.Bytes(), headroom)
			NATIn(f, parsed(t, content(f)), addr(rip), 5353)
			switch sum := be.Uint16(content(f)[40:]); sum {
			case 0:
				t.Fatalf("payload %#04x, sent without checksum %t: leaves with checksum 0", x, none)
			case 0xffff:
				zeros++
			}
		}
		if zeros == 0 {
			t.Errorf("no payload makes the checksum 0xffff: the test does not test")
		}
	}
}

// Protocols without ports get the address only (K-PROTO-AH/ESP).
func TestNATNoPorts(t *testing.T) {
	p := fromClient.Proto(packet.ProtoESP).Payload(payload)
	f := place(p.Bytes(), headroom)
	in := new(packet.Info)
	if r := packet.Parse(content(f), in); r != packet.IPsec {
		t.Fatalf("Parse says %v", r)
	}
	NATIn(f, in, addr(rip), 4500)
	if d := diff(content(f), fromClient.IP4(cip, rip).TTL(63).Proto(packet.ProtoESP).Payload(payload).Bytes()); d != "" {
		t.Error(d)
	}
}

// natTwin is NAT by the book: the packet taken apart, put together again, and
// every checksum summed from scratch. A checksum that was wrong is wrong by as
// much as before.
func natTwin(frame []byte, in *packet.Info, reply bool, to flow.Addr, port uint16) []byte {
	out := bytes.Clone(frame[:in.End])
	ip, l4 := out[in.L3:], out[in.L4:]
	n, srcAt := 16, 8
	if in.Family == 4 {
		n, srcAt = 4, 12
	}
	error0 := residue(ip, l4, in, n, srcAt)
	at, portAt := srcAt+n, 2
	if reply {
		at, portAt = srcAt, 0
	}
	copy(ip[at:at+n], to[16-n:])
	changed := be.Uint16(l4[portAt:]) != port
	be.PutUint16(l4[portAt:], port)
	if in.Family == 4 {
		ip[8]--
		hlen := int(ip[0]&15) * 4
		ip[10], ip[11] = 0, 0
		be.PutUint16(ip[10:], packettest.Checksum(ip[:hlen]))
	} else {
		ip[7]--
	}
	none := in.Proto == packet.ProtoUDP && l4[6] == 0 && l4[7] == 0
	src, dst := ip[srcAt:srcAt+n], ip[srcAt+n:srcAt+2*n]
	switch in.Proto {
	case packet.ProtoSCTP:
		if changed {
			packettest.PutChecksum(l4, in.Proto, src, dst)
		}
		return out
	case packet.ProtoTCP:
		at = 16
	case packet.ProtoUDP:
		at = 6
	}
	packettest.PutChecksum(l4, in.Proto, src, dst)
	if !none {
		sum := add1(be.Uint16(l4[at:]), error0)
		if sum == 0 && in.Proto == packet.ProtoUDP {
			sum = 0xffff
		}
		be.PutUint16(l4[at:], sum)
	}
	return out
}

// residue is by how much a TCP or UDP checksum is too large, modulo 0xffff.
func residue(ip, l4 []byte, in *packet.Info, n, srcAt int) uint16 {
	at := map[uint8]int{packet.ProtoTCP: 16, packet.ProtoUDP: 6}[in.Proto]
	if at == 0 {
		return 0
	}
	was := be.Uint16(l4[at:])
	right := bytes.Clone(l4)
	packettest.PutChecksum(right, in.Proto, ip[srcAt:srcAt+n], ip[srcAt+n:srcAt+2*n])
	return add1(was, ^be.Uint16(right[at:]))
}

// add1 is ones' complement addition.
func add1(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s>>16 + s&0xffff)
}

// heal gives a fuzzed frame a right IPv4 header checksum, so that mutations
// elsewhere in the header get past the parser.
func heal(frame []byte) []byte {
	out := bytes.Clone(frame)
	at := 14
	for at+4 <= len(out) && at < 22 && (binary.BigEndian.Uint16(out[at-2:]) == 0x8100 || binary.BigEndian.Uint16(out[at-2:]) == 0x88a8) {
		at += 4
	}
	if len(out) < at+20 || out[at]>>4 != 4 {
		return out
	}
	hlen := int(out[at]&15) * 4
	if hlen < 20 || len(out) < at+hlen {
		return out
	}
	out[at+10], out[at+11] = 0, 0
	be.PutUint16(out[at+10:], packettest.Checksum(out[at:at+hlen]))
	return out
}

// equalSums says whether two packets are equal but for the transport checksum
// at this place, where one may have ones' complement's other zero.
func equalSums(got, want []byte, at int) bool {
	if bytes.Equal(got, want) {
		return true
	}
	if len(got) != len(want) || at+2 > len(got) {
		return false
	}
	a, b := be.Uint16(got[at:]), be.Uint16(want[at:])
	if !(a == 0 && b == 0xffff || a == 0xffff && b == 0) {
		return false
	}
	g := bytes.Clone(got)
	be.PutUint16(g[at:], b)
	return bytes.Equal(g, want)
}

// FuzzNAT holds NAT against its twin. Both directions, any frame that parses.
func FuzzNAT(f *testing.F) {
	for _, p := range []packettest.Packet{
		fromClient.TCP(1000, 80, packettest.SYN),
		fromClient.TCP(1000, 80, packettest.ACK).Payload(payload).BadChecksum(),
		fromClient.VLAN(7).Options(1, 1, 1, 0).UDP(1000, 53).Payload(payload[:7]),
		fromClient.UDP(1000, 53).NoChecksum().Pad(60),
		fromClient.SCTP(1000, 3868, 1),
		fromClient6.TCP(1000, 80, packettest.SYN),
		fromClient6.HopByHop(6).Routing().DestOpts(6).UDP(1000, 53).Payload(payload),
		fromClient6.SCTP(1000, 3868, 10, 6),
	} {
		f.Add(p.Bytes(), []byte("\x0a\x00\x02\x0bfedcba987654"), uint16(8080), false)
		f.Add(p.Bytes(), make([]byte, 16), uint16(0), true)
	}
	f.Fuzz(func(t *testing.T, frame, to []byte, port uint16, reply bool) {
		frame = heal(frame)
		in := new(packet.Info)
		if len(to) < 16 || packet.Parse(frame, in) != packet.Parsed || in.TTL < 2 {
			return
		}
		a := flow.Addr(to[:16])
		if in.Family == 4 {
			a = flow.From4([4]byte(to))
		}
		want := natTwin(frame, in, reply, a, port)
		g := place(frame, headroom)
		before := *in
		if reply {
			NATOut(g, in, &a, port)
		} else {
			NATIn(g, in, &a, port)
		}
		if *in != before {
			t.Errorf("NAT changed what was parsed")
		}
		at := len(want)
		switch in.Proto {
		case packet.ProtoTCP:
			at = int(in.L4) + tcpChecksum
		case packet.ProtoUDP:
			at = int(in.L4) + udpChecksum
		}
		if got := content(g); !equalSums(got, want, at) {
			t.Errorf("%s to %v:%d, reply %t, differs %s", packettest.Describe(frame), a, port, reply, diff(got, want))
		}
		checkAround(t, g, frame, int(before.End))
	})
}

// checkAround asks that nothing was written outside the packet: before the
// headroom's end, and behind the datagram.
func checkAround(t *testing.T, f *Frame, frame []byte, end int) {
	t.Helper()
	if f.Off == headroom && bytes.Count(f.Chunk[:headroom], []byte{0}) != headroom {
		t.Error("headroom was written to")
	}
	if got := f.Chunk[headroom+end:][:len(frame)-end]; !bytes.Equal(got, frame[end:]) {
		t.Errorf("padding %x was changed to %x", frame[end:], got)
	}
}

// Keep and then a rewriting leave the TTL as it was, whatever it was.
func TestKeep(t *testing.T) {
	for _, p := range []packettest.Packet{fromClient.IP4(cip, vip).TCP(1000, 80, 2), fromClient.IP6(cip6, vip6).TCP(1000, 80, 2)} {
		for ttl := range 256 {
			f := place(p.TTL(uint8(ttl)).Bytes(), headroom)
			in := parsed(t, content(f))
			Keep(f, in)
			if want := uint8(min(ttl+1, 255)); in.TTL != want {
				t.Errorf("TTL %d: in says %d, want %d", ttl, in.TTL, want)
			}
			Forward(f, in)
			if d := diff(content(f), p.TTL(uint8(ttl)).Bytes()); d != "" {
				t.Errorf("TTL %d: %s", ttl, d)
			}
		}
	}
}
