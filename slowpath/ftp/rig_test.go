package ftp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// The ends of the tests' command connection.
const (
	server     = "10.0.2.11"
	server6    = "fd00:2::11"
	clientPort = 1000
)

// rig is the helpers of some workers, and a director with an FTP service of
// each family.
type rig struct {
	t        testing.TB
	node     *Node
	helpers  []*Helper
	director *lb.Director
	now      clock.Ticks
	seq      uint32 // of the server's last announcement
	memory   [2048]byte
}

func newRig(t testing.TB, workers int) *rig {
	t.Helper()
	r := &rig{t: t, director: lb.NewDirector(workers), now: 1000}
	if _, err := r.director.Apply(lb.Spec{Sysctl: lb.DefaultSysctl(), Services: []lb.ServiceSpec{
		pathtest.Service("tcp 10.0.1.100:21 rr", "nat 10.0.2.11:21 1"),
		pathtest.Service("tcp [fd00:1::100]:21 rr", "nat [fd00:2::11]:21 1"),
	}}); err != nil {
		t.Fatal(err)
	}
	var err error
	steering := flow.NewSteering(workers, []byte("forty random bytes that are a hash's key!"), nil)
	if r.node, err = New(Config{Ports: []uint16{21}, Seed: flow.Seed{1, 2}, Steering: steering}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.node.Close() })
	for range workers {
		table, err := conn.New(conn.Config{Max: 1000, Seed: flow.Seed{3, 4}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { table.Close() })
		r.helpers = append(r.helpers, r.node.Worker(table))
	}
	return r
}

func addr(s string) flow.Addr { return flow.FromNetip(netip.MustParseAddr(s)) }

// connect gives a worker an ESTABLISHED command connection from a port of the
// client.
func (r *rig) connect(h *Helper, port uint16, v6 bool) conn.ID {
	r.t.Helper()
	c := conn.Conn{
		Client: addr(pathtest.Client), Virtual: addr(pathtest.VIP), ClientPort: port, VirtualPort: 21, RealPort: 21,
		Proto: packet.ProtoTCP, State: conn.TCPEstablished, Flags: conn.Followed, Real: r.real(server), Stamp: r.now, Timeout: 90000,
	}
	to := addr(server)
	if v6 {
		c.Client, c.Virtual, c.Real, to = addr(pathtest.Client6), addr(pathtest.VIP6), r.real(server6), addr(server6)
		c.Flags |= conn.V6
	}
	id, ok := h.conns.Insert(&c, &flow.Key{Client: c.Client, ClientPort: port, Local: to, LocalPort: 21, Proto: c.Proto, Side: flow.ServerSide})
	if !ok {
		r.t.Fatal("the table is full")
	}
	r.snap().Bind(r.snap().Rows(h.worker), c.Real, false)
	return id
}

func (r *rig) snap() *lb.Snapshot { return r.director.Current() }

// real is the ID of the server of that address.
func (r *rig) real(address string) uint32 {
	for i := range r.snap().Reals {
		if r.snap().Reals[i].Addr == addr(address) {
			return uint32(i)
		}
	}
	r.t.Fatalf("no server %s", address)
	return 0
}

// says is a segment of the client's to its service, and replies one of its
// server's, with that payload.
func says(text string) packettest.Packet {
	return pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(clientPort, 21, packettest.PSH|packettest.ACK).Seq(101, 501).Payload([]byte(text))
}

func replies(text string) packettest.Packet {
	return pathtest.FromServer().IP4(server, pathtest.Client).TCP(21, clientPort, packettest.PSH|packettest.ACK).Seq(501, 101).Payload([]byte(text))
}

func says6(text string) packettest.Packet {
	return pathtest.FromClient().IP6(pathtest.Client6, pathtest.VIP6).TCP(clientPort, 21, packettest.PSH|packettest.ACK).Seq(101, 501).Payload([]byte(text))
}

func replies6(text string) packettest.Packet {
	return pathtest.FromServer().IP6(server6, pathtest.Client6).TCP(21, clientPort, packettest.PSH|packettest.ACK).Seq(501, 101).Payload([]byte(text))
}

// parse reads a frame, which lies in the rig's memory with so many bytes behind
// it.
func (r *rig) parse(frame []byte, behind int) (rewrite.Frame, packet.Info) {
	r.t.Helper()
	const at = 256
	copy(r.memory[at:], frame)
	f := rewrite.Frame{Chunk: r.memory[:at+len(frame)+behind], Off: at, Len: uint32(len(frame))}
	var in packet.Info
	if got := packet.Parse(frame, &in); got != packet.Parsed {
		r.t.Fatalf("%s does not parse: %d", packettest.Describe(frame), got)
	}
	return f, in
}

// look sends a packet through Look, and returns what it is then, described from
// the TCP header on; "refused": it is to be dropped.
func (r *rig) look(h *Helper, id conn.ID, p packettest.Packet, reply bool) string {
	r.t.Helper()
	frame := p.Bytes()
	f, in := r.parse(frame, 1000)
	if !h.Look(&f, &in, id, reply, r.snap(), r.now) {
		return "refused"
	}
	if f.Len != uint32(len(frame)) && int(f.Len) != int(in.End) {
		r.t.Errorf("the frame has %d bytes, its packet ends at %d", f.Len, in.End)
	}
	return describe(f.Chunk[f.Off : f.Off+f.Len])
}

// pass lets time pass, with the timers of all workers.
func (r *rig) pass(d time.Duration) {
	r.now += clock.FromDuration(d)
	for _, h := range r.helpers {
		for h.Expire(r.snap(), r.now, 64) {
		}
		h.conns.Advance(r.now, 0, func(id conn.ID) clock.Ticks {
			if h.conns.Held(id) > 0 {
				return conn.HeldTicks
			}
			h.End(h.conns.At(id), r.now)
			h.conns.Delete(id)
			return 0
		})
	}
}
