package rewrite

import (
	"bytes"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
)

// offer is an option of that maximum segment size.
func offer(mss uint16) []byte { return []byte{2, 4, byte(mss >> 8), byte(mss)} }

func TestClampMSS(t *testing.T) {
	linux := func(mss uint16) []byte { // what Linux opens with: MSS, SACK permitted, timestamps, window scale
		return append(offer(mss), 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7)
	}
	odd := func(mss uint16) []byte { return append([]byte{1, 2, 4, byte(mss >> 8), byte(mss)}, 1, 1, 0) }
	for _, tt := range []struct {
		stake    string
		in, want []byte // options
	}{
		{"lowered", offer(1460), offer(1400)},
		{"never raised", offer(1399), offer(1399)},
		{"as it is", offer(1400), offer(1400)},
		{"none is added", nil, nil},
		{"none is added to others", []byte{4, 2, 1, 1}, []byte{4, 2, 1, 1}},
		{"among others", linux(8960), linux(1400)},
		{"behind others", append([]byte{3, 3, 7, 1}, offer(65535)...), append([]byte{3, 3, 7, 1}, offer(1400)...)},
		{"at an odd byte, where the checksum takes it in the other order", odd(1460), odd(1400)},
		{"behind the end of options: not an option", append([]byte{0, 1, 1, 1}, offer(1460)...), append([]byte{0, 1, 1, 1}, offer(1460)...)},
		{"of another length: not that option", []byte{2, 6, 5, 0xb4, 1, 1, 0, 0}, []byte{2, 6, 5, 0xb4, 1, 1, 0, 0}},
		{"an option of length 0 ends the search", append([]byte{8, 0, 1, 1}, offer(1460)...), append([]byte{8, 0, 1, 1}, offer(1460)...)},
		{"and one of length 1", append([]byte{8, 1, 1, 1}, offer(1460)...), append([]byte{8, 1, 1, 1}, offer(1460)...)},
		{"and one that is longer than the header", append([]byte{8, 40, 1, 1}, offer(1460)...), append([]byte{8, 40, 1, 1}, offer(1460)...)},
		{"the first of two counts", append(offer(1460), offer(1460)...), append(offer(1400), offer(1460)...)},
		{"40 bytes of options", append(bytes.Repeat([]byte{1}, 36), offer(1460)...), append(bytes.Repeat([]byte{1}, 36), offer(1400)...)},
	} {
		for name, eth := range map[string]packettest.Packet{
			"IPv4": fromClient, "IPv6": fromClient6, "IPv4 with options behind a tag": fromClient.VLAN(7).Options(1, 1, 1, 0), "IPv6 with a header more": fromClient6.HopByHop(6),
		} {
			f := place(eth.TCP(1000, 80, packettest.SYN).TCPOptions(tt.in...).Pad(60).Bytes(), headroom)
			in := parsed(t, content(f))
			ClampMSS(f, in, 1400)
			if d := diff(content(f), eth.TCP(1000, 80, packettest.SYN).TCPOptions(tt.want...).Pad(60).Bytes()); d != "" {
				t.Errorf("%s, %s: %s", tt.stake, name, d)
			}
		}
	}
	// What the header says of its length is not more than the packet has, nor less than a header.
	for _, words := range []byte{0, 4, 6, 15} {
		frame := fromClient.TCP(1000, 80, packettest.SYN).Bytes()
		frame = append(frame[:len(frame):len(frame)], offer(1460)...) // behind the datagram
		frame[14+20+12] = words << 4
		f := place(frame, headroom)
		ClampMSS(f, parsed(t, content(f)), 1400)
		if !bytes.Equal(content(f), frame) {
			t.Errorf("a header of %d words: something was written", words)
		}
	}
	// A wrong checksum stays wrong.
	f := place(fromClient.TCP(1000, 80, packettest.SYN).TCPOptions(offer(1460)...).BadChecksum().Bytes(), headroom)
	ClampMSS(f, parsed(t, content(f)), 1400)
	if d := diff(content(f), fromClient.TCP(1000, 80, packettest.SYN).TCPOptions(offer(1400)...).BadChecksum().Bytes()); d != "" {
		t.Errorf("a wrong checksum: %s", d)
	}
}

// clampSlowly is ClampMSS's plain twin: option by option, the checksum from
// scratch.
func clampSlowly(segment []byte, most uint16, src, dst []byte) {
	end := min(int(segment[12]>>4)*4, len(segment))
	for at := 20; at < end && segment[at] != 0; {
		if segment[at] == 1 {
			at++
			continue
		}
		if at+1 == end || segment[at+1] < 2 || at+int(segment[at+1]) > end {
			return
		}
		if segment[at] == 2 && segment[at+1] == 4 {
			if be.Uint16(segment[at+2:]) > most {
				be.PutUint16(segment[at+2:], most)
				packettest.PutChecksum(segment, packet.ProtoTCP, src, dst)
			}
			return
		}
		at += int(segment[at+1])
	}
}

// FuzzClampMSS holds ClampMSS to its twin, on any options and payload.
func FuzzClampMSS(f *testing.F) {
	f.Add(append(offer(1460), 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7), uint8(10), uint16(1400))
	f.Add([]byte{1, 2, 4, 5, 0xb4, 1, 1, 0}, uint8(7), uint16(88))
	f.Add([]byte{3, 3, 7, 2, 4, 0xff, 0xff, 0}, uint8(15), uint16(536))
	f.Add([]byte{8, 0, 2, 4}, uint8(6), uint16(0))
	f.Add([]byte("GET / HTTP/1.0"), uint8(5), uint16(1))
	f.Fuzz(func(t *testing.T, after []byte, words uint8, most uint16) {
		if len(after) > 1000 {
			return
		}
		frame := fromClient.TCP(1000, 80, packettest.SYN).Payload(after).Bytes()
		frame[14+20+12] = words << 4
		ip, segment := frame[14:], frame[14+20:]
		packettest.PutChecksum(segment, packet.ProtoTCP, ip[12:16], ip[16:20])
		g := place(frame, headroom)
		ClampMSS(g, parsed(t, content(g)), most)
		clampSlowly(segment, most, ip[12:16], ip[16:20])
		if d := diff(content(g), frame); d != "" {
			t.Error(d)
		}
	})
}
