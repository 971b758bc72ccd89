package lb

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-lb/sluice/lb/sched"
)

// Director is the sole writer of services and real servers. Its methods may
// be called from any goroutine; each takes effect whole or, with an error, not
// at all, and is published as one snapshot; those that a Batch is made of are
// published together. What changes nothing publishes nothing.
type Director struct {
	Operations
	published atomic.Pointer[Snapshot]

	mu       sync.Mutex
	node     Spec       // marks, timeouts, sysctls; Services is not used
	services []*service // in the order in which they were added
	byKey    map[ServiceKey]*service
	byName   map[string]*service
	trash    map[identity]*server // removed servers that may come back
	swept    time.Duration        // when scheduler caches were last swept
	added    uint64               // servers so far
	compiler
}

// service is a virtual service as the director holds it.
type service struct {
	slot     uint32
	born     uint64
	spec     ServiceSpec // Servers is not used
	flags    sched.Flags
	servers  []*server // in the order in which they were added
	byKey    map[RealKey]*server
	plan     any          // of compiled.Dests; of the servers there were, if bound since
	edits    []sched.Edit // what befell the servers since plan
	compiled *Service     // nil: not yet
	edited   bool         // the service was, since it was compiled
	moved    bool         // servers were added, edited or removed since then
}

// NewDirector returns a director of no services, for a node with that many
// workers.
func NewDirector(workers int) *Director {
	d := &Director{
		node:   Spec{Sysctl: DefaultSysctl()},
		byKey:  map[ServiceKey]*service{},
		byName: map[string]*service{},
		trash:  map[identity]*server{},
	}
	d.Operations.d = d
	if err := d.node.Timeouts.fill(); err != nil {
		panic(err) // the defaults are in range
	}
	d.compiler.start(workers)
	d.publish()
	return d
}

// Current returns the snapshot that holds now; it is never nil.
func (d *Director) Current() *Snapshot { return d.published.Load() }

// Published returns where the current snapshot is found.
func (d *Director) Published() *atomic.Pointer[Snapshot] { return &d.published }

// Apply makes s the node's state, by the least changes that lead there, and
// says what they were. The error of a spec that cannot be holds all that is
// wrong with it, and nothing of it is applied.
func (d *Director) Apply(s Spec) (Changes, error) {
	want, err := s.normal()
	if err != nil {
		return Changes{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	have := d.spec()
	changes := d.run(diff(have.Services, want.Services))
	if fields := nodeChanges(&have, &want); len(fields) > 0 {
		changes.Edited = append(changes.Edited, Change{Fields: fields})
		d.marksMoved = !slices.Equal(have.Marks, want.Marks)
		d.node = Spec{Marks: want.Marks, Timeouts: want.Timeouts, Sysctl: want.Sysctl}
		d.changed = true
	}
	d.publish()
	changes.Generation = d.Current().Generation
	return changes, nil
}

// nodeChanges returns the differences that concern the whole node.
func nodeChanges(have, want *Spec) []Field {
	fields := changed(have.nodeFields(), want.nodeFields())
	if len(have.Marks) == len(want.Marks) && !slices.Equal(have.Marks, want.Marks) {
		n := fmt.Sprintf("%d rules", len(want.Marks))
		fields = append(fields, Field{"marks", n, n + ", others"})
	}
	return fields
}

// Spec returns the node's state, every default filled in. To apply it again
// changes nothing.
func (d *Director) Spec() Spec {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.spec()
}

func (d *Director) spec() Spec {
	s := d.node
	s.Marks = slices.Clone(d.node.Marks)
	s.Services = make([]ServiceSpec, len(d.services))
	for i, svc := range d.services {
		s.Services[i] = svc.full()
	}
	return s
}

// full returns the service's spec with its servers, nothing shared.
func (svc *service) full() ServiceSpec {
	s := svc.spec
	s.SchedulerFlags = slices.Clone(s.SchedulerFlags)
	if s.Persistence != nil {
		p := *s.Persistence
		s.Persistence = &p
	}
	s.Servers = make([]RealSpec, len(svc.servers))
	for i, r := range svc.servers {
		s.Servers[i] = r.spec
	}
	return s
}

// SetInterfaces says which interfaces the numbers given to MarkTable.Lookup
// stand for.
func (d *Director) SetInterfaces(names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Equal(names, d.interfaces) {
		return
	}
	d.interfaces = slices.Clone(names)
	d.marksMoved = len(d.node.Marks) > 0
	d.changed = d.changed || d.marksMoved
	d.publish()
}
