package fastpath

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

// K-CONN-6: a template whose time is over while it has connections lives on by
// 60 s, and has that timeout from then on, whatever its service's is. As
// recorded with Linux 6.1.
func TestHeldTemplate(t *testing.T) {
	r := newRig(t, options{}, persistent(natService(), 200*time.Second, 0))
	left := func() (d time.Duration) {
		r.templates.Scan(func(_ *conn.Stripe, _ conn.ID, c *conn.Conn) { d = (c.Stamp + c.Timeout - r.now).Duration() })
		return d
	}
	r.steps(
		step{"SYN", syn(1000), ""},
		step{"ACK", in(fromClient().IP4(client, vip).TCP(1000, 80, ackFlag)), ""},
	)
	for _, row := range []struct {
		pass, left time.Duration
	}{{100 * time.Second, 100 * time.Second}, {130 * time.Second, 30 * time.Second}, {60 * time.Second, 30 * time.Second}} {
		if r.pass(row.pass); left() != row.left {
			t.Errorf("after %v more the template has %v, want %v", row.pass, left(), row.left)
		}
	}
	if r.process(syn(1001)); left() != time.Minute {
		t.Errorf("a new connection gives it %v, want a minute", left())
	}
}

// K-CONN-9, K-CONN-10: a connection that gives way to a new one counts until the
// next tick, for the scheduler too. As recorded with Linux 6.1.
func TestReuseCounts(t *testing.T) {
	r := newRig(t, options{}, service("tcp 10.0.1.100:80 lc", "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1"))
	rst := in(fromClient().IP4(client, vip).TCP(1, 80, rstFlag))
	r.steps(
		step{"SYN", syn(1), "> 10.0.2.12:80"},
		step{"RST", in(fromClient().IP4(client, vip).TCP(1, 80, ackFlag)), "> 10.0.2.12:80"},
		step{"RST", rst, "> 10.0.2.12:80"},
		step{"SYN: the other has less", syn(1), "> 10.0.2.11:80"},
	)
	if got := r.load("10.0.2.12"); got != "0 active, 1 inactive" {
		t.Errorf("the old connection's server has %s, want it counted", got)
	}
	r.pass(10 * time.Millisecond)
	if got := r.load("10.0.2.12"); got != "0 active, 0 inactive" {
		t.Errorf("a tick later it has %s, want none", got)
	}
	// SYN and RST end the old connection and begin none.
	r.steps(
		step{"ACK", in(fromClient().IP4(client, vip).TCP(1, 80, ackFlag)), "> 10.0.2.11:80"},
		step{"RST", rst, "> 10.0.2.11:80"},
		step{"SYN and RST", in(fromClient().IP4(client, vip).TCP(1, 80, synFlag|rstFlag)), "passed"},
	)
	r.pass(10 * time.Millisecond)
	r.want("after SYN and RST", r.list())
}

// A packet of the same tick revives a connection that was to give way.
func TestRevived(t *testing.T) {
	r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", "dr 10.0.2.11:80 1"))
	r.process(syn(1))
	r.edit(func(s *lb.Spec) { s.Services[0].Servers[0].Weight, s.Sysctl.ExpireNoDestConn = 0, 1 })
	r.steps(step{"SYN: no server", syn(1), "no_server"})
	r.answer(3, 3)
	r.steps(
		step{"ACK: still there", in(fromClient().IP4(client, vip).TCP(1, 80, ackFlag)), "> 10.0.1.100:80"},
	)
	r.pass(time.Second)
	r.want("revived", r.list(), "10.0.1.10:1 10.0.1.100:80 80 ESTABLISHED 14m59s")
	// The error that answered the SYN left on the connection (K-STAT-1).
	if got, want := r.counters("10.0.2.11"), (lb.Counters{Conns: 1, InPackets: 2, OutPackets: 1, InBytes: 80, OutBytes: 68}); got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
}

