package punt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// udp4 is an Ethernet frame with a UDP datagram without checksum from
// 10.9.1.2:4000 to dst:port.
func udp4(dst [4]byte, port uint16, payload string) []byte {
	ip := make([]byte, 28, 28+len(payload))
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], []byte{10, 9, 1, 2})
	copy(ip[16:], dst[:])
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], 4000)
	binary.BigEndian.PutUint16(ip[22:], port)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(payload)))
	return ether(0x0800, append(ip, payload...))
}

// udp6 is the same from fd09:1::2 to fd09:1::1, with its checksum.
func udp6(port uint16, payload string) []byte {
	src, dst := net.ParseIP("fd09:1::2"), net.ParseIP("fd09:1::1")
	udp := []byte{0x0f, 0xa0, byte(port >> 8), byte(port), 0, byte(8 + len(payload)), 0, 0}
	udp = append(udp, payload...)
	sum := uint32(17 + len(udp))
	for _, b := range [][]byte{src, dst, udp} {
		for i, x := range b {
			sum += uint32(x) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(udp[6:], ^uint16(sum))
	ip := append([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), 17, 64}, src...)
	return ether(0x86dd, append(append(ip, dst...), udp...))
}

// ether puts the header of a frame to the host's eth0 in front of a packet.
func ether(kind uint16, packet []byte) []byte {
	h := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, byte(kind >> 8), byte(kind)}
	return append(h, packet...)
}

// tagged puts VLAN tags into a frame, outer first.
func tagged(frame []byte, kinds ...uint16) []byte {
	tags := bytes.Clone(frame[:12])
	for i, k := range kinds {
		tags = append(tags, byte(k>>8), byte(k), 0, byte(100+i))
	}
	return append(tags, frame[12:]...)
}

func TestLabel(t *testing.T) {
	plain := ether(0x0800, []byte("packet"))
	labelled := func(frame []byte, nic byte) []byte {
		return bytes.Join([][]byte{frame[:12], {0x81, 0, 0, nic}, frame[12:]}, nil)
	}
	marked := labelled(plain, 1)
	copy(marked[6:], []byte{2, 9, 9, 9, 9, 9})
	for _, row := range []struct {
		stake       string
		nic         int
		frame, want []byte
	}{
		{"the number of its NIC", 0, plain, labelled(plain, 0)},
		{"another NIC, that wants a mark", 1, plain, marked},
		{"its own tags stay behind it", 0, tagged(plain, 0x88a8, 0x8100), labelled(tagged(plain, 0x88a8, 0x8100), 0)},
		{"the shortest frame has only its header", 0, plain[:14], labelled(plain[:14], 0)},
		{"no header, no frame", 0, plain[:13], nil},
		{"longer than any", 0, make([]byte, maxFrameSize+1), nil},
		{"a NIC that is not there", 2, plain, nil},
		{"nor this one", -1, plain, nil},
	} {
		tap := &Tap{mac: [6]byte{2, 9, 9, 9, 9, 9}, marks: make([]bool, 2), frame: make([]byte, maxFrameSize+vlanTag)}
		tap.Mark(1)
		before := bytes.Clone(row.frame)
		got, err := tap.label(row.nic, row.frame)
		if !bytes.Equal(got, row.want) || errors.Is(err, ErrNotFrame) != (row.want == nil) {
			t.Errorf("%s: label(%d, % x) = % x, %v; want % x", row.stake, row.nic, row.frame, got, err, row.want)
		}
		if !bytes.Equal(row.frame, before) {
			t.Errorf("%s: the caller's frame was changed", row.stake)
		}
	}
}

