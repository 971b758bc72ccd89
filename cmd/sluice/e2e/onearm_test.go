package e2e

import (
	"testing"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// One arm: clients and servers are on one wire, in subnets of their own, and
// the director has one interface for both. Replies of NAT come back to it,
// those of DR go straight to the client.
func TestOneArm(t *testing.T) {
	plan := testnet.Plan{
		Switches: []testnet.Switch{{Name: "switch", Ends: []testnet.End{
			{In: "director", Name: "eth0", Addrs: []string{"10.0.1.1/24", "10.0.2.1/24", "fd00:1::1/64", "fd00:2::1/64"}},
			{In: "client", Name: "eth0", Addrs: []string{"10.0.1.10/24", "fd00:1::10/64"}},
			{In: server(0), Name: "eth0", Addrs: []string{server4(0) + "/24", server6(0) + "/64"}},
			{In: server(1), Name: "eth0", Addrs: []string{server4(1) + "/24", server6(1) + "/64"}},
		}}},
		Routes: []testnet.Route{
			{In: "client", To: "default", Via: "10.0.1.1"},
			{In: "client", To: "default", Via: "fd00:1::1"},
			{In: server(0), To: "default", Via: "10.0.2.1"},
			{In: server(0), To: "default", Via: "fd00:2::1"},
			{In: server(1), To: "10.0.1.0/24", Dev: "eth0"}, // DR's server sees the clients
			{In: server(1), To: "fd00:1::/64", Dev: "eth0"},
		},
		VIPs: []testnet.VIP{{In: server(1), Addr: "203.0.113.20"}, {In: server(1), Addr: "2001:db8::20"}},
	}
	n := testnet.New(t, plan)
	for i := range 2 {
		serveWeb(t, n.In(server(i)), ":80")
	}
	d := start(t, n, `
interfaces: [{name: eth0, role: both}]
services:
  - {name: nat4, protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, forward: nat, servers: [{address: 10.0.2.11}]}
  - {name: nat6, protocol: tcp, address: "2001:db8::10", port: 80, scheduler: rr, forward: nat, servers: [{address: "fd00:2::11"}]}
  - {name: dr4, protocol: tcp, address: 203.0.113.20, port: 80, scheduler: rr, forward: dr, servers: [{address: 10.0.2.12}]}
  - {name: dr6, protocol: tcp, address: "2001:db8::20", port: 80, scheduler: rr, forward: dr, servers: [{address: "fd00:2::12"}]}
`)
	b := newBrowser(n.In("client"), patience)
	for i, row := range []struct {
		what, address, server string
		replies               bool // pass the director
	}{
		{"NAT v4", "203.0.113.10:80", server(0), true},
		{"NAT v6", "[2001:db8::10]:80", server(0), true},
		{"DR v4", "203.0.113.20:80", server(1), false},
		{"DR v6", "[2001:db8::20]:80", server(1), false},
	} {
		t.Run(row.what, func(t *testing.T) {
			for k := range 5 {
				name, err := b.post(row.address, noise(uint64(k), k*10_000))
				if err != nil || name != row.server {
					t.Fatalf("request %d was served by %q (%v), want %s", k, name, err, row.server)
				}
			}
			s := d.services()[i].Stats
			if s.Conns != 5 || s.InPackets == 0 || (s.OutPackets > 0) != row.replies {
				t.Errorf("counted %+v, want 5 connections, with replies: %v", s, row.replies)
			}
		})
	}
}
