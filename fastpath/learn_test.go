package fastpath

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/flow"
)

// learns says what becomes of a frame, with "+" if its flow may be learnt and
// "self" if it comes back once everything is forgotten.
func (r *rig) learns(a arrival) string {
	r.t.Helper()
	r.fill(a)
	r.pipe.Process(&r.batch, r.now)
	k := &r.batch.Pkts[0]
	switch {
	case k.Learn:
		return k.Verdict.String() + "+"
	case k.Verdict == Handoff && k.Owner == 0:
		return "self"
	}
	return k.Verdict.String()
}

// What is learnt are flows of which every packet would be passed: to learn more
// would lose replies.
func TestWhatIsLearnt(t *testing.T) {
	stray := func(sport, dport uint16) arrival {
		return back(fromServer().IP4("10.0.2.11", client).TCP(sport, dport, ackFlag))
	}
	for _, row := range []struct {
		stake string
		edit  func(*lb.Spec)
		frame arrival
		want  string
	}{
		{"a server's own connection, from the port that it serves on", nil, stray(8080, 5000), "passed+"},
		{"of a service of every port", nil, back(fromServer().IP4("10.0.2.12", client).UDP(999, 5000)), "passed+"},
		{"in IPv6", nil, back(fromServer().IP6("fd00:2::11", client6).TCP(8080, 5000, synFlag)), "passed+"},
		{"a DR server's reply of no connection", nil, back(fromServer().IP4("10.0.1.101", client).TCP(80, 5000, ackFlag)), "passed+"},
		{"a reply", nil, stray(8080, 1000), "transmitted"},
		{"to a service without connection", nil, in(fromClient().IP4(client, vip).TCP(5000, 80, ackFlag)), "passed"},
		{"what is nobody's", nil, in(fromClient().IP4(client, "10.0.1.102").TCP(5000, 80, ackFlag)), "passed"},
		{"an ICMP error of no connection", nil, back(fromServer().IP4("10.0.2.11", client).ICMP4(3, 3, 0).Quote(packettest.Eth(clientMAC, frontMAC).IP4(client, "10.0.2.11").TCP(5000, 8080, ackFlag), 40)), "passed"},
		{"with nat_icmp_send it would be refused", func(s *lb.Spec) { s.Sysctl.NATICMPSend = 1 }, stray(8080, 5000), "nat_reply_without_connection"},
		{"but not its reset, and that is no reason to learn", func(s *lb.Spec) { s.Sysctl.NATICMPSend = 1 }, back(fromServer().IP4("10.0.2.11", client).TCP(8080, 5000, rstFlag)), "passed"},
	} {
		r := newRig(t, options{learn: 10},
			service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"), service("tcp 10.0.1.101:80 rr", "dr 10.0.2.12:80 1"),
			persistent(service("udp 10.0.1.103:0 rr", "nat 10.0.2.12:0 1"), time.Minute, 0), service("tcp [fd00:1::100]:80 rr", "nat [fd00:2::11]:8080 1"))
		if row.edit != nil {
			r.edit(row.edit)
		}
		r.steps(step{"a connection", syn(1000), "10.0.2.11"})
		if got := r.learns(row.frame); got != row.want {
			t.Errorf("%s: %s, want %s", row.stake, got, row.want)
		}
	}
}

