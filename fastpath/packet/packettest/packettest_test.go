package packettest

import (
	"encoding/hex"
	"testing"
)

// Frames of other makers, byte for byte: the builder's checksums and lengths
// are not its own invention.
func TestKnownFrames(t *testing.T) {
	const ours, other = "02:00:00:00:00:01", "02:00:00:00:01:fe"
	tests := []struct {
		stake string
		p     Packet
		want  string
	}{
		{
			"a TCP SYN", Eth(ours, other).IP4("10.0.1.10", "10.0.1.100").ID(0x1000).DF().TCP(1000, 80, SYN),
			"0200000000010200000001fe08004500002810004000400614630a00010a0a00016403e80050000003e8000000005002faf096640000",
		},
		{
			"an ICMP error about it", Eth("02:00:00:00:01:0a", ours).IP4("10.0.1.100", "10.0.1.10").TOS(0xc0).ID(0xb7de).ICMP4(3, 3, 0).
				Quote(Eth(ours, other).IP4("10.0.1.10", "10.0.1.100").ID(0x1000).DF().TCP(1000, 80, SYN), -1),
			"02000000010a020000000001080045c00044b7de00004001abad0a0001640a00010a03031385000000004500002810004000400614630a00010a0a00016403e80050000003e8000000005002faf096640000",
		},
	}
	for _, tt := range tests {
		if got := hex.EncodeToString(tt.p.Bytes()); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.stake, got, tt.want)
		}
	}
}

func TestDescribe(t *testing.T) {
	e := Eth("02:00:00:00:00:01", "02:00:00:00:01:fe")
	ip := e.IP4("10.0.1.10", "10.0.1.100")
	ip6 := e.IP6("fd00:1::10", "fd00:1::100")
	const head = "02:00:00:00:01:fe > 02:00:00:00:00:01 "
	tests := []struct {
		p    Packet
		want string
	}{
		{ip.ID(0x1000).DF().TCP(1000, 80, SYN|ACK), head + "IP ttl=64 id=0x1000 DF 10.0.1.10:1000 > 10.0.1.100:80 TCP [SA] len=0 csum=ok"},
		{ip.BadIPChecksum().UDP(1, 2).BadChecksum().Pad(60), head + "IP ttl=64 id=0x0000 ipcsum=BAD pad=18 10.0.1.10:1 > 10.0.1.100:2 UDP len=0 csum=BAD"},
		{ip.TOS(0xb9).Options(1, 1, 1, 0).UDP(1, 2).NoChecksum(), head + "IP ttl=64 id=0x0000 tos=0xb9 opts=01010100 10.0.1.10:1 > 10.0.1.100:2 UDP len=0 csum=none"},
		{ip.Fragment(8, true, 9).Proto(17).Payload(make([]byte, 8)), head + "IP ttl=64 id=0x0009 frag=8 more=true 10.0.1.10 > 10.0.1.100 proto=17 8 bytes"},
		{
			e.VLAN(7).Tag(0x88a8, 8).IP6("fd00:1::10", "fd00:1::100").TOS(1).FlowLabel(5).HopByHop(6).SCTP(1, 2, 1).BadChecksum(),
			head + "tag=0x8100:7 tag=0x88a8:8 IP6 hlim=64 tc=0x01 flow=0x5 ext=0 [fd00:1::10]:1 > [fd00:1::100]:2 SCTP len=4 csum=BAD",
		},
		{ip6.Fragment(0, true, 9).AH().TCP(1, 2, FIN), head + "IP6 hlim=64 frag=0 more=true id=0x9 ext=44 ext=51 [fd00:1::10]:1 > [fd00:1::100]:2 TCP [F] len=0"},
		{
			ip6.ICMP6(2, 0, 1300).Quote(ip6.UDP(1, 2), 48),
			head + "IP6 hlim=64 fd00:1::10 > fd00:1::100 ICMP(58) type=2 code=0 rest=0x00000514 csum=ok quoting {IP6 hlim=64 [fd00:1::10]:1 > [fd00:1::100]:2 UDP len=0}",
		},
		{ip.Encap(ip6.TCP(1, 2, RST)), head + "IP ttl=64 id=0x0000 10.0.1.10 > 10.0.1.100 tunnel=41 {IP6 hlim=64 [fd00:1::10]:1 > [fd00:1::100]:2 TCP [R] len=0 csum=ok}"},
		{e.EtherType(0x0806).Payload(make([]byte, 28)), head + "type=0x0806 28 bytes"},
		{ip.UDP(1, 2).Truncate(10), "10 bytes, less than Ethernet's header"},
		{ip.UDP(1, 2).Truncate(20), head + "IP cut or broken 4500001c0000"},
		{ip.TCP(1, 2, 0).Truncate(40), head + "IP ttl=64 id=0x0000 length=40 of 26 10.0.1.10:1 > 10.0.1.100:2 TCP (cut)"},
	}
	for _, tt := range tests {
		if got := Describe(tt.p.Bytes()); got != tt.want {
			t.Errorf("\n got %s\nwant %s", got, tt.want)
		}
	}
}

// A Packet is a value: rows may share a beginning.
func TestValue(t *testing.T) {
	base := Eth("02:00:00:00:00:01", "02:00:00:00:01:fe").VLAN(1).IP6("fd00::1", "fd00::2").HopByHop(6)
	before := hex.EncodeToString(base.UDP(1, 2).Bytes())
	base.VLAN(2).DestOpts(6).TTL(1).TCP(3, 4, SYN).BadChecksum().Bytes()
	base.VLAN(3).Routing().UDP(5, 6).Bytes()
	if after := hex.EncodeToString(base.UDP(1, 2).Bytes()); after != before {
		t.Errorf("a packet built on another changed it:\n%s\n%s", before, after)
	}
}

func FuzzDescribe(f *testing.F) {
	e := Eth("02:00:00:00:00:01", "02:00:00:00:01:fe")
	f.Add(e.IP4("10.0.1.10", "10.0.1.100").ICMP4(3, 4, 0).Quote(e.IP6("::1", "::2").SCTP(1, 2, 1), 50).Bytes())
	f.Add(e.VLAN(1).IP6("::1", "::2").HopByHop(6).AH().Fragment(0, true, 1).TCP(1, 2, SYN).Bytes())
	f.Fuzz(func(t *testing.T, frame []byte) {
		if Describe(frame) == "" {
			t.Errorf("%x has no description", frame)
		}
	})
}
