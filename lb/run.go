package lb

import (
	"slices"
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/sched"
)

// server is a real server as the director holds it, from its first addition
// until it leaves the trash.
type server struct {
	id         uint32
	spec       RealSpec
	identity   identity
	lastWeight int32  // K-DST-5
	of         uint64 // when the service was made that it is of, or was
	added      uint64 // how manieth to be added
	edits      uint64 // how often it was added or edited
	idle       bool   // in the trash, without references
	idleSince  time.Duration
}

// identity is by what a removed server is known again: protocol, virtual
// address and port, or mark, and its own address and port (K-DST-8).
type identity struct {
	service ServiceKey
	real    RealKey
}

// run does operations, which must be possible, and tells what they changed.
func (d *Director) run(ops []op) Changes {
	var c Changes
	for i := range ops {
		o := &ops[i]
		change := Change{Service: o.service.Name, Fields: o.fields}
		if o.real == nil {
			d.onService(o)
		} else {
			svc := d.byKey[o.service.Key]
			change.Real = o.real.Key.String()
			if o.verb != add {
				c.TouchedReals = append(c.TouchedReals, svc.byKey[o.real.Key].id)
			}
			d.onServer(svc, o)
		}
		switch o.verb {
		case add:
			c.Added = append(c.Added, change)
		case edit:
			c.Edited = append(c.Edited, change)
		case remove:
			c.Removed = append(c.Removed, change)
		}
	}
	d.changed = d.changed || len(ops) > 0
	return c
}

// onService does an operation on a service. One that is removed has lost its
// servers before.
func (d *Director) onService(o *op) {
	key := o.service.Key
	switch o.verb {
	case add:
		svc := &service{byKey: map[RealKey]*server{}}
		svc.slot, svc.born = d.takeSlot()
		d.setService(svc, o.service)
		svc.bind()
		d.byKey[key] = svc
		d.services = append(d.services, svc)
		d.servicesMoved = true
	case edit:
		svc := d.byKey[key]
		was := svc.spec.Scheduler
		d.setService(svc, o.service)
		if was != svc.spec.Scheduler {
			svc.bind()
		}
	case remove:
		svc := d.byKey[key]
		delete(d.byKey, key)
		d.unname(svc)
		d.services = slices.DeleteFunc(d.services, func(s *service) bool { return s == svc })
		d.freeSlot(svc.slot)
		d.servicesMoved = true
	}
}

// setService gives the service its spec, servers aside.
func (d *Director) setService(svc *service, s *ServiceSpec) {
	d.unname(svc)
	d.byName[s.Name] = svc
	svc.spec = *s
	svc.spec.Servers = nil
	svc.flags, _ = sched.ParseFlags(s.Scheduler, s.SchedulerFlags) // they have been checked
	if s.Key.Mark != 0 {
		svc.flags |= sched.ManyDests
	}
	if !s.Key.Is6() {
		svc.flags |= sched.IPv4
	}
	svc.edited = true
}

// unname gives the service's name back, unless another has taken it already:
// a spec may exchange names.
func (d *Director) unname(svc *service) {
	if d.byName[svc.spec.Name] == svc {
		delete(d.byName, svc.spec.Name)
	}
}

// bind gives the service a fresh scheduler, over the servers it has.
func (svc *service) bind() {
	svc.plan, svc.edits = sched.Plan(svc.spec.Scheduler, svc.flags, svc.dests(), nil, nil), nil
}

// onServer does an operation on a real server of svc.
func (d *Director) onServer(svc *service, o *op) {
	key := o.real.Key
	svc.moved = true
	switch o.verb {
	case add:
		id := identity{svc.spec.Key, key}
		r := d.trash[id]
		if r == nil {
			r = &server{id: d.takeID(), identity: id}
		}
		d.added++
		r.of, r.added = svc.born, d.added
		delete(d.trash, id)
		r.idle = false
		d.set(svc, r, o.real)
		r.lastWeight = r.spec.Weight
		svc.servers = append(svc.servers, r)
		svc.byKey[key] = r
		svc.edits = append(svc.edits, sched.Edit{ID: r.id, Weight: r.spec.Weight})
		d.serversMoved = true
	case edit:
		r := svc.byKey[key]
		d.serversMoved = d.serversMoved || r.spec.Forward != o.real.Forward || r.spec.Tunnel != o.real.Tunnel
		d.set(svc, r, o.real)
		svc.edits = append(svc.edits, sched.Edit{ID: r.id, Weight: r.spec.Weight})
	case remove:
		r := svc.byKey[key]
		delete(svc.byKey, key)
		i, gone := slices.Index(svc.servers, r), sched.Edit{ID: r.id, Weight: sched.Gone, Before: sched.NoID}
		if i+1 < len(svc.servers) { // the list begins with the newest
			gone.Before = svc.servers[i+1].id
		}
		svc.servers = slices.Delete(svc.servers, i, i+1)
		svc.edits = append(svc.edits, gone)
		d.trash[r.identity] = r
		d.reals[r.id].Available = false
		d.reals[r.id].Service = NoService
		d.realsChanged, d.serversMoved = true, true
	}
}

// set gives a real server its spec. It takes new connections at once if its
// upper threshold is higher than before, or gone (K-DST-7).
func (d *Director) set(svc *service, r *server, spec *RealSpec) {
	if spec.Upper == 0 || spec.Upper > r.spec.Upper {
		d.setOverloaded(r.id, false)
	}
	r.spec = *spec
	r.edits++
	if spec.Weight != 0 {
		r.lastWeight = spec.Weight
	}
	d.setReal(svc.slot, r)
}

// trashPeriod is for how long a removed server without references is kept
// (K-DST-8, IP_VS_DEST_TRASH_PERIOD).
const trashPeriod = 120 * time.Second

// sweepPeriod is how often caches of schedulers drop old entries (K-SCH-LBLC).
const sweepPeriod = 60 * time.Second

// Collect forgets removed servers that nothing has pointed at for 120 s, no
// connection and no cache of lblc or lblcr: their IDs pass to others (K-DST-8). It is called every few seconds with the time of
// the workers' clock. refs says what points at a server, nil: the snapshot's
// Refs; it must not call the director. Old entries of the caches of lblc and
// lblcr go too, and what was learnt of paths and has ended.
func (d *Director) Collect(now time.Duration, refs func(real uint32) int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if refs == nil {
		refs = d.Current().Refs
	}
	var freed []uint32
	cached := map[uint32]bool{}
	if len(d.trash) > 0 {
		for _, svc := range d.services {
			sched.Cached(svc.plan, cached)
		}
	}
	for id, r := range d.trash {
		switch {
		case refs(r.id) > 0 || cached[r.id]:
			r.idle = false
		case !r.idle:
			r.idle, r.idleSince = true, now
		case now-r.idleSince >= trashPeriod:
			delete(d.trash, id)
			freed = append(freed, r.id)
		}
	}
	slices.Sort(freed) // the order of a map would make runs differ
	for _, p := range d.paths {
		p.forget(clock.TicksAt(int64(now)))
	}
	d.freeIDs(freed)
	if now-d.swept >= sweepPeriod {
		d.swept = now
		d.sweep(now)
	}
	d.publish()
}

// sweep lets the caches of schedulers drop what is old.
func (d *Director) sweep(now time.Duration) {
	for _, svc := range d.services {
		seconds := d.node.Sysctl.LBLCExpiration
		if svc.spec.Scheduler == "lblcr" {
			seconds = d.node.Sysctl.LBLCRExpiration
		}
		sched.Sweep(svc.plan, clock.TicksAt(int64(now)), time.Duration(seconds)*time.Second)
	}
}
