package flow

import (
	"encoding/binary"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
)

func TestAddr(t *testing.T) {
	for _, test := range []struct {
		text string
		is4  bool
	}{
		{"10.0.0.1", true},
		{"0.0.0.0", true},
		{"255.255.255.255", true},
		{"::", false},
		{"::1", false},
		{"2001:db8::a00:1", false},
		{"::fffe:a00:1", false},     // one bit from a mapped address
		{"::1:ffff:a00:1", false},   // the same in the word before
		{"8000::ffff:a00:1", false}, // and in the first
		{"fe80::ffff:10.0.0.1", false},
	} {
		ip := netip.MustParseAddr(test.text)
		a := FromNetip(ip)
		if a.Netip() != ip || a.String() != ip.String() {
			t.Errorf("%s came back as %v, %q", test.text, a.Netip(), a.String())
		}
		if a.Is4() != test.is4 {
			t.Errorf("%s: Is4 %v", test.text, a.Is4())
		}
		if a.IsZero() != (test.text == "::") {
			t.Errorf("%s: IsZero %v", test.text, a.IsZero())
		}
		if test.is4 && (a.As4() != ip.As4() || From4(ip.As4()) != a) {
			t.Errorf("%s: As4 %v, From4 %v", test.text, a.As4(), From4(ip.As4()))
		}
	}
	if a := FromNetip(netip.MustParseAddr("fe80::1%eth0")); a.Netip() != netip.MustParseAddr("fe80::1") {
		t.Errorf("a zone was kept: %v", a)
	}
	if a := FromNetip(netip.Addr{}); !a.IsZero() {
		t.Errorf("no address became %v", a)
	}
}

// hashPlain is Hash with whole 128-bit products.
func hashPlain(k *Key, s *Seed) uint64 {
	fold := func(a, b uint64) uint64 {
		product := new(big.Int).Mul(new(big.Int).SetUint64(a), new(big.Int).SetUint64(b))
		low := new(big.Int).And(product, new(big.Int).SetUint64(^uint64(0)))
		return low.Uint64() ^ new(big.Int).Rsh(product, 64).Uint64()
	}
	word := func(b []byte) (w uint64) {
		for i := range 8 {
			w |= uint64(b[i]) << (8 * i)
		}
		return w
	}
	rest := func(k *Key) uint64 {
		return word([]byte{
			byte(k.ClientPort), byte(k.ClientPort >> 8), byte(k.LocalPort), byte(k.LocalPort >> 8),
			k.Proto, byte(k.Side), 0, 0,
		})
	}
	s0, s1 := s[0]^oddA, s[1]^oddB
	client4, local4 := k.Client.Is4(), k.Local.Is4()
	if client4 && local4 {
		return fold(fold((word(k.Client[8:])>>32|word(k.Local[8:])>>32<<32)^s0, rest(k)^s1)^oddC, s0^oddD)
	}
	client := fold(word(k.Client[:8])^s0, word(k.Client[8:])^s1)
	local := fold(word(k.Local[:8])^s1^oddC, word(k.Local[8:])^s0^oddD)
	return fold(fold(client^rest(k), s0^oddC)^local, s1^oddD)
}

// keyOf fills a key from bytes; missing ones are zero.
func keyOf(b []byte) (k Key) {
	var full [38]byte
	copy(full[:], b)
	copy(k.Client[:], full[:16])
	copy(k.Local[:], full[16:32])
	k.ClientPort = binary.LittleEndian.Uint16(full[32:])
	k.LocalPort = binary.LittleEndian.Uint16(full[34:])
	k.Proto, k.Side = full[36], Side(full[37])
	return k
}

func FuzzHash(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01\x40\x9c\x50\x00\x06\x01"),
		uint64(1), uint64(1<<63))
	f.Fuzz(func(t *testing.T, key []byte, s0, s1 uint64) {
		k, s := keyOf(key), Seed{s0, s1}
		if got, want := k.Hash(&s), hashPlain(&k, &s); got != want {
			t.Errorf("%v, seed %x: %#x, want %#x", k, s, got, want)
		}
	})
}

