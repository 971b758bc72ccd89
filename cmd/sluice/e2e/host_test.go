package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// What is not the director's, although it looks as if, goes to the host's
// stack, and is counted as passed.
func TestHostKeepsItsOwn(t *testing.T) {
	plan := routed(1)
	plan.VIPs = []testnet.VIP{{In: "director", Addr: "203.0.113.10"}, {In: "director", Addr: "2001:db8::10"}}
	n := testnet.New(t, plan)
	d := start(t, n, natService(1))
	b := newBrowser(n.In("client"), patience)

	t.Run("service of the host on another port", func(t *testing.T) {
		serveWeb(t, n.In("director"), ":22")
		for _, address := range []string{"203.0.113.10:22", "[2001:db8::10]:22", "10.0.1.1:22"} {
			if name, err := b.post(address, noise(1, 5000)); err != nil || name != "director" {
				t.Errorf("%s was answered by %q (%v), want the host", address, name, err)
			}
		}
		if p := d.stats().Totals; p.Received != 0 {
			t.Errorf("%d packets came to the workers, want none: the XDP program knows the ports", p.Received)
		}
	})

	t.Run("server's own connection from its real port", func(t *testing.T) {
		// Only the connection table knows that this is no reply.
		for _, address := range []struct{ server, client string }{{server4(0), "10.0.1.10"}, {server6(0), "fd00:1::10"}} {
			echoTCP(t, n.In("client"), net.JoinHostPort(address.client, "9000"))
			before := d.stats().Totals.Passed
			c, err := n.In(server(0)).Dial(t.Context(), &net.Dialer{
				Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(address.server), Port: 8080},
			}, "tcp", net.JoinHostPort(address.client, "9000"))
			if err != nil {
				t.Error(err)
				continue
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_ = c.(*net.TCPConn).SetLinger(0) // the port is free again at once
			sent := noise(2, 10_000)
			got := make([]byte, len(sent))
			go func() { _, _ = c.Write(sent) }()
			if _, err := io.ReadFull(c, got); err != nil || string(got) != string(sent) {
				t.Errorf("echo of the client: %v", err)
			}
			c.Close()
			if d.quiet().Totals.Passed == before {
				t.Error("no packet passed, want the first of the connection at least")
			}
		}
	})

	t.Run("packet of no connection", func(t *testing.T) {
		// A connection that the director has lost, as after a restart: the
		// host, whose address it is, resets it.
		echoTCP(t, n.In(server(0)), ":8080")
		c, err := n.In("client").DialContext(t.Context(), "tcp", "203.0.113.10:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		d.stop()
		d.run()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprint(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset by the host", err)
		}
		if p := d.quiet().Totals.Passed; p == 0 {
			t.Error("no packet was passed")
		}
	})
}
