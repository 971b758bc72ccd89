package rewrite

import (
	"bytes"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

const guePort = 6080

var testSeed = flow.Seed{7, 8}

// Every kind of tunnel.
var (
	ipip    = lb.Tunnel{}
	gue     = lb.Tunnel{Type: lb.GUE, Port: guePort}
	gueSum  = lb.Tunnel{Type: lb.GUE, Port: guePort, Checksum: lb.Checksum}
	gueRem  = lb.Tunnel{Type: lb.GUE, Port: guePort, Checksum: lb.ChecksumRemote}
	gre     = lb.Tunnel{Type: lb.GRE}
	greSum  = lb.Tunnel{Type: lb.GRE, Checksum: lb.Checksum}
	tunnels = []lb.Tunnel{ipip, gue, gueSum, gueRem, gre, greSum}
)

// encap is the Encap of a tunnel to a server.
func encap(t lb.Tunnel, to *flow.Addr, pmtu bool) *Encap {
	e := NewEncap(&lb.Real{Addr: *to, V6: !to.Is4(), Forward: lb.TUN, Tunnel: t}, pmtu, testSeed)
	return &e
}

// tunneled is how a tunnel's packet leaves: outer Ethernet addresses are Link's
// affair and zero here.
func tunneled(p packettest.Packet) []byte {
	b := p.Bytes()
	clear(b[:packet.EthernetLen])
	return b
}

// plainPort is Encap.sourcePort by division.
func plainPort(in *packet.Info) uint16 {
	k := flow.Key{Client: in.Src, Local: in.Dst, ClientPort: in.SrcPort, LocalPort: in.DstPort, Proto: in.Proto}
	return uint16(32768 + (k.Hash(&testSeed)>>32)*28232/(1<<32))
}

// wrapped puts an IP datagram into the payload of outer, by plain code; port is
// the source port of GUE.
func wrapped(outer packettest.Packet, t lb.Tunnel, port uint16, inner []byte) packettest.Packet {
	proto, etherType := byte(4), uint16(0x0800)
	if inner[0]>>4 == 6 {
		proto, etherType = 41, 0x86dd
	}
	switch t.Type {
	case lb.GUE:
		outer = outer.UDP(port, t.Port).Payload(append([]byte{0, proto, 0, 0}, inner...))
		if t.Checksum == lb.ChecksumNone {
			outer = outer.NoChecksum()
		}
		return outer
	case lb.GRE:
		h := be.AppendUint16([]byte{0, 0}, etherType)
		if t.Checksum != lb.ChecksumNone {
			h = append(h, 0, 0, 0, 0)
			h[0] = 0x80
			be.PutUint16(h[4:], packettest.Checksum(append(h, inner...)))
		}
		return outer.Proto(47).Payload(append(h, inner...))
	}
	return outer.Proto(proto).Payload(inner)
}

// Each row is a packet, what it is inside the tunnel and what the outer IP
// header is; the headers between differ by the kind of tunnel.
func TestWrap(t *testing.T) {
	out4 := packettest.Eth(routerMAC, ourMAC).IP4(dip, rip)
	out6 := packettest.Eth(routerMAC, ourMAC).IP6(dip6, rip6)
	tests := []struct {
		stake             string
		in, outer, inside packettest.Packet
		pmtu              bool
	}{
		{
			"4 in 4: TTL is the decremented one, DF copied, ident 0 [tun-ipip]", fromClient.DF().ID(7).TCP(1000, 80, packettest.SYN),
			out4.TTL(63).DF(), fromClient.TTL(63).DF().ID(7).TCP(1000, 80, packettest.SYN), true,
		},
		{
			"4 in 4 without DF: the given ident", fromClient.TCP(1000, 80, packettest.SYN),
			out4.TTL(63).ID(99), fromClient.TTL(63).TCP(1000, 80, packettest.SYN), true,
		},
		{
			"pmtu_disc 0: never DF [tun-ipip-mtu-nopmtu]", fromClient.DF().TCP(1000, 80, packettest.SYN),
			out4.TTL(63).ID(99), fromClient.TTL(63).DF().TCP(1000, 80, packettest.SYN), false,
		},
		{
			"TOS with ECN bits is copied", fromClient.TTL(10).TOS(0xb9).TCP(1000, 80, 0),
			out4.TTL(9).TOS(0xb9).ID(99), fromClient.TTL(9).TOS(0xb9).TCP(1000, 80, 0), true,
		},
		{
			"congestion experienced becomes ECN-capable outside (RFC 3168)", fromClient.TOS(0xbb).TCP(1000, 80, 0),
			out4.TTL(63).TOS(0xba).ID(99), fromClient.TTL(63).TOS(0xbb).TCP(1000, 80, 0), true,
		},
		{
			"padding does not travel, a wrong checksum does", fromClient.TCP(1000, 80, 0).BadChecksum().Pad(60),
			out4.TTL(63).ID(99), fromClient.TTL(63).TCP(1000, 80, 0).BadChecksum(), true,
		},
		{"an odd length is summed right", fromClient.UDP(1000, 53).Payload([]byte("odd")), out4.TTL(63).ID(99), fromClient.TTL(63).UDP(1000, 53).Payload([]byte("odd")), true},
		{"tags are replaced", fromClient.VLAN(7).VLAN(8).UDP(1000, 53), out4.TTL(63).ID(99), fromClient.TTL(63).UDP(1000, 53), true},
		{
			"6 in 4: no DF [v6-in-v4-tun]", fromClient6.TOS(0xb9).TCP(1000, 80, 0),
			out4.TTL(63).TOS(0xb9).ID(99), fromClient6.TTL(63).TOS(0xb9).TCP(1000, 80, 0), true,
		},
		{
			"4 in 6 [v4-in-v6-tun]", fromClient.TTL(9).TOS(0xb9).DF().TCP(1000, 80, 0),
			out6.TTL(8).TOS(0xb9), fromClient.TTL(8).TOS(0xb9).DF().TCP(1000, 80, 0), true,
		},
		{
			"6 in 6: flow label 0 outside, kept inside [v6-tun]", fromClient6.FlowLabel(0x12345).HopByHop(6).UDP(1000, 53).Payload(payload),
			out6.TTL(63), fromClient6.TTL(63).FlowLabel(0x12345).HopByHop(6).UDP(1000, 53).Payload(payload), true,
		},
		{
			"an ICMP error has no ports to hash", fromClient.ICMP4(3, 3, 0).Quote(toClient.TCP(80, 1000, 0), 28),
			out4.TTL(63).ID(99), fromClient.TTL(63).ICMP4(3, 3, 0).Quote(toClient.TCP(80, 1000, 0), 28), true,
		},
	}
	for _, tt := range tests {
		for _, tunnel := range tunnels {
			f := place(tt.in.Bytes(), headroom)
			in := parsed(t, content(f))
			out := wrapped(tt.outer, tunnel, plainPort(in), tt.inside.Datagram())
			want := tunneled(out)
			src, dst := addr(dip), addr(rip)
			if want[packet.EthernetLen]>>4 == 6 {
				src, dst = addr(dip6), addr(rip6)
			}
			e := encap(tunnel, dst, tt.pmtu)
			if !e.Wrap(f, in, src, 99) {
				t.Fatalf("%s, %v: no headroom", tt.stake, tunnel)
			}
			got := content(f)
			clear(got[:packet.EthernetLen])
			if d := diff(got, want); d != "" {
				t.Errorf("%s, %v: %s", tt.stake, tunnel, d)
			}
			// What in says now is what the outer packet is.
			again := new(packet.Info)
			packet.Parse(out.Bytes(), again)
			if *in != *again {
				t.Errorf("%s, %v: in describes %+v, want %+v", tt.stake, tunnel, *in, *again)
			}
			if n := len(want) - packet.EthernetLen - len(tt.inside.Datagram()); int(e.Overhead) != n {
				t.Errorf("%s, %v: Overhead is %d, want %d", tt.stake, tunnel, e.Overhead, n)
			}
		}
	}
}

// K-FWD-MTU: what each tunnel costs.
func TestOverhead(t *testing.T) {
	for i, want := range [][2]uint16{{20, 40}, {32, 52}, {32, 52}, {32, 52}, {24, 44}, {28, 48}} {
		for j, server := range []string{rip, rip6} {
			if got := encap(tunnels[i], addr(server), true).Overhead; got != want[j] {
				t.Errorf("%v to %s costs %d bytes, want %d", tunnels[i], server, got, want[j])
			}
		}
	}
}

// A flow keeps its source port whatever its packets are like; other flows, and
// other directors, have others. All are in the kernel's range.
func TestSourcePort(t *testing.T) {
	port := func(p packettest.Packet, seed flow.Seed) uint16 {
		e := NewEncap(&lb.Real{Addr: *addr(rip), Forward: lb.TUN, Tunnel: gue}, true, seed)
		f := place(p.Bytes(), headroom)
		in := parsed(t, content(f))
		if !e.Wrap(f, in, addr(dip), 1) {
			t.Fatal("no headroom")
		}
		return in.SrcPort
	}
	syn := port(fromClient.TCP(1000, 80, packettest.SYN), testSeed)
	for stake, p := range map[string]packettest.Packet{
		"another segment":              fromClient.TCP(1000, 80, packettest.ACK).Payload(payload),
		"other TTL, TOS, ident and DF": fromClient.TTL(3).TOS(0xb9).ID(3).DF().TCP(1000, 80, packettest.ACK),
		"a tag and padding":            fromClient.VLAN(3).TCP(1000, 80, packettest.ACK).Pad(80),
		"options":                      fromClient.Options(1, 1, 1, 1).TCP(1000, 80, packettest.ACK),
	} {
		if got := port(p, testSeed); got != syn {
			t.Errorf("%s: port %d, want the flow's %d", stake, got, syn)
		}
	}
	base6 := port(fromClient6.TCP(1000, 80, packettest.SYN), testSeed)
	if got := port(fromClient6.FlowLabel(5).HopByHop(6).TCP(1000, 80, 0), testSeed); got != base6 {
		t.Errorf("IPv6, other flow label: port %d, want the flow's %d", got, base6)
	}
	const flows = 1 << 14
	var eighths [8]int
	same := 0
	for i := range flows {
		p := fromClient.TCP(uint16(i), 80, packettest.SYN)
		n := port(p, testSeed)
		if n < 32768 || n > 60999 {
			t.Fatalf("source port %d is outside the kernel's range", n)
		}
		eighths[(int(n)-32768)*8/28232]++
		if port(p, flow.Seed{8, 7}) == n {
			same++
		}
	}
	for i, n := range eighths {
		if n < flows/8*9/10 || n > flows/8*11/10 {
			t.Errorf("%d of %d flows have ports of eighth %d, want about %d", n, flows, i, flows/8)
		}
	}
	if same > 10 {
		t.Errorf("another seed leaves %d of %d flows their port", same, flows)
	}
}

func TestWrapRefuses(t *testing.T) {
	small := fromClient.UDP(1000, 53).Bytes()
	long := func(datagram int) []byte { return fromClient.UDP(1000, 53).Payload(make([]byte, datagram-28)).Bytes() }
	tests := []struct {
		stake    string
		frame    []byte
		room     int
		src, dst string
		tunnel   lb.Tunnel
	}{
		{"one byte too little headroom for 4 in 4", small, 19, dip, rip, ipip},
		{"and for 4 in 6", small, 39, dip6, rip6, ipip},
		{"and for GUE", small, 31, dip, rip, gue},
		{"and for GUE in IPv6", small, 51, dip6, rip6, gue},
		{"and for GRE", small, 23, dip, rip, gre},
		{"and for GRE with checksum", small, 27, dip, rip, greSum},
		{"longer than a datagram may be", long(65535 - 20 + 1), 256, dip, rip, ipip},
		{"longer than that by GRE's header", long(65535 - 24 + 1), 256, dip, rip, gre},
		{"in IPv6, whose own header does not count", long(65535 - 4 + 1), 256, dip6, rip6, gre},
	}
	for _, tt := range tests {
		f := place(tt.frame, tt.room)
		in := parsed(t, content(f))
		was, before := *in, bytes.Clone(content(f))
		if encap(tt.tunnel, addr(tt.dst), true).Wrap(f, in, addr(tt.src), 1) {
			t.Errorf("%s: accepted", tt.stake)
		}
		if *in != was || !bytes.Equal(content(f), before) {
			t.Errorf("%s: changed the packet", tt.stake)
		}
	}
	for i, room := range []int{20, 32, 32, 32, 24, 28} {
		f := place(small, room)
		if !encap(tunnels[i], addr(rip), true).Wrap(f, parsed(t, content(f)), addr(dip), 1) || f.Off != 0 {
			t.Errorf("just enough headroom for %v in IPv4 is refused", tunnels[i])
		}
	}
	for _, most := range []struct {
		datagram int
		src, dst string
		frame    uint32
	}{{65535 - 24, dip, rip, 14 + 65535}, {65535 - 4, dip6, rip6, 14 + 40 + 65535}} {
		f := place(long(most.datagram), 256)
		if !encap(gre, addr(most.dst), true).Wrap(f, parsed(t, content(f)), addr(most.src), 1) || f.Len != most.frame {
			t.Errorf("the longest datagram for GRE to %s is refused", most.dst)
		}
	}
}

// A UDP checksum that comes out as 0 is sent as 0xffff, since 0 says that there
// is none (RFC 768); GRE says by a flag whether there is one, and sends the 0.
func TestWrapChecksumZero(t *testing.T) {
	for _, tt := range []struct {
		tunnel lb.Tunnel
		at     int // of the checksum, behind the IP header
		want   uint16
	}{{gueSum, 6, 0xffff}, {greSum, 4, 0}} {
		sum := func(word uint16) uint16 {
			// Two bytes of payload, and no inner checksum that depends on them.
			f := place(fromClient.UDP(1000, 53).NoChecksum().Payload(be.AppendUint16(nil, word)).Bytes(), headroom)
			in := parsed(t, content(f))
			if !encap(tt.tunnel, addr(rip), true).Wrap(f, in, addr(dip), 1) {
				t.Fatal("no headroom")
			}
			return be.Uint16(content(f)[int(in.L4)+tt.at:])
		}
		// The word that makes the sum of all others, and so the checksum, zero.
		word := sum(0)
		if got := sum(word); got != tt.want {
			t.Errorf("%v: with payload %#04x the checksum is %#04x, want %#04x", tt.tunnel, word, got, tt.want)
		}
	}
}

// FuzzTunnel: inside the outer headers is the packet that Forward makes, and
// the outer headers are the builder's.
func FuzzTunnel(f *testing.F) {
	for _, p := range []packettest.Packet{
		fromClient.DF().TCP(1000, 80, packettest.SYN),
		fromClient.VLAN(7).TOS(3).UDP(1000, 53).Payload([]byte("odd")).Pad(64),
		fromClient6.TOS(0xff).HopByHop(6).TCP(1000, 80, packettest.SYN),
	} {
		for kind := range tunnels {
			f.Add(p.Bytes(), uint16(7), true, true, uint8(kind))
			f.Add(p.Bytes(), uint16(0), false, false, uint8(kind))
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte, id uint16, pmtu, v4 bool, kind uint8) {
		frame = heal(frame)
		in := new(packet.Info)
		if r := packet.Parse(frame, in); r != packet.Parsed && r != packet.ICMPError || in.TTL < 2 || in.End > 60000 {
			return
		}
		tunnel := tunnels[int(kind)%len(tunnels)]
		plain, info := place(frame, headroom), *in
		Forward(plain, in)
		inner := content(plain)[in.L3:]
		tos := info.TOS
		if tos&3 == 3 {
			tos-- // RFC 3168: ECN-capable
		}
		src, dst := addr(dip), addr(rip)
		outer := packettest.Eth(routerMAC, ourMAC).IP4(dip, rip).ID(id)
		if pmtu && info.Flags&packet.FlagDF != 0 {
			outer = outer.ID(0).DF()
		}
		if !v4 {
			src, dst = addr(dip6), addr(rip6)
			outer = packettest.Eth(routerMAC, ourMAC).IP6(dip6, rip6)
		}
		want := tunneled(wrapped(outer.TTL(info.TTL-1).TOS(tos), tunnel, plainPort(&info), inner))
		g := place(frame, headroom)
		if !encap(tunnel, dst, pmtu).Wrap(g, in, src, id) {
			t.Fatalf("%s, %v: refused", packettest.Describe(frame), tunnel)
		}
		got := content(g)
		clear(got[:packet.EthernetLen])
		if d := diff(got, want); d != "" {
			t.Errorf("%s, %v: %s", packettest.Describe(frame), tunnel, d)
		}
	})
}
