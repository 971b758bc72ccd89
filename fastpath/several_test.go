package fastpath

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb/flow"
)

// uplinks is a director whose clients and servers are each behind two routers:
// clients by ports 0 and 2, servers by 1 and 3. The second router to the
// servers is not resolved yet.
func uplinks(t *testing.T, method string) *rig {
	t.Helper()
	r := newRig(t, options{max: 10_000, roles: []Role{RoleBoth, RoleBoth, RoleBoth, RoleBoth}},
		service("tcp 10.0.1.100:80 rr", method+" 10.9.0.11:80 1"), service("udp 10.0.1.100:80 rr", method+" 10.9.0.11:80 1"))
	r.pipe.Routes(fourLinks(t, 1, true, true))
	return r
}

// fourLinks is the table of uplinks; third and fourth say whether those links
// are up.
func fourLinks(t *testing.T, version uint64, third, fourth bool) *nexthop.Table {
	t.Helper()
	var b nexthop.Builder
	macs := [4][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 3}, {2, 0, 0, 0, 0, 4}}
	for i, mac := range macs {
		b.AddInterface(nexthop.Interface{
			Name: fmt.Sprintf("eth%d", i), Port: i, MAC: mac, MTU: 1500, Up: i < 2 || i == 2 && third || i == 3 && fourth,
			Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.%d.1/24", i+10))},
		})
		if i < 3 {
			if err := b.AddNeighbor(netip.AddrFrom4([4]byte{10, 0, byte(i + 10), 254}), mac, i); err != nil {
				t.Fatal(err)
			}
		}
	}
	for to, by := range map[string][2]int{"0.0.0.0/0": {0, 2}, "10.9.0.0/16": {1, 3}} {
		var ways []nexthop.Way
		for _, i := range by {
			ways = append(ways, nexthop.Way{Via: netip.AddrFrom4([4]byte{10, 0, byte(i + 10), 254}), Iface: i})
		}
		if err := b.AddWays(netip.MustParsePrefix(to), ways, netip.Addr{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build(version)
}

// ways says by which ports packets leave, "held" for one that waits.
func (r *rig) ways(frames ...arrival) (out []string) {
	for _, fate := range r.process(frames...) {
		port, _, _ := strings.Cut(fate, " ")
		out = append(out, port)
	}
	return out
}

// All packets of a connection take one way towards its server, and one towards its
// client, whatever they are and by whichever link they come; connections differ.
func TestSeveralWays(t *testing.T) {
	for _, method := range []string{"nat", "dr", "tun"} {
		r := uplinks(t, method)
		const from = "198.51.100.7"
		toServer, toClient := map[string]int{}, map[string]int{}
		for port := uint16(1000); port < 1200; port++ {
			ask := func(mac string, flags uint8) packettest.Packet {
				return packettest.Eth(mac, clientMAC).IP4(from, vip).TCP(port, 80, flags)
			}
			quoted := packettest.Eth(clientMAC, frontMAC).IP4(vip, from).TCP(80, port, ackFlag)
			requests := r.ways(
				arrival{0, ask(frontMAC, synFlag).Bytes()}, arrival{0, ask(frontMAC, synFlag).Bytes()}, // again
				arrival{2, ask("02:00:00:00:00:03", ackFlag).Bytes()},
				arrival{0, fromClient().IP4("198.51.100.1", vip).ICMP4(3, 1, 0).Quote(quoted, 28).Bytes()},
			)
			server := "10.9.0.11"
			if method != "nat" {
				server = vip
			}
			answer := func(mac string) packettest.Packet {
				return packettest.Eth(mac, serverMAC).IP4(server, from).TCP(80, port, synFlag|ackFlag)
			}
			replies := r.ways(arrival{1, answer(backMAC).Bytes()}, arrival{3, answer("02:00:00:00:00:04").Bytes()})
			for _, ways := range [][]string{requests, replies} {
				for _, w := range ways {
					if w != ways[0] {
						t.Fatalf("%s: packets of one connection go %v", method, ways)
					}
				}
			}
			toServer[requests[0]]++
			toClient[replies[0]]++
		}
		if len(toServer) != 2 || toServer["1"] < 60 || toServer["held"] < 60 || len(toClient) != 2 || toClient["0"] < 60 || toClient["2"] < 60 {
			t.Errorf("%s: 200 connections go %v and come back %v, want half of them each way", method, toServer, toClient)
		}
	}
}

// A way that is gone leaves the others, and a packet that waits for one says by what
// it was chosen, so that the slow path chooses the same.
func TestSeveralWaysChange(t *testing.T) {
	r := uplinks(t, "nat")
	syn := func(port uint16) arrival {
		return in(fromClient().IP4("198.51.100.7", vip).TCP(port, 80, synFlag))
	}
	held := uint16(1000)
	for r.ways(syn(held))[0] != "held" {
		held++
	}
	k := &r.batch.Pkts[0]
	key := flow.Key{Client: k.Info.Src, Local: flow.FromNetip(netip.MustParseAddr(vip)), ClientPort: held, LocalPort: 80, Proto: 6}
	if k.Flow != nexthop.FlowHash(&key) || k.Target.String() != "10.9.0.11" {
		t.Errorf("held for %v by %x, want 10.9.0.11 by %x, of the connection", k.Target, k.Flow, nexthop.FlowHash(&key))
	}
	r.pipe.Routes(fourLinks(t, 2, false, false))
	for range 2 {
		if got := r.ways(syn(held), back(packettest.Eth(backMAC, serverMAC).IP4("10.9.0.11", "198.51.100.7").TCP(80, held, synFlag|ackFlag))); got[0] != "1" || got[1] != "0" {
			t.Errorf("with the other links down packets go %v, want 1 and back 0", got)
		}
	}
	syns := make([]arrival, 64)
	for i := range syns {
		syns[i] = in(fromClient().IP4("198.51.100.7", vip).UDP(uint16(i), 80))
	}
	r.pipe.Routes(fourLinks(t, 3, true, true))
	r.fill(syns...)
	if n := testing.AllocsPerRun(20, func() {
		r.fill(syns...)
		r.pipe.Process(&r.batch, r.now)
	}); n != 0 {
		t.Errorf("a batch along several ways allocates %v times, want 0", n)
	}
}
