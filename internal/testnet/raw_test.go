package testnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// openRaw opens a raw socket that closes with the test.
func openRaw(t *testing.T, s *Namespace) *Raw {
	t.Helper()
	r, err := s.OpenRaw("eth0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// A frame arrives as it was sent, tags included: the kernel takes them out
// of a packet before a packet socket sees it.
func TestRawFramesArriveAsSent(t *testing.T) {
	n := New(t, pair())
	left, right := openRaw(t, n.In("left")), openRaw(t, n.In("right"))
	header := []byte{0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1}
	for _, c := range []struct {
		what string
		rest []byte
	}{
		{"no tag", []byte{0x88, 0xb5, 1, 2, 3}},
		{"802.1Q, priority 5, VLAN 7", []byte{0x81, 0x00, 0xa0, 0x07, 0x88, 0xb5, 1, 2, 3}},
		{"VLAN 0, a mere priority", []byte{0x81, 0x00, 0x60, 0x00, 0x88, 0xb5, 1, 2, 3}},
		{"802.1ad around 802.1Q", []byte{0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x0f, 0xff, 0x88, 0xb5, 1, 2, 3}},
		{"a tag beside a full payload", append([]byte{0x81, 0x00, 0x0f, 0xff, 0x88, 0xb5}, make([]byte, 1500)...)},
	} {
		t.Run(c.what, func(t *testing.T) {
			want := append(bytes.Clone(header), c.rest...)
			if err := left.Send(want); err != nil {
				t.Fatal(err)
			}
			if got := receiveEthertypes(t, right, c.rest[:2]); !bytes.Equal(got, want) {
				t.Errorf("received % x, want % x", got, want)
			}
		})
	}
}

// receiveEthertypes returns the next frame of an EtherType: namespaces
// chatter about IPv6.
func receiveEthertypes(t *testing.T, r *Raw, etherType []byte) []byte {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		f, err := r.Receive(time.Until(deadline))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(f.Bytes[12:14], etherType) {
			return f.Bytes
		}
	}
}

func TestRawReceiveTimesOut(t *testing.T) {
	n := New(t, pair())
	if err := n.In("left").SetUp("eth0", false); err != nil { // so that nothing comes
		t.Fatal(err)
	}
	r := openRaw(t, n.In("right"))
	for { // what came before
		_, err := r.Receive(20 * time.Millisecond)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Receive: %v, want os.ErrDeadlineExceeded", err)
		}
	}
}

// Packets of local sockets must be whole on the wire: every checksum computed,
// nothing longer than the MTU. With offloads on, both are otherwise.
func TestLocalPacketsAreFinished(t *testing.T) {
	for _, c := range []struct {
		what     string
		offloads bool
	}{
		{"as built", false},
		{"with offloads, so that the test can tell", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			n := New(t, pair())
			if c.offloads {
				if err := n.In("left").EnableOffloads("eth0"); err != nil {
					t.Fatal(err)
				}
			}
			r := openRaw(t, n.In("right"))
			send(t, n)
			var unfinished, wrong, long, data int
			for data < 20 {
				f, err := r.Receive(patience)
				if err != nil {
					t.Fatal(err)
				}
				if len(f.Bytes) < 54 || f.Bytes[12] != 0x08 || f.Bytes[23] != 6 {
					continue
				}
				data++
				if f.Unfinished {
					unfinished++
				}
				if !tcpChecksumRight(f.Bytes[14:]) {
					wrong++
				}
				if len(f.Bytes) > 14+1500 {
					long++
				}
			}
			if bad := unfinished > 0 || wrong > 0 || long > 0; bad != c.offloads {
				t.Errorf("of %d TCP segments %d marked unfinished, %d with a wrong checksum, %d longer than the MTU", data, unfinished, wrong, long)
			}
		})
	}
}

// send has left send bytes to right by TCP until the test ends.
func send(t *testing.T, n *Network) {
	t.Helper()
	listener, err := n.In("right").Listen("tcp", "10.0.1.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sender, err := n.In("left").DialContext(t.Context(), "tcp", "10.0.1.2:9")
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() { _, _ = io.Copy(io.Discard, receiver) })
	done.Go(func() {
		for data := make([]byte, 1<<20); err == nil; {
			_, err = sender.Write(data)
		}
	})
	t.Cleanup(func() {
		sender.Close()
		receiver.Close()
		done.Wait()
	})
}

// tcpChecksumRight sums an IPv4 packet's TCP segment with its pseudo header
// (RFC 9293 section 3.1), the plain way.
func tcpChecksumRight(packet []byte) bool {
	total := int(binary.BigEndian.Uint16(packet[2:]))
	segment := packet[4*(packet[0]&15) : total]
	sum := uint32(6 + len(segment))
	for _, b := range [][]byte{packet[12:20], segment} {
		for i, v := range b {
			sum += uint32(v) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum == 0xffff
}

// The frames of a flood arrive, in order and at about the number asked for.
func TestFlood(t *testing.T) {
	n := New(t, pair())
	left, right := openRaw(t, n.In("left")), openRaw(t, n.In("right"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	frame := make([]byte, 60)
	copy(frame, []byte{0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x88, 0xb5})
	sent, err := left.Flood(ctx, 20_000, func(i int) []byte {
		binary.BigEndian.PutUint32(frame[14:], uint32(i))
		if i == 499 {
			cancel()
		}
		return frame
	})
	if err != nil || sent != 500 {
		t.Fatalf("sent %d frames (%v), want 500", sent, err)
	}
	for i := range 500 {
		got := receiveEthertypes(t, right, frame[12:14])
		if number := binary.BigEndian.Uint32(got[14:]); number != uint32(i) {
			t.Fatalf("frame %d arrives at place %d", number, i)
		}
	}
}

func TestGarbage(t *testing.T) {
	to := net.HardwareAddr{0x02, 0, 0, 0, 0, 2}
	good := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00}, make([]byte, 46)...)
	a, b, other := Garbage(7, to, good), Garbage(7, to, good), Garbage(8, to, good)
	same, equalToGood := 0, 0
	for i := range 3000 {
		f := a(i)
		if !bytes.Equal(f, b(i)) {
			t.Fatalf("frame %d differs between two runs of one seed", i)
		}
		if bytes.Equal(f, other(i)) {
			same++
		}
		if len(f) < leastFrame || len(f) > greatestFrame || !bytes.Equal(f[:6], to) || f[6]&1 != 0 {
			t.Fatalf("frame %d: % x: not one that a host would look at", i, f)
		}
		if bytes.Equal(f[14:], good[14:]) {
			equalToGood++
		}
	}
	if same > 1500 || equalToGood > 1000 {
		t.Errorf("%d of 3000 frames equal another seed's, %d have nothing wrong: no garbage", same, equalToGood)
	}
}
