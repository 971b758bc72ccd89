package e2e

import (
	"bytes"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// marker is what frames made by hand carry, to tell them from others.
var marker = []byte("made by hand for a test")

// Frames with VLAN tags, one and two, are the director's by the VLANs of its
// network section, which the kernel knows nothing of. Frame by frame, request
// and reply, as they have to be.
func TestVLAN(t *testing.T) {
	const clientMAC, serverMAC = "02:00:00:00:00:10", "02:00:00:00:01:10"
	n := testnet.New(t, testnet.Plan{Links: []testnet.Link{
		{A: testnet.End{In: "client", Name: "eth0", MAC: clientMAC}, B: testnet.End{In: "director", Name: "eth0", MAC: directorMAC0}},
		{A: testnet.End{In: "server", Name: "eth0", MAC: serverMAC}, B: testnet.End{In: "director", Name: "eth1", MAC: directorMAC1}},
	}})
	client, server := openRaw(t, n.In("client"), "eth0"), openRaw(t, n.In("server"), "eth0")
	start(t, n, `
network:
  interfaces:
    - {name: eth0.100, addresses: [10.1.0.1/24, "fd01::1/64"]}
    - {name: eth0.200, addresses: []}
    - {name: eth0.200.7, addresses: [10.1.7.1/24]}
    - {name: eth1.300, addresses: [10.2.0.1/24, "fd02::1/64"]}
    - {name: eth1.400, addresses: [], vlan_protocol: 802.1ad}
    - {name: eth1.400.4094, addresses: [10.2.7.1/24]}
  routes:
    - {to: 10.9.0.0/16, via: 10.1.7.254}
  neighbors:
    - {address: 10.1.0.10, mac: "`+clientMAC+`", interface: eth0.100}
    - {address: "fd01::10", mac: "`+clientMAC+`", interface: eth0.100}
    - {address: 10.1.7.254, mac: "`+clientMAC+`", interface: eth0.200.7}
    - {address: 10.2.0.10, mac: "`+serverMAC+`", interface: eth1.300}
    - {address: "fd02::10", mac: "`+serverMAC+`", interface: eth1.300}
    - {address: 10.2.7.10, mac: "`+serverMAC+`", interface: eth1.400.4094}
services:
  - {protocol: udp, address: 203.0.113.10, port: 80, scheduler: rr, servers: [{address: 10.2.0.10, port: 8080}]}
  - {protocol: udp, address: 203.0.113.11, port: 80, scheduler: rr, servers: [{address: 10.2.7.10, port: 8080}]}
  - {protocol: udp, address: 203.0.113.12, port: 80, scheduler: rr, forward: dr, servers: [{address: 10.2.0.10}]}
  - {protocol: udp, address: 203.0.113.13, port: 80, scheduler: rr, forward: tun, servers: [{address: 10.2.7.10}]}
  - {protocol: udp, address: "2001:db8::10", port: 80, scheduler: rr, servers: [{address: "fd02::10", port: 8080}]}
`)
	type packet = packettest.Packet
	fromClient, toClient := packettest.Eth(directorMAC0, clientMAC), packettest.Eth(clientMAC, directorMAC0)
	fromServer, toServer := packettest.Eth(directorMAC1, serverMAC), packettest.Eth(serverMAC, directorMAC1)
	const customer, service = 0x8100, 0x88a8 // 802.1Q and 802.1ad
	ask := func(p packet) []byte { return p.UDP(40000, 80).Payload(marker).Bytes() }
	for _, row := range []struct {
		stake            string
		request, asked   []byte
		answer, answered []byte // nil: the server answers by another way
	}{
		{
			stake:    "one tag on either side, NAT",
			request:  ask(fromClient.VLAN(100).IP4("10.1.0.10", "203.0.113.10")),
			asked:    toServer.VLAN(300).IP4("10.1.0.10", "10.2.0.10").TTL(63).UDP(40000, 8080).Payload(marker).Bytes(),
			answer:   fromServer.VLAN(300).IP4("10.2.0.10", "10.1.0.10").UDP(8080, 40000).Payload(marker).Bytes(),
			answered: toClient.VLAN(100).IP4("203.0.113.10", "10.1.0.10").TTL(63).UDP(80, 40000).Payload(marker).Bytes(),
		},
		{
			stake:    "one tag, IPv6",
			request:  ask(fromClient.VLAN(100).IP6("fd01::10", "2001:db8::10")),
			asked:    toServer.VLAN(300).IP6("fd01::10", "fd02::10").TTL(63).UDP(40000, 8080).Payload(marker).Bytes(),
			answer:   fromServer.VLAN(300).IP6("fd02::10", "fd01::10").UDP(8080, 40000).Payload(marker).Bytes(),
			answered: toClient.VLAN(100).IP6("2001:db8::10", "fd01::10").TTL(63).UDP(80, 40000).Payload(marker).Bytes(),
		},
		{
			stake:    "two tags on either side, towards the server by 802.1ad (QinQ), by a gateway",
			request:  ask(fromClient.Tag(service, 200).Tag(customer, 7).IP4("10.9.0.10", "203.0.113.11")),
			asked:    toServer.Tag(service, 400).Tag(customer, 4094).IP4("10.9.0.10", "10.2.7.10").TTL(63).UDP(40000, 8080).Payload(marker).Bytes(),
			answer:   fromServer.Tag(service, 400).Tag(customer, 4094).IP4("10.2.7.10", "10.9.0.10").UDP(8080, 40000).Payload(marker).Bytes(),
			answered: toClient.VLAN(200).VLAN(7).IP4("203.0.113.11", "10.9.0.10").TTL(63).UDP(80, 40000).Payload(marker).Bytes(),
		},
		{
			stake:    "fewer tags out than in",
			request:  ask(fromClient.VLAN(200).VLAN(7).IP4("10.9.0.10", "203.0.113.10")),
			asked:    toServer.VLAN(300).IP4("10.9.0.10", "10.2.0.10").TTL(63).UDP(40000, 8080).Payload(marker).Bytes(),
			answer:   fromServer.VLAN(300).IP4("10.2.0.10", "10.9.0.10").UDP(8080, 40000).Payload(marker).Bytes(),
			answered: toClient.VLAN(200).VLAN(7).IP4("203.0.113.10", "10.9.0.10").TTL(63).UDP(80, 40000).Payload(marker).Bytes(),
		},
		{
			stake:   "priority in the tag, DR",
			request: ask(fromClient.Tag(customer, 5<<13|100).IP4("10.1.0.10", "203.0.113.12")),
			asked:   toServer.VLAN(300).IP4("10.1.0.10", "203.0.113.12").TTL(63).UDP(40000, 80).Payload(marker).Bytes(),
		},
		{
			stake:   "no tag in, two out around a tunnel",
			request: ask(fromClient.IP4("10.1.0.10", "203.0.113.13").DF()),
			asked: toServer.Tag(service, 400).Tag(customer, 4094).IP4("10.2.7.1", "10.2.7.10").TTL(63).DF().
				Encap(packettest.Eth(serverMAC, directorMAC1).IP4("10.1.0.10", "203.0.113.13").TTL(63).DF().UDP(40000, 80).Payload(marker)).Bytes(),
		},
	} {
		t.Run(row.stake, func(t *testing.T) {
			exchange(t, client, row.request, server, row.asked)
			if row.answer != nil {
				exchange(t, server, row.answer, client, row.answered)
			}
		})
	}
}

// openRaw opens a raw socket on an interface for the time of the test.
func openRaw(t *testing.T, s *testnet.Namespace, dev string) *testnet.Raw {
	t.Helper()
	r, err := s.OpenRaw(dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// exchange sends a frame and wants another to come out. What the kernels have
// to say to each other meanwhile is left aside.
func exchange(t *testing.T, from *testnet.Raw, sent []byte, to *testnet.Raw, want []byte) {
	t.Helper()
	if err := from.Send(sent); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		f, err := to.Receive(time.Until(deadline))
		if err != nil {
			t.Fatalf("%s did not come out (%v)", packettest.Describe(want), err)
		}
		if !bytes.Contains(f.Bytes, marker) {
			continue
		}
		if got := f.Bytes; !bytes.Equal(got, want) {
			t.Errorf("sent %s, got %s, want %s\ngot  %x\nwant %x", packettest.Describe(sent), packettest.Describe(got), packettest.Describe(want), got, want)
		}
		return
	}
}
