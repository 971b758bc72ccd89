package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// A live TCP stream survives each flood beside it, from before the flood
// begins until it is over, and everything the flood is not let through for is
// counted under its name. How fast the stream then is, bench/wire measures.
func TestStreamBesideFlood(t *testing.T) {
	for _, row := range []struct {
		flood string
		// next returns a maker of the flood's frames, beside a stream from that
		// port of the client's.
		next    func(port uint16) func(i int) []byte
		dropped string // a reason that many of them are dropped for
	}{
		{"ICMP errors about the stream, and about others", floodOfErrors, "icmp_over_budget"},
		{"fragments that are never complete, from everywhere", floodOfFragments, "fragment_crowded"},
	} {
		t.Run(row.flood, func(t *testing.T) {
			n := testnet.New(t, routed(1))
			echoTCP(t, n.In(server(0)), ":8080")
			d := start(t, n, natService(1)+"slowpath: {reassembly: {timeout: 1s}}\n")
			c, err := n.In("client").DialContext(t.Context(), "tcp", "203.0.113.10:80")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			// Two round trips of the stream: one in the midst of the flood, one after it.
			exchange := func(seed uint64) {
				t.Helper()
				sent, got := noise(seed, 1<<21), make([]byte, 1<<21)
				_ = c.SetDeadline(time.Now().Add(patience))
				go func() { _, _ = c.Write(sent) }()
				if _, err := io.ReadFull(c, got); err != nil {
					t.Fatalf("%v; %s", err, d.counters())
				}
				if !bytes.Equal(got, sent) {
					t.Fatal("another echo than what was sent")
				}
			}
			exchange(1)
			before := residentKiB(t, d.cmd.Process.Pid)
			const perSecond = 50_000
			raw := openRaw(t, n.In("client"), "eth0")
			ctx, stop := context.WithCancel(t.Context())
			sent, ended := 0, make(chan error, 1)
			go func() {
				var err error
				sent, err = raw.Flood(ctx, perSecond, row.next(uint16(c.LocalAddr().(*net.TCPAddr).Port)))
				ended <- err
			}()
			if err := d.await(patience, "the flood to be dropped as "+row.dropped, func() bool { return d.stats().Totals.Dropped[row.dropped] > 1000 }); err != nil {
				t.Error(err)
			}
			exchange(2)
			stop()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			exchange(3)
			if s := d.services()[0].Stats; s.Conns != 1 {
				t.Errorf("%d connections, want the stream's", s.Conns)
			}
			// What is sized at start is touched now, and no more.
			if grown := residentKiB(t, d.cmd.Process.Pid) - before; grown > 16<<10 {
				t.Errorf("the flood made the director grow by %d KiB", grown)
			}
			t.Logf("%d frames of the flood; %s", sent, d.counters())
		})
	}
}

// floodOfFragments are the first fragments of datagrams that are never complete, to the
// service's address, from more clients than there is memory for.
func floodOfFragments(uint16) func(i int) []byte {
	frames := make([][]byte, 1<<13)
	for i := range frames {
		from := fmt.Sprintf("198.18.%d.%d", i>>8, i&0xff)
		datagram := packettest.Eth(directorMAC0, "02:00:00:00:06:66").IP4(from, "203.0.113.10").UDP(1000, 80).Payload(make([]byte, 1400))
		frames[i] = datagram.Parts(uint32(i), 1392)[0].Bytes()
	}
	return func(i int) []byte { return frames[i%len(frames)] }
}

// floodOfErrors are a router's errors, in turn about what the service sent to
// the stream's client and about what it never sent.
func floodOfErrors(port uint16) func(i int) []byte {
	const attacker = "02:00:00:00:06:66"
	about := func(port uint16) []byte {
		answer := packettest.Eth(attacker, directorMAC0).IP4("203.0.113.10", "10.0.1.10").TCP(80, port, packettest.ACK)
		return packettest.Eth(directorMAC0, attacker).IP4("10.0.1.254", "203.0.113.10").ICMP4(11, 0, 0).Quote(answer, 28).Bytes()
	}
	frames := [2][]byte{about(port), about(port ^ 1)}
	return func(i int) []byte { return frames[i%2] }
}
