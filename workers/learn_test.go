package workers

import (
	"sync/atomic"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/slowpath"
)

// programs stands for the XDP programs: what they have learnt, and under which
// number. It is the host's stack too, and takes everything.
type programs struct {
	pool   *Pool
	number atomic.Uint32
	learnt map[uint16]bool // by the client's port
}

func (p *programs) Inject(int, []byte) error { return nil }

func (p *programs) Learn(number uint32, in *packet.Info) {
	if number == p.number.Load() {
		p.learnt[in.DstPort] = true
	}
}

func (p *programs) Forget() bool {
	clear(p.learnt)
	p.number.Add(1)
	return true
}

func (p *programs) Return(worker, iface int, frame []byte) bool {
	return p.pool.Return(worker, iface, frame)
}

// A flow that was learnt becomes a connection's: with several workers, each
// packet by whichever queue, and with the slow path late, no reply passes the programs
// while its connection is there, and every packet is accounted for.
func TestLearntFlowsBecomeConnections(t *testing.T) {
	p := &programs{learnt: map[uint16]bool{}}
	p.number.Store(1)
	b := newBench(t, 2, true, pathtest.Service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1"))
	for _, w := range b.pool.Workers {
		w.Learning = &p.number
	}
	p.pool = b.pool
	path := slowpath.New(slowpath.Config{Tables: func() *nexthop.Table { return pathtest.Routes(t) }, Host: p, Learner: p, Now: b.clock.Now})
	slow := func() {
		for _, w := range b.pool.Workers {
			path.Take(w.Slow, 100)
		}
	}
	b.turn(2)
	toServer, toClient := map[uint16]int{}, map[uint16]int{}
	for _, k := range b.kernels {
		k.Wire = func(port int, frame []byte) {
			var in packet.Info
			if packet.Parse(frame, &in) != packet.Parsed {
				t.Errorf("sent: %s", packettest.Describe(frame))
			}
			if port == 1 {
				toServer[in.SrcPort]++
				if p.learnt[in.SrcPort] {
					t.Errorf("client port %d: a request goes to its server while its reply would pass", in.SrcPort)
				}
			} else {
				toClient[in.DstPort]++
			}
		}
	}
	const clients = 60
	arrive := func(port int, client uint16, frame packettest.Packet) {
		if port == 1 && p.learnt[client] {
			return // as the program does
		}
		b.kernels[(client+uint16(port))%2].Arrive(port, frame.Bytes())
	}
	for client := uint16(1000); client < 1000+clients; client++ {
		reply := pathtest.FromServer().IP4("10.0.2.11", pathtest.Client).UDP(5353, client)
		for range 3 {
			arrive(1, client, reply)
			b.turn(3)
		}
		if p.learnt[client] {
			t.Fatalf("client port %d is learnt before the slow path runs", client)
		}
		if client%2 == 0 {
			slow() // else the request comes while the strays are still on their way
			if !p.learnt[client] {
				t.Fatalf("client port %d is not learnt", client)
			}
		}
		for range 2 {
			arrive(0, client, pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).UDP(client, 53))
			b.turn(3)
		}
		slow()
		b.turn(3)
		arrive(1, client, reply)
		b.turn(3)
		if toServer[client] != 2 || toClient[client] != 1 {
			t.Errorf("client port %d: %d requests and %d replies went on, want 2 and 1", client, toServer[client], toClient[client])
		}
	}
	var reports []Report
	for _, w := range b.pool.Workers {
		reports = append(reports, w.Report())
	}
	counters := path.Counters()
	totals := Sum(reports, &counters)
	if err := totals.adds(); err != nil {
		t.Error(err)
	}
	if totals.Held != 0 || len(totals.Dropped) != 0 {
		t.Errorf("%d held and dropped %v, want none", totals.Held, totals.Dropped)
	}
}