// TestHashAvalanche: each bit of key and seed changes each bit of the hash
// about half of the time, for addresses as they are met.
func TestHashAvalanche(t *testing.T) {
	const seed, rounds = 3, 1000
	if size := reflect.TypeFor[Key]().Size(); size != 40 {
		t.Errorf("a Key has %d bytes, want 40", size)
	}
	r := rand.New(rand.NewPCG(seed, seed))
	for bit := range 38*8 + 128 {
		var flips [64]int
		for range rounds {
			var b [38]byte
			client, local := From4([4]byte{10, 0, byte(r.Uint32()), byte(r.Uint32())}), From4([4]byte{192, 0, 2, byte(r.Uint32())})
			copy(b[:], client[:])
			copy(b[16:], local[:])
			binary.LittleEndian.PutUint32(b[32:], r.Uint32())
			b[36] = 6
			k, s := keyOf(b[:]), Seed{r.Uint64(), r.Uint64()}
			before := k.Hash(&s)
			if bit < 38*8 {
				b[bit/8] ^= 1 << (bit % 8)
				k = keyOf(b[:])
			} else {
				s[bit/64%2] ^= 1 << (bit % 64)
			}
			for diff := before ^ k.Hash(&s); diff != 0; diff &= diff - 1 {
				flips[bits.TrailingZeros64(diff)]++
			}
		}
		for out, n := range flips {
			if n < rounds*35/100 || n > rounds*65/100 {
				t.Errorf("input bit %d flips bit %d in %d of %d hashes (seed %d)", bit, out, n, rounds, seed)
			}
		}
	}
}

// TestHashSpreads puts keys that differ little into buckets by the upper and
// the lower half of their hash, as the connection table does, under a seed of
// zero too: a bad spread would fill buckets long before the table is full.
func TestHashSpreads(t *testing.T) {
	const buckets, perBucket = 1 << 12, 10
	for name, key := range map[string]func(i int) Key{
		"ports of one client": func(i int) Key {
			return Key{Client: From4([4]byte{10, 0, 0, 1}), Local: From4([4]byte{192, 0, 2, 1}), ClientPort: uint16(i), LocalPort: uint16(i >> 16), Proto: 6}
		},
		"clients of one net": func(i int) Key {
			return Key{Client: From4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Local: From4([4]byte{192, 0, 2, 1}), ClientPort: 40000, LocalPort: 80, Proto: 6}
		},
		"one client at many servers": func(i int) Key {
			return Key{Client: From4([4]byte{10, 0, 0, 1}), Local: From4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Proto: 17, Side: ServerSide}
		},
		"IPv6 clients by network": func(i int) Key {
			return Key{Client: Addr{0x20, 1, 5: byte(i >> 16), 6: byte(i >> 8), 7: byte(i)}, Local: Addr{0x20, 1, 15: 1}, Proto: 6}
		},
	} {
		for _, s := range []Seed{{}, {1, 2}, {0x0123456789abcdef, 0xfedcba9876543210}} {
			var high, low [buckets]int
			for i := range buckets * perBucket {
				k := key(i)
				h := k.Hash(&s)
				high[h>>32*buckets>>32]++
				low[h&(1<<32-1)*buckets>>32]++
			}
			for half, counts := range map[string]*[buckets]int{"upper": &high, "lower": &low} {
				var chi float64
				for _, n := range counts {
					chi += float64((n-perBucket)*(n-perBucket)) / perBucket
				}
				// Mean 4095, deviation 90: ten deviations either way.
				if chi < 4095-905 || chi > 4095+905 {
					t.Errorf("%s, seed %x, %s half: chi square %.0f of %d buckets", name, s, half, chi, buckets)
				}
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	k, s := keyOf([]byte{1, 2, 3}), Seed{1, 2}
	steering := NewSteering(4, microsoftKey, nil)
	if n := testing.AllocsPerRun(100, func() {
		k.ClientPort = uint16(k.Hash(&s))
		steering.Owner(6, &k.Client, k.ClientPort)
	}); n != 0 {
		t.Errorf("allocates %v times, want 0", n)
	}
}

func BenchmarkHash(b *testing.B) {
	k, s := keyOf([]byte{1, 2, 3}), Seed{1, 2}
	for b.Loop() {
		k.ClientPort = uint16(k.Hash(&s))
	}
}

func BenchmarkOwner(b *testing.B) {
	for name, addr := range map[string]Addr{"IPv4": From4([4]byte{10, 0, 0, 1}), "IPv6": {0x20, 1, 0xd, 0xb8, 15: 1}} {
		b.Run(name, func(b *testing.B) {
			steering := NewSteering(4, microsoftKey, nil)
			for b.Loop() {
				steering.Owner(6, &addr, 40000)
			}
		})
	}
}
