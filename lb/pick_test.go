package lb

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/lb/sched"
)

// loadsOf is what the first worker's schedulers see.
func loadsOf(s *Snapshot) *Loads {
	l := &Loads{}
	l.Adopt(s, s.Rows(0))
	return l
}

// linear is the plain twin of wlc, lc, sed and nq: the kernel's walk along the list.
func linear(scheduler string, dests []sched.Dest, look func(id uint32) seenAs) int {
	best, bestCost, bestWeight := -1, int64(0), int64(1)
	for i, d := range dests {
		load := look(d.ID)
		if d.Weight == 0 || load.overloaded {
			continue
		}
		if scheduler == "nq" && load.active == 0 {
			return i
		}
		cost, weight := int64(load.active)+1, int64(d.Weight)
		if scheduler == "wlc" || scheduler == "lc" {
			cost = int64(load.active)*256 + int64(load.inactive)
		}
		if scheduler == "lc" {
			weight = 1
		}
		if best < 0 || bestCost*weight > cost*bestWeight {
			best, bestCost, bestWeight = i, cost, weight
		}
	}
	return best
}

// byLoad are the schedulers that keep a tournament.
var byLoad = []string{"wlc", "lc", "sed", "nq"}

// pickBy are the schedulers of pickers' services.
var pickBy = append(byLoad, "rr")

// TestPickByLoad holds the schedulers that choose by load against their twin, in random
// lives of a node with a service of each and one that does not look at loads.
// With one worker each pick is what the list says at that moment; with two, servers
// that the picking worker has not touched itself count as they did when it
// picked for the service first in its batch.
func TestPickByLoad(t *testing.T) {
	for workers := 1; workers <= 2; workers++ {
		var sum pickers
		for seed := range uint64(20) {
			n := live(t, seed, workers)
			sum.picked, sum.stale, sum.refused, sum.freed = sum.picked+n.picked, sum.stale+n.stale, sum.refused+n.refused, sum.freed+n.freed
		}
		if sum.picked < 20_000 || sum.refused < 100 || sum.freed < 100 || workers > 1 && sum.stale < 100 {
			t.Errorf("%d workers: %d picks, %d of them by what was, %d refused, %d servers freed: that is little", workers, sum.picked, sum.stale, sum.refused, sum.freed)
		}
	}
}

// FuzzPickByLoad is TestPickByLoad with other seeds.
func FuzzPickByLoad(f *testing.F) {
	f.Add(uint64(20))
	f.Fuzz(func(t *testing.T, seed uint64) {
		live(t, seed, 1)
		live(t, seed, 2)
	})
}

// live is a node's life.
func live(t *testing.T, seed uint64, workers int) *pickers {
	t.Helper()
	n := newPickers(t, rand.New(rand.NewPCG(seed, uint64(workers))), workers)
	for range 4000 {
		n.step()
	}
	return n
}

// pickers are a director and workers that have nothing but schedulers and connections.
type pickers struct {
	*rand.Rand
	t        *testing.T
	director *Director
	workers  []*picker
	clock    time.Duration

	picked, stale, refused, freed int
}

type picker struct {
	snap    *Snapshot
	rows    *Rows
	loads   Loads
	scheds  []sched.Scheduler // by slot
	conns   []pickedConn
	touched map[uint32]bool              // servers, since their service's last pick
	seen    map[uint32]map[uint32]seenAs // by slot and ID; nil: to be looked at anew
}

type pickedConn struct {
	id               uint32
	active, template bool
}

type seenAs struct {
	active, inactive int32
	overloaded       bool
}

func newPickers(t *testing.T, r *rand.Rand, workers int) *pickers {
	t.Helper()
	n := &pickers{Rand: r, t: t, director: NewDirector(workers)}
	for i := range pickBy {
		n.addService(i)
	}
	for range workers {
		n.workers = append(n.workers, &picker{touched: map[uint32]bool{}, seen: map[uint32]map[uint32]seenAs{}})
	}
	n.adopt()
	return n
}

func pickKey(service int) ServiceKey {
	return ServiceKey{Proto: ProtoTCP, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(service)}), Port: 80}
}

// addService adds a service with up to 80 servers, whose IDs are in several words.
func (n *pickers) addService(service int) {
	spec := ServiceSpec{Key: pickKey(service), Scheduler: pickBy[service]}
	for host := range []int{1, 1, 3, 40, 80}[n.IntN(5)] {
		spec.Servers = append(spec.Servers, n.server(service, host))
	}
	must(n.t, n.director.AddService(spec))
}

