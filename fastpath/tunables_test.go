package fastpath

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/lb"
)

// Tunables that no other test has to do with: each with what it changes, and
// what is so without. They hold for the next packet.
func TestTunables(t *testing.T) {
	const tw = "TIME_WAIT"
	request := func(flags uint8) arrival { return in(fromClient().IP4(client, vip).TCP(1000, 80, flags)) }
	reply := func(flags uint8) arrival { return back(fromServer().IP4("10.0.2.12", client).TCP(80, 1000, flags)) }
	// A connection through to its end, closed by the client.
	toTimeWait := []arrival{
		request(packettest.SYN), reply(packettest.SYN | packettest.ACK), request(packettest.ACK), request(packettest.FIN | packettest.ACK),
		reply(packettest.FIN | packettest.ACK), request(packettest.ACK),
	}
	data := in(fromClient().IP4(client, vip).SCTP(1000, 80, 0))
	for _, tt := range []struct {
		name   string
		set    func(*lb.Sysctl)
		proto  string
		before []arrival // with the defaults
		state  string    // then
		probe  arrival
		fate   string // of probe, with the defaults
		then   string // with the tunable
	}{
		{"sloppy_sctp", func(s *lb.Sysctl) { s.SloppySCTP = 1 }, "sctp", nil, "", data, "passed", "> 10.0.2.12:80"},
		{"sloppy_tcp", func(s *lb.Sysctl) { s.SloppyTCP = -1 }, "tcp", nil, "", request(packettest.ACK), "passed", "> 10.0.2.12:80"},
		{"conn_reuse_mode", func(s *lb.Sysctl) { s.ConnReuseMode = 0 }, "tcp", toTimeWait, tw, request(packettest.SYN), "> 10.0.2.11:80", "> 10.0.2.12:80"},
		{"conn_reuse_mode of another bit", func(s *lb.Sysctl) { s.ConnReuseMode = 8 }, "tcp", toTimeWait, tw, request(packettest.SYN), "> 10.0.2.11:80", "> 10.0.2.11:80"},
		{"drop_packet", func(s *lb.Sysctl) { s.DropPacket, s.AMDropRate = 3, 1 }, "tcp", nil, "", request(packettest.SYN), "> 10.0.2.12:80", "drop_packet"},
		{"am_droprate 0", func(s *lb.Sysctl) { s.DropPacket, s.AMDropRate = 3, 0 }, "tcp", nil, "", request(packettest.SYN), "> 10.0.2.12:80", "> 10.0.2.12:80"},
	} {
		for _, set := range []bool{false, true} {
			r := newRig(t, options{}, service(tt.proto+" 10.0.1.100:80 rr", "nat 10.0.2.11:80 1", "nat 10.0.2.12:80 1"))
			for _, a := range tt.before {
				r.process(a)
			}
			if got := r.states(); got != tt.state {
				t.Errorf("%s: before it, connections are %q, want %q", tt.name, got, tt.state)
			}
			want := tt.fate
			if set {
				r.edit(func(s *lb.Spec) { tt.set(&s.Sysctl) })
				want = tt.then
			}
			if got := r.fate(tt.probe); !strings.Contains(got, want) {
				t.Errorf("%s, set %v: %s, want %s", tt.name, set, got, want)
			}
		}
	}
}

// amemthresh is how much room for connections has to be free: 32 of them a page,
// at most an eighth of the table.
func TestAMemThresh(t *testing.T) {
	r := newRig(t, options{max: 1000}, natService())
	for _, row := range []struct{ pages, conns, rate int }{
		{1, 967, 0}, {1, 969, 32}, {1, 984, 2}, {2, 935, 0}, {2, 937, 64}, {1024, 874, 0}, {1024, 876, 125}, {0, 999, 0}, {-5, 1000, 1},
	} {
		r.edit(func(s *lb.Spec) { s.Sysctl.AMemThresh, s.Sysctl.DropPacket = row.pages, 0 })
		for port := uint16(1000); r.conns.Len() < row.conns; port++ {
			r.process(syn(port))
		}
		r.edit(func(s *lb.Spec) { s.Sysctl.DropPacket = 1 })
		if got := r.pipe.defence.rate; got != row.rate {
			t.Errorf("amemthresh %d, %d of 1000 connections: one of %d is refused, want %d", row.pages, r.conns.Len(), got, row.rate)
		}
		r.pass(2 * time.Minute) // half-open ones end
	}
}
