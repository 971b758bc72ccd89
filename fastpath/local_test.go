package fastpath

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
)

// K-FWD-LOCAL: a server that is the director itself. DR and TUN hand the packet
// to the host as it came, NAT translated, none with a TTL less; a loopback
// address is none of a client's (K-PATH-9).
func TestLocalServer(t *testing.T) {
	request := fromClient().IP4(client, vip).TCP(1000, 80, synFlag).TTL(1)
	datagram := func(a arrival) []byte { return a.frame[14:] }
	for _, row := range []struct {
		stake, server string
		want          string
		handed        []byte // the IP datagram that the host gets
	}{
		{"NAT", "nat 10.0.2.1:8080 1", "passed", datagram(in(fromClient().IP4(client, "10.0.2.1").TCP(1000, 8080, synFlag).TTL(1)))},
		{"DR", "dr 10.0.2.1:80 1", "passed", datagram(in(request))},
		{"TUN", "tun 10.0.2.1:80 1", "passed", datagram(in(request))},
		{"NAT to loopback", "nat 127.0.0.1:80 1", "local_server", nil},
		{"DR to loopback", "dr 127.0.0.1:80 1", "passed", datagram(in(request))},
		{"TUN to loopback", "tun 127.0.0.1:80 1", "passed", datagram(in(request))},
	} {
		r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", row.server))
		r.steps(step{row.stake, in(request), row.want})
		if k := &r.batch.Pkts[0]; row.handed != nil && !bytes.Equal(k.Chunk[k.Off:][k.Info.L3:k.Info.End], row.handed) {
			t.Errorf("%s: the host gets %s", row.stake, packettest.Describe(k.Chunk[k.Off:k.Off+k.Len]))
		}
		r.want(row.stake, r.list(), "10.0.1.10:1000 10.0.1.100:80 "+row.server[strings.LastIndexByte(row.server, ':')+1:len(row.server)-2]+" SYN_RECV 1m0s")
	}
	r := newRig(t, options{}, service("tcp [fd00:1::100]:80 rr", "nat [fd00:2::1]:8080 1"))
	r.steps(step{"IPv6", in(fromClient().IP6(client6, vip6).TCP(1000, 80, synFlag).TTL(1)), "passed"})
	k := &r.batch.Pkts[0]
	if want := in(fromClient().IP6(client6, "fd00:2::1").TCP(1000, 8080, synFlag).TTL(1)).frame[14:]; !bytes.Equal(k.Chunk[k.Off:][k.Info.L3:k.Info.End], want) {
		t.Errorf("IPv6: the host gets %s", packettest.Describe(k.Chunk[k.Off:k.Off+k.Len]))
	}
}

// own sends a frame through the pipeline as one of the host's own stack.
func (r *rig) own(p packettest.Packet) string {
	r.fill(arrival{0, p.Bytes()})
	r.batch.Pkts[0].Own = true
	r.pipe.Process(&r.batch, r.now)
	k := &r.batch.Pkts[0]
	if k.Verdict != Forward {
		return k.Verdict.String()
	}
	return packettest.Describe(k.Chunk[k.Off : k.Off+k.Len])
}

