package rewrite

import (
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

// job is one way to rewrite a packet; the frame and Info are restored after
// it.
type job struct {
	name string
	p    packettest.Packet
	do   func(f *Frame, in *packet.Info)
}

func jobs() []job {
	to, back, to6 := addr(rip), addr(vip), addr(rip6)
	hop := &nexthop.Hop{VLANs: 1, TPID: [2]uint16{0x8100}, VLAN: [2]uint16{7}}
	plain := &nexthop.Hop{}
	quoted := new(packet.Info)
	in := func(a *flow.Addr, port uint16) func(*Frame, *packet.Info) {
		return func(f *Frame, in *packet.Info) { NATIn(f, in, a, port) }
	}
	wrap := func(t lb.Tunnel, to, from string) func(*Frame, *packet.Info) {
		e, src := encap(t, addr(to), true), addr(from)
		return func(f *Frame, in *packet.Info) { e.Wrap(f, in, src, 1) }
	}
	return []job{
		{"nothing", fromClient.TCP(1000, 80, packettest.ACK), func(*Frame, *packet.Info) {}},
		{"NATIn/tcp4", fromClient.TCP(1000, 80, packettest.ACK), in(to, 8080)},
		{"NATIn/udp4", fromClient.UDP(1000, 53).Payload(payload), in(to, 5353)},
		{"NATIn/udp4-no-checksum", fromClient.UDP(1000, 53).Payload(payload).NoChecksum(), in(to, 5353)},
		{"NATIn/sctp4", fromClient.SCTP(1000, 3868, 1), in(to, 9999)},
		{"NATIn/tcp6", fromClient6.TCP(1000, 80, packettest.ACK), in(to6, 8080)},
		{"NATOut/tcp4", fromServer.TCP(8080, 1000, packettest.ACK), func(f *Frame, in *packet.Info) { NATOut(f, in, back, 80) }},
		{"Forward/tcp4", fromClient.TCP(1000, 80, packettest.ACK), Forward},
		{"Wrap/4in4", fromClient.TCP(1000, 80, packettest.ACK), wrap(ipip, rip, dip)},
		{"Wrap/4in6", fromClient.TCP(1000, 80, packettest.ACK), wrap(ipip, rip6, dip6)},
		{"Wrap/gue", fromClient.TCP(1000, 80, packettest.ACK), wrap(gue, rip, dip)},
		{"Wrap/gue-csum", fromClient.TCP(1000, 80, packettest.ACK), wrap(gueSum, rip, dip)},
		{"Wrap/gue-csum-1400", fromClient.TCP(1000, 80, packettest.ACK).Payload(make([]byte, 1360)), wrap(gueSum, rip, dip)},
		{"Wrap/gue6", fromClient6.TCP(1000, 80, packettest.ACK), wrap(gue, rip6, dip6)},
		{"Wrap/gre", fromClient.TCP(1000, 80, packettest.ACK), wrap(gre, rip, dip)},
		{"Wrap/gre-csum", fromClient.TCP(1000, 80, packettest.ACK), wrap(greSum, rip, dip)},
		{"Link/plain", fromClient.TCP(1000, 80, packettest.ACK), func(f *Frame, in *packet.Info) { Link(f, in, plain) }},
		{"Link/vlan", fromClient.TCP(1000, 80, packettest.ACK), func(f *Frame, in *packet.Info) { Link(f, in, hop) }},
		{"ClampMSS", fromClient.TCP(1000, 80, packettest.SYN).TCPOptions(2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7), func(f *Frame, in *packet.Info) { ClampMSS(f, in, 1400) }},
		{"ICMPIn/4", packettest.Eth(ourMAC, routerMAC).IP4(cip, vip).ICMP4(3, 4, 1400).Quote(toClient.TCP(80, 1000, 0), 28), func(f *Frame, in *packet.Info) {
			packet.ParseQuoted(content(f), int(in.L4)+packet.ICMPLen, int(in.End), quoted)
			ICMPIn(f, in, quoted, to, 8080)
		}},
	}
}

func TestNoAllocation(t *testing.T) {
	for _, j := range jobs() {
		frame := j.p.Bytes()
		f := place(frame, headroom)
		in := parsed(t, frame)
		was := *in
		if n := testing.AllocsPerRun(100, func() {
			copy(f.Chunk[headroom:], frame)
			f.Off, f.Len = headroom, uint32(len(frame))
			*in = was
			j.do(f, in)
		}); n != 0 {
			t.Errorf("%s allocates %v times a packet, want 0", j.name, n)
		}
	}
	var room [packet.EthernetLen + maxError6]byte
	frame := fromClient6.UDP(1000, 53).Payload(make([]byte, 1400)).Bytes()
	in := parsed(t, frame)
	if n := testing.AllocsPerRun(100, func() { ICMPError(room[:0], in, frame, *addr6, 2, 0, 1280, 1) }); n != 0 {
		t.Errorf("ICMPError allocates %v times with room in dst, want 0", n)
	}
}

var addr6 = addr(vip6)

// BenchmarkRewrite includes putting frame and Info back before each packet;
// "nothing" is what that costs.
func BenchmarkRewrite(b *testing.B) {
	for _, j := range jobs() {
		b.Run(j.name, func(b *testing.B) {
			frame := j.p.Bytes()
			var frames [256]*Frame
			var was packet.Info
			packet.Parse(frame, &was)
			for i := range frames {
				frames[i] = place(frame, headroom)
			}
			in := was
			for b.Loop() {
				for _, f := range frames {
					copy(f.Chunk[headroom:], frame)
					f.Off, f.Len, in = headroom, uint32(len(frame)), was
					j.do(f, &in)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(frames)), "ns/pkt")
		})
	}
}
