package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// echoTCP runs a server in a namespace until the test ends that sends
// everything back.
func echoTCP(t *testing.T, s *testnet.Namespace, address string) {
	t.Helper()
	l, err := s.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		l.Close()
		stop()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() }) // of clients that are gone without a word
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// echoUDP is echoTCP for datagrams. It returns its socket.
func echoUDP(t *testing.T, s *testnet.Namespace, address string) net.PacketConn {
	t.Helper()
	c, err := s.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	deepen(t, c.(*net.UDPConn))
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
	return c
}

// udpConn is a client's datagram socket, connected to a service.
func udpConn(t *testing.T, s *testnet.Namespace, address string) net.Conn {
	t.Helper()
	c, err := s.DialContext(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	deepen(t, c.(*net.UDPConn))
	return c
}

// deepen makes room for what arrives while the test's process is kept from
// running: a datagram that a socket drops is none that the director lost.
func deepen(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
		err = errors.Join(err, controlErr)
	}
	if err != nil {
		t.Fatalf("receive buffer: %v", err)
	}
}
