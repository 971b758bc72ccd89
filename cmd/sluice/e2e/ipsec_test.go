package e2e

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// ESP and AH follow the ISAKMP connection of their two addresses (K-PROTO-AH/ESP),
// by every forwarding method; without one they are the host's.
func TestIPsecFollowsISAKMP(t *testing.T) {
	const clientMAC, serverMAC = "02:00:00:00:00:10", "02:00:00:00:01:10"
	n := testnet.New(t, testnet.Plan{Links: []testnet.Link{
		{
			A: testnet.End{In: "client", Name: "eth0", MAC: clientMAC},
			B: testnet.End{In: "director", Name: "eth0", MAC: directorMAC0, Addrs: []string{"10.1.0.1/24", "fd01::1/64"}},
		},
		{
			A: testnet.End{In: "server", Name: "eth0", MAC: serverMAC},
			B: testnet.End{In: "director", Name: "eth1", MAC: directorMAC1, Addrs: []string{"10.2.0.1/24", "fd02::1/64"}},
		},
	}})
	client, server := openRaw(t, n.In("client"), "eth0"), openRaw(t, n.In("server"), "eth0")
	d := start(t, n, `
network:
  neighbors:
    - {address: 10.1.0.10, mac: "`+clientMAC+`", interface: eth0}
    - {address: "fd01::10", mac: "`+clientMAC+`", interface: eth0}
    - {address: 10.2.0.10, mac: "`+serverMAC+`", interface: eth1}
    - {address: "fd02::10", mac: "`+serverMAC+`", interface: eth1}
services:
  - {protocol: udp, address: 203.0.113.10, port: 500, scheduler: rr, persistence: {}, servers: [{address: 10.2.0.10}]}
  - {protocol: udp, address: 203.0.113.12, port: 500, scheduler: rr, forward: dr, servers: [{address: 10.2.0.10}]}
  - {protocol: udp, address: 203.0.113.13, port: 0, scheduler: rr, persistence: {}, forward: tun, servers: [{address: 10.2.0.10}]}
  - {protocol: udp, address: "2001:db8::10", port: 500, scheduler: rr, servers: [{address: "fd02::10"}]}
`)
	type packet = packettest.Packet
	fromClient, toClient := packettest.Eth(directorMAC0, clientMAC), packettest.Eth(clientMAC, directorMAC0)
	fromServer, toServer := packettest.Eth(directorMAC1, serverMAC), packettest.Eth(serverMAC, directorMAC1)
	isakmp := func(p packet) []byte { return p.UDP(500, 500).Payload(marker).Bytes() }
	sealed := func(p packet, proto uint8) []byte { return p.Proto(proto).Payload(marker).Bytes() }
	const esp, ah = 50, 51

	// Before there is a connection: to the host, which has no use for them.
	for i, frame := range [][]byte{
		sealed(fromClient.IP4("10.1.0.10", "203.0.113.10"), esp), sealed(fromClient.IP4("10.1.0.10", "203.0.113.12"), ah),
		sealed(fromClient.IP6("fd01::10", "2001:db8::10"), esp), sealed(fromServer.IP4("10.2.0.10", "10.1.0.10"), esp),
	} {
		if err := client.Send(frame); i < 3 && err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			if err := server.Send(frame); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.await(patience, "it is passed to the host", func() bool { return d.stats().Totals.Passed == uint64(i+1) }); err != nil {
			t.Errorf("%s: %v; %s", packettest.Describe(frame), err, d.counters())
		}
	}

	nat := func(p packet, src, dst string) packet { return p.IP4(src, dst).TTL(63) }
	inTunnel := func(inner packet) packet { return toServer.IP4("10.2.0.1", "10.2.0.10").TTL(63).DF().Encap(inner) }
	for _, row := range []struct {
		stake            string
		request, asked   packet
		answer, answered packet
		replies          bool // by the director
		protos           []uint8
		tunnel           bool
	}{
		{
			stake: "NAT", request: fromClient.IP4("10.1.0.10", "203.0.113.10"), asked: nat(toServer, "10.1.0.10", "10.2.0.10"),
			answer: fromServer.IP4("10.2.0.10", "10.1.0.10"), answered: nat(toClient, "203.0.113.10", "10.1.0.10"), replies: true, protos: []uint8{esp, ah},
		},
		{
			stake: "NAT, IPv6", request: fromClient.IP6("fd01::10", "2001:db8::10"), asked: toServer.IP6("fd01::10", "fd02::10").TTL(63),
			answer: fromServer.IP6("fd02::10", "fd01::10"), answered: toClient.IP6("2001:db8::10", "fd01::10").TTL(63), replies: true, protos: []uint8{esp},
		},
		{
			stake: "DR", request: fromClient.IP4("10.1.0.10", "203.0.113.12"), asked: nat(toServer, "10.1.0.10", "203.0.113.12"),
			protos: []uint8{esp, ah},
		},
		{
			stake: "a tunnel, of a service of every port", request: fromClient.IP4("10.1.0.10", "203.0.113.13").DF(),
			asked: toServer.IP4("10.1.0.10", "203.0.113.13").TTL(63).DF(), protos: []uint8{esp, ah}, tunnel: true,
		},
	} {
		t.Run(row.stake, func(t *testing.T) {
			out := func(p packet) []byte { return p.Bytes() }
			if row.tunnel {
				out = func(p packet) []byte { return inTunnel(p).Bytes() }
			}
			exchange(t, client, isakmp(row.request), server, out(row.asked.UDP(500, 500).Payload(marker)))
			for _, proto := range row.protos {
				exchange(t, client, sealed(row.request, proto), server, out(row.asked.Proto(proto).Payload(marker)))
				if row.replies {
					exchange(t, server, sealed(row.answer, proto), client, sealed(row.answered, proto))
				}
			}
		})
	}
	if s := d.services(); s[0].Stats.Conns != 1 || s[0].Stats.InPackets != 3 || s[0].Stats.OutPackets != 2 {
		t.Errorf("counted %+v, want one connection of three packets in and two out", s[0].Stats)
	}
}

