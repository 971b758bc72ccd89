package fastpath

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// FuzzExpress holds the way of plain packets against its twin, which reads every packet
// whole: the same packets, edits, routes and times have to give the same
// frames, verdicts, counters and connections.
func FuzzExpress(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := &walk{Rand: rand.New(rand.NewPCG(seed, 0))}
		for _, roles := range [][]Role{{RoleBoth, RoleBoth}, {RoleClient, RoleServer}} {
			express, whole := newWalker(t, roles), newWalker(t, roles)
			for i := range 60 {
				w.step(express, whole)
				whole.deaf()
				frames := w.frames()
				got, want := express.process(frames...), whole.process(frames...)
				for n := range frames {
					a, b := &express.batch.Pkts[n], &whole.batch.Pkts[n]
					if got[n] != want[n] || a.MTU != b.MTU && a.Verdict == DropTooBig || !bytes.Equal(a.Chunk[a.Off:a.Off+a.Len], b.Chunk[b.Off:b.Off+b.Len]) {
						t.Fatalf("batch %d, packet %d, %s: %s, want %s", i, n, packettest.Describe(frames[n].frame), got[n], want[n])
					}
				}
				if got, want := express.all(), whole.all(); got != want {
					t.Fatalf("batch %d: %s\nwant\n%s", i, got, want)
				}
				w.expressed += express.batch.express
			}
		}
		if w.expressed == 0 {
			t.Error("no packet was express")
		}
	})
}

// walk is a random one through a director's life.
type walk struct {
	*rand.Rand
	expressed int
}

func newWalker(tb testing.TB, roles []Role) *rig {
	tb.Helper()
	udp := service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:53 1")
	udp.Persistence = &lb.Persistence{Timeout: time.Minute}
	return newRig(tb, options{roles: roles}, udp,
		service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1", "dr 10.0.2.12:80 1", "tun 10.0.2.13:80 1", "nat 10.0.2.14:80 1"),
		service("udp 10.0.1.100:54 rr", "nat 10.0.2.11:5400 1", "dr 10.0.2.12:54 1"),
		service("tcp [fd00:1::100]:80 rr", "nat [fd00:2::11]:8080 1"))
}

// deaf makes no frame plain.
func (r *rig) deaf() {
	for i := range r.pipe.macs {
		r.pipe.macs[i] = 1
	}
}

// all is everything that is counted, and the connections.
func (r *rig) all() string {
	text := fmt.Sprintln(r.pipe.Counters, r.list())
	snap := r.director.Current()
	for i := range snap.Reals {
		text += fmt.Sprintln(snap.Reals[i].Addr, snap.Rows(0).Real(uint32(i)).Counters, r.load(snap.Reals[i].Addr.String()))
	}
	r.templates.Scan(func(_ *conn.Stripe, _ conn.ID, c *conn.Conn) { text += fmt.Sprintln(c.Client, c.State, c.Timeout) })
	for i := range snap.Services {
		text += fmt.Sprintln(snap.Rows(0).Service(uint32(i)).Counters)
	}
	return text
}

// step does to both what happens between batches, now and then.
func (w *walk) step(rigs ...*rig) {
	what, wait := w.IntN(12), time.Duration(w.IntN(int(20*time.Second)))
	server, port := w.IntN(2), w.IntN(2)
	var weight int32
	if w.IntN(2) == 0 {
		weight = 1
	}
	how := lb.Forward(0)
	if w.IntN(2) == 0 {
		how = lb.DR
	}
	for _, r := range rigs {
		switch what {
		case 0:
			r.pass(wait)
		case 1:
			r.edit(func(s *lb.Spec) {
				s.Services[1].Servers[server].Weight = weight
				s.Sysctl.SecureTCP = 3 * port
			})
		case 2:
			r.edit(func(s *lb.Spec) { s.Services[2].Servers[0].Forward = how })
		case 3:
			r.edit(func(s *lb.Spec) { s.Timeouts = lb.Timeouts{TCP: wait, UDP: wait} })
		case 4: // other routes: a link that is down
			routes := *pathtest.Routes(r.t)
			routes.Interfaces = append([]nexthop.Interface(nil), routes.Interfaces...)
			routes.Interfaces[port].Up = server == 0
			r.pipe.Routes(&routes)
		case 5:
			r.pipe.Routes(pathtest.Routes(r.t))
		}
	}
}