// answer has the slow path's ICMP error about the last packet counted.
func (r *rig) answer(kind, code uint8) {
	k := &r.batch.Pkts[0]
	frame := k.Chunk[k.Off : k.Off+k.Len]
	var info packet.Info
	packet.Parse(frame, &info)
	r.pipe.Answered(rewrite.ICMPError(nil, &info, frame, info.Dst, kind, code, 0, 1))
}

// The error that answers a client counts on its newest connection that is not
// NAT, wherever the packet went (K-STAT-1). As recorded with Linux 6.1.
func TestAnswerCounts(t *testing.T) {
	svc := sipService(200*time.Second, 0)
	svc.Servers = service("udp 10.0.1.100:5060 rr", "tun 10.0.2.13:5060 1", "nat 10.0.2.11:8080 0").Servers
	r := newRig(t, options{}, svc)
	r.steps(
		step{"by a tunnel", invite(client, 1000, "one@a"), "10.0.2.1 > 10.0.2.13"},
		step{"the NAT server calls", back(callBack("10.0.2.11", 8080, 1000, "two@a")), "10.0.1.100:5060 > 10.0.1.10:1000"},
		step{"TTL 1 on its way to that", in(fromClient().IP4(client, vip).UDP(1000, 5060).TTL(1)), "ttl_exceeded"},
	)
	r.answer(11, 0)
	r.pipe.Answered(nil)
	r.pipe.Answered(make([]byte, 100))
	for server, want := range map[string]lb.Counters{
		"10.0.2.11": {Conns: 1, InPackets: 1, OutPackets: 1, InBytes: 28, OutBytes: 97}, "10.0.2.13": {Conns: 1, InPackets: 1, OutPackets: 1, InBytes: 97, OutBytes: 56},
	} {
		if got := r.counters(server); got != want {
			t.Errorf("counters of %s are %+v, want %+v", server, got, want)
		}
	}
}

