package ipvsadm

import (
	"sync"

	"github.com/sluice-lb/sluice/lb"
)

// Counts are a node's counters, summed over its workers, by service slot and
// real ID. What is missing at the end counts as zero.
type Counts struct{ Services, Reals []lb.Counters }

// Meter keeps what counters alone do not tell: rates, and where zero is
// (K-STAT-2, K-STAT-3). Its owner calls Tick every EstimatorPeriod, with counts
// that belong to the snapshot or are newer. Its methods may be called from any
// goroutine. The zero Meter is ready.
type Meter struct {
	mu       sync.Mutex
	services []gauge // by slot
	reals    []gauge // by real ID
}

// gauge is what is kept of one set of counters.
type gauge struct {
	holder uint64      // Born of the service or server
	of     uint64      // of a server: Of
	zero   lb.Counters // from where they are shown
	next   lb.Counters // from where they are shown from the next tick on
	Estimator
}

// follow makes g that of a holder: from nothing if it was another's, zeroed if
// a server came back to another service.
func (g *gauge) follow(holder, of uint64, now *lb.Counters) {
	if g.holder != holder || wentBack(now, &g.zero) {
		*g = gauge{holder: holder, of: of}
	}
	if g.of != of {
		g.of = of
		g.reset(now)
	}
}

// reset makes counters and rates begin anew. The kernel's zero is where the
// counters were when it last published them: what came since then counts, and
// shows when it publishes them again.
func (g *gauge) reset(now *lb.Counters) {
	g.zero, g.next = *now, g.last
	g.Zero()
}

// tick moves the rates on.
func (g *gauge) tick(now *lb.Counters) {
	g.zero = g.next
	g.Tick(*now)
}

// since returns the counters since they were zeroed.
func (g *gauge) since(now *lb.Counters) lb.Counters {
	return lb.Counters{
		Conns:     now.Conns - g.zero.Conns,
		InPackets: now.InPackets - g.zero.InPackets, OutPackets: now.OutPackets - g.zero.OutPackets,
		InBytes: now.InBytes - g.zero.InBytes, OutBytes: now.OutBytes - g.zero.OutBytes,
	}
}

// at returns the counters of an index.
func at(c []lb.Counters, i int) *lb.Counters {
	if i < len(c) {
		return &c[i]
	}
	return &lb.Counters{}
}

// Tick moves every rate on, but those of removed servers.
func (m *Meter) Tick(s *lb.Snapshot, c Counts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow(s, c)
	for i := range m.services {
		m.services[i].tick(at(c.Services, i))
	}
	for i := range s.Reals {
		if s.Reals[i].Available {
			m.reals[i].tick(at(c.Reals, i))
		}
	}
}

// follow gives every slot and ID of the snapshot a gauge of its holder.
func (m *Meter) follow(s *lb.Snapshot, c Counts) {
	m.services = append(m.services, make([]gauge, max(0, len(s.Services)-len(m.services)))...)
	for i, svc := range s.Services {
		if svc != nil {
			m.services[i].follow(svc.Born, 0, at(c.Services, i))
		}
	}
	m.reals = append(m.reals, make([]gauge, max(0, len(s.Reals)-len(m.reals)))...)
	for i := range s.Reals {
		m.reals[i].follow(s.Reals[i].Born, s.Reals[i].Of, at(c.Reals, i))
	}
}

// Zero makes the counters and rates of a service and its servers begin anew;
// with nil, those of all (K-STAT-3).
func (m *Meter) Zero(s *lb.Snapshot, c Counts, only *lb.Service) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow(s, c)
	for i := range m.services {
		if only == nil || uint32(i) == only.Slot {
			m.services[i].reset(at(c.Services, i))
		}
	}
	for i := range s.Reals {
		if r := &s.Reals[i]; r.Available && (only == nil || r.Service == only.Slot) { // not in the trash
			m.reals[i].reset(at(c.Reals, i))
		}
	}
}

// Since returns counts as they are since -Z.
func (m *Meter) Since(s *lb.Snapshot, c Counts) Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow(s, c)
	since := Counts{make([]lb.Counters, len(c.Services)), make([]lb.Counters, len(c.Reals))}
	for i := range since.Services {
		since.Services[i] = m.services[i].since(&c.Services[i])
	}
	for i := range since.Reals {
		since.Reals[i] = m.reals[i].since(&c.Reals[i])
	}
	return since
}

// fill sets the counters and rates of services that were made of s.
func (m *Meter) fill(s *lb.Snapshot, c Counts, services []Service) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow(s, c)
	next := 0
	for slot, svc := range s.Services {
		if svc == nil {
			continue
		}
		out := &services[next]
		next++
		out.Stats, out.Rates = m.services[slot].since(at(c.Services, slot)), m.services[slot].Rates()
		for i, d := range svc.Dests {
			g := &m.reals[d.ID]
			out.Servers[i].Stats, out.Servers[i].Rates = g.since(at(c.Reals, int(d.ID))), g.Rates()
		}
	}
}
