package fastpath

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
)

const (
	esp = 50
	ah  = 51
)

// sealed is an ESP or AH packet, between whom p says.
func sealed(p packettest.Packet, proto uint8) packettest.Packet {
	return p.Proto(proto).Payload([]byte("0123456789abcdef"))
}

func isakmp(servers ...string) lb.ServiceSpec { return service("udp 10.0.1.100:500 rr", servers...) }

// K-PROTO-AH/ESP: they follow the ISAKMP connection of their two addresses, have
// no ports to translate and leave its timeout and its template's state as they
// are. As recorded with Linux 6.1.
func TestIPsec(t *testing.T) {
	request, reply := fromClient().IP4(client, vip), fromServer().IP4("10.0.2.12", client)
	r := newRig(t, options{}, persistent(isakmp("nat 10.0.2.11:500 1", "nat 10.0.2.12:500 1"), 300*time.Second, 0))
	r.steps(
		step{"no connection", in(sealed(request, esp)), "passed"},
		step{"nor of AH's own", in(sealed(request, ah)), "passed"},
		step{"ISAKMP", in(request.UDP(500, 500)), "> 10.0.2.12:500"},
		step{"ESP", in(sealed(request, esp)), "10.0.1.10 > 10.0.2.12 proto=50"},
		step{"AH", in(sealed(request, ah)), "10.0.1.10 > 10.0.2.12 proto=51"},
		step{"ESP back", back(sealed(reply, esp)), "10.0.1.100 > 10.0.1.10 proto=50"},
		step{"AH back", back(sealed(reply, ah)), "10.0.1.100 > 10.0.1.10 proto=51"},
		step{"from another server", back(sealed(fromServer().IP4("10.0.2.11", client), esp)), "passed"},
		step{"of another client", in(sealed(fromClient().IP4("10.0.1.11", vip), esp)), "passed"},
	)
	r.want("template", []string{r.listTemplates()}, "17 10.0.1.10:0 10.0.1.100:500 500 NONE held 1")
	if got, want := r.counters("10.0.2.12"), (lb.Counters{Conns: 1, InPackets: 3, OutPackets: 2, InBytes: 28 + 72, OutBytes: 72}); got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
	r.steps(step{"ISAKMP back", back(reply.UDP(500, 500)), "10.0.1.100:500 >"})
	r.want("template", []string{r.listTemplates()}, "17 10.0.1.10:0 10.0.1.100:500 500 ASSURED held 1")

	r.pass(100 * time.Second)
	r.edit(func(s *lb.Spec) { s.Timeouts.UDP = 50 * time.Second })
	r.steps(step{"TTL", in(sealed(request, esp).TTL(1)), "ttl_exceeded"})
	r.want("re-armed with the old timeout", r.list(), "10.0.1.10:500 10.0.1.100:500 500 UDP 5m0s")
	r.steps(step{"ISAKMP has the new one", in(request.UDP(500, 500)), "> 10.0.2.12:500"})
	r.want("re-armed with the new timeout", r.list(), "10.0.1.10:500 10.0.1.100:500 500 UDP 50s")

	r.edit(func(s *lb.Spec) { s.Services[0].Servers = s.Services[0].Servers[:1] })
	r.steps(
		step{"K-CONN-10: its server is gone", in(sealed(request, esp)), "server_gone"},
		step{"replies still go", back(sealed(reply, esp)), "10.0.1.100 > 10.0.1.10"},
	)
	r.edit(func(s *lb.Spec) { s.Sysctl.ExpireNoDestConn = 1 })
	r.steps(step{"expire_nodest_conn: the host's", in(sealed(request, esp)), "passed"})
}

// Each method, and what does not follow: another virtual port, another server
// port on the way back, one-packet connections.
func TestIPsecMethods(t *testing.T) {
	ops := isakmp("nat 10.0.2.11:500 1")
	ops.OnePacket = true
	for _, row := range []struct {
		stake         string
		service       lb.ServiceSpec
		request, back string
	}{
		{"DR", isakmp("dr 10.0.2.11:500 1"), "10.0.1.10 > 10.0.1.100 proto=50", "passed"},
		{"TUN", isakmp("tun 10.0.2.11:500 1"), "10.0.2.1 > 10.0.2.11", "passed"},
		{"NAT to another port: found by the client's side only", isakmp("nat 10.0.2.11:501 1"), "10.0.1.10 > 10.0.2.11 proto=50", "passed"},
		{"one-packet", ops, "passed", "passed"},
	} {
		r := newRig(t, options{}, row.service)
		r.steps(
			step{row.stake, in(fromClient().IP4(client, vip).UDP(500, 500)), ""},
			step{row.stake, in(sealed(fromClient().IP4(client, vip), esp)), row.request},
			step{row.stake, back(sealed(fromServer().IP4("10.0.2.11", client), esp)), row.back},
		)
	}
	r := newRig(t, options{}, service("udp [fd00:1::100]:500 rr", "nat [fd00:2::11]:500 1"))
	r.steps(
		step{"IPv6", in(fromClient().IP6(client6, vip6).UDP(500, 500)), "[fd00:2::11]:500"},
		step{"IPv6 ESP", in(sealed(fromClient().IP6(client6, vip6), esp)), "fd00:1::10 > fd00:2::11"},
		step{"IPv6 ESP back", back(sealed(fromServer().IP6("fd00:2::11", client6), esp)), "fd00:1::100 > fd00:1::10"},
	)
}

// ICMP errors about ESP follow it, their quotes translated without ports.
func TestIPsecErrors(t *testing.T) {
	r := newRig(t, options{}, isakmp("nat 10.0.2.11:500 1"))
	sent := sealed(packettest.Eth(serverMAC, backMAC).IP4(client, "10.0.2.11"), esp)
	answer := sealed(packettest.Eth(clientMAC, frontMAC).IP4(vip, client), esp)
	r.steps(
		step{"ISAKMP", in(fromClient().IP4(client, vip).UDP(500, 500)), ""},
		step{"from the server", back(fromServer().IP4("10.0.2.11", client).ICMP4(3, 2, 0).Quote(sent, 28)), "10.0.1.10 > 10.0.1.100 proto=50"},
		step{"from the client", in(fromClient().IP4(client, vip).ICMP4(3, 2, 0).Quote(answer, 28)), "10.0.2.11 > 10.0.1.10 proto=50"},
	)
}

// The worker that owns the ISAKMP connection gets what follows it, both ways.
func TestIPsecHandoff(t *testing.T) {
	r := newRig(t, options{workers: 4}, isakmp("nat 10.0.2.11:500 1"))
	handed := 0
	for i := range 20 {
		from := fmt.Sprintf("172.16.0.%d", 1+i)
		want := r.fate(in(fromClient().IP4(from, vip).UDP(500, 500)))
		owner := r.batch.Pkts[0].Owner
		if want != "handed_over" {
			continue
		}
		handed++
		for _, a := range []arrival{in(sealed(fromClient().IP4(from, vip), esp)), back(sealed(fromServer().IP4("10.0.2.11", from), ah))} {
			if got := r.fate(a); got != want || r.batch.Pkts[0].Owner != owner {
				t.Errorf("%s: %s to %d, want it with its ISAKMP connection, to %d", from, got, r.batch.Pkts[0].Owner, owner)
			}
		}
	}
	if handed == 0 {
		t.Error("nothing was handed over")
	}
}
