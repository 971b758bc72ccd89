package ipvsadm

import (
	"errors"
	"slices"
	"sync"

	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/sched"
)

// DirectorBackend is the Backend of a director: that of a running node, or of
// one that was made of a configuration file. Its methods may be called from any
// goroutine if those of what it is made of may.
type DirectorBackend struct {
	Director *lb.Director
	Live     Live   // nil: nothing runs; there are no counts and no connections
	Meter    *Meter // nil: no rates, and -Z does nothing
	Sync     Syncer // nil: there are no synchronisation daemons
	Frozen   error  // not nil: every change is refused with it

	batch *lb.Operations // of Batch; nil: every change is published at once
	mu    sync.Mutex     // one change at a time: servers of another family and daemons exclude each other
}

// Live is what a running node knows beyond its rules.
type Live interface {
	// Counts returns the node's counters, as new as can be.
	Counts() (Counts, error)
	// Conns is that of Backend.
	Conns(visit func(*Conn)) error
}

// Syncer runs the synchronisation daemons of a node. Its methods are those of
// Backend.
type Syncer interface {
	StartDaemon(Daemon) error
	StopDaemon(DaemonState) error
	Daemons() ([]Daemon, error)
}

// change does a change, unless there are to be none.
func (b *DirectorBackend) change(do func() error) error {
	if b.Frozen != nil {
		return b.Frozen
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return do()
}

// rules returns what changes the director.
func (b *DirectorBackend) rules() lb.Operations {
	if b.batch != nil {
		return *b.batch
	}
	return b.Director.Operations
}

// Batch has do make many changes, which are published together. Changes by
// others wait for its end.
func (b *DirectorBackend) Batch(do func(Backend) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Director.Batch(func(batch lb.Operations) error {
		return do(&DirectorBackend{
			Director: b.Director, Live: b.Live, Meter: b.Meter, Sync: b.Sync, Frozen: b.Frozen, batch: &batch,
		})
	})
}

// service returns the service of a key in a snapshot, nil if there is none.
func service(s *lb.Snapshot, key lb.ServiceKey) *lb.Service {
	i := slices.IndexFunc(s.Services, func(svc *lb.Service) bool { return svc != nil && svc.Key == key })
	if i < 0 {
		return nil
	}
	return s.Services[i]
}

// AddService adds a service.
func (b *DirectorBackend) AddService(s lb.ServiceSpec) error {
	return b.change(func() error { return b.rules().AddService(s) })
}

// EditService edits a service.
func (b *DirectorBackend) EditService(s lb.ServiceSpec) error {
	return b.change(func() error { return b.rules().EditService(s) })
}

// DeleteService deletes a service with its servers.
func (b *DirectorBackend) DeleteService(key lb.ServiceKey) error {
	return b.change(func() error { return b.rules().DeleteService(key) })
}

// Flush deletes all services.
func (b *DirectorBackend) Flush() error {
	return b.change(func() error {
		b.rules().Flush()
		return nil
	})
}

// AddReal adds a server. While a synchronisation daemon runs, one of another
// family than its service is refused (K-PROTO-MIX).
func (b *DirectorBackend) AddReal(key lb.ServiceKey, r lb.RealSpec) error {
	return b.change(func() error {
		if b.Sync != nil && r.Key.Addr.Is6() != key.Is6() {
			daemons, err := b.Sync.Daemons()
			if (err != nil || len(daemons) > 0) && service(b.rules().Current(), key) != nil {
				return errors.Join(err, lb.ErrInvalid)
			}
		}
		return b.rules().AddReal(key, r)
	})
}

// EditReal edits a server.
func (b *DirectorBackend) EditReal(key lb.ServiceKey, r lb.RealSpec) error {
	return b.change(func() error { return b.rules().EditReal(key, r) })
}

// DeleteReal deletes a server.
func (b *DirectorBackend) DeleteReal(key lb.ServiceKey, r lb.RealKey) error {
	return b.change(func() error { return b.rules().DeleteReal(key, r) })
}

// Zero makes counters and rates begin anew.
func (b *DirectorBackend) Zero(key *lb.ServiceKey) error {
	return b.change(func() error {
		s := b.rules().Current()
		var only *lb.Service
		if key != nil {
			if only = service(s, *key); only == nil {
				return lb.ErrNoService
			}
		}
		c, err := b.counts()
		if err != nil || b.Meter == nil {
			return err
		}
		b.Meter.Zero(s, c, only)
		return nil
	})
}

func (b *DirectorBackend) counts() (Counts, error) {
	if b.Live == nil {
		return Counts{}, nil
	}
	return b.Live.Counts()
}

// Timeouts returns the timeouts in force.
func (b *DirectorBackend) Timeouts() (lb.Timeouts, error) { return b.Director.Spec().Timeouts, nil }

// SetTimeouts sets the timeouts that are not 0.
func (b *DirectorBackend) SetTimeouts(t lb.Timeouts) error {
	return b.change(func() error { return b.rules().SetTimeouts(t) })
}

// Services returns the services by slot, which is the order in which they were
// added unless others had gone before.
func (b *DirectorBackend) Services() ([]Service, error) {
	s := b.rules().Current() // before the counts, which may be newer (Meter)
	c, err := b.counts()
	if err != nil {
		return nil, err
	}
	var out []Service
	for _, svc := range s.Services {
		if svc == nil {
			continue
		}
		v := Service{Spec: *svc.Spec, Servers: make([]Server, len(svc.Dests)), Stats: *at(c.Services, int(svc.Slot))}
		v.Spec.Servers = nil
		for i, d := range svc.Dests {
			v.Servers[i] = server(s, &s.Reals[d.ID])
			v.Servers[i].Stats = *at(c.Reals, int(d.ID))
		}
		out = append(out, v)
	}
	if b.Meter != nil {
		b.Meter.fill(s, c, out)
	}
	return out, nil
}

// server returns a real server of a snapshot without its counters.
func server(s *lb.Snapshot, r *lb.Real) Server {
	active, inactive := s.Load(r.ID)
	return Server{
		Spec: lb.RealSpec{
			Key:    lb.RealKey{Addr: r.Addr.Netip(), Port: r.Port},
			Weight: r.Weight, Forward: r.Forward, Tunnel: r.Tunnel, Upper: r.Upper, Lower: r.Lower,
		},
		Active: uint32(max(active, 0)), Inactive: uint32(max(inactive, 0)), Persistent: uint32(max(s.Persistent(r.ID), 0)),
	}
}

// Conns visits all connections.
func (b *DirectorBackend) Conns(visit func(*Conn)) error {
	if b.Live == nil {
		return nil
	}
	return b.Live.Conns(visit)
}

// StartDaemon starts a daemon, unless a server is of another family than its
// service (K-PROTO-MIX).
func (b *DirectorBackend) StartDaemon(d Daemon) error {
	return b.change(func() error {
		if b.Sync == nil {
			return ErrUnsupported
		}
		s := b.rules().Current()
		for _, svc := range s.Services {
			if svc != nil && slices.ContainsFunc(svc.Dests, func(x sched.Dest) bool { return s.Reals[x.ID].V6 != svc.V6 }) {
				return lb.ErrInvalid
			}
		}
		return b.Sync.StartDaemon(d)
	})
}

// StopDaemon stops a daemon.
func (b *DirectorBackend) StopDaemon(state DaemonState) error {
	return b.change(func() error {
		if b.Sync == nil {
			return ErrNoDaemon
		}
		return b.Sync.StopDaemon(state)
	})
}

// Daemons returns the daemons that run.
func (b *DirectorBackend) Daemons() ([]Daemon, error) {
	if b.Sync == nil {
		return nil, nil
	}
	return b.Sync.Daemons()
}
