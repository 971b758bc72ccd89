package packet_test

import (
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

// kinds are the packets whose cost is of interest.
var kinds = []struct {
	name string
	p    packettest.Packet
	want packet.Result
}{
	{"tcp4", ip4.DF().TCP(1000, 80, packettest.ACK), packet.Parsed},
	{"udp4", ip4.UDP(1000, 53).Payload(make([]byte, 100)), packet.Parsed},
	{"tcp4-vlan", eth.VLAN(7).IP4(cip, vip).TCP(1000, 80, packettest.ACK), packet.Parsed},
	{"tcp6", ip6.TCP(1000, 80, packettest.ACK), packet.Parsed},
	{"tcp6-extensions", ip6.HopByHop(6).DestOpts(6).TCP(1000, 80, packettest.ACK), packet.Parsed},
	{"sctp4", ip4.SCTP(1000, 3868, 10, 0), packet.Parsed},
	{"icmp4-error", ip4.ICMP4(3, 4, 1400).Quote(ip4.TCP(80, 1000, 0), 28), packet.ICMPError},
}

func TestNoAllocation(t *testing.T) {
	var in, q packet.Info
	for _, k := range kinds {
		frame := k.p.Bytes()
		if n := testing.AllocsPerRun(100, func() {
			if packet.Parse(frame, &in) == packet.ICMPError {
				packet.ParseQuoted(frame, int(in.L4)+packet.ICMPLen, int(in.End), &q)
			}
		}); n != 0 {
			t.Errorf("%s: parsing allocates %v times a packet, want 0", k.name, n)
		}
	}
}

// BenchmarkParse goes over a batch of 256 packets, each in memory of its own.
func BenchmarkParse(b *testing.B) {
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			var frames [256][]byte
			var in [256]packet.Info
			for i := range frames {
				frames[i] = k.p.Bytes()
			}
			for b.Loop() {
				for i, f := range frames {
					if packet.Parse(f, &in[i]) != k.want {
						b.Fatalf("%s is not %v", packettest.Describe(f), k.want)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(frames)), "ns/pkt")
		})
	}
}
