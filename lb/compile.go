package lb

import (
	"slices"
	"sync/atomic"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/lb/sched"
)

// compiler makes snapshots. Its slices are the next snapshot's before it is
// made; each snapshot gets a copy of what changed and shares the rest with the
// one before.
type compiler struct {
	interfaces []string // names by number, for mark rules
	generation uint64   // of the current snapshot
	born       uint64   // last generation in which a slot or ID passed to another

	slots    []*Service
	reals    []Real
	freed    struct{ slots, ids []uint32 } // the longest free first
	leaving  []uint32                      // slots to free: the current snapshot may have services there
	rows     []*Rows                       // by worker
	overload []*[chunkRows]atomic.Bool
	paths    map[flow.Addr]*Path // of the servers in reals

	changed       bool // anything at all
	realsChanged  bool // reals
	servicesMoved bool // services were added or removed
	serversMoved  bool // servers were added, removed, or changed their method
	marksMoved    bool // mark rules or interfaces
}

func (c *compiler) start(workers int) {
	for range workers {
		c.rows = append(c.rows, &Rows{})
	}
	c.paths = map[flow.Addr]*Path{}
	c.changed, c.servicesMoved = true, true
}

// take returns the number that has been free for longest, or the next new one.
func take(free *[]uint32, n int) uint32 {
	if len(*free) == 0 {
		return uint32(n)
	}
	first := (*free)[0]
	*free = (*free)[1:]
	return first
}

// takeSlot returns a slot for a new service and the generation it begins in.
func (c *compiler) takeSlot() (slot uint32, born uint64) {
	slot = take(&c.freed.slots, len(c.slots))
	if int(slot) == len(c.slots) {
		c.slots = append(c.slots, nil)
	}
	c.born = c.generation + 1
	return slot, c.born
}

// freeSlot empties a slot. Others get it only after a snapshot in which it is
// empty, so that workers never take a service for another of the same key.
func (c *compiler) freeSlot(slot uint32) {
	c.slots[slot] = nil
	c.leaving = append(c.leaving, slot)
}

// takeID returns an ID for a new real server.
func (c *compiler) takeID() uint32 {
	id := take(&c.freed.ids, len(c.reals))
	if int(id) == len(c.reals) {
		c.reals = append(c.reals, Real{})
		c.overload = grow(c.overload, len(c.reals))
	}
	c.born = c.generation + 1
	c.reals[id].Born = c.born
	return id
}

// freeIDs gives IDs back that no connection holds any more.
func (c *compiler) freeIDs(ids []uint32) {
	for _, id := range ids {
		c.reals[id] = Real{ID: NoReal, Service: NoService}
	}
	if len(ids) > 0 {
		c.freed.ids = append(c.freed.ids, ids...)
		c.changed, c.realsChanged, c.serversMoved = true, true, true
		c.keepPaths()
	}
}

func (c *compiler) setOverloaded(id uint32, overloaded bool) {
	c.overload[id/chunkRows][id%chunkRows].Store(overloaded)
}

// setReal writes a server of the service in slot.
func (c *compiler) setReal(slot uint32, r *server) {
	addr := flow.FromNetip(r.spec.Key.Addr)
	c.reals[r.id] = Real{
		ID: r.id, Service: slot, Addr: addr, Port: r.spec.Key.Port, Path: c.pathTo(&addr),
		Forward: r.spec.Forward, Available: true, V6: r.spec.Key.Addr.Is6(), Tunnel: r.spec.Tunnel,
		Weight: r.spec.Weight, Upper: r.spec.Upper, Lower: r.spec.Lower,
		Born: c.reals[r.id].Born, Of: r.of, Added: r.added, Edits: r.edits,
	}
	c.realsChanged = true
}

// publish compiles what changed and makes it the current snapshot.
func (d *Director) publish() {
	if !d.changed {
		return
	}
	was := d.published.Load()
	if was == nil {
		was = &Snapshot{}
	}
	d.generation++
	s := &Snapshot{
		Generation: d.generation, Services: was.Services, Reals: was.Reals,
		Timeouts: d.node.Timeouts.compile(), Sysctl: d.node.Sysctl, Marks: was.Marks,
		lookup: was.lookup, overload: d.overload, born: d.born,
	}
	recompiled := d.servicesMoved
	for _, svc := range d.services {
		if svc.edited || svc.moved {
			d.slots[svc.slot] = svc.compile()
			recompiled = true
		}
	}
	if recompiled {
		s.Services = slices.Clone(d.slots)
	}
	if d.realsChanged {
		s.Reals = slices.Clone(d.reals)
	}
	if d.servicesMoved {
		s.fileServices()
	}
	if d.serversMoved {
		s.fileReals()
	}
	if d.marksMoved {
		s.Marks = compileMarks(d.node.Marks, d.interfaces)
	}
	for i, rows := range d.rows {
		d.rows[i] = rows.withRoom(len(d.slots), len(d.reals))
	}
	s.rows = slices.Clone(d.rows)
	d.freed.slots, d.leaving = append(d.freed.slots, d.leaving...), d.leaving[:0]
	d.changed, d.realsChanged, d.servicesMoved, d.serversMoved, d.marksMoved = false, false, false, false, false
	d.published.Store(s)
}