// K-CONN-12: source port 20 is never scheduled, whatever the protocol, the mark
// or the persistence; but drop_packet counts it (K-DEF-3).
func TestSourcePort20(t *testing.T) {
	services := []lb.ServiceSpec{natService(), service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:53 1"), service("sctp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1")}
	mark := []lb.ServiceSpec{marked(natService(), 7)}
	for name, services := range map[string][]lb.ServiceSpec{"plain": services, "mark": mark, "persistent": {persistent(natService(), time.Minute, 0)}} {
		r := newRig(t, options{}, services...)
		r.edit(func(s *lb.Spec) { s.Marks = []lb.MarkRule{{Mark: 7, Interface: "eth0"}} })
		r.steps(
			step{name + " TCP", syn(20), "passed"},
			step{name + " UDP", in(fromClient().IP4(client, vip).UDP(20, 53)), "passed"},
			step{name + " SCTP", in(fromClient().IP4(client, vip).SCTP(20, 80, 1)), "passed"},
		)
	}
	r := newRig(t, options{}, natService())
	r.edit(func(s *lb.Spec) { s.Sysctl.DropPacket, s.Sysctl.AMDropRate = 3, 2 })
	r.steps(step{"drop_packet", syn(20), "drop_packet"}, step{"the next", syn(21), "> 10.0.2.11"})
}

// K-SVC-1, K-PATH-6: what comes to the FTP service for another port is the
// host's, unless the service is persistent; port 0 takes the rest.
func TestServiceOrder(t *testing.T) {
	ftp := service("tcp 10.0.1.100:21 rr", "nat 10.0.2.11:21 1")
	all := persistent(service("tcp 10.0.1.100:0 rr", "nat 10.0.2.12:0 1"), time.Minute, 0)
	to := func(port uint16) arrival { return in(fromClient().IP4(client, vip).TCP(1000, port, synFlag)) }
	r := newRig(t, options{}, ftp, all, service("tcp 10.0.1.100:2000 rr", "nat 10.0.2.13:2000 1"))
	r.steps(
		step{"FTP", to(21), "> 10.0.2.11:21"},
		step{"its data port", to(20), "passed"},
		step{"passive data", to(1024), "passed"},
		step{"a privileged port", to(1023), "> 10.0.2.12:1023"},
		step{"a service of its own", to(2000), "> 10.0.2.13:2000"},
		step{"not of UDP", in(fromClient().IP4(client, vip).UDP(7, 3000)), "passed"},
	)
	r = newRig(t, options{}, persistent(ftp, time.Minute, 0))
	r.steps(
		step{"persistent FTP", to(21), "> 10.0.2.11:21"},
		step{"its data port", to(20), "> 10.0.2.11:20"},
		step{"passive data", to(1024), "> 10.0.2.11:1024"},
		step{"a privileged port", to(1023), "passed"},
	)
	ftp.Servers[0].Weight = 0
	r = newRig(t, options{}, persistent(ftp, time.Minute, 0))
	r.steps(step{"no server for FTP", to(21), "no_server"}, step{"nor for its data", to(1024), "passed"})
	for _, proto := range []string{"udp", "sctp"} {
		r := newRig(t, options{}, persistent(service(proto+" 10.0.1.100:0 rr", "nat 10.0.2.11:0 1", "nat 10.0.2.12:0 1"), time.Minute, 0))
		for _, port := range []uint16{53, 99, 0} {
			p := fromClient().IP4(client, vip).UDP(1000+port, port)
			if proto == "sctp" {
				p = fromClient().IP4(client, vip).SCTP(1000+port, port, 1)
			}
			r.steps(step{proto + " of every port", in(p), fmt.Sprintf("> 10.0.2.12:%d", port)})
		}
	}
}

// K-PATH-2: marks schedule what is for one host, or all of a subnet, but not what
// is for a group; and IPv6 link-local clients have services too. As recorded
// with Linux 6.1.
func TestDestinations(t *testing.T) {
	r := newRig(t, options{}, marked(service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:53 1"), 7),
		service("udp [fd00:1::100]:53 rr", "nat [fd00:2::11]:53 1"))
	r.edit(func(s *lb.Spec) { s.Marks = []lb.MarkRule{{Mark: 7, Proto: 17, Interface: "eth0"}} })
	for _, row := range []struct{ dst, want string }{
		{"10.0.9.9", "> 10.0.2.11:53"}, {"10.0.1.255", "> 10.0.2.11:53"}, {"224.0.0.5", "passed"},
	} {
		r.steps(step{row.dst, in(fromClient().IP4(client, row.dst).UDP(1000, 53)), row.want})
	}
	r.steps(
		step{"link-local client", in(fromClient().IP6("fe80::10", vip6).UDP(1000, 53)), "[fd00:2::11]:53"},
		step{"group", in(fromClient().IP6(client6, "ff02::1").UDP(1000, 53)), "passed"},
	)
}

// K-PATH-4, K-PATH-1: nat_icmp_send refuses a NAT server's packets, also those
// that would begin a connection, and quotes what routing made of them.
func TestNATICMPSend(t *testing.T) {
	r := newRig(t, options{}, natService(), service("udp 10.0.1.100:500 rr", "nat 10.0.2.11:500 1"))
	r.steps(step{"off", back(fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, ackFlag)), "passed"})
	r.edit(func(s *lb.Spec) { s.Sysctl.NATICMPSend = 1 })
	for _, row := range []struct {
		stake string
		p     packettest.Packet
		want  string
		ttl   uint8 // of what the error quotes
	}{
		{"TCP", fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, ackFlag), "nat_reply_without_connection", 63},
		{"UDP", fromServer().IP4("10.0.2.11", client).UDP(500, 1000), "nat_reply_without_connection", 63},
		{"to the service", fromServer().IP4("10.0.2.11", vip).TCP(8080, 80, synFlag), "nat_reply_without_connection", 64},
		{"to the director", fromServer().IP4("10.0.2.11", "10.0.2.1").TCP(8080, 80, synFlag), "nat_reply_without_connection", 64},
		{"RST", fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, rstFlag), "passed", 64},
		{"another port", fromServer().IP4("10.0.2.11", client).TCP(8081, 1000, ackFlag), "passed", 64},
		{"another server's", fromServer().IP4("10.0.2.12", client).TCP(8080, 1000, ackFlag), "passed", 64},
		{"ESP", sealed(fromServer().IP4("10.0.2.11", client), esp), "passed", 64},
		{"TTL 1", fromServer().IP4("10.0.2.11", client).TCP(8080, 1000, ackFlag).TTL(1), "ttl_exceeded", 1},
		{"no route", fromServer().IP4("10.0.2.11", "203.0.113.1").TCP(8080, 1000, ackFlag), "passed", 64},
	} {
		r.steps(step{row.stake, back(row.p), row.want})
		if k := &r.batch.Pkts[0]; k.Chunk[k.Off:][k.Info.L3+8] != row.ttl {
			t.Errorf("%s: TTL is %d, want %d", row.stake, k.Chunk[k.Off:][k.Info.L3+8], row.ttl)
		}
	}
}

