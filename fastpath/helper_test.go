package fastpath

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// follower is a helper that does as it is told, and notes what it is asked.
type follower struct {
	conns   *conn.Table
	refuse  bool
	longer  int        // by how much packets grow at their end
	waiting *conn.Conn // what the next packet without a connection begins
	server  flow.Key   // of that
	reply   bool
	owner   int // whose that is; -1: nothing waits
	looked  []bool
	ended   []clock.Ticks // timeouts of the connections that are over
}

func (f *follower) Follows(port uint16) bool { return port == 21 }

func (f *follower) Look(frame *rewrite.Frame, in *packet.Info, _ conn.ID, reply bool, _ *lb.Snapshot, _ clock.Ticks) bool {
	f.looked = append(f.looked, reply)
	if f.longer > 0 { // only the lengths: its bytes do not matter here
		in.End += uint32(f.longer)
		frame.Len = in.End
	}
	return !f.refuse
}

func (f *follower) Begin(_ *packet.Info, handed bool, _ *lb.Snapshot) (conn.ID, bool, int) {
	if f.waiting == nil || f.owner != 0 && !handed {
		return 0, f.reply, f.owner
	}
	id, _ := f.conns.Insert(f.waiting, &f.server)
	f.waiting, f.owner = nil, -1
	return id, f.reply, 0
}

func (f *follower) Awaits(in *packet.Info, _ *lb.Snapshot) bool {
	return in.Proto == packet.ProtoTCP && in.Src == flow.FromNetip(netip.MustParseAddr("10.0.2.11"))
}

func (f *follower) End(c *conn.Conn, _ clock.Ticks) { f.ended = append(f.ended, c.Timeout) }

func (f *follower) Expire(*lb.Snapshot, clock.Ticks, int) bool { return false }

// followed is a rig with an FTP service, another one, and a follower.
func followed(t *testing.T, o options) (*rig, *follower) {
	t.Helper()
	r := newRig(t, o, service("tcp 10.0.1.100:21 rr", "nat 10.0.2.11:21 1"), service("tcp 10.0.1.100:80 rr", "nat 10.0.2.12:80 1"),
		service("tcp 10.0.1.101:21 rr", "dr 10.0.2.13:21 1"))
	f := &follower{conns: r.conns, owner: -1}
	r.pipe.helper = f
	return r, f
}

// command is a packet of a client's to its FTP service, and answer one of the
// server's.
func command(flags uint8) arrival {
	return in(fromClient().IP4(client, vip).TCP(1000, 21, flags))
}

func answer(flags uint8) arrival {
	return back(fromServer().IP4("10.0.2.11", client).TCP(21, 1000, flags))
}

// data is the connection of the tests that waits: client's port 2000 to port
// 5000 of the FTP service.
func (r *rig) data(f *follower) *conn.Conn {
	c := &conn.Conn{
		Client: flow.FromNetip(netip.MustParseAddr(client)), Virtual: flow.FromNetip(netip.MustParseAddr(vip)), ClientPort: 2000, VirtualPort: 5000, RealPort: 5000, Proto: packet.ProtoTCP,
		State: conn.TCPListen, Flags: conn.Inactive, Stamp: r.now, Timeout: 12000, Control: 1,
	}
	f.server = flow.Key{Client: c.Client, ClientPort: 2000, Local: flow.FromNetip(netip.MustParseAddr("10.0.2.11")), LocalPort: 5000, Proto: c.Proto, Side: flow.ServerSide}
	r.director.Current().Bind(r.director.Current().Rows(0), c.Real, false)
	return c
}

// K-FTP-1: TCP connections by NAT to a port that is followed, no others, and
// each of their packets.
func TestFollowed(t *testing.T) {
	r, f := followed(t, options{})
	r.steps(
		step{"a command connection", command(packettest.SYN), "> 10.0.2.11:21"},
		step{"its answer", answer(packettest.SYN | packettest.ACK), "10.0.1.100:21 >"},
		step{"another port", syn(1000), "> 10.0.2.12:80"},
		step{"direct routing", in(fromClient().IP4(client, "10.0.1.101").TCP(1000, 21, packettest.SYN)), "> 10.0.1.101:21"},
		step{"the director's to send", in(fromClient().IP4(client, vip).TTL(1).TCP(1000, 21, packettest.ACK)), "ttl_exceeded"},
	)
	if want := []bool{false, true}; !slices.Equal(f.looked, want) {
		t.Errorf("the helper was shown packets, replies or not, %v, want %v", f.looked, want)
	}
}

// A refused request has been counted, a refused reply has not, as in the kernel.
// What grew counts as it left.
func TestHelpedCounts(t *testing.T) {
	r, f := followed(t, options{})
	r.steps(step{"opened", command(packettest.SYN), "> 10.0.2.11:21"}, step{"answered", answer(packettest.SYN | packettest.ACK), "10.0.1.100:21 >"})
	f.refuse = true
	r.steps(step{"refused", command(packettest.ACK), "helper"}, step{"refused back", answer(packettest.ACK), "helper"})
	f.refuse, f.longer = false, 3
	r.steps(step{"grown", answer(packettest.ACK), "10.0.1.100:21 >"})
	if got, want := r.counters("10.0.2.11"), (lb.Counters{Conns: 1, InPackets: 2, OutPackets: 2, InBytes: 80, OutBytes: 83}); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
	f.longer = 1500
	df := back(fromServer().IP4("10.0.2.11", client).DF().TCP(21, 1000, packettest.ACK))
	r.steps(step{"grown beyond the client's MTU", df, "too_big"})
}

