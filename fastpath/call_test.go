package fastpath

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

// sipService knows its clients' calls by Call-ID.
func sipService(timeout time.Duration, prefix int) lb.ServiceSpec {
	s := persistent(service("udp 10.0.1.100:5060 rr", "nat 10.0.2.11:5060 1", "nat 10.0.2.12:5060 1", "nat 10.0.2.13:5060 1"), timeout, prefix)
	s.Persistence.Engine = "sip"
	return s
}

func sipMessage(call string) []byte {
	return fmt.Appendf(nil, "INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: %s\r\nContent-Length: 0\r\n\r\n", call)
}

// invite is a client's message of a call, callBack a server's.
func invite(from string, port uint16, call string) arrival {
	return in(fromClient().IP4(from, vip).UDP(port, 5060).Payload(sipMessage(call)))
}

func callBack(server string, sport, dport uint16, call string) packettest.Packet {
	return fromServer().IP4(server, client).UDP(sport, dport).Payload(sipMessage(call))
}

// calls are the templates in words, sorted: client, virtual address, server's
// port, state and Call-ID.
func (r *rig) calls() []string {
	var out []string
	r.templates.Scan(func(s *conn.Stripe, id conn.ID, c *conn.Conn) {
		out = append(out, fmt.Sprintf("%s %s:%d %s:%d %s %s", c.Client, c.Virtual, c.VirtualPort,
			r.director.Current().Reals[c.Real].Addr, c.RealPort, conn.StateName(c.Proto, true, c.State), s.Call(id)))
	})
	slices.Sort(out)
	return out
}

// K-PE-1, K-PE-2: a call comes back to its server from any port; another call,
// or the same Call-ID of another client, is another template; a message without
// Call-ID is dropped. As recorded with Linux 6.1.
func TestCalls(t *testing.T) {
	r := newRig(t, options{}, sipService(5*time.Minute, 0))
	r.steps(
		step{"a call", invite(client, 1000, "one@a"), "> 10.0.2.13:5060"},
		step{"from another port", invite(client, 1001, "one@a"), "> 10.0.2.13:5060"},
		step{"another call", invite(client, 1002, "two@a"), "> 10.0.2.12:5060"},
		step{"a connection stays where it is", invite(client, 1002, "one@a"), "> 10.0.2.12:5060"},
		step{"another client", invite("10.0.1.11", 1003, "one@a"), "> 10.0.2.11:5060"},
		step{"no Call-ID", in(fromClient().IP4(client, vip).UDP(1004, 5060).Payload([]byte("nonsense"))), "no_call_id"},
		step{"nothing at all", in(fromClient().IP4(client, vip).UDP(1005, 5060)), "no_call_id"},
	)
	r.want("templates", r.calls(),
		"10.0.1.10 10.0.1.100:5060 10.0.2.12:5060 NONE two@a",
		"10.0.1.10 10.0.1.100:5060 10.0.2.13:5060 NONE one@a",
		"10.0.1.11 10.0.1.100:5060 10.0.2.11:5060 NONE one@a")
	if n := r.pipe.Counters[DropNoCallID]; n != 2 {
		t.Errorf("no_call_id counts %d, want 2", n)
	}
	// K-PERS-4: a call whose server is removed goes to another.
	r.edit(func(s *lb.Spec) { s.Services[0].Servers = s.Services[0].Servers[:2] })
	r.steps(step{"its server is gone", invite(client, 1006, "one@a"), "> 10.0.2.12:5060"})
	if got := strings.Join(r.calls(), "; "); !strings.Contains(got, "10.0.1.100:65535 10.0.2.13:65535 NONE one@a") || !strings.Contains(got, "10.0.2.12:5060 NONE one@a") {
		t.Errorf("templates are %s, want the old one invalid and a new one", got)
	}
}

// K-PERS-3: with a netmask, a call is one of all clients of a network.
func TestCallsOfNetwork(t *testing.T) {
	r := newRig(t, options{}, sipService(5*time.Minute, 24))
	r.steps(
		step{"a call", invite(client, 1000, "one@a"), "> 10.0.2.13:5060"},
		step{"its other client", invite("10.0.1.11", 1003, "one@a"), "> 10.0.2.13:5060"},
	)
	r.want("templates", r.calls(), "10.0.1.0 10.0.1.100:5060 10.0.2.13:5060 NONE one@a")
	r.pass(20 * time.Minute)
	r.want("after its connections and its time", r.calls())
}

