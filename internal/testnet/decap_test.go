package testnet

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// Each kind of tunnel packet reaches a socket on the virtual address.
func TestDecapsulate(t *testing.T) {
	plan := pair()
	plan.VIPs = []VIP{{"right", "203.0.113.1"}, {"right", "2001:db8::1"}}
	n := New(t, plan)
	decap, err := n.Decapsulate("right")
	if err != nil {
		t.Fatal(err)
	}
	left := openRaw(t, n.In("left"))
	for _, c := range []struct{ what, outerSrc, outerDst, src, vip string }{
		{"4in4", "10.0.1.1", "10.0.1.2", "192.0.2.7", "203.0.113.1"},
		{"6in4", "10.0.1.1", "10.0.1.2", "2001:db8:7::7", "2001:db8::1"},
		{"4in6", "fd00:1::1", "fd00:1::2", "192.0.2.7", "203.0.113.1"},
		{"6in6", "fd00:1::1", "fd00:1::2", "2001:db8:7::7", "2001:db8::1"},
	} {
		t.Run(c.what, func(t *testing.T) {
			server, err := n.In("right").ListenPacket("udp", netip.AddrPortFrom(netip.MustParseAddr(c.vip), 53).String())
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			before := decap.Delivered()
			inner := ip(c.src, c.vip, 17, udp(c.src, c.vip, 4000, 53, []byte(c.what)))
			proto := byte(4)
			if inner[0]>>4 == 6 {
				proto = 41
			}
			if err := left.Send(ethernet(ip(c.outerSrc, c.outerDst, proto, inner))); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 64)
			_ = server.SetReadDeadline(time.Now().Add(patience))
			got, from, err := server.ReadFrom(buf)
			if err != nil {
				t.Fatalf("%v; %d packets decapsulated", err, decap.Delivered()-before)
			}
			want := netip.AddrPortFrom(netip.MustParseAddr(c.src), 4000).String()
			if string(buf[:got]) != c.what || from.String() != want {
				t.Errorf("received %q from %s, want %q from %s", buf[:got], from, c.what, want)
			}
		})
	}
}

// ethernet puts a packet into a frame from left to right.
func ethernet(packet []byte) []byte {
	etherType := uint16(0x0800)
	if packet[0]>>4 == 6 {
		etherType = 0x86dd
	}
	header := []byte{0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1}
	return append(binary.BigEndian.AppendUint16(header, etherType), packet...)
}

// ip puts a payload into an IPv4 packet (RFC 791) or an IPv6 one (RFC 8200).
func ip(src, dst string, proto byte, payload []byte) []byte {
	s, d := netip.MustParseAddr(src).AsSlice(), netip.MustParseAddr(dst).AsSlice()
	if len(s) == 16 {
		h := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), proto, 64}
		return append(append(append(h, s...), d...), payload...)
	}
	total := 20 + len(payload)
	h := []byte{0x45, 0, byte(total >> 8), byte(total), 0, 0, 0x40, 0, 64, proto, 0, 0}
	h = append(append(h, s...), d...)
	binary.BigEndian.PutUint16(h[10:], internetChecksum(h))
	return append(h, payload...)
}

// udp builds a datagram (RFC 768), its checksum over the pseudo header included.
func udp(src, dst string, sport, dport uint16, data []byte) []byte {
	d := binary.BigEndian.AppendUint16(nil, sport)
	d = binary.BigEndian.AppendUint16(d, dport)
	d = binary.BigEndian.AppendUint16(d, uint16(8+len(data)))
	d = append(append(d, 0, 0), data...)
	pseudo := append(netip.MustParseAddr(src).AsSlice(), netip.MustParseAddr(dst).AsSlice()...)
	pseudo = append(pseudo, 0, 17, 0, byte(len(d)))
	binary.BigEndian.PutUint16(d[6:], internetChecksum(append(pseudo, d...)))
	return d
}

// internetChecksum is RFC 1071's, the plain way.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
