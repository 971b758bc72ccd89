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

// ether puts the header of a frame to some NIC in front of a packet.
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

func TestAddress(t *testing.T) {
	device := [6]byte{2, 2, 2, 2, 2, 2}
	plain := ether(0x0800, []byte("packet"))
	want := bytes.Clone(plain)
	copy(want, device[:])
	group := bytes.Clone(plain)
	copy(group, []byte{1, 0, 0x5e, 0, 0, 1})
	for _, row := range []struct {
		stake       string
		frame, want []byte
	}{
		{"addressed to the device, or the stack takes it for another host's", plain, want},
		{"a tag would look for a VLAN device on the tap", tagged(plain, 0x8100), want},
		{"two tags as well", tagged(plain, 0x88a8, 0x8100), want},
		{"a group address says what the packet is", group, group},
		{"the shortest frame has only its header", plain[:14], want[:14]},
		{"no header, no frame", plain[:13], nil},
		{"a tag that is cut off is not read", tagged(plain, 0x8100)[:17], nil},
		{"nor the second one", tagged(plain, 0x88a8, 0x8100)[:20], nil},
		{"longer than the device's MTU", make([]byte, maxFrameSize+1), nil},
	} {
		tap := &Tap{mac: device, frame: make([]byte, maxFrameSize)}
		before := bytes.Clone(row.frame)
		got, err := tap.address(row.frame)
		if !bytes.Equal(got, row.want) || errors.Is(err, ErrNotFrame) != (row.want == nil) {
			t.Errorf("%s: address(% x) = % x, %v; want % x", row.stake, row.frame, got, err, row.want)
		}
		if !bytes.Equal(row.frame, before) {
			t.Errorf("%s: the caller's frame was changed", row.stake)
		}
	}
}

// open makes the tap in the namespace. take gets what comes out of it.
func open(t *testing.T, s *testnet.Namespace, take func([]byte) bool) *Tap {
	t.Helper()
	var tap *Tap
	if err := s.Do(func() (err error) {
		tap, err = Open(Config{})
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
				A: testnet.End{In: "host", Name: "eth0", Addrs: []string{"10.9.1.1/24", "fd09:1::1/64"}},
				B: testnet.End{In: "client", Name: "eth0", Addrs: []string{"10.9.1.2/24", "fd09:1::2/64"}},
			},
			{
				A: testnet.End{In: "host", Name: "eth1", Addrs: []string{"10.9.2.1/24"}},
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

func TestInjectReachesSockets(t *testing.T) {
	// Some distributions turn IPv6 off for interfaces to come.
	n := testnet.New(t, hostPlan(testnet.Sysctl{In: "host", Key: "net.ipv6.conf.default.disable_ipv6", Value: "1"}))
	tap := open(t, n.In("host"), nothing)
	link, err := n.In("host").Netlink().LinkByName(tap.Name())
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := n.In("host").Netlink().AddrList(link, netlink.FAMILY_ALL); err != nil || len(addrs) > 0 {
		t.Errorf("the device has addresses %v, %v: with one it would announce it, and answer for it", addrs, err)
	}
	if len(tap.Limits()) > 0 {
		t.Errorf("limits %q, want none as root", tap.Limits())
	}
	socket4, socket6 := listen(t, n.In("host"), "10.9.1.1:7001"), listen(t, n.In("host"), "[fd09:1::1]:7001")
	for _, row := range []struct {
		stake string
		frame []byte
		on    net.PacketConn
		want  string
	}{
		{"IPv4 to a socket of the host", udp4([4]byte{10, 9, 1, 1}, 7001, "four"), socket4, "four"},
		{"IPv6, although the device has no address", udp6(7001, "six!"), socket6, "six!"},
		{"out of a VLAN", tagged(udp4([4]byte{10, 9, 1, 1}, 7001, "vlan"), 0x8100), socket4, "vlan"},
		{"larger than an Ethernet MTU", udp4([4]byte{10, 9, 1, 1}, 7001, strings.Repeat("x", 1800)), socket4, strings.Repeat("x", 1800)},
	} {
		if err := tap.Inject(0, row.frame); err != nil {
			t.Errorf("%s: %v", row.stake, err)
			continue
		}
		if got, from := receive(t, row.on); got != row.want {
			t.Errorf("%s: got %q from %v, want %q", row.stake, got, from, row.want)
		}
	}

	// The way back is the stack's own: by the NIC, not by the device.
	client := listen(t, n.In("client"), "10.9.1.2:4000")
	if _, err := socket4.WriteTo([]byte("answer"), client.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if got, _ := receive(t, client); got != "answer" {
		t.Errorf("the client got %q, want the answer", got)
	}
	if err := tap.Inject(0, nil); !errors.Is(err, ErrNotFrame) {
		t.Errorf("an empty frame: %v, want ErrNotFrame", err)
	}
	if got, want := tap.Counters(), (Counters{Injected: 4, Refused: 1}); got != want {
		t.Errorf("counters %+v, want %+v: the stack says nothing by the device of its own accord", got, want)
	}
}

func TestInjectForwards(t *testing.T) {
	n := testnet.New(t, hostPlan(testnet.Sysctl{In: "host", Key: "net.ipv4.ip_forward", Value: "1"}))
	tap := open(t, n.In("host"), nothing)
	server := listen(t, n.In("server"), "10.9.2.2:7002")
	if err := tap.Inject(0, udp4([4]byte{10, 9, 2, 2}, 7002, "onward")); err != nil {
		t.Fatal(err)
	}
	if got, from := receive(t, server); got != "onward" || from.String() != "10.9.1.2:4000" {
		t.Errorf("the server got %q from %v, want the client's datagram as it was", got, from)
	}
}

func TestStrictReversePathFilter(t *testing.T) {
	n := testnet.New(t, hostPlan(testnet.Sysctl{In: "host", Key: "net.ipv4.conf.all.rp_filter", Value: "1"}))
	tap := open(t, n.In("host"), nothing)
	if got := strings.Join(tap.Limits(), "\n"); !strings.Contains(got, "rp_filter is 1") {
		t.Errorf("limits %q do not mention the filter", got)
	}
	socket := listen(t, n.In("host"), "10.9.1.1:7001")
	if err := tap.Inject(0, udp4([4]byte{10, 9, 1, 1}, 7001, "known source")); err != nil {
		t.Fatal(err)
	}
	if got, _ := receive(t, socket); got != "known source" {
		t.Errorf("got %q: strict for all must not refuse a source that has a route", got)
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
	n := testnet.New(t, testnet.Plan{Namespaces: []string{"host"}})
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
