package workers

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/rings/ringstest"
	"github.com/sluice-lb/sluice/slowpath"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a node without a machine: workers on rings in memory.
type bench struct {
	t        testing.TB
	director *lb.Director
	kernels  []*ringstest.Kernel
	pool     *Pool
	clock    *clock.Fake
}

// budgets are small, and without rates.
var budgets = slowpath.Budgets{slowpath.HandBack: {Ring: 64}, slowpath.Unresolved: {Ring: 64}, slowpath.ICMP: {Ring: 64}, slowpath.Fragments: {Ring: 64}}

func newBench(t testing.TB, workers int, copying bool, services ...lb.ServiceSpec) *bench {
	t.Helper()
	b := &bench{t: t, director: lb.NewDirector(workers), clock: &clock.Fake{}}
	b.clock.Set(int64(time.Hour))
	b.director.SetInterfaces([]string{"eth0", "eth1"})
	if _, err := b.director.Apply(lb.Spec{Services: services, Sysctl: lb.DefaultSysctl()}); err != nil {
		t.Fatal(err)
	}
	var hops atomic.Pointer[nexthop.Table]
	hops.Store(pathtest.Routes(t))
	steering := flow.NewSteering(workers, []byte("forty random bytes that are a hash's key!"), nil)
	templates, err := conn.NewTemplates(1000, flow.Seed{3, 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { templates.Close() })
	var made []*Worker
	for i := range workers {
		k, err := ringstest.New(ringstest.Config{Seed: uint64(i), Ports: 2, RingSize: 256, Frames: 2048, FrameSize: 2048, Copy: copying, NeedWakeup: copying})
		if err != nil {
			t.Fatal(err)
		}
		table, err := conn.New(conn.Config{Max: 10_000, Seed: flow.Seed{3, 4}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { table.Close() })
		ports := []rings.Port{k.Ports()[0], k.Ports()[1]}
		w, err := New(Config{
			ID: i, CPU: -1, Ports: ports, Roles: []fastpath.Role{fastpath.RoleClient, fastpath.RoleServer}, Batch: 32,
			ICMP: fastpath.Budget{Rate: 1, Burst: 8},
			Idle: Idle{Adaptive: true, Spin: time.Millisecond}, Conns: table, Templates: templates, Steering: steering, Clock: b.clock,
			Services: b.director.Published(), Routes: &hops, Slow: slowpath.NewIntake(budgets, 2048), WakeSlow: func() {},
			Learning: new(atomic.Uint32), MaxLearnt: 1000,
		})
		if err != nil {
			t.Fatal(err)
		}
		b.kernels, made = append(b.kernels, k), append(made, w)
	}
	b.pool = NewPool(made, 2048)
	return b
}

// turn lets every worker and its kernel do something, n times.
func (b *bench) turn(n int) {
	for range n {
		for i, w := range b.pool.Workers {
			w.Turn()
			b.kernels[i].Step()
			if err := b.kernels[i].Err(); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// totals are the fates of all packets, without a slow path.
func (b *bench) totals() Totals {
	var reports []Report
	for _, w := range b.pool.Workers {
		reports = append(reports, w.Report())
	}
	return Sum(reports, &slowpath.Counters{})
}

func (t *Totals) adds() error {
	sum := t.Transmitted + t.Passed + t.Held
	for _, n := range t.Dropped {
		sum += n
	}
	if sum != t.Received {
		return fmt.Errorf("received %d, but %+v make %d", t.Received, *t, sum)
	}
	return nil
}

// A connection works whatever queues its packets come by: both directions,
// each packet by the wrong worker's queue.
func TestAnyQueue(t *testing.T) {
	b := newBench(t, 2, true, pathtest.Service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"))
	b.turn(2)
	var got [2]map[uint16]int // packets of each client port that left by each port
	for i := range got {
		got[i] = map[uint16]int{}
	}
	for _, k := range b.kernels {
		k.Wire = func(port int, frame []byte) {
			var in packet.Info
			if r := packet.Parse(frame, &in); r != packet.Parsed {
				t.Errorf("sent a frame that is %s: %s", r, packettest.Describe(frame))
			}
			client := in.SrcPort
			if port == 0 {
				client = in.DstPort
			}
			got[port][client]++
		}
	}
	const clients = 200
	for step := range 4 {
		for port := uint16(1000); port < 1000+clients; port++ {
			queue := b.kernels[(int(port)+step)%2] // every packet of a connection by another queue than the last
			switch step {
			case 0:
				queue.Arrive(0, pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(port, 80, packettest.SYN).Bytes())
			case 2:
				queue.Arrive(0, pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(port, 80, packettest.ACK).Bytes())
			default:
				queue.Arrive(1, pathtest.FromServer().IP4("10.0.2.11", pathtest.Client).TCP(8080, port, packettest.SYN|packettest.ACK).Bytes())
			}
			b.turn(2)
		}
		b.turn(10)
	}
	for port := uint16(1000); port < 1000+clients; port++ {
		if got[1][port] != 2 || got[0][port] != 2 {
			t.Errorf("client port %d: %d packets to the server and %d back, want 2 and 2", port, got[1][port], got[0][port])
		}
	}
	conns, handed := 0, uint64(0)
	for _, w := range b.pool.Workers {
		r := w.Report()
		conns += r.Conns
		handed += r.HandedOver()
		if r.Conns < clients/4 {
			t.Errorf("worker %d has %d of %d connections: the workers do not share", w.ID, r.Conns, clients)
		}
	}
	if conns != clients {
		t.Errorf("%d connections, want %d: each once", conns, clients)
	}
	if handed < clients || handed > 3*clients {
		t.Errorf("%d of %d packets handed over, want about half", handed, 4*clients)
	}
	totals := b.totals()
	if err := totals.adds(); err != nil {
		t.Error(err)
	}
	if totals.Transmitted != 4*clients {
		t.Errorf("transmitted %d, want %d", totals.Transmitted, 4*clients)
	}
}

// What servers on the director itself answer finds its connection, whichever
// worker has it, and is counted as received.
func TestFromHost(t *testing.T) {
	for _, server := range []string{"nat 10.0.2.1:8080 1", "dr 10.0.2.1:80 1"} {
		b := newBench(t, 2, true, pathtest.Service("tcp 10.0.1.100:80 rr", server))
		b.turn(2)
		from, port := "10.0.2.1", uint16(8080)
		if server[0] == 'd' {
			from, port = pathtest.VIP, 80
		}
		answered := map[uint16]bool{}
		for _, k := range b.kernels {
			k.Wire = func(nic int, frame []byte) {
				var in packet.Info
				if packet.Parse(frame, &in); nic != 0 || in.Src.String() != pathtest.VIP || in.SrcPort != 80 {
					t.Errorf("%s: port %d sends %s", server, nic, packettest.Describe(frame))
				}
				answered[in.DstPort] = true
			}
		}
		const clients = 100
		for client := uint16(1000); client < 1000+clients; client++ {
			b.kernels[client%2].Arrive(0, pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(client, 80, packettest.SYN).Bytes())
			b.turn(4)
			answer := packettest.Eth("02:00:00:00:00:99", "02:00:00:00:00:98").IP4(from, pathtest.Client).TCP(port, client, packettest.SYN|packettest.ACK)
			if !b.pool.FromHost(answer.Bytes()) {
				t.Fatalf("%s: an empty inbox is full", server)
			}
			b.turn(4)
		}
		totals := b.totals()
		if err := totals.adds(); err != nil {
			t.Errorf("%s: %v", server, err)
		}
		if len(answered) != clients || totals.Received != 2*clients {
			t.Errorf("%s: %d of %d answered, %d packets received, want %d", server, len(answered), clients, totals.Received, 2*clients)
		}
		for _, w := range b.pool.Workers {
			if n := w.pipe.Counters[fastpath.Forward]; n < clients/4 {
				t.Errorf("%s: worker %d sent %d answers: each has its own connections", server, w.ID, n)
			}
		}
	}
}

// Full inboxes and rings drop packets under a name of their own, and nothing
// else breaks.
func TestOverflowsAreCounted(t *testing.T) {
	b := newBench(t, 2, true, pathtest.Service("udp 10.0.1.100:53 rr", "nat 10.0.2.11:53 1"))
	b.turn(2)
	// Only worker 0 works: what it hands over stays in worker 1's inbox.
	for n := range 3000 {
		b.kernels[0].Arrive(0, pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).UDP(uint16(1000+n), 53).Bytes())
		b.kernels[0].Arrive(0, pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).UDP(uint16(1000+n), 54).Bytes())
		b.pool.Workers[0].Turn()
		b.kernels[0].Step()
	}
	totals := b.totals()
	if totals.Dropped["inbox_full"] == 0 {
		t.Errorf("nothing was dropped for a full inbox: %+v", totals)
	}
	if totals.Dropped["slow_path_refused"] == 0 || totals.Passed != 64 {
		t.Errorf("nothing was dropped for a full slow path of 64: %+v", totals)
	}
	if err := totals.adds(); err != nil {
		t.Error(err)
	}
	b.turn(50)
	totals = b.totals()
	if totals.Held != 0 {
		t.Errorf("%d packets are still held when all inboxes are read", totals.Held)
	}
	if err := totals.adds(); err != nil {
		t.Error(err)
	}
}

// What the slow path sends leaves by the port that it names.
func TestSend(t *testing.T) {
	b := newBench(t, 1, true)
	b.turn(1)
	var left [2]int
	b.kernels[0].Wire = func(port int, _ []byte) { left[port]++ }
	frame := pathtest.FromServer().IP4("10.0.2.1", "10.0.2.11").UDP(1, 2).Bytes()
	for i := range 20 {
		if !b.pool.Send(0, i%2, frame) {
			t.Fatal("the inbox is full after", i)
		}
	}
	b.turn(5)
	if left != [2]int{10, 10} {
		t.Errorf("%v left by the two ports, want 10 each", left)
	}
	if !b.pool.Send(0, 1, make([]byte, 2048-rings.Headroom)) {
		t.Error("the largest frame was refused")
	}
	if b.pool.Send(0, 1, make([]byte, 4096)) {
		t.Error("a frame larger than a slot was taken")
	}
}

// An error that the slow path made counts on the connection of what it is about, and
// needs no frame.
func TestAnswered(t *testing.T) {
	b := newBench(t, 1, true, pathtest.Service("tcp 10.0.1.100:80 rr", "dr 10.0.2.11:80 1"))
	b.turn(1)
	syn := pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(1000, 80, packettest.SYN).Bytes()
	b.kernels[0].Arrive(0, syn)
	b.turn(5)
	var info packet.Info
	packet.Parse(syn, &info)
	sent := b.pool.Workers[0].counters.Originated
	b.pool.Answered(0, rewrite.ICMPError(nil, &info, syn, info.Dst, 11, 0, 0, 1))
	b.turn(5)
	want := lb.Counters{Conns: 1, InPackets: 1, InBytes: 40, OutPackets: 1, OutBytes: 68}
	if got := b.director.Current().Rows(0).Real(0).Counters; got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
	if got := b.pool.Workers[0].counters.Originated; got != sent {
		t.Errorf("%d frames were sent for it", got-sent)
	}
}

// Running workers answer questions, adopt what is published, wake from their
// sleep and stop, with packets coming in from goroutines of their own.
func TestRun(t *testing.T) {
	b := newBench(t, 2, false, pathtest.Service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.pool.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-b.pool.Workers[0].stopped; <-b.pool.Workers[1].stopped })
	var sent atomic.Int64
	feeders := make(chan struct{}, 2)
	for i, k := range b.kernels {
		k.Wire = func(int, []byte) { sent.Add(1) }
		go func() {
			for port := uint16(1); ctx.Err() == nil; port++ {
				k.Arrive(0, pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(2*port+uint16(i), 80, packettest.SYN).Bytes())
				k.Step()
			}
			feeders <- struct{}{}
		}()
	}
	want := b.director.Spec().Services[0]
	for n := range 20 {
		port := uint16(81 + n)
		want.Name, want.Key.Port = "", port
		if err := b.director.AddService(want); err != nil {
			t.Fatal(err)
		}
		b.pool.Wake()
		stats, err := b.pool.Stats(ctx, b.director.Current())
		if err != nil || len(stats.Services) != n+2 {
			t.Fatalf("stats of %d services: %v", len(stats.Services), err)
		}
		seen := 0
		if err := b.pool.Conns(ctx, func(_ int, r *ConnRow) bool {
			seen++
			if r.Server.Netip() != netip.MustParseAddr("10.0.2.11") {
				t.Errorf("connection to %v", r.Server)
			}
			return seen < 1000
		}); err != nil {
			t.Fatal(err)
		}
	}
	for sent.Load() < 1000 {
		time.Sleep(time.Millisecond)
	}
	if err := b.pool.Workers[0].Do(ctx, func(w *Worker) {
		if len(w.snap.Services) != 21 {
			t.Errorf("worker sees %d services, want 21", len(w.snap.Services))
		}
	}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-feeders
	<-feeders
	if err := b.pool.Workers[0].Do(context.Background(), func(*Worker) {}); err == nil {
		t.Error("a stopped worker answered")
	}
}

func TestTurnAllocatesNothing(t *testing.T) {
	b := newBench(t, 1, true, pathtest.Service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"))
	frame := pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(1000, 80, packettest.SYN).Bytes()
	b.turn(3)
	w := b.pool.Workers[0]
	if n := testing.AllocsPerRun(200, func() { w.Turn() }); n != 0 {
		t.Errorf("an idle turn allocates %v times, want 0", n)
	}
	feed := testing.AllocsPerRun(200, func() { b.kernels[0].Arrive(0, frame); b.kernels[0].Step() })
	both := testing.AllocsPerRun(200, func() { b.kernels[0].Arrive(0, frame); b.kernels[0].Step(); w.Turn() })
	if both > feed {
		t.Errorf("a turn with a packet allocates %v times, want 0", both-feed)
	}
	if b.totals().Transmitted == 0 {
		t.Error("nothing was transmitted")
	}
}