// frames are a batch of packets of few clients, most of them of established connections.
func (w *walk) frames() (out []arrival) {
	for range 1 + w.IntN(40) {
		p, way := fromClient(), in
		src, dst, sport, dport := client, vip, uint16(1000+w.IntN(6)), []uint16{80, 80, 53, 54}[w.IntN(4)]
		tcp := dport == 80
		if w.IntN(3) == 0 {
			p, way = fromServer(), back
			src, dst = []string{"10.0.2.11", "10.0.2.12", "10.0.2.14"}[w.IntN(3)], client
			if sport, dport = dport, sport; src == "10.0.2.11" {
				sport = map[uint16]uint16{80: 8080, 53: 53, 54: 5400}[sport]
			}
		}
		if w.IntN(20) == 0 { // nobody's addresses
			src = []string{"0.0.0.9", "127.0.0.9", "224.0.0.9", "239.0.0.9", "240.0.0.9", "255.255.255.255"}[w.IntN(6)]
		}
		p = p.IP4(src, dst).TTL([]uint8{64, 64, 64, 2, 1}[w.IntN(5)]).ID(uint16(w.Uint32()))
		if w.IntN(2) == 0 {
			p = p.DF()
		}
		if tcp {
			p = p.TCP(sport, dport, []uint8{ackFlag, ackFlag, ackFlag, ackFlag | 8, synFlag, synFlag | ackFlag, packettest.FIN | ackFlag, packettest.RST, 0}[w.IntN(9)])
		} else {
			p = p.UDP(sport, dport)
		}
		a := way(p.Payload(make([]byte, []int{0, 1, 30, 1400, 1490}[w.IntN(5)])))
		switch w.IntN(12) {
		case 0: // a fault anywhere in the headers
			a.frame[w.IntN(min(len(a.frame), 60))] ^= 1 << w.IntN(8)
		case 1: // padded
			a.frame = append(a.frame, 0, 1, 2, 3)
		case 2: // cut
			a.frame = a.frame[:w.IntN(len(a.frame)+1)]
		case 3: // UDP without a checksum, or TCP with a wrong one
			if len(a.frame) > 41 {
				a.frame[40], a.frame[41] = 0, 0
			}
		}
		out = append(out, a)
	}
	return out
}

// FuzzPlain: what is read of a plain frame is what is read of it whole.
func FuzzPlain(f *testing.F) {
	for _, a := range []arrival{syn(1000), back(fromServer().IP4("10.0.2.11", client).UDP(53, 1000)), in(fromClient().IP6(client6, vip6).TCP(1, 80, ackFlag))} {
		f.Add(a.frame, uint8(a.port))
	}
	f.Fuzz(func(t *testing.T, frame []byte, port uint8) {
		if len(frame) > 1500 {
			return
		}
		r := newWalker(t, nil)
		for _, role := range []Role{RoleBoth, RoleClient, RoleServer} {
			r.pipe.roles = []Role{role, role}
			r.fill(arrival{int(port % 2), frame})
			k := &r.batch.Pkts[0]
			short, ok := r.pipe.plain(k)
			if !ok {
				continue
			}
			reply := k.Reply
			var key flow.Key
			if !r.pipe.whole(k, &key) || key != short.Key() || k.Reply != reply || r.conns.Hash(&key) != r.conns.Hash4(short) {
				t.Errorf("%s: plain %v, reply %t, whole %v, %t, %v", packettest.Describe(frame), short.Key(), reply, key, k.Reply, k.Verdict)
			}
		}
	})
}