// K-SVC-7: a connection keeps the method that its server had when it was made,
// but a tunnel is of today's kind. As recorded with Linux 6.1.
func TestMethodEdited(t *testing.T) {
	r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1"))
	edit := func(f lb.Forward, kind lb.TunnelType) {
		r.edit(func(s *lb.Spec) { s.Services[0].Servers[0].Forward, s.Services[0].Servers[0].Tunnel.Type = f, kind })
	}
	ack := func(port uint16) arrival { return in(fromClient().IP4(client, vip).TCP(port, 80, ackFlag)) }
	r.steps(step{"NAT", syn(1), "> 10.0.2.11:80"})
	edit(lb.DR, 0)
	r.steps(
		step{"stays NAT", ack(1), "> 10.0.2.11:80"},
		step{"both ways", back(fromServer().IP4("10.0.2.11", client).TCP(80, 1, ackFlag)), "10.0.1.100:80 >"},
		step{"DR", syn(2), "> 10.0.1.100:80"},
	)
	edit(lb.TUN, lb.IPIP)
	r.steps(step{"stays NAT", ack(1), "> 10.0.2.11:80"}, step{"stays DR", ack(2), "0b IP ttl=63 id=0x0000 10.0.1.10:2 > 10.0.1.100:80"}, step{"TUN", syn(3), "tunnel=4"})
	edit(lb.TUN, lb.GRE)
	r.steps(step{"GRE now", ack(3), "proto=47"})
	edit(lb.NAT, 0)
	r.steps(step{"IPIP now", ack(3), "tunnel=4"}, step{"stays DR", ack(2), "> 10.0.1.100:80"}, step{"NAT", syn(4), "> 10.0.2.11:80"})
	// K-DST-8: so it is for a server that was removed and came back.
	r.edit(func(s *lb.Spec) { s.Services[0].Servers = nil })
	r.edit(func(s *lb.Spec) {
		s.Services[0].Servers = service("tcp 10.0.1.100:80 rr", "tun 10.0.2.11:80 1").Servers
	})
	r.steps(step{"stays NAT", ack(4), "> 10.0.2.11:80"}, step{"stays DR", ack(2), "> 10.0.1.100:80"})
}

