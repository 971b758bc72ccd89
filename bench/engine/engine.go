// Package engine measures the packet's way without a NIC: a worker of package
// workers, all of it, between ports in memory.
//
// A Node has one such worker or several, each in a Rig, which belongs to the
// goroutine that uses it. Its frames are used in laps. In a lap every frame is new to
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

// Node is a director's workers with their connections, ready to be measured.
type Node struct {
	Rigs     []*Rig // by worker
	scenario Scenario
	network  *network
	director *lb.Director
	spec     lb.Spec
	sticky   *conn.Templates // empty: no service is persistent
}

// Rig is one of a Node's workers. What it sends and is sent belongs to flows
// that it owns, as if a NIC had steered them.
type Rig struct {
	scenario Scenario
	network  *network
	worker   *workers.Worker
	owner    func(flow int) bool
	conns    *conn.Table
	clock    *bentClock // its own: the others may be in the midst of a lap
	ports    [2]*port
	lap      lap
	arrivals *port               // the one of ports that the lap arrives by
	packets  [2]*pktgen.Template // what the lap's frames are made of, by family
	opening  [2]*pktgen.Template // and those that open a connection
	flows    []uint32            // established, shuffled
	order    []uint32            // flows in the order of their packets, again and again
	at       int                 // in order
	fresh    int                 // the next flow that was never seen
	servers  []uint16            // by flow: who answers, of NATOut
}

// bentClock is the machine's clock, which can be put forward.
type bentClock struct {
	clock.System
	ahead int64 // ns
}

// Now returns the time in nanoseconds.
func (c *bentClock) Now() int64 { return c.System.Now() + c.ahead }