// compile returns the service as workers read it.
func (svc *service) compile() *Service {
	spec := svc.full()
	k := spec.Key
	s := &Service{
		Slot: svc.slot, Name: spec.Name, Key: k, Port: k.Port, Proto: k.Proto, Mark: k.Mark, V6: k.Is6(),
		Scheduler: spec.Scheduler, Flags: svc.flags, OnePacket: spec.OnePacket, MSS: spec.MSS, Persistence: spec.Persistence,
		Spec: &spec, Born: svc.born,
	}
	if k.Mark == 0 {
		s.Addr = flow.FromNetip(k.Addr)
	}
	if s.Persistence != nil {
		s.ClientMask = s.Persistence.Netmask(s.V6)
	}
	if svc.moved {
		s.Dests = svc.dests()
		svc.plan = sched.Plan(spec.Scheduler, svc.flags, s.Dests, svc.edits, svc.plan)
		svc.edits = nil
	} else if svc.compiled != nil {
		s.Dests = svc.compiled.Dests
	}
	s.Plan = svc.plan
	svc.compiled, svc.edited, svc.moved = s, false, false
	return s
}

// dests returns the servers as schedulers see them, the newest first (K-DST-2).
func (svc *service) dests() []sched.Dest {
	dests := make([]sched.Dest, 0, len(svc.servers))
	for _, r := range slices.Backward(svc.servers) {
		dests = append(dests, sched.Dest{
			ID: r.id, Addr: flow.FromNetip(r.spec.Key.Addr), Port: r.spec.Key.Port,
			Weight: r.spec.Weight, LastWeight: r.lastWeight,
		})
	}
	return dests
}

// fileServices builds what Find and IsVIP read.
func (s *Snapshot) fileServices() {
	s.services, s.marked, s.vips = newIndex(len(s.Services)), newIndex(len(s.Services)), newIndex(len(s.Services))
	s.ftp, s.any = false, false
	for _, svc := range s.Services {
		switch {
		case svc == nil:
		case svc.Mark != 0:
			var key flow.Addr
			s.marked.add(0, markKey(&key, svc.Mark, svc.V6), 0, svc.Slot)
		default:
			s.services.add(svc.Proto, &svc.Addr, svc.Port, svc.Slot)
			s.vips.add(0, &svc.Addr, 0, 0)
			s.ftp = s.ftp || svc.Port == ftpPort
			s.any = s.any || svc.Port == 0
		}
	}
}

// fileReals builds what IsReal, FindNATReal and FindTunnel read.
func (s *Snapshot) fileReals() {
	s.natReals, s.tunnels, s.lookup.reals = newIndex(len(s.Reals)), newIndex(len(s.Reals)), newIndex(len(s.Reals))
	for i := range s.Reals {
		r := &s.Reals[i]
		if r.ID == NoReal {
			continue
		}
		s.lookup.reals.add(0, &r.Addr, 0, 0)
		if r.Available && r.Forward == NAT {
			s.newest(s.natReals.add(s.Services[r.Service].Proto, &r.Addr, r.Port, r.ID), r)
		}
		if r.Available && r.Forward == TUN {
			s.newest(s.tunnels.add(0, &r.Addr, r.Tunnel.Port, r.ID), r)
		}
	}
}

// newest gives an entry of an index that several servers share to r, if that was
// added after the one that has it (K-DST-9).
func (s *Snapshot) newest(real *uint32, r *Real) {
	if s.Reals[*real].Added < r.Added {
		*real = r.ID
	}
}

// withRoom returns rows that hold that many services and reals: r itself if it
// does. Snapshots that have r keep it as it is.
func (r *Rows) withRoom(services, reals int) *Rows {
	if services <= len(r.services)*chunkRows && reals <= len(r.reals)*chunkRows {
		return r
	}
	return &Rows{services: grow(r.services, services), reals: grow(r.reals, reals), changes: r.changes.Grow(reals)}
}

// compile returns the timeouts of every state.
func (t *Timeouts) compile() conn.Timeouts {
	c := conn.DefaultTimeouts()
	c.Set(clock.FromDuration(t.TCP), clock.FromDuration(t.TCPFin), clock.FromDuration(t.UDP))
	return c
}
