// Package engine measures the packet's way without a NIC: a worker of package
// workers, all of it, between ports in memory.
//
// A Rig is one such worker with its connections, and belongs to the goroutine
// that uses it. Its frames are used in laps. In a lap every frame is new to
// the caches and is used once, because forwarding changes it; between laps the
// next ones are written, and that is not measured.
package engine

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bench/pktgen"
	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/workers"
	"github.com/sluice-lb/sluice/workers/cpu"
)

const (
	// Batch is how many packets a stage handles at once: `workers.batch`'s default.
	Batch = 64
	// roomFor is the table's size: `connections.max`'s default.
	roomFor = 1 << 20
	// synTimeout is how long a connection lives whose client sent nothing but
	// a SYN (K-PROTO-TCP, SYN_RECV), and a tick.
	synTimeout = 60*time.Second + clock.TickNanos
	// establishedTimeout keeps the established connections while laps of new
	// ones expire.
	establishedTimeout = 200 * 24 * time.Hour
)

// Ports of the worker.
const (
	clientSide = iota
	serverSide
)

// Rig is a worker with its connections, ready to be measured.
type Rig struct {
	scenario Scenario
	network  *network
	worker   *workers.Worker
	conns    *conn.Table
	sticky   *conn.Templates // empty: no service is persistent
	clock    *bentClock
	ports    [2]*port
	lap      lap
	arrivals *port // the one of ports that the lap arrives by
	template *pktgen.Template
	order    []uint32 // established flows, shuffled
	servers  []uint16 // by flow: who answers, of NATOut
	at       int      // in order; of new flows, the next one
}

// bentClock is the machine's clock, which can be put forward.
type bentClock struct {
	clock.System
	ahead int64 // ns
}

// Now returns the time in nanoseconds.
func (c *bentClock) Now() int64 { return c.System.Now() + c.ahead }

