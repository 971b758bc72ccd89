package pktgen

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/flow"
)

const (
	router   = "02:00:00:00:00:01"
	neighbor = "02:00:00:00:00:02"
)

// A written frame is, byte for byte, the one that the builder of packets
// makes with those endpoints: every checksum is right.
func TestWriteIsTheBuildersFrame(t *testing.T) {
	for _, c := range []struct {
		what     string
		src, dst string
		frame    func(src, dst netip.AddrPort) packettest.Packet
	}{
		{"TCP in IPv4", "100.64.0.1:4000", "10.0.0.1:80", func(s, d netip.AddrPort) packettest.Packet {
			return packettest.Eth(router, neighbor).IP4(s.Addr().String(), d.Addr().String()).TCP(s.Port(), d.Port(), packettest.ACK)
		}},
		{"UDP in IPv4 behind a tag", "255.255.255.254:65535", "10.0.0.255:53", func(s, d netip.AddrPort) packettest.Packet {
			return packettest.Eth(router, neighbor).VLAN(5).IP4(s.Addr().String(), d.Addr().String()).UDP(s.Port(), d.Port()).Payload([]byte("odd"))
		}},
		{"TCP in IPv6", "[fd64::ffff:1]:40000", "[fd00::80]:80", func(s, d netip.AddrPort) packettest.Packet {
			return packettest.Eth(router, neighbor).IP6(s.Addr().String(), d.Addr().String()).TCP(s.Port(), d.Port(), packettest.SYN)
		}},
		{"UDP in IPv6", "[fd64::1]:1", "[fd00::80]:53", func(s, d netip.AddrPort) packettest.Packet {
			return packettest.Eth(router, neighbor).IP6(s.Addr().String(), d.Addr().String()).UDP(s.Port(), d.Port())
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			src, dst := netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)
			other := netip.AddrPortFrom(dst.Addr().Next(), 9)
			template, err := NewTemplate(c.frame(other, src).Bytes())
			if err != nil {
				t.Fatal(err)
			}
			from, to := Endpoint{flow.FromNetip(src.Addr()), src.Port()}, Endpoint{flow.FromNetip(dst.Addr()), dst.Port()}
			got, want := make([]byte, template.Len()), c.frame(src, dst).Bytes()
			template.Write(got, &from, &to)
			if !bytes.Equal(got, want) {
				t.Errorf("wrote %s\n%x, want\n%x", packettest.Describe(got), got, want)
			}
		})
	}
}

// What cannot be patched is refused, not written wrong.
func TestNewTemplateRefuses(t *testing.T) {
	for what, frame := range map[string][]byte{
		"a protocol without ports":    packettest.Eth(router, neighbor).IP4("10.0.0.1", "10.0.0.2").ICMP4(8, 0, 0).Bytes(),
		"a protocol with a CRC":       packettest.Eth(router, neighbor).IP4("10.0.0.1", "10.0.0.2").SCTP(1, 2, 0).Bytes(),
		"a header checksum that lies": packettest.Eth(router, neighbor).IP4("10.0.0.1", "10.0.0.2").UDP(1, 2).BadIPChecksum().Bytes(),
	} {
		if _, err := NewTemplate(frame); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// No two flows have the same client, up to the last.
func TestClientsDiffer(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		seen := map[Endpoint]int{}
		for _, i := range append(Shuffled(5000, 1), MaxClients-1, MaxClients-2) {
			e := Client(int(i), v6)
			if other, ok := seen[e]; ok {
				t.Fatalf("flows %d and %d are both of %v port %d", i, other, e.Addr, e.Port)
			}
			if e.Addr.Is4() == v6 {
				t.Fatalf("flow %d: %v is of the other family", i, e.Addr)
			}
			seen[e] = int(i)
		}
	}
	last := Client(MaxClients-1, false).Addr.Netip()
	if !netip.MustParsePrefix("100.64.0.0/10").Contains(last) {
		t.Errorf("the last client is %v, outside 100.64.0.0/10", last)
	}
}

// The order holds every number once, is no order, and is the seed's.
func TestShuffled(t *testing.T) {
	a := Shuffled(1000, 7)
	if !slices.Equal(a, Shuffled(1000, 7)) {
		t.Error("one seed, two orders")
	}
	if slices.Equal(a, Shuffled(1000, 8)) || slices.IsSorted(a) {
		t.Error("the seed does not decide the order")
	}
	slices.Sort(a)
	for i, n := range a {
		if int(n) != i {
			t.Fatalf("%d is missing", i)
		}
	}
}