// cache_bypass: while no server of a mark's service can be had, its packets go
// to where they are addressed (K-PATH-6). Set on the live node.
func TestCacheBypass(t *testing.T) {
	n := testnet.New(t, routed(2))
	echoUDP(t, n.In(server(0)), ":7777")
	d := start(t, n, `
marks: [{mark: 7, interface: eth0, protocol: udp, destination: 10.0.2.11/32, ports: 7777}]
services: [{fwmark: 7, scheduler: rr, forward: dr, servers: [{address: 10.0.2.12, weight: 0}]}]
`)
	c := udpConn(t, n.In("client"), "10.0.2.11:7777")
	ask := func() error {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(marker); err != nil {
			return err
		}
		answer := make([]byte, 100)
		k, err := c.Read(answer)
		if err == nil && string(answer[:k]) != string(marker) {
			err = fmt.Errorf("the answer is %q", answer[:k])
		}
		return err
	}
	if err := ask(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without cache_bypass %v, want port unreachable", err)
	}
	for _, step := range []struct {
		value string
		works bool
	}{{"1", true}, {"0", true}} { // a connection that bypasses goes on
		d.command(d.binary, "", "sysctl", "--socket", d.socket(), "cache_bypass="+step.value)
		if err := ask(); (err == nil) != step.works {
			t.Errorf("with cache_bypass=%s: %v", step.value, err)
		}
	}
	if conns := answer[control.Conns](d, "conns").Connections; len(conns) != 1 || conns[0].Virtual != "10.0.2.11" || conns[0].Server != "0.0.0.0" {
		t.Errorf("connections %+v, want one without a server", conns)
	}
}
