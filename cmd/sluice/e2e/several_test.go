package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// sightings are the links on which packets of each client port were seen.
type sightings map[uint16]map[int]bool

// watchLinks notes, until the returned function is called, by which of a
// namespace's interfaces packets to a TCP port arrive.
func watchLinks(t *testing.T, s *testnet.Namespace, port uint16, devs ...string) func() sightings {
	t.Helper()
	type sight struct {
		port uint16
		link int
	}
	seen, ended := make(chan sight, 1<<16), make(chan struct{})
	raws := make([]*testnet.Raw, len(devs))
	for i, dev := range devs {
		r, err := s.OpenRaw(dev)
		if err != nil {
			t.Fatal(err)
		}
		raws[i] = r
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				f, err := r.Receive(patience)
				if err != nil {
					return
				}
				var in packet.Info
				if packet.Parse(f.Bytes, &in) == packet.Parsed && in.Proto == packet.ProtoTCP && in.DstPort == port {
					seen <- sight{in.SrcPort, i}
				}
			}
		}()
	}
	return func() sightings {
		for _, r := range raws {
			r.Close()
			<-ended
		}
		close(seen)
		all := sightings{}
		for x := range seen {
			if all[x.port] == nil {
				all[x.port] = map[int]bool{}
			}
			all[x.port][x.link] = true
		}
		return all
	}
}

// A route with two next hops to the servers and one to the clients: connections go
// both ways, the whole of each goes one, and when a link goes down its own move to the other.
func TestSeveralNextHops(t *testing.T) {
	const rip = "10.9.9.9"
	link := func(i int) testnet.Link { // the director's ethN to both neighbours
		return testnet.Link{
			A: testnet.End{In: "director", Name: fmt.Sprintf("eth%d", i), Addrs: []string{fmt.Sprintf("10.0.%d.1/24", i)}},
			B: testnet.End{In: map[bool]string{true: "client", false: "server"}[i%2 == 0], Name: fmt.Sprintf("eth%d", i), Addrs: []string{fmt.Sprintf("10.0.%d.2/24", i)}},
		}
	}
	plan := testnet.Plan{
		Links: []testnet.Link{link(0), link(1), link(2), link(3)},
		VIPs:  []testnet.VIP{{In: "server", Addr: rip}, {In: "client", Addr: "10.8.8.8"}},
	}
	for _, s := range []string{"client", "server", "director"} {
		plan.Sysctls = append(plan.Sysctls, testnet.Sysctl{In: s, Key: "net.ipv4.conf.all.rp_filter", Value: "0"})
	}
	n := testnet.New(t, plan)
	for in, commands := range map[string][]string{
		"director": {"route add 10.9.9.9 nexthop via 10.0.1.2 nexthop via 10.0.3.2", "route add 10.8.8.8 nexthop via 10.0.0.2 nexthop via 10.0.2.2"},
		"client":   {"route add default src 10.8.8.8 nexthop via 10.0.0.1 nexthop via 10.0.2.1"},
		"server":   {"route add default src 10.9.9.9 nexthop via 10.0.1.1 nexthop via 10.0.3.1"},
	} {
		for _, c := range commands {
			ip(t, n.In(in), c)
		}
		for _, dev := range []string{"eth0", "eth1", "eth2", "eth3"} {
			_ = n.In(in).Sysctl("net.ipv4.conf."+dev+".rp_filter", "0") // of those that it has
		}
	}
	echoTCP(t, n.In("server"), ":80")
	d := start(t, n, `
interfaces: [{name: eth0, role: client}, {name: eth1, role: server}, {name: eth2, role: client}, {name: eth3, role: server}]
services: [{protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, servers: [{address: `+rip+`}]}]
`)
	towards := watchLinks(t, n.In("server"), 80, "eth1", "eth3")
	const connections = 40
	var living []net.Conn
	talk := func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(patience))
		var got [5]byte
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err := c.Read(got[:])
		return err
	}
	for range connections {
		c, err := n.In("client").DialContext(t.Context(), "tcp", "203.0.113.10:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 3 {
			if err := talk(c); err != nil {
				t.Fatal(err)
			}
		}
		living = append(living, c)
	}
	links := map[int]int{}
	for port, seen := range towards() {
		if len(seen) != 1 {
			t.Errorf("packets of client port %d went by links %v, want one", port, seen)
		}
		for l := range seen {
			links[l]++
		}
	}
	if links[0]+links[1] != connections || min(links[0], links[1]) < connections/5 {
		t.Errorf("%d connections went by %v, want about half of them each way", connections, links)
	}
	var sent [4]uint64
	for _, w := range d.status().Workers {
		for i, p := range w.Ports {
			sent[i] += p.TxPackets
		}
	}
	if min(sent[0], sent[2]) < (sent[0]+sent[2])/5 {
		t.Errorf("the ports sent %v packets: replies leave by eth0 and eth2, about as many by each", sent)
	}

	for _, down := range []string{"eth3", "eth2"} {
		if err := n.In("director").SetUp(down, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, in := range []string{"client", "server"} { // they had the same two ways
		ip(t, n.In(in), "route replace default src "+map[string]string{"client": "10.8.8.8 via 10.0.0.1", "server": "10.9.9.9 via 10.0.1.1"}[in])
	}
	for i, c := range living {
		if err := talk(c); err != nil {
			t.Errorf("connection %d does not outlive its link: %v", i, err)
		}
	}
}

// ip runs a command of ip(8) in a namespace.
func ip(t *testing.T, s *testnet.Namespace, command string) {
	t.Helper()
	if out, err := s.Run("ip", strings.Fields(command)...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