// open makes the tap in the namespace, for the NICs eth0 and eth1. take gets
// what comes out of it.
func open(t *testing.T, s *testnet.Namespace, take func([]byte) bool) *Tap {
	t.Helper()
	var c Config
	for _, name := range []string{"eth0", "eth1"} {
		l, err := s.Netlink().LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		c.NICs = append(c.NICs, l.Attrs().Index)
	}
	var tap *Tap
	if err := s.Do(func() (err error) {
		tap, err = Open(c)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var reader errgroup.Group
	reader.Go(func() error { return tap.Run(ctx, take) })
	t.Cleanup(func() {
		stop()
		if err := errors.Join(reader.Wait(), tap.Close()); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return tap
}

// nothing takes no frame.
func nothing([]byte) bool { return false }

// hostPlan is a host with a NIC towards a client and one towards a server.
func hostPlan(sysctls ...testnet.Sysctl) testnet.Plan {
	return testnet.Plan{
		Links: []testnet.Link{
			{
				A: testnet.End{In: "host", Name: "eth0", MAC: "02:00:00:00:00:01", Addrs: []string{"10.9.1.1/24", "fd09:1::1/64"}},
				B: testnet.End{In: "client", Name: "eth0", Addrs: []string{"10.9.1.2/24", "fd09:1::2/64"}},
			},
			{
				A: testnet.End{In: "host", Name: "eth1", MAC: "02:00:00:00:00:02", Addrs: []string{"10.9.2.1/24"}},
				B: testnet.End{In: "server", Name: "eth0", Addrs: []string{"10.9.2.2/24"}},
			},
		},
		Routes:  []testnet.Route{{In: "server", To: "default", Via: "10.9.2.1"}},
		Sysctls: sysctls,
	}
}

// receive returns the next datagram of a socket and who sent it.
func receive(t *testing.T, c net.PacketConn) (string, net.Addr) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		t.Fatalf("the datagram did not arrive: %v", err)
	}
	return string(b[:n]), from
}

func listen(t *testing.T, s *testnet.Namespace, address string) net.PacketConn {
	t.Helper()
	c, err := s.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A frame comes in by its NIC as it did before.
func TestInjectComesInByTheNIC(t *testing.T) {
	n := testnet.New(t, hostPlan())
	tap := open(t, n.In("host"), nothing)
	for nic, name := range []string{"eth0", "eth1"} {
		raw, err := n.In("host").OpenRaw(name)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		for _, row := range []struct {
			stake string
			frame []byte
		}{
			{"an IPv4 packet", udp4([4]byte{10, 9, 1, 1}, 7001, "four")},
			{"an IPv6 packet", udp6(7001, "six!")},
			{"in a VLAN", tagged(udp4([4]byte{10, 9, 1, 1}, 7001, "vlan"), 0x8100)},
			{"in a provider's VLAN", tagged(udp4([4]byte{10, 9, 1, 1}, 7001, "vlan"), 0x88a8)},
			{"in two", tagged(udp4([4]byte{10, 9, 1, 1}, 7001, "qinq"), 0x88a8, 0x8100)},
			{"larger than an Ethernet MTU", udp4([4]byte{10, 9, 1, 1}, 7001, strings.Repeat("x", 1800))},
			{"a whole datagram of many fragments", udp4([4]byte{10, 9, 1, 1}, 7001, strings.Repeat("x", 65000))},
			{"no IP", ether(0x88b5, []byte("experimental"))},
		} {
			if err := tap.Inject(nic, row.frame); err != nil {
				t.Errorf("%s: %v", row.stake, err)
				continue
			}
			if got := receiveFrom(t, raw, row.frame[6:12]); !bytes.Equal(got, row.frame) {
				t.Errorf("%s: %s has %.64x, want %.64x", row.stake, name, got, row.frame)
			}
		}
	}
	link, err := n.In("host").Netlink().LinkByName(tap.Name())
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := n.In("host").Netlink().AddrList(link, netlink.FAMILY_ALL); err != nil || len(addrs) > 0 {
		t.Errorf("the device has addresses %v, %v: with one it would announce it, and answer for it", addrs, err)
	}
	if err := tap.Inject(0, nil); !errors.Is(err, ErrNotFrame) {
		t.Errorf("an empty frame: %v, want ErrNotFrame", err)
	}
	if got, want := tap.Counters(), (Counters{Injected: 16, Refused: 1}); got != want {
		t.Errorf("counters %+v, want %+v: the stack says nothing by the device of its own accord", got, want)
	}
}

// receiveFrom returns the next frame from a MAC.
func receiveFrom(t *testing.T, r *testnet.Raw, mac []byte) []byte {
	t.Helper()
	for {
		f, err := r.Receive(5 * time.Second)
		if err != nil {
			t.Fatalf("no frame came in: %v", err)
		}
		if bytes.Equal(f.Bytes[6:12], mac) {
			return f.Bytes
		}
	}
}

// Sockets receive it, also one that is bound to the NIC and with the strict
// reverse path filter, and the host forwards it.
func TestInjectIsTheHosts(t *testing.T) {
	n := testnet.New(t, hostPlan(
		testnet.Sysctl{In: "host", Key: "net.ipv4.conf.all.rp_filter", Value: "1"},
		testnet.Sysctl{In: "host", Key: "net.ipv4.conf.eth0.forwarding", Value: "1"},
	))
	host := n.In("host")
	tap := open(t, host, nothing)
	bound := listen(t, host, "10.9.1.1:7003")
	raw, err := bound.(*net.UDPConn).SyscallConn()
	if err == nil {
		var bind error
		err = raw.Control(func(fd uintptr) { bind = unix.BindToDevice(int(fd), "eth0") })
		err = errors.Join(err, bind)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		stake string
		frame []byte
		on    net.PacketConn
		want  string
	}{
		{"IPv4", udp4([4]byte{10, 9, 1, 1}, 7001, "four"), listen(t, host, "10.9.1.1:7001"), "four"},
		{"IPv6", udp6(7001, "six!"), listen(t, host, "[fd09:1::1]:7001"), "six!"},
		{"bound to the NIC", udp4([4]byte{10, 9, 1, 1}, 7003, "here"), bound, "here"},
		{"another host's", udp4([4]byte{10, 9, 2, 2}, 7002, "onward"), listen(t, n.In("server"), "10.9.2.2:7002"), "onward"},
	} {
		if err := tap.Inject(0, row.frame); err != nil {
			t.Errorf("%s: %v", row.stake, err)
			continue
		}
		if got, from := receive(t, row.on); got != row.want {
			t.Errorf("%s: got %q from %v, want %q", row.stake, got, from, row.want)
		}
	}
}

// What comes out of the device is a local server's answer if another device
// was to send it, and a mistake if not.
func TestWhatTheStackSends(t *testing.T) {
	n := testnet.New(t, hostPlan())
	frames := make(chan []byte, 1)
	tap := open(t, n.In("host"), func(frame []byte) bool {
		select {
		case frames <- bytes.Clone(frame):
			return true
		default:
			return false
		}
	})
	host := n.In("host")
	if err := errors.Join(host.AddAddr(DefaultName, "10.9.9.1/24"), host.SetNeighbor(DefaultName, "10.9.9.2", "02:00:00:00:09:02")); err != nil {
		t.Fatal(err)
	}
	c := listen(t, host, "10.9.9.1:7003")
	for range 3 {
		if _, err := c.WriteTo([]byte("lost"), &net.UDPAddr{IP: net.IPv4(10, 9, 9, 2), Port: 9}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := host.OpenRaw(DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	answer := udp4([4]byte{10, 9, 1, 2}, 4000, "answer")
	if err := errors.Join(raw.Send(answer), raw.Send(answer)); err != nil {
		t.Fatal(err)
	}
	want := Counters{Taken: 2, Lost: 1, Dropped: 3}
	for deadline := time.Now().Add(5 * time.Second); tap.Counters() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("counters %+v, want %+v", tap.Counters(), want)
		}
	}
	if got := <-frames; !bytes.Equal(got, answer) {
		t.Errorf("taken is % x, want % x", got, answer)
	}
}

func TestOpenTwiceAndClose(t *testing.T) {
	n := testnet.New(t, hostPlan())
	tap := open(t, n.In("host"), nothing)
	err := n.In("host").Do(func() error {
		second, err := Open(Config{Name: tap.Name()})
		if err == nil {
			err = errors.Join(errors.New("opened"), second.Close())
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "make tap device "+DefaultName) || strings.Contains(err.Error(), "opened") {
		t.Errorf("a second device of the name: %v, want a refusal that names it", err)
	}
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.In("host").SetUp(DefaultName, true); err == nil {
		t.Errorf("%s is still there after Close", DefaultName)
	}
	if err := tap.Inject(0, udp4([4]byte{10, 9, 1, 1}, 1, "")); err == nil {
		t.Errorf("Inject after Close succeeds")
	}
}
