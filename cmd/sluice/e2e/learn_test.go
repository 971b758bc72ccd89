package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// learnt is how many packets the XDP programs have passed as the host's that
// look like replies.
func (d *director) learnt() (n uint64) {
	d.t.Helper()
	for _, i := range d.status().Interfaces {
		n += i.XDP["learnt"]
	}
	return n
}

// detoured runs traffic and says how many of its packets made the detour, and
// how many the XDP programs passed because they had learnt.
func (d *director) detoured(traffic func()) (passed, learnt uint64) {
	d.t.Helper()
	passed, learnt = d.quiet().Totals.Passed, d.learnt()
	traffic()
	return d.quiet().Totals.Passed - passed, d.learnt() - learnt
}

// A server's own flows from the port that it serves on cost the detour once,
// and once more when services have changed.
func TestFlowsOfTheHostAreLearnt(t *testing.T) {
	n := testnet.New(t, routed(1))
	client := n.In("client")
	echoTCP(t, client, ":9000")
	echoUDP(t, client, ":9000")
	d := start(t, n, natService(1))
	const some = 8 // packets that are on their way before the first has been learnt
	for _, row := range []struct{ server, client string }{{server4(0), "10.0.1.10:9000"}, {server6(0), "[fd00:1::10]:9000"}} {
		tcp := dialFrom(t, n, netip.AddrPortFrom(netip.MustParseAddr(row.server), 8080), "tcp", row.client)
		passed, learnt := d.detoured(func() {
			for k := range 20 {
				echoStream(t, tcp, noise(uint64(k), 100_000))
			}
		})
		if passed > some || learnt < 1000 {
			t.Errorf("TCP to %s: %d packets made the detour, %d were passed as learnt", row.client, passed, learnt)
		}
		udp := dialFrom(t, n, netip.AddrPortFrom(netip.MustParseAddr(row.server), 8080), "udp", row.client)
		passed, learnt = d.detoured(func() {
			for k := range 100 {
				echo(t, udp, noise(uint64(k), 500))
			}
		})
		if passed == 0 || passed > some || learnt+passed != 100 {
			t.Errorf("UDP to %s: of 100 packets %d made the detour, %d were passed as learnt", row.client, passed, learnt)
		}
		d.configure(natService(1) + "  - {protocol: tcp, address: 203.0.113.99, port: 80, scheduler: rr, servers: []}\n")
		if r := answer[control.Reload](d, "reload"); r.Error != "" {
			t.Fatal(r.Error)
		}
		d.configure(natService(1))
		if r := answer[control.Reload](d, "reload"); r.Error != "" {
			t.Fatal(r.Error)
		}
		passed, learnt = d.detoured(func() {
			for k := range 100 {
				echo(t, udp, noise(uint64(k), 500))
			}
		})
		if passed == 0 || passed > some || learnt+passed != 100 {
			t.Errorf("UDP to %s, after a change: of 100 packets %d made the detour, %d were passed as learnt", row.client, passed, learnt)
		}
	}
}

// What a checker on the director asks a server comes back from the port that it
// serves on: the rest of each answer is passed as learnt.
func TestCheckerOnTheDirector(t *testing.T) {
	n := web(t, 1)
	d := start(t, n, natService(1))
	b := newBrowser(n.In("director"), patience)
	for _, server := range []string{"10.0.2.11:8080", "[fd00:2::11]:8080"} {
		passed, learnt := d.detoured(func() {
			for k := range 5 {
				if name, err := b.post(server, noise(uint64(k), 300_000)); err != nil || name != "server1" {
					t.Errorf("%s was answered by %q: %v", server, name, err)
				}
			}
		})
		if passed == 0 || passed > 5*8 || learnt < 5*100 {
			t.Errorf("%s, 5 requests: %d packets made the detour, %d were passed as learnt", server, passed, learnt)
		}
	}
}

