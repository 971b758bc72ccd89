package ipvsadm

import (
	"sync"

	"github.com/sluice-lb/sluice/lb"
)

// Counts are a node's counters, summed over its workers, by service slot and
// real ID. What is missing at the end counts as zero.
type Counts struct{ Services, Reals []lb.Counters }

// Meter keeps what counters alone do not tell: rates, and where -Z set zero
// (K-STAT-2, K-STAT-3). Its owner calls Tick every EstimatorPeriod, with counts
// that belong to the snapshot or are newer. Its methods may be called from any
// goroutine. The zero Meter is ready.
type Meter struct {
	mu       sync.Mutex
	services []gauge[lb.ServiceKey] // by slot
	reals    []gauge[realHolder]    // by real ID
}

// realHolder is by what a real ID is known to have passed to another server.
// A removed server keeps its own for as long as it may come back (K-DST-8).
type realHolder struct {
	held bool
	key  lb.RealKey
}

// gauge is what is kept of one set of counters.
type gauge[K comparable] struct {
	holder    K
	zero      lb.Counters // what they were at -Z
	estimator Estimator
}

// renew makes g that of holder, from nothing if it was another's or if its
// counters began anew.
func (g *gauge[K]) renew(holder K, now *lb.Counters) {
	if g.holder != holder || wentBack(now, &g.zero) {
		*g = gauge[K]{holder: holder}
	}
}

// since returns the counters since -Z.
func (g *gauge[K]) since(now *lb.Counters) lb.Counters {
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

// Tick moves every rate on.
func (m *Meter) Tick(s *lb.Snapshot, c Counts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow(s, c)
	for i := range m.services {
		m.services[i].estimator.Tick(*at(c.Services, i))
	}
	for i := range m.reals {
		m.reals[i].estimator.Tick(*at(c.Reals, i))
	}
}

// follow gives every slot and ID of the snapshot a gauge of its holder.
func (m *Meter) follow(s *lb.Snapshot, c Counts) {
	for len(m.services) < len(s.Services) {
		m.services = append(m.services, gauge[lb.ServiceKey]{})
	}
	for i, svc := range s.Services {
		var key lb.ServiceKey
		if svc != nil {
			key = svc.Key
		}
		m.services[i].renew(key, at(c.Services, i))
	}
	for len(m.reals) < len(s.Reals) {
		m.reals = append(m.reals, gauge[realHolder]{})
	}
	for i := range s.Reals {
		var holder realHolder
		if r := &s.Reals[i]; r.ID != lb.NoReal {
			holder = realHolder{true, lb.RealKey{Addr: r.Addr.Netip(), Port: r.Port}}
		}
		m.reals[i].renew(holder, at(c.Reals, i))
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
			m.services[i].zero = *at(c.Services, i)
			m.services[i].estimator.Zero()
		}
	}
	for i := range m.reals {
		if i < len(s.Reals) && s.Reals[i].Available && (only == nil || s.Reals[i].Service == only.Slot) { // not in the trash
			m.reals[i].zero = *at(c.Reals, i)
			m.reals[i].estimator.Zero()
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
		out.Stats, out.Rates = m.services[slot].since(at(c.Services, slot)), m.services[slot].estimator.Rates()
		for i, d := range svc.Dests {
			g := &m.reals[d.ID]
			out.Servers[i].Stats, out.Servers[i].Rates = g.since(at(c.Reals, int(d.ID))), g.estimator.Rates()
		}
	}
}
