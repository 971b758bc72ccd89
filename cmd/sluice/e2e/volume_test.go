package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// natService is a TCP and a UDP service by NAT, port 80 of which is port 8080
// of n servers.
func natService(n int) string {
	config := "services:\n"
	for _, vip := range []struct {
		address string
		server  func(int) string
	}{{"203.0.113.10", server4}, {"2001:db8::10", server6}} {
		for _, protocol := range []string{"tcp", "udp"} {
			config += fmt.Sprintf("  - {protocol: %s, address: %q, port: 80, scheduler: rr, forward: nat, servers: [", protocol, vip.address)
			for i := range n {
				config += fmt.Sprintf("{address: %q, port: 8080}, ", vip.server(i))
			}
			config += "]}\n"
		}
	}
	return config
}

// 1 GiB over one connection, half of it each way at once: what arrives is
// what was sent.
func TestGigabyte(t *testing.T) {
	const size = 1 << 29
	n := testnet.New(t, routed(1))
	l, err := n.In(server(0)).Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := start(t, n, natService(1))
	type result struct {
		sent, received [sha256.Size]byte
		err            error
	}
	// talk sends size bytes from a seed and receives as many.
	talk := func(c net.Conn, seed uint64) (r result) {
		defer c.Close()
		var sending sync.WaitGroup
		sending.Go(func() {
			sum := sha256.New()
			var key [32]byte
			binary.LittleEndian.PutUint64(key[:], seed)
			_, err := io.CopyN(io.MultiWriter(c, sum), rand.NewChaCha8(key), size)
			r.sent = [sha256.Size]byte(sum.Sum(nil))
			r.err = err
		})
		sum := sha256.New()
		_, err := io.CopyN(sum, c, size)
		r.received = [sha256.Size]byte(sum.Sum(nil))
		sending.Wait()
		if err != nil {
			r.err = err
		}
		return r
	}
	far := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			far <- result{err: err}
			return
		}
		far <- talk(c, 1)
	}()
	c, err := n.In("client").DialContext(t.Context(), "tcp", "203.0.113.10:80")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(90 * time.Second))
	began := time.Now()
	near := talk(c, 2)
	there := <-far
	if near.err != nil || there.err != nil {
		t.Fatalf("client: %v; server: %v", near.err, there.err)
	}
	if near.sent != there.received || there.sent != near.received {
		t.Errorf("sums differ: client sent %x, server received %x; server sent %x, client received %x", near.sent, there.received, there.sent, near.received)
	}
	s := d.services()[0].Stats
	if s.Conns != 1 || s.InBytes < size || s.OutBytes < size {
		t.Errorf("counted %+v, want 1 connection with at least %d bytes each way", s, size)
	}
	t.Logf("%d MiB each way in %.1f s, %s", size>>20, time.Since(began).Seconds(), d.counters())
}

// 2,000 connections at once, each of which carries data, are on the servers
// in equal parts, by the servers' own count and by the director's.
func TestManyConnections(t *testing.T) {
	const conns, servers, rounds, size = 2000, 2, 3, 900
	n := testnet.New(t, routed(servers))
	for i := range servers {
		echoTCP(t, n.In(server(i)), ":8080")
	}
	d := start(t, n, natService(servers))
	open := make([]net.Conn, conns)
	// each does a thing for every connection, some at a time.
	each := func(what string, do func(i int) error) {
		t.Helper()
		var g errgroup.Group
		g.SetLimit(100)
		for i := range conns {
			g.Go(func() error {
				if err := do(i); err != nil {
					return fmt.Errorf("%s %d: %w", what, i, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, c := range open {
			if c != nil {
				c.Close()
			}
		}
	})
	each("connect", func(i int) (err error) {
		open[i], err = n.In("client").Dial(t.Context(), &net.Dialer{Timeout: patience}, "tcp", "203.0.113.10:80")
		return err
	})
	for round := range rounds {
		each(fmt.Sprintf("round %d, connection", round), func(i int) error {
			want := noise(uint64(i*rounds+round), size)
			_ = open[i].SetDeadline(time.Now().Add(patience))
			if _, err := open[i].Write(want); err != nil {
				return err
			}
			got := make([]byte, size)
			if _, err := io.ReadFull(open[i], got); err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return errors.New("another echo than what was sent")
			}
			return nil
		})
	}
	s := d.services()[0]
	if s.Stats.Conns != conns || s.Stats.InPackets < rounds*conns || s.Stats.OutPackets < rounds*conns {
		t.Errorf("service counts %+v, want %d connections", s.Stats, conns)
	}
	for _, r := range s.Servers {
		if r.Active != conns/servers || r.Inactive != 0 || r.Stats.Conns != conns/servers {
			t.Errorf("server %s: %d active, %d inactive of %d connections, want %d active", r.Address, r.Active, r.Inactive, r.Stats.Conns, conns/servers)
		}
	}
	if got := d.status().Connections; got != conns {
		t.Errorf("status shows %d connections, want %d", got, conns)
	}
	if rows := answer[control.Conns](d, "conns", "--state", "ESTABLISHED", "--limit", "10000").Connections; len(rows) != conns {
		t.Errorf("conns lists %d connections, want %d", len(rows), conns)
	}
}

// UDP datagrams of every size that fits into a packet come back as they were
// sent.
func TestDatagramSizes(t *testing.T) {
	n := testnet.New(t, routed(1))
	echoUDP(t, n.In(server(0)), ":8080")
	start(t, n, natService(1))
	for _, row := range []struct {
		what, address string
		most          int
	}{
		{"v4", "203.0.113.10:80", 1500 - 20 - 8},
		{"v6", "[2001:db8::10]:80", 1500 - 40 - 8},
	} {
		t.Run(row.what, func(t *testing.T) {
			c, err := n.In("client").DialContext(t.Context(), "udp", row.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got := make([]byte, 2000)
			for size := range row.most + 1 {
				want := noise(uint64(size), size)
				if _, err := c.Write(want); err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				_ = c.SetReadDeadline(time.Now().Add(patience))
				k, err := c.Read(got)
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				if !bytes.Equal(got[:k], want) {
					t.Fatalf("%d bytes come back as %d others", size, k)
				}
			}
		})
	}
}
