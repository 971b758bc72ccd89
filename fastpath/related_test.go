package fastpath

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
)

// quoting is an ICMP error from a router on the clients' side about what the
// service at VIP:80 sent to a client.
func quoting(to string, port uint16) packettest.Packet {
	answer := packettest.Eth(clientMAC, frontMAC).IP4(vip, to).TCP(80, port, ackFlag)
	return fromClient().IP4("10.0.1.254", vip).ICMP4(3, 1, 0).Quote(answer, 28)
}

// errorsScheduled has schedule_icmp on.
func errorsScheduled(t *testing.T, services ...lb.ServiceSpec) *rig {
	t.Helper()
	r := newRig(t, options{}, services...)
	r.edit(func(s *lb.Spec) { s.Sysctl.ScheduleICMP = 1 })
	return r
}

// K-ICMP-4: an error about no connection makes one, in NONE for 3 s, by what it
// quotes. As recorded with Linux 6.1.
func TestScheduleICMP(t *testing.T) {
	servers := func(method string) []string {
		return []string{method + " 10.0.2.11:80 1", method + " 10.0.2.12:80 1", method + " 10.0.2.13:80 1"}
	}
	r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", servers("nat")...))
	r.steps(step{"off", in(quoting(client, 7777)), "passed"})
	r = errorsScheduled(t, service("tcp 10.0.1.100:80 rr", servers("nat")...))
	other := packettest.Eth(clientMAC, frontMAC).IP4(vip, client)
	r.steps(
		step{"scheduled", in(quoting(client, 7777)), "10.0.1.254 > 10.0.2.13 "},
		step{"the quote too", in(quoting(client, 7777)), "10.0.2.13:80 > 10.0.1.10:7777"},
		step{"TTL 1, but a connection", in(quoting(client, 1).TTL(1)), "ttl_exceeded"},
		step{"wrong checksum, but a connection", in(quoting(client, 2).BadChecksum()), "icmp_checksum"},
		step{"K-CONN-12", in(quoting(client, 20)), "passed"},
		step{"another protocol", in(fromClient().IP4("10.0.1.254", vip).ICMP4(3, 1, 0).Quote(other.UDP(80, 5), 28)), "passed"},
		step{"another port", in(fromClient().IP4("10.0.1.254", vip).ICMP4(3, 1, 0).Quote(other.TCP(81, 5, ackFlag), 28)), "passed"},
		step{"quotes a request", in(fromClient().IP4("10.0.1.254", vip).ICMP4(3, 1, 0).Quote(packettest.Eth(frontMAC, clientMAC).IP4(client, vip).TCP(7, 80, synFlag), 28)), "passed"},
	)
	r.want("connections", r.list(),
		"10.0.1.10:1 10.0.1.100:80 80 NONE 3s", "10.0.1.10:2 10.0.1.100:80 80 NONE 3s", "10.0.1.10:7777 10.0.1.100:80 80 NONE 3s")
	for server, want := range map[string]lb.Counters{
		"10.0.2.13": {Conns: 1, InPackets: 2, InBytes: 112}, "10.0.2.12": {Conns: 1, InPackets: 1, InBytes: 56}, "10.0.2.11": {Conns: 1},
	} {
		if got := r.counters(server); got != want {
			t.Errorf("counters of %s are %+v, want %+v", server, got, want)
		}
	}
	r.pass(2 * time.Second)
	r.steps(step{"does not re-arm", in(quoting(client, 7777)), "10.0.2.13"})
	r.pass(time.Second + 10*time.Millisecond)
	r.want("3 s later", r.list())
	for method, want := range map[string]string{"dr": "10.0.1.254 > 10.0.1.100 ", "tun": "10.0.2.1 > 10.0.2.13 "} {
		r := errorsScheduled(t, service("tcp 10.0.1.100:80 rr", servers(method)...))
		r.steps(
			step{method, in(quoting(client, 7777)), want},
			step{method + ", wrong checksum", in(quoting(client, 2).BadChecksum()), "icmp_checksum"},
			step{method + ", the client goes on", in(fromClient().IP4(client, vip).TCP(7777, 80, ackFlag)), "10.0.1.10:7777 > 10.0.1.100:80"},
		)
		r.want(method, r.list(), "10.0.1.10:2 10.0.1.100:80 80 NONE 3s", "10.0.1.10:7777 10.0.1.100:80 80 ESTABLISHED 15m0s")
	}
	r = errorsScheduled(t, service("tcp [fd00:1::100]:80 rr", "nat [fd00:2::11]:8080 1"))
	r.steps(step{"IPv6", in(fromClient().IP6(client6, vip6).ICMP6(1, 3, 0).Quote(packettest.Eth(clientMAC, frontMAC).IP6(vip6, client6).TCP(80, 7777, ackFlag), 48)), "[fd00:2::11]:8080 > [fd00:1::10]:7777"})
}

