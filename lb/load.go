package lb

import "github.com/sluice-lb/sluice/lb/sched"

// Loads is how busy real servers are to the schedulers of one worker, to which it
// belongs: a sched.Loads.
type Loads struct {
	snap  *Snapshot
	rows  *Rows
	batch uint64
}

// Adopt takes over a snapshot and the worker's rows.
func (l *Loads) Adopt(s *Snapshot, rows *Rows) { l.snap, l.rows = s, rows }

// Begin begins a batch: what other workers have done to loads until now counts.
func (l *Loads) Begin() {
	if len(l.snap.rows) > 1 {
		l.batch++
	}
}

// Load is Snapshot's.
func (l *Loads) Load(id uint32) (active, inactive int32) { return l.snap.Load(id) }

// Overloaded is Snapshot's.
func (l *Loads) Overloaded(id uint32) bool { return l.snap.Overloaded(id) }

// Changes returns what the worker has changed, and the batch's number.
func (l *Loads) Changes() (own sched.Changes, batch uint64) { return l.rows.changes, l.batch }

// Load returns the connections of a real server, summed over all workers.
func (s *Snapshot) Load(id uint32) (active, inactive int32) {
	for _, rows := range s.rows {
		row := rows.Real(id)
		active += row.Active.Load()
		inactive += row.Inactive.Load()
	}
	return active, inactive
}

// Persistent returns the persistence templates of a real server, summed over
// all workers.
func (s *Snapshot) Persistent(id uint32) (n int32) {
	for _, rows := range s.rows {
		n += rows.Real(id).Persistent.Load()
	}
	return n
}

// Refs returns what still points at a real server, summed over all workers.
func (s *Snapshot) Refs(id uint32) (n int) {
	for _, rows := range s.rows {
		n += int(rows.Real(id).Refs.Load())
	}
	return n
}

// Overloaded says whether schedulers pass a real server by (K-DST-7).
func (s *Snapshot) Overloaded(id uint32) bool {
	return s.overload[id/chunkRows][id%chunkRows].Load()
}

// SetOverloaded sets what Overloaded says, for the whole node and every
// snapshot.
func (s *Snapshot) SetOverloaded(id uint32, overloaded bool) {
	if flag := &s.overload[id/chunkRows][id%chunkRows]; flag.Load() != overloaded {
		flag.Store(overloaded)
	}
}

// changed returns the row of a real server whose load, or overload, the worker is
// about to change, and notes that for its schedulers.
func (r *Rows) changed(id uint32) *RealRow {
	r.changes.Note(id)
	return r.Real(id)
}

// Recount moves a connection between the active and the inactive ones of a real
// server (K-CONN-7), by the worker that calls it.
func (r *Rows) Recount(id uint32, active bool) {
	row, n := r.changed(id), int32(-1)
	if active {
		n = 1
	}
	row.Active.Add(n)
	row.Inactive.Add(-n)
}

// Bind counts a new connection, inactive so far, on a real server, in the rows of
// the worker that calls it. One of a packet counts for a moment, in which it may
// overload the server and not relieve it (K-DST-7).
func (s *Snapshot) Bind(rows *Rows, id uint32, once bool) {
	if once && s.Reals[id].Upper == 0 {
		return
	}
	row := rows.changed(id)
	row.Inactive.Add(1)
	s.bound(id)
	if once {
		row.Inactive.Add(-1)
		s.unbound(id)
	} else {
		row.Refs.Add(1)
	}
}

// Unbind takes a connection that Bind counted off its server, by the worker that
// calls it, which need not be the same.
func (s *Snapshot) Unbind(rows *Rows, id uint32, inactive bool) {
	row := rows.changed(id)
	if inactive {
		row.Inactive.Add(-1)
	} else {
		row.Active.Add(-1)
	}
	s.unbound(id)
	row.Refs.Add(-1)
}

// BindTemplate is Bind for a persistence template.
func (s *Snapshot) BindTemplate(rows *Rows, id uint32) {
	row := rows.changed(id)
	row.Persistent.Add(1)
	row.Refs.Add(1)
	s.bound(id)
}

// UnbindTemplate takes back BindTemplate.
func (s *Snapshot) UnbindTemplate(rows *Rows, id uint32) {
	row := rows.changed(id)
	row.Persistent.Add(-1)
	row.Refs.Add(-1)
	s.unbound(id)
}

// bound follows a connection that was counted on a real server: at its upper
// threshold the server becomes overloaded (K-DST-7).
func (s *Snapshot) bound(id uint32) {
	upper := s.Reals[id].Upper
	if upper == 0 {
		return
	}
	if active, inactive := s.Load(id); int64(active)+int64(inactive) >= int64(upper) {
		s.SetOverloaded(id, true)
	}
}

// unbound follows a connection that was taken off a real server's counts: the
// server takes new ones again below its lower threshold, without one below
// three quarters of the upper, without both at once (K-DST-7).
func (s *Snapshot) unbound(id uint32) {
	if !s.Overloaded(id) {
		return
	}
	real := &s.Reals[id]
	active, inactive := s.Load(id)
	total := int64(active) + int64(inactive)
	switch {
	case real.Lower != 0 && total >= int64(real.Lower):
	case real.Lower == 0 && real.Upper != 0 && total*4 >= int64(real.Upper)*3:
	default:
		s.SetOverloaded(id, false)
	}
}