// An announced connection begins with any packet, in either direction, and
// moves on from LISTEN as its server's (K-FTP-2, K-FTP-3).
func TestBegun(t *testing.T) {
	r, f := followed(t, options{})
	opening := in(fromClient().IP4(client, vip).TCP(2000, 5000, packettest.SYN))
	r.steps(step{"nothing announced", opening, "passed"})
	f.waiting, f.owner = r.data(f), 0
	r.steps(
		step{"the client begins", opening, "> 10.0.2.11:5000"},
		step{"its server answers", back(fromServer().IP4("10.0.2.11", client).TCP(5000, 2000, packettest.SYN|packettest.ACK)), "10.0.1.100:5000 >"},
		step{"and the rest", in(fromClient().IP4(client, vip).TCP(2000, 5000, packettest.ACK)), "> 10.0.2.11:5000"},
	)
	r.want("it is established", r.list(), "10.0.1.10:2000 10.0.1.100:5000 5000 ESTABLISHED 15m0s")
	if got := r.load("10.0.2.11"); got != "1 active, 0 inactive" {
		t.Errorf("the server has %s, want it active", got)
	}

	r, f = followed(t, options{})
	f.waiting, f.owner, f.reply = r.data(f), 0, true
	r.steps(
		step{"the server begins", back(fromServer().IP4("10.0.2.11", client).TCP(5000, 2000, packettest.SYN)), "10.0.1.100:5000 >"},
		step{"the client answers", in(fromClient().IP4(client, vip).TCP(2000, 5000, packettest.SYN|packettest.ACK)), "> 10.0.2.11:5000"},
	)
	r.want("as when the client begins", r.list(), "10.0.1.10:2000 10.0.1.100:5000 5000 SYN_RECV 1m0s")
	if got := r.process(opening, opening); got[0] != got[1] {
		t.Errorf("of two packets of a batch the second becomes %s, the first %s", got[1], got[0])
	}
}

// It is its own worker's; and where its server is gone it waits.
func TestBegunElsewhere(t *testing.T) {
	r, f := followed(t, options{workers: 2})
	opening := in(fromClient().IP4(client, vip).TCP(2000, 5000, packettest.SYN))
	f.waiting, f.owner = r.data(f), 1
	r.steps(step{"another worker's", opening, "handed_over"})
	if to := r.batch.Pkts[0].Owner; to != 1 {
		t.Errorf("handed to worker %d, want 1", to)
	}
	r.fill(opening)
	r.batch.Pkts[0].Handed = true
	r.pipe.Process(&r.batch, r.now)
	if v := r.batch.Pkts[0].Verdict; v != Forward {
		t.Errorf("handed here: %s, want it sent on", v)
	}
	f.waiting, f.owner = nil, 0
	r.steps(step{"its server is gone", in(fromClient().IP4(client, vip).TCP(2001, 5000, packettest.SYN)), "server_gone"})

	// A packet of one that has begun, at a worker that is not its own: no service
	// has its port, but it is not passed.
	r, _ = followed(t, options{workers: 2})
	r.edit(func(s *lb.Spec) { s.Services = s.Services[1:2] })
	handed := 0
	for port := range uint16(32) {
		switch r.fate(in(fromClient().IP4(client, vip).TCP(3000+port, 5000, packettest.ACK))) {
		case "handed_over":
			handed++
		case "passed":
		default:
			t.Error("neither handed over nor passed")
		}
	}
	if handed == 0 || handed == 32 {
		t.Errorf("%d of 32 packets handed over, want about half", handed)
	}
}

// The helper is told of each connection that ends; one that is dropped has no
// timeout then, and one that holds others does not end (K-CONN-13).
func TestHelperIsTold(t *testing.T) {
	r, f := followed(t, options{})
	r.steps(step{"opened", command(packettest.SYN), "> 10.0.2.11:21"}, step{"another", syn(1000), "> 10.0.2.12:80"})
	var id conn.ID
	r.conns.Scan(0, r.conns.Max(), func(at conn.ID, c *conn.Conn) {
		if c.Flags&conn.Followed != 0 {
			id = at
		}
	})
	r.conns.Hold(id)
	r.pass(5 * time.Minute)
	if want := []clock.Ticks{6000}; !slices.Equal(f.ended, want) || r.conns.Len() != 1 {
		t.Errorf("ended with timeouts %v, %d left, want %v and the one that is held", f.ended, r.conns.Len(), want)
	}
	r.conns.Unhold(id)
	r.edit(func(s *lb.Spec) { s.Sysctl.ExpireNoDestConn, s.Services = 1, s.Services[1:] })
	r.pass(time.Second)
	if want := []clock.Ticks{6000, 0}; !slices.Equal(f.ended, want) || r.conns.Len() != 0 {
		t.Errorf("ended with timeouts %v, %d left, want %v and none", f.ended, r.conns.Len(), want)
	}
}

// A flow like a connection that may be announced yet is not learnt.
func TestAwaitedIsNotLearnt(t *testing.T) {
	r, _ := followed(t, options{learn: 10})
	for server, want := range map[string]string{"10.0.2.11": "passed", "10.0.2.12": "passed+"} {
		if got := r.learns(back(fromServer().IP4(server, client).TCP(20, 5000, synFlag))); got != want {
			t.Errorf("%s: %s, want %s", server, got, want)
		}
	}
}