// TestExpressUDPChecksum: whatever a UDP checksum is, right or wrong, it becomes what it
// becomes elsewhere, and never 0, which would say that there is none.
func TestExpressUDPChecksum(t *testing.T) {
	express, whole := newWalker(t, nil), newWalker(t, nil)
	var a arrival // of the second connection, which is NAT
	for _, port := range []uint16{1000, 1001} {
		a = in(fromClient().IP4(client, vip).UDP(port, 54).Payload(make([]byte, 12)))
		express.process(a)
		whole.process(a)
	}
	for first := 1; first < 1<<16; first += MaxBatch - 1 {
		var frames []arrival
		for sum := first; sum < min(first+MaxBatch-1, 1<<16); sum++ {
			frame := bytes.Clone(a.frame)
			frame[40], frame[41] = byte(sum>>8), byte(sum)
			frames = append(frames, arrival{0, frame})
		}
		whole.deaf()
		got, want := express.process(frames...), whole.process(frames...)
		for i := range frames {
			x, y := &express.batch.Pkts[i], &whole.batch.Pkts[i]
			if got[i] != want[i] || !bytes.Equal(x.Chunk[256:][:54], y.Chunk[256:][:54]) {
				t.Fatalf("checksum %#x: %s, want %s", first+i, got[i], want[i])
			}
		}
		if express.batch.express != len(frames) {
			t.Fatalf("%d of %d packets were express", express.batch.express, len(frames))
		}
	}
}

// TestPacketLines: what the usual packet needs is in the first of a packet's lines, and
// fields are where the assembly looks.
func TestPacketLines(t *testing.T) {
	if head := offset(t, "head"); head != 64-8 && head != 64 {
		t.Errorf("head is at byte %d of a Packet, want it at the end of the first 64 or behind them", head)
	}
	if chunk, off := offset(t, "Chunk"), offset(t, "Off"); chunk != 0 || off != 24 {
		t.Errorf("Chunk and Off are at bytes %d and %d of a Packet, where fetch_amd64.s looks at 0 and 24", chunk, off)
	}
	if real, _ := reflect.TypeFor[conn.Conn]().FieldByName("Real"); real.Offset != 44 {
		t.Errorf("Real is at byte %d of a Conn, where fetch_amd64.s looks at 44", real.Offset)
	}
	if size := reflect.TypeFor[lane]().Size(); size != 64 {
		t.Errorf("a lane has %d bytes, want 64", size)
	}
}

// offset is where a Packet has a field, or one of its Frame.
func offset(t *testing.T, name string) uintptr {
	t.Helper()
	f, ok := reflect.TypeFor[Packet]().FieldByName(name)
	if !ok {
		t.Fatalf("a Packet has no %s", name)
	}
	if frame, _ := reflect.TypeFor[Packet]().FieldByName("Frame"); len(f.Index) > 1 {
		return frame.Offset + f.Offset
	}
	return f.Offset
}

// TestManyServers: with more servers than lanes stay in the cache by themselves each packet
// still goes to its own server, and none without one does harm.
func TestManyServers(t *testing.T) {
	s := service("tcp 10.0.1.100:80 rr")
	for i := range manyLanes + 100 {
		server := service("tcp 10.0.1.100:80 rr", fmt.Sprintf("nat 10.0.2.%d:%d 1", 11+i%4, 8000+i)).Servers[0]
		s.Servers = append(s.Servers, server)
	}
	r := newRig(t, options{max: 2 * manyLanes}, s)
	var servers []string
	for port := range uint16(manyLanes) {
		servers = append(servers, r.fate(syn(1000+port)))
		r.process(in(fromClient().IP4(client, vip).TCP(1000+port, 80, ackFlag)))
	}
	for port := uint16(0); port < manyLanes; port += 50 {
		var frames []arrival
		for i := range uint16(50) {
			frames = append(frames, in(fromClient().IP4(client, vip).TCP(1000+port+i, 80, ackFlag)))
		}
		frames = append(frames, in(fromClient().IP4(client, vip).TCP(5000+port, 80, ackFlag))) // of no connection
		got := r.process(frames...)
		for i := range 50 {
			if want := strings.Replace(servers[int(port)+i], "TCP [S]", "TCP [A]", 1); got[i] != want {
				t.Fatalf("connection %d: %s, want %s", int(port)+i, got[i], want)
			}
		}
	}
}
