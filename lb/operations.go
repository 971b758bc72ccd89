package lb

import (
	"fmt"

	"github.com/sluice-lb/sluice/lb/sched"
)

// Operations change a director's state by one thing at a time, as ipvsadm's
// commands do; each takes effect whole or, with an error, not at all. Those of a
// Director are published one by one, those of a batch together. They may be
// called from any goroutine.
type Operations struct {
	d     *Director
	later bool // of a batch, which publishes
}

// Batch has do make many changes at the cost of publishing one: workers see
// them when do has returned, or when anybody else changes something. Each
// operation stands for itself as ever, and what was done before do's error
// stays. A worker's schedulers follow all that a batch did to their servers,
// one thing after the other (sched.Edit). The director is not locked meanwhile.
func (d *Director) Batch(do func(Operations) error) error {
	o := Operations{d, true}
	defer o.Current()
	return do(o)
}

// Current publishes what has been changed and returns the snapshot with it.
func (o Operations) Current() *Snapshot {
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	o.d.publish()
	return o.d.Current()
}

// do makes a change.
func (o Operations) do(change func(*Director) error) error {
	o.d.mu.Lock()
	defer o.d.mu.Unlock()
	if err := change(o.d); err != nil {
		return err
	}
	if !o.later {
		o.d.publish()
	}
	return nil
}

// AddService adds a service with its servers (ipvsadm -A, then -a for each).
func (o Operations) AddService(s ServiceSpec) error {
	return o.do(func(d *Director) error {
		if svc := d.byKey[s.Key.normal()]; svc != nil {
			return fmt.Errorf("service %s: %w", svc.spec.Name, ErrServiceExists)
		}
		n, err := s.normal()
		if err != nil {
			return err
		}
		if err := d.checkName(&n); err != nil {
			return err
		}
		d.run(addition(&n))
		return nil
	})
}

// EditService changes all of a service that ipvsadm -E does, which is everything
// but its key, its servers and its MSS; s.Servers and s.MSS are ignored, and
// without a name it keeps its own. Connections stay (K-SVC-7).
func (o Operations) EditService(s ServiceSpec) error {
	s.Servers = nil
	return o.do(func(d *Director) error {
		svc := d.byKey[s.Key.normal()]
		if svc == nil {
			return fmt.Errorf("%s: %w", s.Key, ErrNoService)
		}
		if s.Name == "" {
			s.Name = svc.spec.Name
		}
		s.MSS = svc.spec.MSS
		n, err := s.normal()
		if err != nil {
			return err
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
		return nil
	})
}

// checkName refuses a service the name of another.
func (d *Director) checkName(s *ServiceSpec) error {
	if other := d.byName[s.Name]; other != nil && other.spec.Key != s.Key {
		return fmt.Errorf("service %s: %w", s.Name, ErrName)
	}
	return nil
}

// DeleteService removes a service. Its servers' connections stay until their
// timers end (K-SVC-8).
func (o Operations) DeleteService(k ServiceKey) error {
	return o.do(func(d *Director) error {
		svc := d.byKey[k.normal()]
		if svc == nil {
			return fmt.Errorf("%s: %w", k, ErrNoService)
		}
		old := svc.full()
		d.run(removal(&old))
		return nil
	})
}

// Flush removes all services (ipvsadm -C).
func (o Operations) Flush() {
	_ = o.do(func(d *Director) error { // which has nothing to refuse
		d.run(diff(d.spec().Services, nil))
		return nil
	})
}

// AddReal adds a real server to a service, at the head of its list (K-DST-2).
// One that was removed lately comes back with its counters and connections
// (K-DST-8).
func (o Operations) AddReal(k ServiceKey, r RealSpec) error { return o.onReal(add, k, r) }

// EditReal changes everything of a real server but its key. What changes
// nothing is an operation too: wrr begins its round anew (K-SCH-WRR).
func (o Operations) EditReal(k ServiceKey, r RealSpec) error { return o.onReal(edit, k, r) }

// onReal adds or edits a server.
func (o Operations) onReal(v verb, k ServiceKey, r RealSpec) error {
	return o.do(func(d *Director) error {
		svc := d.byKey[k.normal()]
		if svc == nil {
			return fmt.Errorf("%s: %w", k, ErrServiceUnknown)
		}
		n, err := r.normal(svc.spec.Key)
		if err != nil {
			return fmt.Errorf("service %s: %w", svc.spec.Name, err)
		}
		if err := svc.check(v, &n); err != nil {
			return fmt.Errorf("service %s: server %s: %w", svc.spec.Name, n.Key, err)
		}
		d.run([]op{{verb: v, service: &svc.spec, real: &n}})
		return nil
	})
}

// check says whether a server may be added or edited, in the kernel's order.
func (svc *service) check(v verb, r *RealSpec) error {
	there := svc.byKey[r.Key] != nil
	switch {
	case v == edit && there:
		return nil
	case v == edit:
		return ErrNoReal
	case there:
		return ErrRealExists
	case svc.spec.Scheduler == "mh" && len(svc.servers) >= sched.MaxMaglev:
		return ErrInvalid
	}
	return r.checkAddress()
}

// DeleteReal removes a real server from a service. Its connections stay until
// their timers end (K-CONN-10).
func (o Operations) DeleteReal(k ServiceKey, key RealKey) error {
	return o.do(func(d *Director) error {
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
		return nil
	})
}

// SetTimeouts sets the timeouts that are not 0 (ipvsadm --set).
func (o Operations) SetTimeouts(t Timeouts) error {
	return o.do(func(d *Director) error {
		n := d.node.Timeouts.With(t)
		if err := n.fill(); err != nil {
			return err
		}
		d.changed = d.changed || n != d.node.Timeouts
		d.node.Timeouts = n
		return nil
	})
}

// SetSysctl sets all tunables.
func (o Operations) SetSysctl(s Sysctl) {
	_ = o.do(func(d *Director) error { // which has nothing to refuse
		d.changed = d.changed || s != d.node.Sysctl
		d.node.Sysctl = s
		return nil
	})
}