// K-PE-3: a server that calls its client of its own accord gets a connection
// from the virtual service, and a template by which the answer finds it.
func TestCallOut(t *testing.T) {
	r := newRig(t, options{}, sipService(5*time.Minute, 0))
	r.steps(
		step{"a server calls", back(callBack("10.0.2.11", 5060, 5060, "out1")), "10.0.1.100:5060 > 10.0.1.10:5060"},
		step{"and again", back(callBack("10.0.2.11", 5060, 5060, "out1")), "10.0.1.100:5060 > 10.0.1.10:5060"},
		step{"the client answers", invite(client, 5060, "out1"), "> 10.0.2.11:5060"},
		step{"from another port", invite(client, 5061, "out1"), "> 10.0.2.11:5060"},
		step{"no Call-ID, none of ours", back(fromServer().IP4("10.0.2.11", client).UDP(5060, 5070).Payload([]byte("nothing"))), "passed"},
		step{"another server takes the call over", back(callBack("10.0.2.12", 5060, 5080, "out1")), "10.0.1.100:5060 > 10.0.1.10:5080"},
		step{"where it stays", invite(client, 5090, "out1"), "> 10.0.2.12:5060"},
		step{"another port of the server's", back(callBack("10.0.2.11", 5061, 5060, "out1")), "passed"},
		step{"not a server", back(callBack("10.0.2.254", 5060, 5060, "out1")), "passed"},
		step{"routing comes first", back(callBack("10.0.2.11", 5060, 5070, "out5").TTL(1)), "ttl_exceeded"},
	)
	r.want("templates", r.calls(),
		"10.0.1.10 10.0.1.100:5060 10.0.2.12:5060 ASSURED out1",
		"10.0.1.10 10.0.1.100:65535 10.0.2.11:65535 ASSURED out1")
	if got, want := r.counters("10.0.2.11"), (lb.Counters{Conns: 2, InPackets: 2, OutPackets: 2, InBytes: 192, OutBytes: 192}); got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
}

// What may not begin a connection of its own: servers of other methods, of
// every port, of marks, and of services without the engine.
func TestNoCallOut(t *testing.T) {
	anyPort := persistent(service("udp 10.0.1.100:0 rr", "nat 10.0.2.11:0 1"), time.Minute, 0)
	anyPort.Persistence.Engine = "sip"
	dr := persistent(service("udp 10.0.1.100:5060 rr", "dr 10.0.2.11:5060 1"), time.Minute, 0)
	dr.Persistence.Engine = "sip"
	plain := persistent(service("udp 10.0.1.100:5060 rr", "nat 10.0.2.11:5060 1"), time.Minute, 0)
	for name, svc := range map[string]lb.ServiceSpec{"every port": anyPort, "DR": dr, "no engine": plain, "mark": marked(dr, 7)} {
		r := newRig(t, options{}, svc)
		r.steps(step{name, back(callBack("10.0.2.11", 5060, 5060, "out1")), "passed"})
		if r.conns.Len() != 0 {
			t.Errorf("%s: there is a connection, want none", name)
		}
	}
}

// Of one-packet services calls leave nothing but their templates (K-CONN-8).
func TestOnePacketCalls(t *testing.T) {
	svc := sipService(5*time.Minute, 0)
	svc.OnePacket = true
	r := newRig(t, options{}, svc)
	r.steps(
		step{"a call", invite(client, 1, "ops"), "> 10.0.2.13:5060"},
		step{"again", invite(client, 2, "ops"), "> 10.0.2.13:5060"},
		step{"a server calls", back(callBack("10.0.2.11", 5060, 5060, "ops2")), "10.0.1.100:5060 > 10.0.1.10:5060"},
	)
	r.want("templates", r.calls(),
		"10.0.1.10 10.0.1.100:5060 10.0.2.11:5060 ASSURED ops2",
		"10.0.1.10 10.0.1.100:5060 10.0.2.13:5060 NONE ops")
	if r.conns.Len() != 0 {
		t.Errorf("%d connections remain, want none", r.conns.Len())
	}
}

// Marks: UDP calls of a mark service share a template of the mark; what is not
// UDP has no Call-ID (K-PE-1).
func TestMarkedCalls(t *testing.T) {
	r := newRig(t, options{}, marked(sipService(5*time.Minute, 0), 7))
	r.edit(func(s *lb.Spec) { s.Marks = []lb.MarkRule{{Mark: 7, Interface: "eth0"}} })
	r.steps(
		step{"a call", invite(client, 1000, "one"), "> 10.0.2.13:5060"},
		step{"TCP", syn(1000), "no_call_id"},
		step{"the call again", invite(client, 1001, "one"), "> 10.0.2.13:5060"},
	)
	r.want("templates", r.calls(), "10.0.1.10 0.0.0.7:0 10.0.2.13:0 NONE one")
}

// New calls, of clients and of servers, allocate nothing.
func TestCallsAllocateNothing(t *testing.T) {
	r := newRig(t, options{max: 100_000}, sipService(5*time.Minute, 0))
	frames := []arrival{invite(client, 1000, "number000"), back(callBack("10.0.2.11", 5060, 7000, "caller000"))}
	at := strings.Index(string(frames[0].frame), "number")
	n := 0
	if allocs := testing.AllocsPerRun(200, func() {
		n++
		for i, f := range frames {
			f.frame[at], f.frame[at+1] = 'a'+byte(n%26), 'a'+byte(n/26)    // another call
			f.frame[34+2*i], f.frame[35+2*i] = byte(10+10*i+n>>8), byte(n) // and client port
		}
		r.fill(frames...)
		r.pipe.Process(&r.batch, r.now)
		r.now += 10
		r.pipe.Expire(r.now, 64)
	}); allocs != 0 {
		t.Errorf("Process allocates %v times a batch, want 0", allocs)
	}
	if got := len(r.calls()); got != 2*n {
		t.Errorf("there are %d templates, want one for each of %d calls", got, 2*n)
	}
}