// A client's port that the server talked to of its own accord is used for the
// service: replies that look just like what was learnt are translated all the same.
func TestLearntFlowBecomesAConnection(t *testing.T) {
	n := testnet.New(t, routed(1))
	client := n.In("client")
	service := echoUDP(t, n.In(server(0)), ":8080")
	d := start(t, n, natService(1))
	for _, row := range []struct{ server, client, vip string }{
		{server4(0), "10.0.1.10", "203.0.113.10:80"},
		{server6(0), "fd00:1::10", "[2001:db8::10]:80"},
	} {
		from := netip.AddrPortFrom(netip.MustParseAddr(row.server), 8080)
		for port := range 5 {
			own := net.JoinHostPort(row.client, fmt.Sprint(5000+port))
			passed, learnt := d.detoured(func() {
				l, err := client.ListenPacket("udp", own)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				for range 20 {
					if _, err := service.WriteTo([]byte("of its own accord"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(own))); err != nil {
						t.Fatal(err)
					}
					_ = l.SetReadDeadline(time.Now().Add(patience))
					if _, peer, err := l.ReadFrom(make([]byte, 100)); err != nil || peer.String() != from.String() {
						t.Fatalf("UDP to %s: from %v, %v; want the server's own address", own, peer, err)
					}
				}
			})
			if passed+learnt != 20 || learnt == 0 {
				t.Errorf("UDP to %s: %d packets made the detour, %d were passed as learnt", own, passed, learnt)
			}
			c := dialTo(t, client, "udp", own, row.vip)
			for k := range 20 {
				echo(t, c, noise(uint64(k), 500)) // connected: only the service's answers get here
			}
		}
		for port := range 5 {
			own := net.JoinHostPort(row.client, fmt.Sprint(6000+port))
			l, err := client.Listen("tcp", own)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				if c, err := l.Accept(); err == nil {
					_, _ = c.Read(make([]byte, 1<<16))
					_ = c.(*net.TCPConn).SetLinger(0) // both ports are free again at once
					c.Close()
				}
			}()
			s := dialFrom(t, n, from, "tcp", own)
			_, _ = s.Write(noise(1, 1000))
			_, _ = s.Read(make([]byte, 1))
			s.Close()
			l.Close()
			listener, err := n.In(server(0)).Listen("tcp", ":8080")
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				if c, err := listener.Accept(); err == nil {
					_, _ = io.Copy(c, c)
					c.Close()
				}
			}()
			c := dialTo(t, client, "tcp", own, row.vip)
			echoStream(t, c, noise(uint64(port), 200_000))
			c.Close()
			listener.Close()
		}
	}
	d.quiet()
	if waited := d.status().Workers[0].HandedOver; waited < 10 { // to itself
		t.Errorf("%d packets waited until what was learnt was forgotten, want one of each UDP flow at least", waited)
	}
}

// dialFrom connects the first server from an address of its own.
func dialFrom(t *testing.T, n *testnet.Network, local netip.AddrPort, network, to string) net.Conn {
	t.Helper()
	return dialTo(t, n.In(server(0)), network, local.String(), to)
}

// dialTo connects a namespace from an address of its own.
func dialTo(t *testing.T, s *testnet.Namespace, network, local, to string) net.Conn {
	t.Helper()
	from := netip.MustParseAddrPort(local)
	d := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(from), Control: reuse}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	c, err := s.Dial(t.Context(), &d, network, to)
	if err != nil {
		t.Fatalf("%s from %s to %s: %v", network, local, to, err)
	}
	t.Cleanup(func() { c.Close() })
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return c
}

// echoStream sends data and wants it back.
func echoStream(t *testing.T, c net.Conn, sent []byte) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = c.Write(sent) }()
	got := make([]byte, len(sent))
	for n := 0; n < len(got); {
		k, err := c.Read(got[n:])
		if err != nil {
			t.Fatalf("%d of %d bytes came back: %v", n, len(sent), err)
		}
		n += k
	}
	if string(got) != string(sent) {
		t.Fatal("other bytes came back than were sent")
	}
}

// reuse lets a socket have a port that closed connections still remember.
func reuse(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(err, set)
}

// BenchmarkHandBack measures how long a packet of the host's takes through the
// director, from the server's wire to the client's, one at a time: with no
// director, of a flow that is learnt, and of a flow each.
func BenchmarkHandBack(b *testing.B) {
	n := testnet.New(b, routed(1))
	server, client := n.In(server(0)), n.In("client")
	mac, err := server.MAC("eth0")
	if err != nil {
		b.Fatal(err)
	}
	from, err := server.OpenRaw("eth0")
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
	to, err := client.OpenRaw("eth0")
	if err != nil {
		b.Fatal(err)
	}
	defer to.Close()
	if _, err := server.Run("ping", "-c", "1", "10.0.1.10"); err != nil { // everybody knows everybody
		b.Fatal(err)
	}
	packet := func(port int) []byte {
		return packettest.Eth(directorMAC1, mac.String()).IP4(server4(0), "10.0.1.10").UDP(8080, uint16(port)).Bytes()
	}
	measure := func(b *testing.B, port func(i int) int) {
		b.Helper()
		took := make([]time.Duration, 0, b.N)
		for i := range b.N {
			frame, began := packet(port(i)), time.Now()
			if err := from.Send(frame); err != nil {
				b.Fatal(err)
			}
			for {
				f, err := to.Receive(patience)
				if err != nil {
					b.Fatal(err)
				}
				if len(f.Bytes) >= 42 && f.Bytes[23] == 17 && string(f.Bytes[34:38]) == string(frame[34:38]) {
					break
				}
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "median-µs")
	}
	b.Run("without", func(b *testing.B) { measure(b, func(int) int { return 9 }) })
	start(b, n, natService(1))
	b.Run("learnt", func(b *testing.B) { measure(b, func(int) int { return 9 }) })
	b.Run("detour", func(b *testing.B) { measure(b, func(i int) int { return 1024 + i%60000 }) })
}