// The answers of the host's stack are translated back and keep their TTL; what
// has no connection goes where the host sent it, as it is.
func TestLocalAnswers(t *testing.T) {
	r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", "nat 10.0.2.1:8080 1"), service("udp 10.0.1.100:53 rr", "nat 10.0.2.1:53 1"))
	r.steps(
		step{"a request", syn(1000), "passed"},
		step{"by UDP", in(fromClient().IP4(client, vip).UDP(1000, 53)), "passed"},
	)
	host := packettest.Eth("02:00:00:00:00:99", "02:00:00:00:00:99")
	closed := host.IP4(client, "10.0.2.1").UDP(1000, 53)
	for _, row := range []struct {
		stake string
		p     packettest.Packet
		want  string
	}{
		{"an answer", host.IP4("10.0.2.1", client).TCP(8080, 1000, synFlag|ackFlag), "ttl=64"},
		{"of TTL 1", host.IP4("10.0.2.1", client).TTL(1).TCP(8080, 1000, ackFlag), "ttl=1 "},
		{"of TTL 255", host.IP4("10.0.2.1", client).TTL(255).TCP(8080, 1000, ackFlag), "ttl=255 "},
		{"from the service", host.IP4("10.0.2.1", client).TCP(8080, 1000, ackFlag), "10.0.1.100:80 > 10.0.1.10:1000 TCP"},
		{"whole", host.IP4("10.0.2.1", client).TCP(8080, 1000, ackFlag), "csum=ok"},
		{"UDP", host.IP4("10.0.2.1", client).UDP(53, 1000), "10.0.1.100:53 > 10.0.1.10:1000 UDP"},
		{"to the client's MAC", host.IP4("10.0.2.1", client).UDP(53, 1000), "> " + clientMAC},
		{"a server's that clients also ask directly", host.IP4("10.0.2.1", client).TTL(1).TCP(8080, 1001, ackFlag), "> " + clientMAC + " IP ttl=1 id=0x0000 10.0.2.1:8080 > 10.0.1.10:1001"},
		{"not IPVS's", host.IP4("10.0.2.1", client).ICMP4(8, 0, 0), "10.0.2.1 > 10.0.1.10 ICMP(1) type=8"},
		{"of no family", host.IP6("fd00:2::1", client6).TCP(8080, 1001, ackFlag), "[fd00:2::1]:8080 > [fd00:1::10]:1001"},
		{"to the host", host.IP4("10.0.2.1", "10.0.1.1").TCP(8080, 9, ackFlag), "local_server"},
		{"no port is closed to the client", host.IP4("10.0.2.1", client).ICMP4(3, 3, 0).Quote(closed, 28), "ttl=64 id=0x0000 10.0.1.100 > 10.0.1.10 ICMP(1) type=3 code=3"},
		{"that quotes what the client sent", host.IP4("10.0.2.1", client).ICMP4(3, 3, 0).Quote(closed, 28), "10.0.1.10:1000 > 10.0.1.100:53"},
		{"an error of no connection", host.IP4("10.0.2.1", client).ICMP4(3, 3, 0).Quote(host.IP4(client, "10.0.2.1").UDP(1001, 53), 28), "10.0.2.1 > 10.0.1.10 ICMP(1) type=3 code=3"},
	} {
		if got := r.own(row.p); !strings.Contains(got, row.want) || strings.Contains(got, "ipcsum=BAD") {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
	}
	if got := r.counters("10.0.2.1"); got.OutPackets != 9 {
		t.Errorf("%d answers and errors are counted, want 9", got.OutPackets)
	}
	// ICMP errors about it go the same way.
	answer := packettest.Eth(clientMAC, frontMAC).IP4(vip, client).TCP(80, 1000, ackFlag)
	r.steps(step{"an error from the client", in(fromClient().IP4(client, vip).ICMP4(3, 3, 0).Quote(answer, 40)), "passed"})
	k := &r.batch.Pkts[0]
	if got := packettest.Describe(k.Chunk[k.Off : k.Off+k.Len]); !strings.Contains(got, "10.0.1.10 > 10.0.2.1 ") || !strings.Contains(got, "10.0.2.1:8080 >") || !strings.Contains(got, "ttl=64") {
		t.Errorf("the host gets %s, want it translated", got)
	}
}

// Those of DR and TUN stay as they are, and are accounted: without them the
// director would take the connection for one whose answers it does not see
// (K-CONN-4).
func TestLocalDirectAnswers(t *testing.T) {
	host := packettest.Eth("02:00:00:00:00:99", "02:00:00:00:00:99")
	for _, server := range []string{"dr 10.0.2.1:80 1", "tun 10.0.2.1:80 1", "dr 127.0.0.1:80 1"} {
		r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", server))
		r.steps(step{server, syn(1000), "passed"})
		const want = "ttl=64 id=0x0000 10.0.1.100:80 > 10.0.1.10:1000 TCP [R]"
		if got := r.own(host.IP4(vip, client).TCP(80, 1000, rstFlag)); !strings.Contains(got, want) || !strings.Contains(got, "> "+clientMAC) {
			t.Errorf("%s: its answer leaves as %s, want %s", server, got, want)
		}
		if l := r.list(); len(l) != 1 || !strings.Contains(l[0], "CLOSE 10s") {
			t.Errorf("%s: connections %q, want one that the answer closed", server, l)
		}
		address, _, _ := strings.Cut(strings.Fields(server)[1], ":")
		if got := r.counters(address).OutPackets; got != 1 {
			t.Errorf("%s: %d answers are counted, want 1", server, got)
		}
	}
}

// K-FWD-BYPASS, K-PATH-6: with cache_bypass a packet of a mark service without
// servers goes where its client addressed it, if that is of the world.
func TestBypass(t *testing.T) {
	svc := marked(service("tcp 10.0.1.100:80 rr"), 5)
	r := newRig(t, options{}, svc)
	r.edit(func(s *lb.Spec) { s.Marks = []lb.MarkRule{{Mark: 5, Interface: "eth0"}} })
	to := func(dst string, sport uint16, flags uint8) arrival {
		return in(fromClient().IP4(client, dst).TCP(sport, 80, flags))
	}
	r.steps(step{"off", to("10.0.2.12", 1000, synFlag), "no_server"})
	r.edit(func(s *lb.Spec) { s.Sysctl.CacheBypass = 1 })
	r.steps(
		step{"bypassed", to("10.0.2.12", 1000, synFlag), "10.0.1.10:1000 > 10.0.2.12:80"},
		step{"TTL less by one", to("10.0.2.12", 1000, ackFlag), "ttl=63"},
		step{"its answer", back(fromServer().IP4("10.0.2.12", client).TCP(80, 1000, synFlag|ackFlag)), "10.0.2.12:80 > 10.0.1.10:1000"},
		step{"UDP", in(fromClient().IP4(client, "10.0.2.12").UDP(1000, 53)), "10.0.2.12:53"},
		step{"TTL 1", in(fromClient().IP4(client, "10.0.2.12").TTL(1).TCP(6, 80, synFlag)), "ttl_exceeded"},
		step{"the host's own address", to("10.0.1.1", 7, synFlag), "no_server"},
		step{"no way there", to("203.0.113.1", 8, synFlag), "no_server"},
		step{"an ACK opens nothing", to("10.0.2.13", 9, ackFlag), "passed"},
		step{"an error about it", in(fromClient().IP4("10.0.1.254", "10.0.2.12").ICMP4(3, 1, 0).Quote(packettest.Eth(clientMAC, frontMAC).IP4("10.0.2.12", client).TCP(80, 1000, ackFlag), 40)), "10.0.1.254 > 10.0.2.12"},
	)
	r.want("connections", r.list(),
		"10.0.1.10:1000 10.0.2.12:53 0 UDP 5m0s",
		"10.0.1.10:1000 10.0.2.12:80 0 ESTABLISHED 15m0s",
		"10.0.1.10:6 10.0.2.12:80 0 SYN_RECV 1m0s")
	// A server that comes is for new connections, and for the old one's SYN
	// once that is over (K-CONN-9).
	r.edit(func(s *lb.Spec) {
		s.Services[0].Servers = []lb.RealSpec{{Key: lb.RealKey{Addr: netip.MustParseAddr("10.0.2.11")}, Weight: 1, Forward: lb.DR}}
	})
	r.steps(
		step{"stays", to("10.0.2.12", 1000, ackFlag), "02:00:00:00:02:0c"},
		step{"resets", to("10.0.2.12", 1000, rstFlag), "02:00:00:00:02:0c"},
		step{"anew", to("10.0.2.12", 1000, synFlag), "02:00:00:00:02:0b"},
	)
	svc.OnePacket = true
	r = newRig(t, options{}, svc)
	r.edit(func(s *lb.Spec) {
		s.Marks, s.Sysctl.CacheBypass = []lb.MarkRule{{Mark: 5, Interface: "eth0"}}, 1
	})
	r.steps(step{"one packet", in(fromClient().IP4(client, "10.0.2.12").UDP(1000, 53)), "10.0.2.12:53"})
	r.want("one packet", r.list())
}