func (n *pickers) server(service, host int) RealSpec {
	r := RealSpec{Key: RealKey{netip.AddrFrom4([4]byte{10, 1, byte(service), byte(host)}), 80}, Weight: n.Int32N(3)}
	if n.IntN(3) == 0 {
		r.Upper = 1 + n.Uint32N(6)
		r.Lower = n.Uint32N(r.Upper)
	}
	return r
}

// adopt has the workers follow the director as a pipeline does.
func (n *pickers) adopt() {
	s := n.director.Current()
	for i, w := range n.workers {
		for slot, svc := range s.Services {
			var old *Service
			if w.snap != nil && slot < len(w.snap.Services) {
				old = w.snap.Services[slot]
			}
			if slot == len(w.scheds) {
				w.scheds = append(w.scheds, nil)
			}
			if svc == nil || svc == old {
				continue
			}
			if old == nil || old.Key != svc.Key || old.Scheduler != svc.Scheduler {
				w.scheds[slot], _ = sched.New(svc.Scheduler, svc.Flags)
			}
			w.scheds[slot].Adopt(svc.Dests, svc.Plan)
			delete(w.seen, svc.Slot)
		}
		w.rows, w.snap = s.Adopt(i, w.snap), s
		w.loads.Adopt(s, w.rows)
	}
}

// step does something random, mostly by a random worker.
func (n *pickers) step() {
	w := n.workers[n.IntN(len(n.workers))]
	switch what := n.IntN(60); {
	case what < 2:
		n.edit()
		n.adopt()
	case what < 8:
		w.loads.Begin()
		clear(w.seen)
	case what < 36 && len(w.conns) > 0:
		n.touch(w, n.IntN(len(w.conns)))
	default:
		n.pick(w)
	}
}

// edit changes a service, or has the director forget servers. What is not there
// cannot be edited.
func (n *pickers) edit() {
	service := n.IntN(len(pickBy))
	real := n.server(service, n.IntN(80))
	switch n.IntN(8) {
	case 0, 1:
		_ = n.director.EditReal(pickKey(service), real)
	case 2, 3:
		_ = n.director.DeleteReal(pickKey(service), real.Key)
	case 4:
		was := len(n.director.Removed())
		for range 2 { // found idle, and idle for long
			n.clock += trashPeriod
			n.director.Collect(n.clock, nil)
		}
		n.freed += was - len(n.director.Removed())
	case 5:
		must(n.t, n.director.DeleteService(pickKey(service)))
		if n.IntN(2) == 0 {
			n.adopt()
		}
		n.addService(service)
	case 6:
		must(n.t, n.director.EditService(ServiceSpec{Key: pickKey(service), Scheduler: pickBy[n.IntN(len(pickBy))]}))
	default:
		_ = n.director.AddReal(pickKey(service), real)
	}
}

// touch ends a connection or template of a worker, or moves it between active
// and inactive.
func (n *pickers) touch(w *picker, i int) {
	c := &w.conns[i]
	w.touched[c.id] = true
	switch {
	case c.template:
		w.snap.UnbindTemplate(w.rows, c.id)
	case n.IntN(3) == 0:
		c.active = !c.active
		w.rows.Recount(c.id, c.active)
		return
	default:
		w.snap.Unbind(w.rows, c.id, !c.active)
	}
	w.conns = slices.Delete(w.conns, i, i+1)
}

// pick chooses a server for a service, as its twin does, and connects to it.
func (n *pickers) pick(w *picker) {
	svc := w.snap.Services[n.IntN(len(w.snap.Services))]
	if svc == nil {
		return
	}
	at := w.scheds[svc.Slot].Pick(&sched.Query{}, &w.loads)
	if slices.Contains(byLoad, svc.Scheduler) {
		look := w.snap.as
		if len(n.workers) > 1 {
			look = func(id uint32) seenAs { return w.seen[svc.Slot][id] }
			n.look(w, svc)
		}
		want := linear(svc.Scheduler, svc.Dests, look)
		if at != want {
			n.t.Fatalf("%s, %d workers: pick %d is %d of %d servers, want %d", svc.Scheduler, len(n.workers), n.picked, at, len(svc.Dests), want)
		}
		n.picked++
		if want != linear(svc.Scheduler, svc.Dests, w.snap.as) {
			n.stale++
		}
	}
	if at < 0 {
		n.refused++
		return
	}
	id := svc.Dests[at].ID
	once := n.IntN(8) == 0
	w.touched[id] = w.touched[id] || !once || w.snap.Reals[id].Upper > 0 // else it never was
	switch {
	case once:
		w.snap.Bind(w.rows, id, true)
	case n.IntN(8) == 0:
		w.snap.BindTemplate(w.rows, id)
		w.conns = append(w.conns, pickedConn{id: id, template: true})
	default:
		w.snap.Bind(w.rows, id, false)
		w.conns = append(w.conns, pickedConn{id: id})
	}
}