// Errors get the server that the client's own packets would get: of hashes by
// its address and port, by persistence; and the defences and marks count them.
func TestScheduleICMPServer(t *testing.T) {
	three := []string{"nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1", "nat 10.0.2.13:80 1"}
	for _, flags := range []string{"sh ", "sh sh-port", "mh ", "mh mh-port"} {
		svc := service("tcp 10.0.1.100:80 "+flags[:2], three...)
		if flags[3:] != "" {
			svc.SchedulerFlags = []string{flags[3:]}
		}
		r, direct := errorsScheduled(t, svc), newRig(t, options{}, svc)
		for i := range 20 {
			from := fmt.Sprintf("172.16.%d.%d", i, 7*i+1)
			r.steps(step{flags, in(quoting(from, uint16(1000+i))), ""})
			direct.steps(step{flags, in(fromClient().IP4(from, vip).TCP(uint16(1000+i), 80, synFlag)), ""})
			if got, want := r.batch.Pkts[0].real, direct.batch.Pkts[0].real; got != want {
				t.Errorf("%s: the error of %s goes to server %d, its SYN to %d", flags, from, got, want)
			}
		}
	}
	// The kernel's dh hashes the destination of the quote, which is the client.
	r := errorsScheduled(t, service("tcp 10.0.1.100:80 dh", three...))
	servers := map[uint32]bool{}
	for i := range 20 {
		r.steps(step{"dh", in(quoting(fmt.Sprintf("172.16.%d.1", i), 1)), ""})
		servers[r.batch.Pkts[0].real] = true
	}
	if len(servers) != 3 {
		t.Errorf("dh gives errors about 20 clients %d servers, want 3", len(servers))
	}

	r = errorsScheduled(t, persistent(service("tcp 10.0.1.100:80 rr", three...), 100*time.Second, 24))
	r.steps(
		step{"persistent", in(quoting(client, 7777)), "10.0.2.13"},
		step{"again", in(quoting(client, 2)), "10.0.2.13"},
		step{"its SYN", in(fromClient().IP4(client, vip).TCP(9, 80, synFlag)), "10.0.2.13"},
	)
	ops := service("udp 10.0.1.100:80 rr", three...)
	ops.OnePacket = true
	r = errorsScheduled(t, ops)
	r.steps(step{"one packet", in(fromClient().IP4("10.0.1.254", vip).ICMP4(3, 1, 0).Quote(packettest.Eth(clientMAC, frontMAC).IP4(vip, client).UDP(80, 5), 28)), "10.0.2.13"})
	r.want("one packet", r.list())
	r = errorsScheduled(t, service("tcp 10.0.1.100:80 rr"))
	r.steps(step{"no server: dropped", in(quoting(client, 7777)), "no_server"})
	r = errorsScheduled(t, service("tcp 10.0.1.100:80 rr", three...))
	r.edit(func(s *lb.Spec) { s.Sysctl.DropPacket, s.Sysctl.AMDropRate = 3, 2 })
	r.steps(step{"K-DEF-3", in(quoting(client, 1)), "drop_packet"}, step{"the next", in(quoting(client, 2)), "10.0.2.13"})
	sip := sipService(time.Minute, 0)
	r = errorsScheduled(t, sip)
	r.steps(step{"K-PE-2: no Call-ID", in(fromClient().IP4("10.0.1.254", vip).ICMP4(3, 1, 0).Quote(packettest.Eth(clientMAC, frontMAC).IP4(vip, client).UDP(5060, 5), 28)), "no_call_id"})

	// A mark is the error's own, not its quote's.
	r = errorsScheduled(t, marked(service("tcp 10.0.1.100:80 rr", three...), 7))
	r.edit(func(s *lb.Spec) { s.Marks = []lb.MarkRule{{Mark: 7, Proto: 1}} })
	r.steps(step{"mark", in(quoting(client, 7777)), "10.0.2.13:80 > 10.0.1.10:7777"})
	r.edit(func(s *lb.Spec) { s.Marks = []lb.MarkRule{{Mark: 7, Proto: 6}} })
	r.steps(step{"no mark", in(quoting(client, 7778)), "passed"})
}

// Errors are scheduled by the worker that owns the client's connections.
func TestScheduleICMPHandoff(t *testing.T) {
	r := newRig(t, options{workers: 4}, natService())
	r.edit(func(s *lb.Spec) { s.Sysctl.ScheduleICMP = 1 })
	handed := 0
	for port := uint16(1000); port < 1040; port++ {
		want := r.fate(syn(port))
		owner := r.batch.Pkts[0].Owner
		got := r.fate(in(quoting(client, port)))
		if want != "handed_over" {
			continue
		}
		handed++
		if got != want || r.batch.Pkts[0].Owner != owner {
			t.Errorf("port %d: %s to %d, want it with the SYN, to %d", port, got, r.batch.Pkts[0].Owner, owner)
		}
	}
	if handed == 0 {
		t.Error("nothing was handed over")
	}
}

