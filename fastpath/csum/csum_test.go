package csum

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/sluice-lb/sluice/lb/flow"
)

// plainSum is Sum by the book: a word at a time (RFC 1071 section 4.1).
func plainSum(b []byte, start uint32) uint16 {
	s := uint64(start)
	for i := 0; i < len(b); i += 2 {
		w := uint64(b[i]) << 8
		if i+1 < len(b) {
			w |= uint64(b[i+1])
		}
		s += w
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// plainCRC is SCTP's checksum a bit at a time, with the polynomial 0x1EDC6F41
// reflected (RFC 9260 appendix A).
func plainCRC(p []byte) uint32 {
	crc := ^uint32(0)
	for i, b := range p {
		if i >= sctpChecksumAt && i < sctpChecksumAt+4 {
			b = 0
		}
		crc ^= uint32(b)
		for range 8 {
			crc = crc>>1 ^ 0x82F63B78&-(crc&1)
		}
	}
	return ^crc
}

func TestSumKnown(t *testing.T) {
	tests := []struct {
		stake string
		bytes string
		want  uint16
	}{
		{"RFC 1071 section 3's example", "0001f203f4f5f6f7", 0xddf2},
		{"nothing", "", 0},
		{"an odd byte is a high half", "ab", 0xab00},
		{"carry out of the top comes round", "ffff0001", 0x0001},
		{"all ones stay all ones, not zero", "ffffffffffffffff", 0xffff},
		{"a right IPv4 header sums to all ones", "4500002810004000400614630a00010a0a000164", 0xffff},
		{"and one with a wrong checksum does not", "4500002810004000400614640a00010a0a000164", 0x0001},
	}
	for _, tt := range tests {
		b, err := hex.DecodeString(tt.bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got := ^Fold(Sum(b, 0)); got != tt.want {
			t.Errorf("%s: Sum(%s) = %#04x, want %#04x", tt.stake, tt.bytes, got, tt.want)
		}
		if len(b) == 20 {
			if got := Right4(b); got != (tt.want == 0xffff) {
				t.Errorf("%s: Right4(%s) = %t", tt.stake, tt.bytes, got)
			}
		}
	}
}

// Each length takes another way through the unrolled loop and its tail.
func TestSumLengths(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 200)
	for n := range b {
		for i := range b {
			b[i] = byte(r.Uint32())
			if r.IntN(4) == 0 {
				b[i] = 0xff // carries
			}
		}
		start := r.Uint32()
		if got, want := Fold(Sum(b[:n], start)), ^plainSum(b[:n], start); got != want {
			t.Fatalf("seed %d: Sum of %d bytes from %#x gives %#04x, want %#04x", seed, n, start, got, want)
		}
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ^uint32(0))
	f.Add(make([]byte, 33), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, start uint32) {
		if got, want := Fold(Sum(b, start)), ^plainSum(b, start); got != want {
			t.Errorf("Sum(%x, %#x) gives %#04x, want %#04x", b, start, got, want)
		}
		// Pieces of even length add up.
		cut := len(b) / 4 * 2
		if got, want := Fold(Sum(b[cut:], Sum(b[:cut], start))), ^plainSum(b, start); got != want {
			t.Errorf("Sum(%x, %#x) in two pieces gives %#04x, want %#04x", b, start, got, want)
		}
		if len(b) >= 20 && b[0] != 0 { // an IPv4 header's first byte is never 0
			if got, want := Right4(b), plainSum(b[:20], 0) == 0xffff; got != want {
				t.Errorf("Right4(%x) = %t, want %t", b[:20], got, want)
			}
		}
	})
}

func TestApply(t *testing.T) {
	tests := []struct {
		stake         string
		sum, was, now uint16
		want          uint16
	}{
		{"RFC 1624 section 4's example, which RFC 1141 gets wrong", 0xdd2f, 0x5555, 0x3285, 0x0000},
		{"no change", 0x1234, 0x4321, 0x4321, 0x1234},
		{"TTL 64 to 63 of TCP", 0x1463, 0x4006, 0x3f06, 0x1563},
		{"carry comes round", 0xfeff, 0x0106, 0x0006, 0x0000},
	}
	for _, tt := range tests {
		if got := Apply(tt.sum, Change16(tt.was, tt.now)); got != tt.want {
			t.Errorf("%s: %#04x after %#04x became %#04x is %#04x, want %#04x", tt.stake, tt.sum, tt.was, tt.now, got, tt.want)
		}
	}
}

// FuzzAdjust changes a header's words and asks that the adjusted checksum is
// the one of the changed header; a wrong checksum stays exactly as wrong.
func FuzzAdjust(f *testing.F) {
	f.Add(make([]byte, 40), uint16(0), []byte("0123456789abcdef"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), uint16(0xffff), make([]byte, 16))
	f.Fuzz(func(t *testing.T, h []byte, wrong uint16, with []byte) {
		if len(h) < 20 || len(with) < 16 {
			return
		}
		h = append([]byte{0x45}, h...)[:len(h)&^1] // not all zero: such a sum has no right form
		sum := Apply(Fold(Sum(h, 0)), Change16(0, wrong))
		for _, n := range []int{2, 4, 16} {
			at := 2
			was := append([]byte(nil), h[at:at+n]...)
			now := append([]byte(nil), h...)
			copy(now[at:], with[:n])
			want := Apply(Fold(Sum(now, 0)), Change16(0, wrong))
			var change Change
			switch n {
			case 2:
				change = Change16(binary.BigEndian.Uint16(was), binary.BigEndian.Uint16(with))
			case 4:
				change = Change32(binary.BigEndian.Uint32(was), binary.BigEndian.Uint32(with))
				a, b := flow.From4([4]byte(was)), flow.From4([4]byte(with))
				if c := ChangeAddr(&a, &b); c != change {
					t.Errorf("ChangeAddr of IPv4 %x to %x gives %#x, Change32 %#x", was, with[:n], c, change)
				}
			case 16:
				a, b := flow.Addr(was), flow.Addr(with[:16])
				change = ChangeAddr(&a, &b)
			}
			got := Apply(sum, change)
			if same(got, want) {
				continue
			}
			t.Errorf("%d bytes of %x become %x: checksum %#04x to %#04x, want %#04x", n, h, with[:n], sum, got, want)
		}
	})
}

// same says whether two checksums are equal: 0 and 0xffff are both zero of
// ones' complement, and which one results may depend on the way.
func same(a, b uint16) bool { return a == b || a+b == 0xffff && (a == 0 || b == 0) }

func TestPseudo(t *testing.T) {
	tests := []struct {
		stake    string
		src, dst string
		proto    uint8
		length   int
		header   string // the pseudo header, spelled out
	}{
		{"IPv4: 12 bytes", "10.0.1.10", "10.0.1.100", 6, 20, "0a00010a0a00016400060014"},
		{
			"IPv6: 40 bytes", "fd00:1::10", "fd00:1::100", 17, 0x1234,
			"fd000001000000000000000000000010fd0000010000000000000000000001000000123400000011",
		},
		{
			"a length beyond 16 bits", "::1", "::2", 58, 0x12345,
			"0000000000000000000000000000000100000000000000000000000000000002000123450000003a",
		},
	}
	for _, tt := range tests {
		src, dst := flow.FromNetip(netip.MustParseAddr(tt.src)), flow.FromNetip(netip.MustParseAddr(tt.dst))
		h, err := hex.DecodeString(tt.header)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Fold(Pseudo(&src, &dst, tt.proto, tt.length)), ^plainSum(h, 0); got != want {
			t.Errorf("%s: %#04x, want %#04x", tt.stake, got, want)
		}
	}
}

func TestSCTP(t *testing.T) {
	p := []byte("123456789") // the check value of CRC32c is of these, but SCTP skips bytes 8 to 11
	p = append(append(append([]byte{}, p[:8]...), 0xde, 0xad, 0xbe, 0xef), p[8:]...)
	if got, want := SCTP(p), plainCRC(p); got != want {
		t.Errorf("SCTP(%x) = %#08x, want %#08x", p, got, want)
	}
}

func FuzzSCTP(f *testing.F) {
	f.Add(make([]byte, 12))
	f.Add([]byte("an SCTP packet with a little more in it"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < 12 {
			return
		}
		if got, want := SCTP(p), plainCRC(p); got != want {
			t.Errorf("SCTP(%x) = %#08x, want %#08x", p, got, want)
		}
	})
}

func TestNonZero(t *testing.T) {
	for _, tt := range []struct{ sum, want uint16 }{{0, 0xffff}, {1, 1}, {0xffff, 0xffff}} {
		if got := NonZero(tt.sum); got != tt.want {
			t.Errorf("NonZero(%#04x) = %#04x, want %#04x (RFC 768)", tt.sum, got, tt.want)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	b := make([]byte, 1460)
	var x, y flow.Addr
	x[15], y[15] = 1, 2
	if n := testing.AllocsPerRun(100, func() {
		sink = Sum(b, 0) + SCTP(b) + Pseudo(&x, &y, 6, 20) + uint32(Apply(1, ChangeAddr(&x, &y)))
	}); n != 0 {
		t.Errorf("checksums allocate %v times a call, want 0", n)
	}
}

var sink uint32

func BenchmarkSum(b *testing.B) {
	for _, bm := range []struct {
		name string
		n    int
	}{{"64B", 64}, {"1460B", 1460}} {
		b.Run(bm.name, func(b *testing.B) {
			p := make([]byte, bm.n)
			b.SetBytes(int64(bm.n))
			for b.Loop() {
				sink = Sum(p, sink)
			}
		})
	}
}