// K-DST-7: one-packet connections count on their server while they last, which
// may overload it. As recorded with Linux 6.1.
func TestOnePacketThresholds(t *testing.T) {
	svc := marked(service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1"), 7)
	svc.OnePacket, svc.Servers[0].Upper, svc.Servers[0].Lower = true, 3, 1
	r := newRig(t, options{}, svc)
	r.edit(func(s *lb.Spec) { s.Marks = []lb.MarkRule{{Mark: 7, Interface: "eth0"}} })
	r.steps(
		step{"two connections", syn(1), "> 10.0.2.11:80"}, step{"two connections", syn(2), "> 10.0.2.11:80"},
		step{"a datagram", in(fromClient().IP4(client, vip).UDP(1, 53)), "> 10.0.2.11:53"},
		step{"overloaded by it", in(fromClient().IP4(client, vip).UDP(2, 53)), "no_server"},
		step{"for all", syn(3), "no_server"},
	)
	if got := r.load("10.0.2.11"); got != "2 active, 0 inactive" {
		t.Errorf("server has %s, want 2 active", got)
	}
}

// ipvsadm --set takes effect with a connection's next packet; UDP keeps
// NOOUTPUT, which its states do not need.
func TestSetTimeouts(t *testing.T) {
	r := newRig(t, options{}, service("tcp 10.0.1.100:80 rr", "dr 10.0.2.11:80 1"), service("udp 10.0.1.100:53 rr", "dr 10.0.2.11:53 1"))
	ack := in(fromClient().IP4(client, vip).TCP(1, 80, ackFlag))
	query := in(fromClient().IP4(client, vip).UDP(1, 53))
	r.process(syn(1), ack, query)
	r.edit(func(s *lb.Spec) { s.Timeouts = lb.Timeouts{TCP: 10 * time.Second, UDP: 20 * time.Second} })
	r.want("not yet", r.list(), "10.0.1.10:1 10.0.1.100:53 53 UDP 5m0s", "10.0.1.10:1 10.0.1.100:80 80 ESTABLISHED 15m0s")
	r.process(ack, query, back(fromServer().IP4(vip, client).UDP(53, 1)))
	r.want("now", r.list(), "10.0.1.10:1 10.0.1.100:53 53 UDP 20s", "10.0.1.10:1 10.0.1.100:80 80 ESTABLISHED 10s")
	r.conns.Scan(0, 10, func(_ conn.ID, c *conn.Conn) {
		if c.Flags&conn.NoOutput == 0 {
			t.Errorf("connection of protocol %d has lost NOOUTPUT", c.Proto)
		}
	})
}

// K-DEF-2: drop_entry ends templates that nothing holds and that never became
// ASSURED; of one-packet services those that were quiet.
func TestDropTemplates(t *testing.T) {
	ops := persistent(service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:53 1"), time.Hour, 0)
	ops.OnePacket = true
	r := newRig(t, options{max: 200}, persistent(service("udp 10.0.1.100:54 rr", "nat 10.0.2.11:54 1"), time.Hour, 0), ops)
	for i := range 40 {
		from := fmt.Sprintf("172.16.0.%d", i)
		r.process(in(fromClient().IP4(from, vip).UDP(1, 54)), in(fromClient().IP4(from, vip).UDP(1, 53)))
		if i < 10 {
			r.process(back(fromServer().IP4("10.0.2.11", from).UDP(54, 1)))
		}
	}
	r.pass(400 * time.Second) // the connections are over
	r.edit(func(s *lb.Spec) { s.Sysctl.DropEntry = 3 })
	n := testing.AllocsPerRun(300, func() { r.pass(time.Second) })
	if n != 0 {
		t.Errorf("Expire allocates %v times, want 0", n)
	}
	assured, kept, quiet := 0, 0, 0
	r.templates.Scan(func(_ *conn.Stripe, _ conn.ID, c *conn.Conn) {
		switch {
		case c.VirtualPort == 53:
			quiet++
		case c.State == conn.TemplateAssured:
			assured++
		default:
			kept++
		}
	})
	if assured != 10 || kept > 10 || quiet > 20 {
		t.Errorf("after 300 s %d assured templates are left, %d others and %d of one-packet services, want 10 and few", assured, kept, quiet)
	}
	if got := r.director.Current().Persistent(0) + r.director.Current().Persistent(1); got != int32(assured+kept+quiet) {
		t.Errorf("servers have %d templates, there are %d", got, assured+kept+quiet)
	}
}

// Every verdict has a name of its own.
func TestVerdictNames(t *testing.T) {
	seen := map[string]bool{}
	for v := range Verdicts {
		if name := v.String(); name == "" || name == "unknown" || seen[name] || strings.Contains(name, " ") {
			t.Errorf("verdict %d is called %q", v, name)
		} else {
			seen[name] = true
		}
	}
}