// New returns a Rig with all connections of the scenario established, by
// packets that went through it, and its first lap ready.
func New(s Scenario, m *Memory) (*Rig, error) {
	r := &Rig{scenario: s, network: newNetwork(s), clock: &bentClock{}, ports: [2]*port{{}, {}}, order: pktgen.Shuffled(s.Conns, 1)}
	r.lap = lap{memory: m, order: m.order}
	room := roomFor
	if s.Mix.New() {
		room = max(room, s.Conns+len(m.order))
	}
	var err error
	seed := flow.Seed{1, 2} // fixed: every run has the same buckets
	if r.conns, err = conn.New(conn.Config{Max: room, Seed: seed, HugePages: true, Variant: cpu.Variant(conn.Variants())}); err != nil {
		return nil, err
	}
	if r.sticky, err = conn.NewTemplates(1, seed); err != nil {
		return nil, errors.Join(err, r.conns.Close())
	}
	if err := r.start(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Rig) start() error {
	director := lb.NewDirector(1)
	director.SetInterfaces([]string{"client", "server"})
	spec := lb.Spec{Services: []lb.ServiceSpec{r.network.service()}, Timeouts: lb.Timeouts{TCP: establishedTimeout}, Sysctl: lb.DefaultSysctl()}
	if _, err := director.Apply(spec); err != nil {
		return err
	}
	routes, err := r.network.routes()
	if err != nil {
		return err
	}
	var hops atomic.Pointer[nexthop.Table]
	hops.Store(routes)
	if r.worker, err = workers.New(workers.Config{
		CPU: -1, Ports: []rings.Port{r.ports[clientSide], r.ports[serverSide]},
		Roles: []fastpath.Role{fastpath.RoleClient, fastpath.RoleServer}, Batch: Batch,
		Conns: r.conns, Templates: r.sticky, Steering: flow.NewSteering(1, make([]byte, 40), nil), Clock: r.clock,
		Services: director.Published(), Routes: &hops,
		Slow: slowpath.NewIntake(slowpath.DefaultBudgets(), frameSize), WakeSlow: func() {},
	}); err != nil {
		return err
	}
	if err := r.establish(); err != nil {
		return err
	}
	return r.steady()
}

// Close gives the tables' memory back.
func (r *Rig) Close() error { return errors.Join(r.conns.Close(), r.sticky.Close()) }

// BytesPerConn is what the connection table takes for each connection that it
// has room for.
func (r *Rig) BytesPerConn() int { return r.conns.BytesPerConn() }

// Len is the number of packets in a lap.
func (r *Rig) Len() int { return len(r.lap.order) }

// Turn sends the next batch of the lap through the worker; false: the lap was
// over.
func (r *Rig) Turn() bool { return r.worker.Turn() }

// Done returns an error if not every packet of the lap has been forwarded.
func (r *Rig) Done() error {
	out := r.ports[clientSide].sent + r.ports[serverSide].sent - r.arrivals.sent
	if want := r.Len(); out != want {
		return fmt.Errorf("%v: %d of %d packets were forwarded, %d sent back and %d not sent", r.scenario, out, want, r.arrivals.sent, r.ports[0].released)
	}
	if want := r.scenario.Conns; !r.scenario.Mix.New() && r.conns.Len() != want {
		return fmt.Errorf("%v: %d connections, want %d", r.scenario, r.conns.Len(), want)
	}
	return nil
}

// rewind has the lap arrive by a port, from its beginning.
func (r *Rig) rewind(by int) {
	for _, p := range r.ports {
		*p = port{}
	}
	r.arrivals = r.ports[by]
	r.arrivals.lap = &r.lap
}

// establish opens the scenario's connections: a SYN and an ACK each.
func (r *Rig) establish() error {
	for _, flags := range [...]uint8{syn, ack} {
		if err := r.use(r.network.request(flags)); err != nil {
			return err
		}
		for done := 0; done < len(r.order); {
			r.rewind(clientSide)
			n := min(len(r.order)-done, r.Len())
			for i := range n {
				r.writeRequest(i, int(r.order[done+i]))
			}
			r.lap.order = r.lap.memory.order[:n]
			for r.Turn() {
			}
			r.lap.order = r.lap.memory.order
			if sent := r.ports[serverSide].sent; sent != n {
				return fmt.Errorf("%v: %d of %d packets that establish connections were forwarded", r.scenario, sent, n)
			}
			done += n
		}
	}
	if got := r.conns.Len(); got != len(r.order) {
		return fmt.Errorf("%v: %d connections, want %d", r.scenario, got, len(r.order))
	}
	return nil
}

// steady makes the first lap of what is measured ready.
func (r *Rig) steady() error {
	frame := r.network.request(ack)
	switch {
	case r.scenario.Mix.New():
		frame = r.network.request(syn)
		r.at = r.scenario.Conns
	case r.scenario.Method == NATOut:
		frame = r.network.reply()
		r.findServers()
	}
	if err := r.use(frame); err != nil {
		return err
	}
	return r.Refill()
}

// use makes frame the one that laps are made of.
func (r *Rig) use(frame []byte) (err error) {
	r.template, err = pktgen.NewTemplate(frame)
	r.lap.frameLen = uint32(len(frame))
	return err
}

// findServers asks the table for the server of each flow.
func (r *Rig) findServers() {
	byAddr := map[flow.Addr]uint16{}
	for i := range r.network.servers {
		byAddr[r.network.servers[i].Addr] = uint16(i)
	}
	r.servers = make([]uint16, len(r.order))
	for i := range r.servers {
		client := pktgen.Client(i, r.scenario.V6)
		id := r.conns.Lookup(&flow.Key{Client: client.Addr, Local: r.network.vip.Addr, ClientPort: client.Port, LocalPort: r.network.vip.Port, Proto: lb.ProtoTCP})
		r.servers[i] = byAddr[*r.conns.RealAddr(id)]
	}
}

// writeRequest writes packet i of the lap, of that flow.
func (r *Rig) writeRequest(i, flow int) {
	client := pktgen.Client(flow, r.scenario.V6)
	r.template.Write(r.lap.frame(i), &client, &r.network.vip)
}

// Refill writes the next lap's frames and, of new connections, has those of
// the last one expire. It returns an error if they do not.
func (r *Rig) Refill() error {
	switch {
	case r.scenario.Mix.New():
		if err := r.Expire(); err != nil {
			return err
		}
		for i := range r.Len() {
			r.writeRequest(i, r.at)
			if r.at++; r.at == pktgen.MaxClients {
				r.at = r.scenario.Conns
			}
		}
	case r.scenario.Method == NATOut:
		for i := range r.Len() {
			n := r.nextFlow()
			client := pktgen.Client(n, r.scenario.V6)
			r.template.Write(r.lap.frame(i), &r.network.servers[r.servers[n]], &client)
		}
		r.rewind(serverSide)
		return nil
	default:
		for i := range r.Len() {
			r.writeRequest(i, r.nextFlow())
		}
	}
	r.rewind(clientSide)
	return nil
}

// nextFlow returns the next established flow in the shuffled order.
func (r *Rig) nextFlow() int {
	n := r.order[r.at]
	if r.at++; r.at == len(r.order) {
		r.at = 0
	}
	return int(n)
}

// Expire lets the time pass in which connections that were not established
// end, and has the worker's timers end them.
func (r *Rig) Expire() error {
	if r.conns.Len() == r.scenario.Conns {
		return nil
	}
	r.clock.ahead += int64(synTimeout)
	for range r.conns.Len() { // more than enough: each turn looks at many
		r.worker.Turn()
		if r.conns.Len() == r.scenario.Conns {
			return nil
		}
	}
	return fmt.Errorf("%v: %d connections are left, want %d", r.scenario, r.conns.Len(), r.scenario.Conns)
}

// threadTime returns the CPU time that the calling thread has had: what others
// on a shared machine take from it does not count.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("read the thread's CPU time: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// Lap runs the lap through the worker and returns the thread's CPU time that
// it took. The caller stays on one thread and calls Refill before the next.
func (r *Rig) Lap() (time.Duration, error) {
	began, err := threadTime()
	if err != nil {
		return 0, err
	}
	for r.Turn() {
	}
	ended, err := threadTime()
	return ended - began, errors.Join(err, r.Done())
}