// New returns a Node with all connections of the scenario established, by
// packets that went through it, and each worker's first lap ready. It needs a
// Memory for each worker.
func New(s Scenario, memories []*Memory) (n *Node, err error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	n = &Node{scenario: s, network: newNetwork(s)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	seed := flow.Seed{1, 2} // fixed: every run has the same buckets
	if n.sticky, err = conn.NewTemplates(1, seed); err != nil {
		return n, err
	}
	n.director = lb.NewDirector(s.Workers)
	n.director.SetInterfaces([]string{"client", "server"})
	n.spec = lb.Spec{Services: n.network.services(), Timeouts: lb.Timeouts{TCP: establishedTimeout}, Sysctl: lb.DefaultSysctl()}
	if _, err = n.director.Apply(n.spec); err != nil {
		return n, err
	}
	routes, err := n.network.routes()
	if err != nil {
		return n, err
	}
	var hops atomic.Pointer[nexthop.Table]
	hops.Store(routes)
	steering := flow.NewSteering(s.Workers, rssKey, nil)
	for id := range s.Workers {
		r := &Rig{scenario: s, network: n.network, clock: &bentClock{}, lap: lap{memory: memories[id]}, ports: [2]*port{{}, {}}, fresh: s.Conns}
		r.owner = func(flow int) bool {
			client := pktgen.Client(flow, n.network.family(flow) == 1)
			return steering.Owner(lb.ProtoTCP, &client.Addr, client.Port) == id
		}
		n.Rigs = append(n.Rigs, r)
		if r.conns, err = conn.New(conn.Config{Max: s.room(), Seed: seed, HugePages: true, Variant: cpu.Variant(conn.Variants())}); err != nil {
			return n, err
		}
		if r.worker, err = workers.New(workers.Config{
			ID: id, CPU: -1, Ports: []rings.Port{r.ports[clientSide], r.ports[serverSide]},
			Roles: []fastpath.Role{fastpath.RoleClient, fastpath.RoleServer}, Batch: Batch,
			Conns: r.conns, Templates: n.sticky, Steering: steering, Clock: r.clock,
			Services: n.director.Published(), Routes: &hops,
			Slow: slowpath.NewIntake(slowpath.DefaultBudgets(), frameSize), WakeSlow: func() {},
		}); err != nil {
			return n, err
		}
		if err = r.establish(); err != nil {
			return n, err
		}
		if err = r.steady(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// rssKey is the key by which flows are shared out: any will do that is not
// regular.
var rssKey = pktgen.Bytes(40, 3)

// room is the size of a worker's connection table.
func (s Scenario) room() int {
	return max(roomFor, s.Conns+s.openedInALap())
}

// Close gives the tables' memory back.
func (n *Node) Close() (err error) {
	for _, r := range n.Rigs {
		if r.conns != nil {
			err = errors.Join(err, r.conns.Close())
		}
	}
	if n.sticky != nil {
		err = errors.Join(err, n.sticky.Close())
	}
	return err
}

// BytesPerConn is what the connection tables take for each connection that they
// have room for.
func (n *Node) BytesPerConn() int { return n.Rigs[0].conns.BytesPerConn() }

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
	if want := len(r.flows) + r.opened(); r.conns.Len() != want {
		return fmt.Errorf("%v: %d connections, want %d", r.scenario, r.conns.Len(), want)
	}
	return nil
}

// opened is how many connections a lap opens.
func (r *Rig) opened() int { return r.Len() * r.scenario.Mix.Opens() / 100 }

// establish opens the scenario's connections: a SYN and an ACK each.
func (r *Rig) establish() error {
	for _, n := range pktgen.Shuffled(r.scenario.Conns, 1) {
		if r.owner(int(n)) {
			r.flows = append(r.flows, n)
		}
	}
	for _, flags := range [...]uint8{syn, ack} {
		templates, err := r.templates(func(f int) []byte { return r.network.request(f, flags) })
		if err != nil {
			return err
		}
		for done := 0; done < len(r.flows); {
			n := min(len(r.flows)-done, len(r.lap.memory.order))
			r.rewind(clientSide, n)
			for i := range n {
				r.writeRequest(i, int(r.flows[done+i]), templates)
			}
			for r.Turn() {
			}
			if sent := r.ports[serverSide].sent; sent != n {
				return fmt.Errorf("%v: %d of %d packets that establish connections were forwarded", r.scenario, sent, n)
			}
			done += n
		}
	}
	if got := r.conns.Len(); got != len(r.flows) {
		return fmt.Errorf("%v: %d connections, want %d", r.scenario, got, len(r.flows))
	}
	return nil
}

// templates makes one of the frame of each family that there is.
func (r *Rig) templates(frame func(family int) []byte) (made [2]*pktgen.Template, err error) {
	for _, f := range r.network.families {
		if made[f], err = pktgen.NewTemplate(frame(f)); err != nil {
			return made, err
		}
	}
	return made, nil
}

// steady makes the first lap of what is measured ready.
func (r *Rig) steady() (err error) {
	r.order = r.flows
	if r.scenario.Mix == Zipf {
		r.order = pktgen.Zipf(r.flows, zipfDraws, 1)
	}
	packet := func(f int) []byte { return r.network.request(f, ack) }
	if r.scenario.Method == NATOut {
		packet = r.network.reply
		r.findServers()
	}
	if r.packets, err = r.templates(packet); err != nil {
		return err
	}
	if r.opening, err = r.templates(func(f int) []byte { return r.network.request(f, syn) }); err != nil {
		return err
	}
	return r.Refill()
}

// zipfDraws is how many packets' flows are drawn at the start: many laps.
const zipfDraws = 1 << 20

// findServers asks the table for the server of each flow.
func (r *Rig) findServers() {
	byAddr := map[flow.Addr]uint16{}
	for _, f := range r.network.families {
		for i := range r.network.servers[f] {
			byAddr[r.network.servers[f][i].Addr] = uint16(i)
		}
	}
	r.servers = make([]uint16, r.scenario.Conns)
	for _, n := range r.flows {
		f := r.network.family(int(n))
		client, vip := pktgen.Client(int(n), f == 1), r.network.vip(int(n))
		id := r.conns.Lookup(&flow.Key{Client: client.Addr, Local: vip.Addr, ClientPort: client.Port, LocalPort: vip.Port, Proto: lb.ProtoTCP})
		r.servers[n] = byAddr[*r.conns.RealAddr(id)]
	}
}

// rewind has a lap of n packets arrive by a port, from its beginning.
func (r *Rig) rewind(by, n int) {
	for _, p := range r.ports {
		*p = port{}
	}
	r.lap.order = r.lap.memory.order[:n]
	r.arrivals = r.ports[by]
	r.arrivals.lap = &r.lap
}

// writeRequest writes packet i of the lap, of that flow.
func (r *Rig) writeRequest(i, flow int, templates [2]*pktgen.Template) {
	f := r.network.family(flow)
	client := pktgen.Client(flow, f == 1)
	r.lap.memory.frames[i].Len = uint32(templates[f].Len())
	templates[f].Write(r.lap.frame(i), &client, r.network.vip(flow))
}

// writeReply writes packet i of the lap, the answer of that flow's server.
func (r *Rig) writeReply(i, flow int) {
	f := r.network.family(flow)
	client := pktgen.Client(flow, f == 1)
	r.lap.memory.frames[i].Len = uint32(r.packets[f].Len())
	r.packets[f].Write(r.lap.frame(i), &r.network.servers[f][r.servers[flow]], &client)
}

// Refill writes the next lap's frames, after the connections that the last one
// opened have expired. It returns an error if they do not.
func (r *Rig) Refill() error {
	if err := r.Expire(); err != nil {
		return err
	}
	n := len(r.lap.memory.order)
	if r.scenario.Method == NATOut {
		r.rewind(serverSide, n)
		for i := range n {
			r.writeReply(i, r.nextFlow())
		}
		return nil
	}
	r.rewind(clientSide, n)
	every := 0 // how many packets to one that opens a connection
	if opens := r.scenario.Mix.Opens(); opens > 0 {
		every = 100 / opens
	}
	for i := range n {
		if every > 0 && i%every == every-1 {
			r.writeRequest(i, r.freshFlow(), r.opening)
		} else {
			r.writeRequest(i, r.nextFlow(), r.packets)
		}
	}
	return nil
}

// nextFlow returns the next established flow in their order.
func (r *Rig) nextFlow() int {
	n := r.order[r.at]
	if r.at++; r.at == len(r.order) {
		r.at = 0
	}
	return int(n)
}

// freshFlow returns the worker's next flow that has no connection.
func (r *Rig) freshFlow() int {
	for {
		n := r.fresh
		if r.fresh++; r.fresh == pktgen.MaxClients {
			r.fresh = r.scenario.Conns
		}
		if r.owner(n) {
			return n
		}
	}
}

// Expire lets the time pass in which connections that were not established
// end, and has the worker's timers end them.
func (r *Rig) Expire() error {
	if r.conns.Len() == len(r.flows) {
		return nil
	}
	r.clock.ahead += int64(synTimeout)
	for range r.conns.Len() { // more than enough: each turn looks at many
		r.worker.Turn()
		if r.conns.Len() == len(r.flows) {
			return nil
		}
	}
	return fmt.Errorf("%v: %d connections are left, want %d", r.scenario, r.conns.Len(), len(r.flows))
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
