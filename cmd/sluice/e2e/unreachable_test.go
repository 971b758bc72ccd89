package e2e

import (
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
	"github.com/sluice-lb/sluice/slowpath"
)

// A server that does not answer the director's kernel: each packet that waited for it
// is answered with ICMP host unreachable after the kernel's 3 s, as the kernel's
// IPVS did it (internal/oracle, dr-arp); and a client's connect fails so.
func TestServerDoesNotAnswer(t *testing.T) {
	n := testnet.New(t, routed(1))
	mac, err := n.In("client").MAC("eth0")
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, n, `
services:
  - {protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, forward: dr, servers: [{address: 10.0.2.50}]}
  - {protocol: tcp, address: 203.0.113.20, port: 80, scheduler: rr, forward: nat, servers: [{address: 10.0.2.50}]}
  - {protocol: tcp, address: "2001:db8::10", port: 80, scheduler: rr, forward: nat, servers: [{address: "fd00:2::50"}]}
  - {protocol: tcp, address: 203.0.113.30, port: 80, scheduler: rr, forward: tun, servers: [{address: 10.0.2.50}]}
`)
	client := openRaw(t, n.In("client"), "eth0")
	for port := uint16(1000); port < 1002; port++ {
		syn := packettest.Eth(directorMAC0, mac.String()).IP4("10.0.1.10", "203.0.113.10").ID(0x1000).DF().TCP(port, 80, packettest.SYN)
		if err := client.Send(syn.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"IP ttl=64 tos=0xc0 10.0.1.1 > 10.0.1.10 ICMP(1) type=3 code=1 rest=0x00000000 csum=ok quoting {IP ttl=63 id=0x1000 DF 10.0.1.10:1000 > 203.0.113.10:80 TCP [S] len=0}",
		"IP ttl=64 tos=0xc0 10.0.1.1 > 10.0.1.10 ICMP(1) type=3 code=1 rest=0x00000000 csum=ok quoting {IP ttl=63 id=0x1000 DF 10.0.1.10:1001 > 203.0.113.10:80 TCP [S] len=0}",
	}
	ident := regexp.MustCompile(`^.*? IP ttl=64 id=0x[0-9a-f]{4}`)
	for began := time.Now(); len(want) > 0; {
		f, err := client.Receive(patience)
		if err != nil {
			t.Fatalf("not answered: %s (%v)", want[0], err)
		}
		if got := packettest.Describe(f.Bytes); strings.Contains(got, "ICMP(1) type=3") {
			if got = ident.ReplaceAllString(got, "IP ttl=64"); got != want[0] {
				t.Errorf("got  %s\nwant %s", got, want[0])
			}
			if took := time.Since(began); took < 2*time.Second {
				t.Errorf("answered after %v: the kernel was not given its time", took)
			}
			want = want[1:]
		}
	}
	var dials sync.WaitGroup
	for _, address := range []string{"203.0.113.20:80", "203.0.113.30:80", "[2001:db8::10]:80"} {
		dials.Go(func() {
			c, err := n.In("client").DialContext(t.Context(), "tcp", address)
			if !errors.Is(err, unix.EHOSTUNREACH) {
				t.Errorf("connect to %s: %v, want %v", address, err, unix.EHOSTUNREACH)
			}
			if err == nil {
				c.Close()
			}
		})
	}
	dials.Wait()
	failed := d.stats().SlowPath.Packets[slowpath.NoNeighbour.String()][slowpath.NeighbourFailed.String()]
	if failed < 5 || d.stats().Totals.Dropped[slowpath.NeighbourFailed.String()] != failed {
		t.Errorf("%d packets counted as neighbour_failed, %s", failed, d.counters())
	}
}
