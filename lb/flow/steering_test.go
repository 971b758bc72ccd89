package flow

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
)

// microsoftKey is the key of the RSS verification suite in Microsoft's NDIS
// documentation.
var microsoftKey, _ = hex.DecodeString(
	"6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")

// toeplitzPlain is the hash bit by bit, as the documentation has it.
func toeplitzPlain(key, input []byte) (h uint32) {
	bit := func(i int) uint32 {
		if i/8 >= len(key) {
			return 0
		}
		return uint32(key[i/8] >> (7 - i%8) & 1)
	}
	var window uint32
	for i := range 32 {
		window = window<<1 | bit(i)
	}
	for i := range 8 * len(input) {
		if input[i/8]>>(7-i%8)&1 != 0 {
			h ^= window
		}
		window = window<<1 | bit(i+32)
	}
	return h
}

func endpoint(a netip.Addr, port uint16) []byte {
	return binary.BigEndian.AppendUint16(a.AsSlice(), port)
}

// TestToeplitzVectors takes the verification suite's packets. The plain twin
// must give their published hashes over both endpoints. Hash covers one
// endpoint; as Toeplitz is linear over bits it must give what the rest of the
// input leaves of a published hash.
func TestToeplitzVectors(t *testing.T) {
	toeplitz := NewToeplitz(microsoftKey)
	for _, test := range []struct {
		src, dst  string
		addresses uint32 // hash over source and destination address
		ports     uint32 // and over both ports too
	}{
		{"66.9.149.187:2794", "161.142.100.80:1766", 0x323e8fc2, 0x51ccc178},
		{"199.92.111.2:14230", "65.69.140.83:4739", 0xd718262a, 0xc626b0ea},
		{"24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0a5de, 0x5c2b394a},
		{"38.27.205.30:48228", "209.142.163.6:2217", 0x82989176, 0xafc7327f},
		{"153.39.163.191:44251", "202.188.127.2:1303", 0x5d1809c5, 0x10e828a2},
		{"[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x2cc18cd5, 0x40207d3d},
		{"[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0x0f0c461c, 0xdde51bbf},
		{"[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024", 0x4b61e985, 0x02d1feef},
	} {
		src, dst := netip.MustParseAddrPort(test.src), netip.MustParseAddrPort(test.dst)
		input := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
		if got := toeplitzPlain(microsoftKey, input); got != test.addresses {
			t.Errorf("plain, %s to %s: %#08x, want %#08x", test.src, test.dst, got, test.addresses)
		}
		input = binary.BigEndian.AppendUint16(input, src.Port())
		input = binary.BigEndian.AppendUint16(input, dst.Port())
		if got := toeplitzPlain(microsoftKey, input); got != test.ports {
			t.Errorf("plain, %s to %s with ports: %#08x, want %#08x", test.src, test.dst, got, test.ports)
		}
		// The first two bytes of the destination stand where our port does.
		a, n := FromNetip(src.Addr()), len(src.Addr().AsSlice())+2
		port := binary.BigEndian.Uint16(input[n-2:])
		rest := append(make([]byte, n), input[n:]...)
		if got := toeplitz.Hash(&a, port) ^ toeplitzPlain(microsoftKey, rest); got != test.ports {
			t.Errorf("%s to %s: %#08x, want %#08x", test.src, test.dst, got, test.ports)
		}
	}
}

func FuzzToeplitz(f *testing.F) {
	f.Add(microsoftKey, []byte("\x3f\xfe\x25\x01\x02\x00\x1f\xff\x00\x00\x00\x00\x00\x00\x00\x07"), uint16(2794), false)
	f.Add(microsoftKey, []byte("            \x42\x09\x95\xbb"), uint16(0xffff), true)
	f.Fuzz(func(t *testing.T, key, addr []byte, port uint16, is4 bool) {
		var a Addr
		copy(a[:], addr)
		if is4 {
			a = From4(a.As4())
		}
		if got, want := NewToeplitz(key).Hash(&a, port), toeplitzPlain(key, endpoint(a.Netip(), port)); got != want {
			t.Errorf("key %x, %v port %d: %#x, want %#x", key, a, port, got, want)
		}
	})
}

// TestOwner holds the rule that a NIC with the same key and table follows.
func TestOwner(t *testing.T) {
	long := append(bytes.Clone(microsoftKey), make([]byte, 12)...)
	for _, test := range []struct {
		stake       string
		workers     int
		key         []byte
		indirection []uint16
		want        func(hash uint32) int
	}{
		{"one worker owns all", 1, microsoftKey, nil, func(uint32) int { return 0 }},
		{"round robin of 128", 3, microsoftKey, nil, func(h uint32) int { return int(h%128) % 3 }},
		{"52 bytes of key begin as 40", 3, long, nil, func(h uint32) int { return int(h%128) % 3 }},
		{"a NIC's own table", 4, microsoftKey, []uint16{3, 3, 2, 0}, func(h uint32) int { return []int{3, 3, 2, 0}[h%4] }},
		{"a NIC with more queues", 2, microsoftKey, []uint16{0, 1, 2, 3}, func(h uint32) int { return int(h%4) % 2 }},
		{"no worker counts as one", 0, microsoftKey, nil, func(uint32) int { return 0 }},
	} {
		s := NewSteering(test.workers, test.key, test.indirection)
		if want := max(test.workers, 1); s.Workers() != want {
			t.Errorf("%s: %d workers, want %d", test.stake, s.Workers(), want)
		}
		owned := make([]int, s.Workers())
		for i := range 2000 {
			ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			client, port := FromNetip(ip), uint16(1024+i*7)
			want := test.want(toeplitzPlain(microsoftKey, endpoint(ip, port)))
			owned[want]++
			for _, proto := range []uint8{6, 17, 132} {
				if got := s.Owner(proto, &client, port); got != want {
					t.Fatalf("%s: %v:%d of protocol %d belongs to %d, want %d", test.stake, ip, port, proto, got, want)
				}
			}
		}
		for worker, n := range owned {
			if test.indirection == nil && n < 2000/s.Workers()/2 {
				t.Errorf("%s: worker %d owns %d of 2000 endpoints", test.stake, worker, n)
			}
		}
	}
}