// A connection whose replies look like a flow that was learnt is made when that
// is forgotten, and not before: until then none of its packets goes on.
func TestLearntFlowBecomesAConnection(t *testing.T) {
	for _, row := range []struct {
		stake        string
		svc          lb.ServiceSpec
		reply, begin arrival
		server       string
	}{
		{
			"NAT", service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1"),
			back(fromServer().IP4("10.0.2.11", client).UDP(5353, 5000)), in(fromClient().IP4(client, vip).UDP(5000, 53)), "10.0.2.11",
		},
		{
			"NAT by TCP", service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"),
			back(fromServer().IP4("10.0.2.11", client).TCP(8080, 5000, ackFlag)), in(fromClient().IP4(client, vip).TCP(5000, 80, synFlag)), "10.0.2.11",
		},
		{
			"DR", service("tcp 10.0.1.100:80 rr", "dr 10.0.2.11:80 1"),
			back(fromServer().IP4(vip, client).TCP(80, 5000, ackFlag)), in(fromClient().IP4(client, vip).TCP(5000, 80, synFlag)), "10.0.2.11",
		},
	} {
		r := newRig(t, options{learn: 10}, row.svc)
		for i, want := range []string{"passed+", "passed+"} { // the second may come before the program has learnt
			if got := r.learns(row.reply); got != want {
				t.Errorf("%s: packet %d: %s, want %s", row.stake, i, got, want)
			}
		}
		for range 2 {
			if got := r.learns(row.begin); got != "self" {
				t.Errorf("%s: %s before what was learnt is forgotten, want it to come back", row.stake, got)
			}
		}
		if l := r.list(); len(l) != 0 {
			t.Errorf("%s: connections %q, want none", row.stake, l)
		}
		r.pipe.Forget()
		if got := r.learns(row.begin); got != "transmitted" {
			t.Errorf("%s: %s, want it sent to its server", row.stake, got)
		}
		if got := r.learns(row.reply); got != "transmitted" {
			t.Errorf("%s: a reply: %s, want it sent to the client", row.stake, got)
		}
		if c := r.counters(row.server); c.Conns != 1 || c.InPackets != 1 || c.OutPackets != 1 {
			t.Errorf("%s: counted %+v, want one packet each way", row.stake, c)
		}
	}
}

// Others' connections are made as ever, also persistent ones, and what does not
// fit is not learnt.
func TestLearningIsBounded(t *testing.T) {
	svc := persistent(service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"), time.Minute, 0)
	r := newRig(t, options{learn: 3}, svc)
	for port := range uint16(5) {
		want := "passed+"
		if port >= 3 {
			want = "passed"
		}
		if got := r.learns(back(fromServer().IP4("10.0.2.11", client).TCP(8080, 5000+port, ackFlag))); got != want {
			t.Errorf("flow %d: %s, want %s", port, got, want)
		}
	}
	for port, want := range map[uint16]string{5000: "self", 5002: "self", 5003: "transmitted", 6000: "transmitted"} {
		if got := r.learns(syn(port)); got != want {
			t.Errorf("client port %d: %s, want %s", port, got, want)
		}
	}
	r.pipe.Forget()
	if got := r.learns(syn(5000)); got != "transmitted" {
		t.Errorf("forgotten: %s", got)
	}
	r.want("templates", []string{r.listTemplates()}, "6 10.0.1.10:0 10.0.1.100:80 8080 NONE held 3")
	stray := back(fromServer().IP4("10.0.2.11", client).TCP(8080, 7000, ackFlag))
	if n := testing.AllocsPerRun(100, func() {
		r.fill(stray)
		r.pipe.Process(&r.batch, r.now)
		r.pipe.Forget()
	}); n != 0 {
		t.Errorf("learning and forgetting allocate %v times", n)
	}
}

// Only a flow's owner knows that it has no connection.
func TestOnlyTheOwnerLearns(t *testing.T) {
	r := newRig(t, options{learn: 1000, workers: 2}, service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"), service("tcp 10.0.1.101:80 rr", "dr 10.0.2.11:80 1"))
	got := map[string]int{}
	for port := range uint16(100) {
		addr := flow.FromNetip(netip.MustParseAddr(client))
		owner := r.pipe.steering.Owner(6, &addr, 5000+port)
		for _, src := range []string{"10.0.2.11", "10.0.1.101"} {
			sport := map[string]uint16{"10.0.2.11": 8080, "10.0.1.101": 80}[src]
			verdict := r.learns(back(fromServer().IP4(src, client).TCP(sport, 5000+port, ackFlag)))
			got[fmt.Sprintf("%s of %d", verdict, owner)]++
		}
	}
	if len(got) != 2 || got["passed+ of 0"] < 50 || got["handed_over of 1"] < 50 {
		t.Errorf("%v, want worker 0 to learn its own flows and to hand over the other's", got)
	}
}
