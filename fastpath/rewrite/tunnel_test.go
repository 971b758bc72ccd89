package rewrite

import (
	"bytes"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

// tunneled is how a tunnel's packet leaves: outer Ethernet addresses are Link's
// affair and zero here.
func tunneled(p packettest.Packet) []byte {
	b := p.Bytes()
	clear(b[:packet.EthernetLen])
	return b
}

func TestTunnel(t *testing.T) {
	out4 := packettest.Eth(routerMAC, ourMAC).IP4(dip, rip)
	out6 := packettest.Eth(routerMAC, ourMAC).IP6(dip6, rip6)
	tests := []struct {
		stake   string
		in, out packettest.Packet
		pmtu    bool
	}{
		{
			"4 in 4: TTL is the decremented one, DF copied, ident 0 [tun-ipip]", fromClient.DF().ID(7).TCP(1000, 80, packettest.SYN),
			out4.TTL(63).DF().Encap(fromClient.TTL(63).DF().ID(7).TCP(1000, 80, packettest.SYN)), true,
		},
		{
			"4 in 4 without DF: the given ident", fromClient.TCP(1000, 80, packettest.SYN),
			out4.TTL(63).ID(99).Encap(fromClient.TTL(63).TCP(1000, 80, packettest.SYN)), true,
		},
		{
			"pmtu_disc 0: never DF [tun-ipip-mtu-nopmtu]", fromClient.DF().TCP(1000, 80, packettest.SYN),
			out4.TTL(63).ID(99).Encap(fromClient.TTL(63).DF().TCP(1000, 80, packettest.SYN)), false,
		},
		{
			"TOS with ECN bits is copied", fromClient.TTL(10).TOS(0xb9).TCP(1000, 80, 0),
			out4.TTL(9).TOS(0xb9).ID(99).Encap(fromClient.TTL(9).TOS(0xb9).TCP(1000, 80, 0)), true,
		},
		{
			"congestion experienced becomes ECN-capable outside (RFC 3168)", fromClient.TOS(0xbb).TCP(1000, 80, 0),
			out4.TTL(63).TOS(0xba).ID(99).Encap(fromClient.TTL(63).TOS(0xbb).TCP(1000, 80, 0)), true,
		},
		{
			"padding does not travel, a wrong checksum does", fromClient.TCP(1000, 80, 0).BadChecksum().Pad(60),
			out4.TTL(63).ID(99).Encap(fromClient.TTL(63).TCP(1000, 80, 0).BadChecksum()), true,
		},
		{"tags are replaced", fromClient.VLAN(7).VLAN(8).UDP(1000, 53), out4.TTL(63).ID(99).Encap(fromClient.TTL(63).UDP(1000, 53)), true},
		{
			"6 in 4: no DF [v6-in-v4-tun]", fromClient6.TOS(0xb9).TCP(1000, 80, 0),
			out4.TTL(63).TOS(0xb9).ID(99).Encap(fromClient6.TTL(63).TOS(0xb9).TCP(1000, 80, 0)), true,
		},
		{
			"4 in 6 [v4-in-v6-tun]", fromClient.TTL(9).TOS(0xb9).DF().TCP(1000, 80, 0),
			out6.TTL(8).TOS(0xb9).Encap(fromClient.TTL(8).TOS(0xb9).DF().TCP(1000, 80, 0)), true,
		},
		{
			"6 in 6: flow label 0 outside, kept inside [v6-tun]", fromClient6.FlowLabel(0x12345).HopByHop(6).UDP(1000, 53).Payload(payload),
			out6.TTL(63).Encap(fromClient6.TTL(63).FlowLabel(0x12345).HopByHop(6).UDP(1000, 53).Payload(payload)), true,
		},
	}
	for _, tt := range tests {
		f := place(tt.in.Bytes(), headroom)
		in := parsed(t, content(f))
		src, dst := addr(dip), addr(rip)
		want := tunneled(tt.out)
		if want[packet.EthernetLen]>>4 == 6 {
			src, dst = addr(dip6), addr(rip6)
		}
		if !Tunnel(f, in, src, dst, 99, tt.pmtu) {
			t.Fatalf("%s: no headroom", tt.stake)
		}
		got := content(f)
		clear(got[:packet.EthernetLen])
		if d := diff(got, want); d != "" {
			t.Errorf("%s: %s", tt.stake, d)
		}
		// What in says now is what the outer packet is.
		again := new(packet.Info)
		packet.Parse(tt.out.Bytes(), again)
		if *in != *again {
			t.Errorf("%s: in describes %+v, want %+v", tt.stake, *in, *again)
		}
	}
}

func TestTunnelRefuses(t *testing.T) {
	small := fromClient.UDP(1000, 53).Bytes()
	long := packettest.Eth(ourMAC, routerMAC).IP4(cip, vip).UDP(1000, 53).Payload(make([]byte, 65535-28-14)).Bytes()
	tests := []struct {
		stake    string
		frame    []byte
		room     int
		src, dst string
	}{
		{"one byte too little headroom for 4 in 4", small, 19, dip, rip},
		{"and for 4 in 6", small, 39, dip6, rip6},
		{"longer than IP allows", long, 256, dip6, rip6},
	}
	for _, tt := range tests {
		f := place(tt.frame, tt.room)
		in := parsed(t, content(f))
		was, before := *in, bytes.Clone(content(f))
		if Tunnel(f, in, addr(tt.src), addr(tt.dst), 1, true) {
			t.Errorf("%s: accepted", tt.stake)
		}
		if *in != was || !bytes.Equal(content(f), before) {
			t.Errorf("%s: changed the packet", tt.stake)
		}
	}
	f := place(small, 20)
	if !Tunnel(f, parsed(t, content(f)), addr(dip), addr(rip), 1, true) || f.Off != 0 {
		t.Error("just enough headroom for 4 in 4 is refused")
	}
}

// FuzzTunnel: inside the outer header is the packet that Forward makes, and
// the outer header is the builder's.
func FuzzTunnel(f *testing.F) {
	for _, p := range []packettest.Packet{
		fromClient.DF().TCP(1000, 80, packettest.SYN),
		fromClient.VLAN(7).TOS(3).UDP(1000, 53).Payload(payload).Pad(64),
		fromClient6.TOS(0xff).HopByHop(6).TCP(1000, 80, packettest.SYN),
	} {
		f.Add(p.Bytes(), uint16(7), true, true)
		f.Add(p.Bytes(), uint16(0), false, false)
	}
	f.Fuzz(func(t *testing.T, frame []byte, id uint16, pmtu, v4 bool) {
		frame = heal(frame)
		in := new(packet.Info)
		if packet.Parse(frame, in) != packet.Parsed || in.TTL < 2 || in.End > 60000 {
			return
		}
		plain, info := place(frame, headroom), *in
		Forward(plain, in)
		inner := content(plain)[in.L3:]
		tos := info.TOS
		if tos&3 == 3 {
			tos-- // RFC 3168: ECN-capable
		}
		proto := map[uint8]uint8{4: 4, 6: 41}[info.Family]
		src, dst := addr(dip), addr(rip)
		outer := packettest.Eth(routerMAC, ourMAC).IP4(dip, rip).ID(id)
		if pmtu && info.Flags&packet.FlagDF != 0 {
			outer = outer.ID(0).DF()
		}
		if !v4 {
			src, dst = addr(dip6), addr(rip6)
			outer = packettest.Eth(routerMAC, ourMAC).IP6(dip6, rip6)
		}
		want := tunneled(outer.TTL(info.TTL - 1).TOS(tos).Proto(proto).Payload(inner))
		g := place(frame, headroom)
		if !Tunnel(g, in, src, dst, id, pmtu) {
			t.Fatalf("%s: refused", packettest.Describe(frame))
		}
		got := content(g)
		clear(got[:packet.EthernetLen])
		if d := diff(got, want); d != "" {
			t.Errorf("%s: %s", packettest.Describe(frame), d)
		}
	})
}
