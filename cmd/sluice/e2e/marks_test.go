package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// Mark rules on a live node: the first of a thousand that matches decides, TCP and
// UDP, IPv4 and IPv6, and a packet that none wants never comes to a worker. A reload
// changes them.
func TestMarks(t *testing.T) {
	n := testnet.New(t, routed(3))
	for i := range 3 {
		for _, port := range []string{":80", ":8443"} {
			serveWeb(t, n.In(server(i)), port)
		}
		echoUDP(t, n.In(server(i)), ":5353")
	}
	const services = `
services:
  - {fwmark: 1, scheduler: rr, servers: [{address: 10.0.2.11, port: 0}]}
  - {fwmark: 2, scheduler: rr, servers: [{address: 10.0.2.12, port: 0}]}
  - {fwmark: 3, family: ipv6, scheduler: rr, servers: [{address: "fd00:2::13", port: 0}]}
`
	var others strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&others, "  - {mark: 99, protocol: tcp, destination: 10.77.%d.%d/32, ports: %d}\n", i/250, 1+i%250, 1+i)
	}
	const first = `  - {mark: 1, interface: eth0, protocol: tcp, source: 10.0.1.0/24, destination: 198.18.0.0/24, ports: 80-443}
`
	const rest = `  - {mark: 2, protocol: tcp, destination: 198.18.0.0/16}
  - {mark: 1, interface: eth1, destination: 198.18.0.0/24}
  - {mark: 1, protocol: udp, destination: 198.18.0.0/15}
  - {mark: 3, destination: "2001:db8:18::/48", ports: 80}
`
	d := start(t, n, "marks:\n"+others.String()+first+rest+services)
	b := newBrowser(n.In("client"), patience)
	serves := func(address string, want int) {
		t.Helper()
		if name, err := b.post(address, noise(1, 3000)); err != nil || name != server(want) {
			t.Errorf("%s is served by %q (%v), want %s", address, name, err, server(want))
		}
	}
	serves("198.18.0.9:80", 0)
	serves("198.18.0.9:8443", 1)
	serves("198.18.1.9:80", 1)
	serves("[2001:db8:18::5]:80", 2)
	flow := newCounted(t, n.In("client"), "198.19.0.9:5353", 20)
	for range 20 {
		if err := flow.send(); err != nil {
			t.Fatal(err)
		}
	}
	if lost := flow.lost(); lost > 0 {
		t.Errorf("%d of 20 datagrams of UDP lost", lost)
	}
	if s := d.services(); s[0].Stats.Conns != 2 || s[1].Stats.Conns != 2 || s[2].Stats.Conns != 1 {
		t.Errorf("connections by service %d, %d, %d, want 2, 2, 1", s[0].Stats.Conns, s[1].Stats.Conns, s[2].Stats.Conns)
	}
	before := d.quiet().Totals.Received
	for _, address := range []string{"198.20.0.9:80", "[2001:db8:18::5]:8443", "[2001:db8:19::5]:80"} {
		if name, err := b.post(address, nil); err == nil {
			t.Errorf("%s, which no rule wants, is served by %s", address, name)
		}
	}
	if after := d.quiet().Totals.Received; after != before {
		t.Errorf("%d packets that no rule wants came to the workers", after-before)
	}
	d.configure("marks:\n" + rest + services)
	if r := hangup(d); r.Error != "" {
		t.Fatal(r.Error)
	}
	serves("198.18.0.9:80", 1)
}
