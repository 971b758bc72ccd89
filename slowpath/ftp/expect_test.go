package ftp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

// row is a connection in words.
func (r *rig) row(c *conn.Conn) string {
	return fmt.Sprintf("%s:%d %s:%d %s:%d %s %v", c.Client, c.ClientPort, c.Virtual, c.VirtualPort, r.snap().Reals[c.Real].Addr, c.RealPort,
		conn.StateName(c.Proto, false, c.State), (c.Stamp + c.Timeout - r.now).Duration())
}

// expected are the connections that wait, in words, sorted.
func (r *rig) expected() (rows []string) {
	r.node.Expected().Scan(func(_ *conn.Stripe, _ conn.ID, c *conn.Conn) { rows = append(rows, r.row(c)) })
	slices.Sort(rows)
	return rows
}

// conns are a worker's connections in words, sorted.
func (r *rig) conns(h *Helper) (rows []string) {
	h.conns.Scan(0, h.conns.Max(), func(_ conn.ID, c *conn.Conn) { rows = append(rows, r.row(c)) })
	slices.Sort(rows)
	return rows
}

func (r *rig) want(stake string, got []string, want ...string) {
	r.t.Helper()
	if !slices.Equal(got, want) {
		r.t.Errorf("%s: there are\n%s\nwant\n%s", stake, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// load is the server's connections, and what points at it.
func (r *rig) load() string {
	active, inactive := r.snap().Load(r.real(server))
	return fmt.Sprintf("%d active, %d inactive, %d references", active, inactive, r.snap().Refs(r.real(server)))
}

// announces has the client say where it listens.
func (r *rig) announces(h *Helper, id conn.ID, text string) {
	r.t.Helper()
	if got := r.look(h, id, says(text), false); got == "refused" {
		r.t.Errorf("%q is refused", text)
	}
}

// passive has the server listen on a port.
func (r *rig) passive(h *Helper, id conn.ID, port uint16) {
	r.t.Helper()
	r.announces(h, id, "EPSV\r\n")
	r.seq += 100
	if got := r.look(h, id, replies(fmt.Sprintf("229 (|||%d|)\r\n", port)).Seq(r.seq, 101), true); got == "refused" {
		r.t.Errorf("the answer with port %d is refused", port)
	}
}

// from is a packet of the client's, and back one of the server's, as parsed.
func from(client string, port, to uint16) *packet.Info {
	return &packet.Info{Src: addr(client), Dst: addr(pathtest.VIP), SrcPort: port, DstPort: to, Proto: packet.ProtoTCP, Family: 4}
}

func back(port, to uint16) *packet.Info {
	return &packet.Info{Src: addr(server), Dst: addr(pathtest.Client), SrcPort: port, DstPort: to, Proto: packet.ProtoTCP, Family: 4}
}

// What begins an announced connection (internal/oracle, ftp-data and
// ftp-data-active).
func TestBegin(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id := r.connect(h, clientPort, false)
	r.passive(h, id, 5000)
	r.announces(h, id, "PORT 10,0,1,10,4,1\r\n")
	r.announces(h, id, "PORT 10,0,1,10,4,2\r\n")
	udp := *from(pathtest.Client, 2000, 5000)
	udp.Proto = packet.ProtoUDP
	for _, row := range []struct {
		stake string
		in    *packet.Info
		want  string // the connection that begins; "": none
		reply bool
	}{
		{"another client", from("10.0.1.11", 2000, 5000), "", false},
		{"another port of the service", from(pathtest.Client, 2000, 5001), "", false},
		{"another protocol", &udp, "", false},
		{"from no port", from(pathtest.Client, 0, 5000), "", false},
		{"the server before the client is known", back(5000, 2000), "", false},
		{"to no port", back(5000, 0), "", false},
		{"passive", from(pathtest.Client, 2000, 5000), "10.0.1.10:2000 10.0.1.100:5000 10.0.2.11:5000 LISTEN 2m0s", false},
		{"a second", from(pathtest.Client, 2001, 5000), "", false},
		{"active", back(20, 1025), "10.0.1.10:1025 10.0.1.100:20 10.0.2.11:20 LISTEN 2m0s", true},
		{"active, again", back(20, 1025), "", false},
		{"active, from the client", from(pathtest.Client, 1026, 20), "10.0.1.10:1026 10.0.1.100:20 10.0.2.11:20 LISTEN 2m0s", false},
	} {
		got, reply, owner := h.Begin(row.in, false, r.snap())
		switch {
		case (row.want == "") != (owner < 0) || reply && row.want == "" && got != 0:
			t.Errorf("%s: connection %d, owner %d", row.stake, got, owner)
		case row.want != "" && (r.row(h.conns.At(got)) != row.want || reply != row.reply):
			t.Errorf("%s: %s, reply %t, want %s, %t", row.stake, r.row(h.conns.At(got)), reply, row.want, row.reply)
		}
	}
	if c := r.node.Counters(); c.Announced != 3 || c.Begun != 3 || c.Expected != 0 {
		t.Errorf("counters %+v, want 3 announced, 3 begun, none waiting", c)
	}
}

// A command connection is held by what it announced, until that begins and
// ends, or nobody begins it (K-CONN-13, K-FTP-2).
func TestHeld(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id := r.connect(h, clientPort, false)
	r.passive(h, id, 5000)
	r.passive(h, id, 5001)
	if h.conns.Held(id) != 2 || r.load() != "0 active, 3 inactive, 3 references" {
		t.Errorf("held %d times, %s", h.conns.Held(id), r.load())
	}
	r.pass(60 * time.Second)
	r.passive(h, id, 5001) // announced anew
	data, _, _ := h.Begin(from(pathtest.Client, 2000, 5000), false, r.snap())
	r.want("one waits", r.expected(), "10.0.1.10:0 10.0.1.100:5001 10.0.2.11:5001 LISTEN 2m0s")
	r.want("one has begun", r.conns(h), "10.0.1.10:1000 10.0.1.100:21 10.0.2.11:21 ESTABLISHED 14m0s", "10.0.1.10:2000 10.0.1.100:5000 10.0.2.11:5000 LISTEN 1m0s")
	h.conns.SetTimeout(data, conn.MaxTimeout, r.now)
	r.pass(119 * time.Second)
	if h.conns.Held(id) != 2 {
		t.Errorf("held %d times before nobody came, want 2", h.conns.Held(id))
	}
	r.pass(2 * time.Second)
	r.want("nobody came", r.expected())
	if h.conns.Held(id) != 1 || r.load() != "0 active, 2 inactive, 2 references" {
		t.Errorf("held %d times after that, %s", h.conns.Held(id), r.load())
	}
	h.conns.SetTimeout(id, 10, r.now) // the command connection's time is over, again and again
	r.pass(10 * time.Minute)
	if h.conns.Len() != 2 {
		t.Errorf("%d connections while data flows, want 2", h.conns.Len())
	}
	h.conns.At(data).Timeout = 0 // dropped
	h.End(h.conns.At(data), r.now)
	h.conns.Delete(data)
	r.pass(20 * time.Millisecond)
	if h.conns.Len() != 0 || r.node.Counters().Sessions != 0 {
		t.Errorf("%d connections and %d sessions after the data connection was dropped, want none", h.conns.Len(), r.node.Counters().Sessions)
	}
}

// Announced twice: the same wait begins anew. A client's port of a connection
// that has begun is back in LISTEN.
func TestAgain(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id := r.connect(h, clientPort, false)
	for range 2 {
		r.announces(h, id, "PORT 10,0,1,10,4,1\r\n")
		r.passive(h, id, 5000)
		r.pass(time.Minute)
	}
	r.want("a minute after the second time", r.expected(), "10.0.1.10:0 10.0.1.100:5000 10.0.2.11:5000 LISTEN 1m0s", "10.0.1.10:1025 10.0.1.100:20 10.0.2.11:20 LISTEN 1m0s")
	data, _, _ := h.Begin(back(20, 1025), false, r.snap())
	h.conns.At(data).State = conn.TCPEstablished
	r.announces(h, id, "PORT 10,0,1,10,4,1\r\n")
	r.want("the one that has begun listens", r.conns(h), "10.0.1.10:1000 10.0.1.100:21 10.0.2.11:21 ESTABLISHED 13m0s", "10.0.1.10:1025 10.0.1.100:20 10.0.2.11:20 LISTEN 2m0s")
	if h.conns.Held(id) != 2 {
		t.Errorf("held %d times, want twice", h.conns.Held(id))
	}
}

// A client's packet waits for a server that was removed, unless connections of
// such end at once (K-CONN-10).
func TestServerGone(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id := r.connect(h, clientPort, false)
	r.passive(h, id, 5000)
	remove := func(expire int) {
		spec := r.director.Spec()
		spec.Services[0].Servers = nil
		spec.Sysctl.ExpireNoDestConn = expire
		if _, err := r.director.Apply(spec); err != nil {
			t.Fatal(err)
		}
	}
	remove(0)
	in := from(pathtest.Client, 2000, 5000)
	if got, _, owner := h.Begin(in, false, r.snap()); got != 0 || owner != 0 {
		t.Errorf("connection %d, owner %d, want none, and worker 0 to know why", got, owner)
	}
	remove(1)
	if got, _, owner := h.Begin(in, false, r.snap()); got == 0 || owner != 0 {
		t.Errorf("with expire_nodest_conn connection %d, owner %d, want one that can be ended", got, owner)
	}
}

// Data connections are their own client port's worker's: it takes them over,
// once, and what ends there releases the command connection here.
func TestWorkers(t *testing.T) {
	r := newRig(t, 2)
	here, there := r.helpers[0], r.helpers[1]
	id := r.connect(here, clientPort, false)
	r.passive(here, id, 5000)
	in := from(pathtest.Client, 2000, 5000)
	for r.node.Steering.Owner(in.Proto, &in.Src, in.SrcPort) != 1 {
		in.SrcPort++
	}
	if got, _, owner := here.Begin(in, false, r.snap()); got != 0 || owner != 1 {
		t.Errorf("at worker 0 connection %d, owner %d, want to hand it to worker 1", got, owner)
	}
	data, _, owner := there.Begin(in, true, r.snap())
	if data == 0 || owner != 1 {
		t.Fatalf("at worker 1 connection %d, owner %d", data, owner)
	}
	if got, _, owner := there.Begin(in, true, r.snap()); owner >= 0 {
		t.Errorf("once more connection %d, owner %d", got, owner)
	}
	r.pass(time.Second)
	if here.conns.Held(id) != 1 {
		t.Errorf("held %d times, want once", here.conns.Held(id))
	}
	there.End(there.conns.At(data), r.now)
	there.conns.Delete(data)
	if here.conns.Held(id) != 1 {
		t.Error("released by another's goroutine")
	}
	r.pass(10 * time.Millisecond)
	if here.conns.Held(id) != 0 {
		t.Error("not released at the next tick")
	}

	// And where a tick ends it, whichever worker's that is.
	r.passive(here, id, 5001)
	r.pass(3 * time.Minute)
	r.pass(10 * time.Millisecond)
	if here.conns.Held(id) != 0 || r.node.Counters().Expired != 1 {
		t.Errorf("held %d times, %d expired, want 0 and 1", here.conns.Held(id), r.node.Counters().Expired)
	}
}

// Workers at once: each announced connection begins once, and nothing is left.
// The race detector watches.
func TestConcurrently(t *testing.T) {
	const workers, rounds = 4, 200
	r := newRig(t, workers)
	var begun [workers]int
	var wait sync.WaitGroup
	snap := r.snap()
	ids := make([]conn.ID, workers)
	for w := range workers {
		ids[w] = r.connect(r.helpers[w], uint16(1000+w), false)
		if r.helpers[w].session(ids[w]) == nil {
			t.Fatal("no session")
		}
	}
	for w, h := range r.helpers {
		wait.Go(func() {
			for i := range rounds {
				port := uint16(5000 + rounds*w + i)
				h.announce(snap, &announcement{by: ids[w], client: addr(pathtest.Client), virtualPort: port, realPort: port}, r.now)
				for k := range workers { // what any worker may have announced by now
					data, _, owner := h.Begin(from(pathtest.Client, uint16(2000+k), uint16(5000+rounds*k+i)), true, snap)
					if owner < 0 {
						continue
					}
					begun[w]++
					h.End(h.conns.At(data), r.now)
					h.conns.Delete(data)
				}
				h.Expire(snap, r.now, 64)
			}
		})
	}
	wait.Wait()
	sum := 0
	for _, n := range begun {
		sum += n
	}
	if c := r.node.Counters(); sum+int(c.Expected) != workers*rounds || c.Begun != uint64(sum) {
		t.Errorf("%d begun, counters %+v, want all %d", sum, c, workers*rounds)
	}
	r.pass(3 * time.Minute)
	r.pass(10 * time.Millisecond)
	for w, h := range r.helpers {
		if n := h.conns.Held(ids[w]); n != 0 {
			t.Errorf("the command connection of worker %d is held %d times at the end", w, n)
		}
	}
}

// Room is bounded, for all and for each client, and what ends makes room.
func TestFull(t *testing.T) {
	r := newRig(t, 1)
	h := r.helpers[0]
	id := r.connect(h, clientPort, false)
	room := 0
	for port := uint16(1024); r.look(h, id, says(fmt.Sprintf("EPRT |1|10.0.1.10|%d|\r\n", port)), false) != "refused"; port++ {
		room++
	}
	if room != MaxExpected/conn.Stripes || r.node.Counters().Refused[ExpectedFull] != 1 {
		t.Errorf("a client may announce %d connections, %+v, want %d and one refused", room, r.node.Counters(), MaxExpected/conn.Stripes)
	}
	r.pass(3 * time.Minute)
	r.announces(h, id, "PORT 10,0,1,10,4,1\r\n")

	h.fresh, h.freed = MaxSessions, 0 // all in use
	other := r.connect(h, clientPort+1, false)
	if got := r.look(h, other, says("PASV\r\n"), false); got != "refused" || r.node.Counters().Refused[SessionsFull] != 1 {
		t.Errorf("without a session %s, %+v", got, r.node.Counters())
	}
	h.forget(h.conns.At(id).Note)
	h.conns.At(id).Note = 0
	r.announces(h, other, "PASV\r\n")
}

// A full table leaves the announced connection where it is.
func TestTableFull(t *testing.T) {
	r := newRig(t, 1)
	small, err := conn.New(conn.Config{Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	h := r.node.Worker(small)
	h.worker = 0
	id := r.connect(h, clientPort, false)
	r.passive(h, id, 5000)
	if _, _, owner := h.Begin(from(pathtest.Client, 2000, 5000), true, r.snap()); owner >= 0 {
		t.Errorf("began in a full table, owner %d", owner)
	}
	r.want("it waits", r.expected(), "10.0.1.10:0 10.0.1.100:5000 10.0.2.11:5000 LISTEN 2m0s")
}

// A data connection to a port that is followed itself is so too, like one to
// the port before that (vport - 1).
func TestFollowed(t *testing.T) {
	r := newRig(t, 1)
	r.node.Ports = []uint16{20, 21}
	h := r.helpers[0]
	id := r.connect(h, clientPort, false)
	r.announces(h, id, "PORT 10,0,1,10,4,1\r\n")
	data, _, _ := h.Begin(back(20, 1025), false, r.snap())
	if h.conns.At(data).Flags&conn.Followed == 0 || !h.Follows(20) || h.Follows(22) {
		t.Errorf("flags %x, ports %v", h.conns.At(data).Flags, r.node.Ports)
	}
	if c := h.conns.At(data); c.Real != r.real(server) || c.Flags&conn.FwdMask != conn.Flags(lb.NAT) || c.Flags&conn.NoCPort != 0 {
		t.Errorf("connection %+v, want the command connection's server by NAT", c)
	}
}

// Flows are not learnt that an announced connection may look like: of servers that a
// followed connection may lead to, and of removed ones.
func TestAwaits(t *testing.T) {
	r := newRig(t, 1)
	apply := func(services ...lb.ServiceSpec) {
		t.Helper()
		if _, err := r.director.Apply(lb.Spec{Sysctl: lb.DefaultSysctl(), Services: services}); err != nil {
			t.Fatal(err)
		}
	}
	awaits := func(rows map[string]bool) {
		t.Helper()
		for address, want := range rows {
			for proto, want := range map[uint8]bool{packet.ProtoTCP: want, packet.ProtoUDP: false} {
				if got := r.helpers[0].Awaits(&packet.Info{Proto: proto, Src: addr(address)}, r.snap()); got != want {
					t.Errorf("%s, protocol %d: %v, want %v", address, proto, got, want)
				}
			}
		}
	}
	awaits(map[string]bool{server: true, server6: true, pathtest.Client: false, pathtest.VIP: false})
	every := pathtest.Service("tcp 10.0.1.102:0 rr", "nat 10.0.2.16:0 1")
	every.Persistence = &lb.Persistence{Timeout: time.Minute}
	apply(
		pathtest.Service("tcp 10.0.1.100:80 rr", "nat 10.0.2.12:21 1"), pathtest.Service("tcp 10.0.1.101:21 rr", "dr 10.0.2.13:21 1", "tun 10.0.2.14:21 1"),
		pathtest.Service("udp 10.0.1.100:21 rr", "nat 10.0.2.15:21 1"), every,
		lb.ServiceSpec{Key: lb.ServiceKey{Mark: 5}, Scheduler: "rr", Servers: []lb.RealSpec{{Key: lb.RealKey{Addr: netip.MustParseAddr("10.0.2.17")}, Weight: 1}}},
	)
	awaits(map[string]bool{
		server:      true, // removed, and connections may lead there
		"10.0.2.12": false, "10.0.2.13": false, "10.0.2.14": false, "10.0.2.15": false, "10.0.2.16": true, "10.0.2.17": true,
	})
	for range 2 {
		r.director.Collect(time.Hour, func(uint32) int { return 0 })
		r.director.Collect(3*time.Hour, func(uint32) int { return 0 })
	}
	awaits(map[string]bool{server: false, "10.0.2.16": true})
}
