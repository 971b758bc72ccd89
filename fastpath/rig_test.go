package fastpath

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// rig is a pipeline with its neighbourhood.
type rig struct {
	t         testing.TB
	pipe      *Pipeline
	director  *lb.Director
	conns     *conn.Table
	templates *conn.Templates
	now       clock.Ticks
	batch     Batch
	memory    [MaxBatch][2048]byte
}

// options of a rig.
type options struct {
	max     int // connections; 0: 1000
	workers int // 0: 1
	roles   []Role
	learn   int // flows
}

func newRig(t testing.TB, o options, services ...lb.ServiceSpec) *rig {
	t.Helper()
	if o.max == 0 {
		o.max = 1000
	}
	if o.roles == nil {
		o.roles = []Role{RoleBoth, RoleBoth}
	}
	r := &rig{t: t, director: lb.NewDirector(max(1, o.workers)), now: 1000}
	r.director.SetInterfaces([]string{"eth0", "eth1"})
	spec := lb.Spec{Services: services, Sysctl: lb.DefaultSysctl()}
	r.apply(spec)
	var err error
	if r.conns, err = conn.New(conn.Config{Max: o.max, Seed: flow.Seed{1, 2}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conns.Close() })
	if r.templates, err = conn.NewTemplates(o.max, flow.Seed{3, 4}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.templates.Close() })
	r.pipe = New(Config{Conns: r.conns, Templates: r.templates, Steering: flow.NewSteering(max(1, o.workers), []byte("forty random bytes that are a hash's key!"), nil), Roles: o.roles, MaxLearnt: o.learn})
	r.pipe.Routes(pathtest.Routes(t))
	r.pipe.Adopt(r.director.Current(), r.now)
	return r
}

// apply makes spec the director's, and the pipeline's.
func (r *rig) apply(spec lb.Spec) {
	r.t.Helper()
	if _, err := r.director.Apply(spec); err != nil {
		r.t.Fatal(err)
	}
	if r.pipe != nil {
		r.pipe.Adopt(r.director.Current(), r.now)
	}
}

// edit changes the director's services by f.
func (r *rig) edit(f func(*lb.Spec)) {
	r.t.Helper()
	spec := r.director.Spec()
	f(&spec)
	r.apply(spec)
}

// arrival is a frame and the port that it comes in by.
type arrival struct {
	port  int
	frame []byte
}

// in is a frame from the clients' side, and back one from the servers'.
func in(p packettest.Packet) arrival   { return arrival{0, p.Bytes()} }
func back(p packettest.Packet) arrival { return arrival{1, p.Bytes()} }

var fromClient, fromServer, service = pathtest.FromClient, pathtest.FromServer, pathtest.Service

const (
	clientMAC = pathtest.ClientMAC
	frontMAC  = pathtest.FrontMAC
	backMAC   = pathtest.BackMAC
	serverMAC = pathtest.ServerMAC
	client    = pathtest.Client
	vip       = pathtest.VIP
	client6   = pathtest.Client6
	vip6      = pathtest.VIP6
)

// syn opens a connection to the tests' virtual service.
func syn(port uint16) arrival {
	return in(fromClient().IP4(client, vip).TCP(port, 80, packettest.SYN))
}

// fill puts frames into the batch.
func (r *rig) fill(frames ...arrival) {
	r.batch.Reset()
	for i, a := range frames {
		k := r.batch.Next()
		k.Chunk, k.Off = r.memory[i][:], 256
		k.Len = uint32(copy(k.Chunk[256:], a.frame))
		k.Port, k.Iface = uint16(a.port), uint16(a.port)
	}
}

// process sends frames through the pipeline as one batch and returns each
// one's fate in words: the verdict, and of what leaves the port and the frame.
func (r *rig) process(frames ...arrival) []string {
	r.fill(frames...)
	r.pipe.Process(&r.batch, r.now)
	var out []string
	for i := range r.batch.Pkts[:r.batch.N] {
		k := &r.batch.Pkts[i]
		text := k.Verdict.String()
		if k.Verdict == Forward {
			text = fmt.Sprintf("%d %s", k.Out, packettest.Describe(k.Chunk[k.Off:k.Off+k.Len]))
		}
		out = append(out, text)
	}
	return out
}

// fate is process of one frame.
func (r *rig) fate(a arrival) string { return r.process(a)[0] }

// pass lets time pass, with its timers.
func (r *rig) pass(d time.Duration) {
	r.now += clock.FromDuration(d)
	for r.pipe.Expire(r.now, 64) {
	}
}

// load is a server's active and inactive connections.
func (r *rig) load(addr string) string {
	snap := r.director.Current()
	for i := range snap.Reals {
		if snap.Reals[i].Addr.String() == addr {
			active, inactive := snap.Load(uint32(i))
			return fmt.Sprintf("%d active, %d inactive", active, inactive)
		}
	}
	return "unknown"
}

// states are the states of all connections, by the kernel's names.
func (r *rig) states() string {
	var out []string
	r.conns.Scan(0, r.conns.Max(), func(_ conn.ID, c *conn.Conn) { out = append(out, conn.StateName(c.Proto, false, c.State)) })
	return strings.Join(out, " ")
}

// step is a packet and a part of its fate; "": nothing is said about it.
type step struct {
	stake string
	a     arrival
	want  string
}

// steps sends packets one by one, each a batch of its own.
func (r *rig) steps(steps ...step) {
	r.t.Helper()
	for _, s := range steps {
		if got := r.fate(s.a); !strings.Contains(got, s.want) {
			r.t.Errorf("%s: %s, want %s", s.stake, got, s.want)
		}
	}
}

// list is all connections in words, sorted: client, virtual address, server's
// port, state and seconds to live.
func (r *rig) list() []string {
	var out []string
	r.conns.Scan(0, r.conns.Max(), func(_ conn.ID, c *conn.Conn) {
		out = append(out, fmt.Sprintf("%s:%d %s:%d %d %s %v", c.Client, c.ClientPort, c.Virtual, c.VirtualPort, c.RealPort,
			conn.StateName(c.Proto, false, c.State), (c.Stamp+c.Timeout-r.now).Duration()))
	})
	slices.Sort(out)
	return out
}

// want compares what is there with what should be, a line each.
func (r *rig) want(stake string, got []string, want ...string) {
	r.t.Helper()
	if !slices.Equal(got, want) {
		r.t.Errorf("%s: there are\n%s\nwant\n%s", stake, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// counters are those of a server of the first worker.
func (r *rig) counters(addr string) (c lb.Counters) {
	snap := r.director.Current()
	for i := range snap.Reals {
		if snap.Reals[i].Addr.String() == addr {
			c.Add(&snap.Rows(0).Real(uint32(i)).Counters)
		}
	}
	return c
}

// marked makes a service one of the packets that rule marks, its servers keeping
// the packet's port.
func marked(s lb.ServiceSpec, mark uint32) lb.ServiceSpec {
	s.Key = lb.ServiceKey{Mark: mark}
	for i := range s.Servers {
		s.Servers[i].Key.Port = 0
	}
	return s
}
