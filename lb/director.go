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
// at all, and is published as one snapshot. What changes nothing publishes
// nothing.
type Director struct {
	published atomic.Pointer[Snapshot]

	mu       sync.Mutex
	node     Spec       // marks, timeouts, sysctls; Services is not used
	services []*service // in the order in which they were added
	byKey    map[ServiceKey]*service
	trash    map[identity]*server // removed servers that may come back
	swept    time.Duration        // when scheduler caches were last swept
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
	plan     any      // of compiled.Dests
	compiled *Service // nil: not yet
	edited   bool     // the service was, since it was compiled
	moved    bool     // servers were added, edited or removed since then
}

// NewDirector returns a director of no services, for a node with that many
// workers.
func NewDirector(workers int) *Director {
	d := &Director{
		node:  Spec{Sysctl: DefaultSysctl()},
		byKey: map[ServiceKey]*service{},
		trash: map[identity]*server{},
	}
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

// AddService adds a service with its servers (ipvsadm -A, then -a for each).
func (d *Director) AddService(s ServiceSpec) error {
	n, err := s.normal()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byKey[n.Key] != nil {
		return fmt.Errorf("service %s: %w", n.Name, ErrServiceExists)
	}
	if err := d.checkName(&n); err != nil {
		return err
	}
	d.run(addition(&n))
	d.publish()
	return nil
}

// EditService changes everything of a service but its key and its servers;
// s.Servers is ignored, and without a name it keeps its own. Connections stay
// (K-SVC-7).
func (d *Director) EditService(s ServiceSpec) error {
	s.Servers = nil
	named := s.Name != ""
	n, err := s.normal()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	svc := d.byKey[n.Key]
	if svc == nil {
		return fmt.Errorf("service %s: %w", n.Name, ErrNoService)
	}
	if !named {
		n.Name = svc.spec.Name
	}
	if err := d.checkName(&n); err != nil {
		return err
	}
	if n.Scheduler == "mh" && len(svc.servers) > sched.MaxMaglev {
		return fmt.Errorf("service %s: %w: mh takes at most %d servers", n.Name, ErrInvalid, sched.MaxMaglev)
	}
	old := svc.full()
	n.Servers = old.Servers
	d.run(editing(&old, &n))
	d.publish()
	return nil
}

// checkName refuses a service the name of another.
func (d *Director) checkName(s *ServiceSpec) error {
	for _, other := range d.services {
		if other.spec.Name == s.Name && other.spec.Key != s.Key {
			return fmt.Errorf("service %s: %w", s.Name, ErrName)
		}
	}
	return nil
}

// DeleteService removes a service. Its servers' connections stay until their
// timers end (K-SVC-8).
func (d *Director) DeleteService(k ServiceKey) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	svc := d.byKey[k.normal()]
	if svc == nil {
		return fmt.Errorf("%s: %w", k, ErrNoService)
	}
	old := svc.full()
	d.run(removal(&old))
	d.publish()
	return nil
}

// Flush removes all services (ipvsadm -C).
func (d *Director) Flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.run(diff(d.spec().Services, nil))
	d.publish()
}

// AddReal adds a real server to a service, at the head of its list (K-DST-2).
// One that was removed lately comes back with its counters and connections
// (K-DST-8).
func (d *Director) AddReal(k ServiceKey, r RealSpec) error {
	return d.onReal(k, r, func(svc *service, n *RealSpec) (verb, error) {
		if svc.byKey[n.Key] != nil {
			return add, ErrRealExists
		}
		if svc.spec.Scheduler == "mh" && len(svc.servers) >= sched.MaxMaglev {
			return add, ErrInvalid
		}
		return add, nil
	})
}

// EditReal changes everything of a real server but its key.
func (d *Director) EditReal(k ServiceKey, r RealSpec) error {
	return d.onReal(k, r, func(svc *service, n *RealSpec) (verb, error) {
		if svc.byKey[n.Key] == nil {
			return edit, ErrNoReal
		}
		return edit, nil
	})
}

// onReal does one operation on a server, once check has allowed it.
func (d *Director) onReal(k ServiceKey, r RealSpec, check func(*service, *RealSpec) (verb, error)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	svc := d.byKey[k.normal()]
	if svc == nil {
		return fmt.Errorf("%s: %w", k, ErrServiceUnknown)
	}
	n, err := r.normal(svc.spec.Key)
	if err != nil {
		return fmt.Errorf("service %s: %w", svc.spec.Name, err)
	}
	verb, err := check(svc, &n)
	if err != nil {
		return fmt.Errorf("service %s: server %s: %w", svc.spec.Name, n.Key, err)
	}
	if verb == edit && svc.byKey[n.Key].spec == n {
		return nil
	}
	d.run([]op{{verb: verb, service: &svc.spec, real: &n}})
	d.publish()
	return nil
}

// DeleteReal removes a real server from a service. Its connections stay until
// their timers end (K-CONN-10).
func (d *Director) DeleteReal(k ServiceKey, key RealKey) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	svc := d.byKey[k.normal()]
	if svc == nil {
		return fmt.Errorf("%s: %w", k, ErrServiceUnknown)
	}
	key.Addr = key.Addr.Unmap()
	r := svc.byKey[key]
	if r == nil {
		return fmt.Errorf("service %s: server %s: %w", svc.spec.Name, key, ErrNoReal)
	}
	d.run([]op{{verb: remove, service: &svc.spec, real: &r.spec}})
	d.publish()
	return nil
}