// K-ICMP-8, K-STAT-1: a wrong checksum is dropped uncounted, whatever the
// method; TTL 1 is counted.
func TestRelatedCounts(t *testing.T) {
	for _, method := range []string{"nat", "dr", "tun"} {
		r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", method+" 10.0.2.11:80 1"))
		r.steps(
			step{method, syn(7777), ""},
			step{method + ": wrong checksum", in(quoting(client, 7777).BadChecksum()), "icmp_checksum"},
			step{method + ": TTL 1", in(quoting(client, 7777).TTL(1)), "ttl_exceeded"},
			step{method + ": right", in(quoting(client, 7777)), "02:00:00:00:02:0b"},
		)
		if got, want := r.counters("10.0.2.11"), (lb.Counters{Conns: 1, InPackets: 3, InBytes: 40 + 2*56}); got != want {
			t.Errorf("%s: counters are %+v, want %+v", method, got, want)
		}
	}
}

func TestScheduleICMPAllocatesNothing(t *testing.T) {
	r := errorsScheduled(t, natService())
	var frames []arrival
	for port := range uint16(101) {
		frames = append(frames, in(quoting(client, 1000+port)))
	}
	if n := testing.AllocsPerRun(100, func() {
		r.fill(frames[r.conns.Len()])
		r.pipe.Process(&r.batch, r.now)
	}); n != 0 {
		t.Errorf("Process allocates %v times a batch, want 0", n)
	}
	if r.pipe.Counters[Forward] != 101 {
		t.Errorf("%d were forwarded, want 101", r.pipe.Counters[Forward])
	}
}

// Errors beyond their budget are dropped before anything is looked up; those
// that another worker let through count no more, and nothing else is dropped.
func TestRelatedBudget(t *testing.T) {
	r := newRig(t, options{}, natService())
	r.pipe.icmp = Budget{Rate: 100, Burst: 2}
	r.steps(step{"a connection", syn(7777), "10.0.2.11"})
	var flood []arrival
	for range 5 {
		flood = append(flood, in(quoting(client, 7777)))
	}
	flood = append(flood, in(fromClient().IP4(client, vip).TCP(7777, 80, ackFlag)))
	got := r.process(flood...)
	for i, want := range []string{"10.0.2.11", "10.0.2.11", "icmp_over_budget", "icmp_over_budget", "icmp_over_budget", "10.0.2.11"} {
		if !strings.Contains(got[i], want) {
			t.Errorf("packet %d: %s, want %s", i, got[i], want)
		}
	}
	r.fill(flood[:3]...)
	for i := range 3 {
		r.batch.Pkts[i].Handed = true
	}
	r.pipe.Process(&r.batch, r.now)
	if n := r.pipe.Counters[Forward]; n != 1+3+3 {
		t.Errorf("%d were forwarded, want the 4 of before and 3 handed in", n)
	}
	r.pass(10 * time.Millisecond)
	r.steps(step{"10 ms later", in(quoting(client, 7777)), "10.0.2.11"}, step{"one of them", in(quoting(client, 7777)), "icmp_over_budget"})
}

// K-ICMP-6: an error that another host was to get (the server itself, say) is
// found on its way, where routing has counted a hop. As recorded with Linux 6.1.
func TestRelatedForwarded(t *testing.T) {
	for _, method := range []string{"nat", "dr", "tun"} {
		r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", method+" 10.0.2.11:80 1"))
		answer := packettest.Eth(clientMAC, frontMAC).IP4(vip, client).TCP(80, 7777, ackFlag)
		to := func(dst string) packettest.Packet {
			return fromClient().IP4("10.0.1.254", dst).ICMP4(3, 1, 0).Quote(answer, 28)
		}
		r.steps(
			step{method, syn(7777), ""},
			step{method + ": to the VIP", in(to(vip)), "ttl=63 "},
			step{method + ": to the director", in(to("10.0.1.1")), "ttl=63 "},
			step{method + ": to the server", in(to("10.0.2.11")), "ttl=62 "},
			step{method + ": to the server, TTL 2", in(to("10.0.2.11").TTL(2)), "ttl_exceeded"},
			step{method + ": to the server, TTL 1", in(to("10.0.2.11").TTL(1)), "ttl_exceeded"},
		)
	}
}

// K-ICMP-3: an error from the servers' side goes where it was going. One to the
// director stays there, and counts. As recorded with Linux 6.1.
func TestRelatedReplyWay(t *testing.T) {
	r := newRig(t, options{}, natService())
	request := packettest.Eth(serverMAC, backMAC).IP4(client, "10.0.2.11").TCP(7777, 8080, ackFlag)
	to := func(dst string) packettest.Packet {
		return fromServer().IP4("10.0.2.254", dst).ICMP4(3, 1, 0).Quote(request, 28)
	}
	r.steps(
		step{"a connection", syn(7777), ""},
		step{"to its client", back(to(client)), "02:00:00:00:01:0a"},
		step{"to another", back(to("172.16.0.1")), "10.0.1.100 > 172.16.0.1 "},
		step{"to nobody", back(to("192.168.7.7")), "passed"},
		step{"with its last TTL", back(to(client).TTL(1)), "ttl_exceeded"},
		step{"to the director", back(to("10.0.2.1")), "passed"},
		step{"to the director, with its last TTL", back(to("10.0.2.1").TTL(1)), "passed"},
	)
	if got, want := r.counters("10.0.2.11"), (lb.Counters{Conns: 1, InPackets: 1, InBytes: 40, OutPackets: 4, OutBytes: 4 * 56}); got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
}