// as is a server as it is now.
func (s *Snapshot) as(id uint32) seenAs {
	active, inactive := s.Load(id)
	return seenAs{active, inactive, s.Overloaded(id)}
}

// look has a worker see the servers of a service: those that it touched, or all if
// it has not yet.
func (n *pickers) look(w *picker, svc *Service) {
	all := w.seen[svc.Slot] == nil
	if all {
		w.seen[svc.Slot] = map[uint32]seenAs{}
	}
	for _, d := range svc.Dests {
		if all || w.touched[d.ID] {
			w.seen[svc.Slot][d.ID] = w.snap.as(d.ID)
			delete(w.touched, d.ID)
		}
	}
}

// TestPickAllocs holds the choice by load, and what it follows, to the packet's way.
func TestPickAllocs(t *testing.T) {
	for _, name := range byLoad {
		d := NewDirector(2)
		must(t, d.AddService(ServiceSpec{Key: www, Scheduler: name, Servers: thousands(100)}))
		s := d.Current()
		scheduler, _ := sched.New(name, 0)
		scheduler.Adopt(s.Services[0].Dests, s.Services[0].Plan)
		rows, loads, q := s.Rows(0), loadsOf(s), &sched.Query{}
		if n := testing.AllocsPerRun(100, func() {
			loads.Begin()
			for range 3 {
				id := s.Services[0].Dests[scheduler.Pick(q, loads)].ID
				s.Bind(rows, id, false)
				rows.Recount(id, true)
			}
		}); n != 0 {
			t.Errorf("%s allocates %v times a batch, want 0", name, n)
		}
	}
}

// TestPickRace: workers pick and connect while servers come and go; go test -race
// says whether they get into each other's way.
func TestPickRace(t *testing.T) {
	d := NewDirector(2)
	must(t, d.AddService(ServiceSpec{Key: www, Scheduler: "wlc", Servers: thousands(100)}))
	var wait sync.WaitGroup
	for worker := range 2 {
		wait.Go(func() {
			var old *Snapshot
			var loads Loads
			scheduler, _ := sched.New("wlc", 0)
			for range 100 {
				s := d.Current()
				rows, svc := s.Adopt(worker, old), s.Services[0]
				if scheduler.Adopt(svc.Dests, svc.Plan); s != old {
					loads.Adopt(s, rows)
				}
				old = s
				loads.Begin()
				for range 10 {
					id := svc.Dests[scheduler.Pick(&sched.Query{}, &loads)].ID
					s.Bind(rows, id, false)
					rows.Recount(id, true)
					s.Unbind(rows, id, false)
				}
			}
		})
	}
	for more := range slices.Chunk(thousands(5000)[100:], 490) { // to a second block of changes
		must(t, d.Batch(func(o Operations) (err error) {
			for _, r := range more {
				err = errors.Join(err, o.AddReal(www, r))
			}
			return err
		}))
	}
	wait.Wait()
	for id := range uint32(100) {
		if active, inactive := d.Current().Load(id); active != 0 || inactive != 0 {
			t.Errorf("server %d has %d and %d connections, want none", id, active, inactive)
		}
	}
}

// BenchmarkPickByLoad is a pick by wlc with its connection's beginning, and the end of an
// older connection.
func BenchmarkPickByLoad(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("servers=%d", n), func(b *testing.B) {
			d := NewDirector(1)
			if err := d.AddService(ServiceSpec{Key: www, Scheduler: "wlc", Servers: thousands(n)}); err != nil {
				b.Fatal(err)
			}
			s := d.Current()
			scheduler, _ := sched.New("wlc", 0)
			scheduler.Adopt(s.Services[0].Dests, s.Services[0].Plan)
			rows, loads, q := s.Rows(0), loadsOf(s), &sched.Query{}
			var conns [4096]uint32 // their servers
			for i := range conns {
				conns[i] = uint32(i % n)
				s.Bind(rows, conns[i], false)
			}
			at := uint32(0)
			for b.Loop() {
				id := s.Services[0].Dests[scheduler.Pick(q, loads)].ID
				s.Bind(rows, id, false)
				at = at*5 + 1 // each of them, in no order (Hull and Dobell)
				s.Unbind(rows, conns[at%4096], true)
				conns[at%4096] = id
			}
		})
	}
}
