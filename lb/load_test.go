package lb

import (
	"fmt"
	"reflect"
	"sync"
	"testing"
)

// TestThresholds is K-DST-7: when a server becomes overloaded and when it takes
// new connections again.
func TestThresholds(t *testing.T) {
	for _, tt := range []struct {
		name         string
		upper, lower uint32
		up, down     []bool // overloaded after 1, 2, … connections; then with one less each time
	}{
		{"off", 0, 0, []bool{false, false, false, false}, []bool{false, false, false, false}},
		{"upper alone: again below three quarters", 4, 0, []bool{false, false, false, true}, []bool{true, false, false, false}},
		{"upper 2 alone", 2, 0, []bool{false, true}, []bool{false, false}},
		{"with lower 1: again at none", 2, 1, []bool{false, true}, []bool{true, false}},
		{"with lower 3", 4, 3, []bool{false, false, false, true, true}, []bool{true, true, false, false, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDirector(2)
			must(t, d.AddService(ServiceSpec{Key: www, Servers: []RealSpec{{Key: RealKey{ip("10.1.0.1"), 80}, Weight: 1, Upper: tt.upper, Lower: tt.lower}}}))
			s := d.Current()
			// Active and inactive connections count alike, those of all workers.
			place := func(n int) func(int32) int32 {
				row := s.Rows(n % 2).Real(0)
				if n/2%2 == 0 {
					return row.Active.Add
				}
				return row.Inactive.Add
			}
			n := 0
			for _, want := range tt.up {
				place(n)(1)
				n++
				if s.bound(0); s.Overloaded(0) != want {
					t.Errorf("at %d, going up: overloaded %v", n, !want)
				}
			}
			for _, want := range tt.down {
				n--
				place(n)(-1)
				if s.unbound(0); s.Overloaded(0) != want {
					t.Errorf("at %d, going down: overloaded %v", n, !want)
				}
			}
		})
	}
}

// TestThresholdEdit: an edit lets an overloaded server go if the threshold went
// or is higher than before, and then only (K-DST-7).
func TestThresholdEdit(t *testing.T) {
	for _, tt := range []struct {
		upper uint32
		want  bool
	}{{0, false}, {3, false}, {2, true}, {1, true}} {
		d := NewDirector(1)
		r := RealSpec{Key: RealKey{ip("10.1.0.1"), 80}, Weight: 1, Upper: 2}
		must(t, d.AddService(ServiceSpec{Key: www, Servers: []RealSpec{r}}))
		old := d.Current()
		old.Rows(0).Real(0).Active.Add(2)
		old.bound(0)
		r.Upper, r.Weight = tt.upper, 9 // the weight, so that each is an edit
		must(t, d.EditReal(www, r))
		if got := d.Current().Overloaded(0); got != tt.want || old.Overloaded(0) != got {
			t.Errorf("upper threshold 2 → %d: overloaded %v, want %v, in every snapshot", tt.upper, got, tt.want)
		}
		// Thresholds that are off let it go at the next connection that ends.
		old.SetOverloaded(0, true)
		if s := d.Current(); tt.upper == 0 {
			if s.unbound(0); s.Overloaded(0) {
				t.Error("a server without thresholds stays overloaded")
			}
		}
	}
}

// TestSums: what readers add up over workers.
func TestSums(t *testing.T) {
	d := NewDirector(3)
	_, err := d.Apply(big(300, 2, 1)) // more than a chunk of each
	must(t, err)
	s := d.Current()
	const id, slot = 599, 299
	for worker := range 3 {
		rows := s.Adopt(worker, nil)
		row := rows.Real(id)
		row.Active.Add(int32(worker + 1))
		row.Inactive.Add(10)
		row.Persistent.Add(2)
		row.Refs.Add(7)
		row.Counters = Counters{1, 2, 3, 4, 5}
		rows.Service(slot).OutBytes = 8
	}
	active, inactive := s.Load(id)
	if active != 6 || inactive != 30 || s.Persistent(id) != 6 || s.Refs(id) != 21 {
		t.Errorf("active %d, inactive %d, persistent %d, references %d", active, inactive, s.Persistent(id), s.Refs(id))
	}
	reals, services := make([]Counters, 20), make([]Counters, 2000)
	for worker := range 3 {
		s.Rows(worker).AddReals(590, reals)
		s.Rows(worker).AddServices(0, services)
	}
	if want := (Counters{3, 6, 9, 12, 15}); reals[9] != want || reals[8] != (Counters{}) {
		t.Errorf("counters %v, want %v", reals[9], want)
	}
	if services[slot].OutBytes != 24 {
		t.Errorf("service counters %v", services[slot])
	}
	s.Rows(0).AddReals(1<<31, reals) // beyond the rows: nothing
}

// TestRowsStay: rows keep their place when there come more.
func TestRowsStay(t *testing.T) {
	d := NewDirector(1)
	_, err := d.Apply(big(1, 1, 1))
	must(t, err)
	before := d.Current().Rows(0)
	_, err = d.Apply(big(2000, 1, 1))
	must(t, err)
	after := d.Current().Rows(0)
	if before.Real(0) != after.Real(0) || before.Service(0) != after.Service(0) {
		t.Error("rows moved")
	}
	if after.Real(1999) == nil || after.Service(1999) == nil {
		t.Error("no rows for new servers")
	}
	if a, b := reflect.TypeFor[RealRow]().Size(), reflect.TypeFor[ServiceRow]().Size(); a != 128 || b != 64 {
		t.Errorf("rows of %d and %d bytes, want 128 and 64: whole cache lines", a, b)
	}
}

// TestBoundRace: two workers bind and unbind at the threshold; when the dust
// has settled, the flag fits the counts.
func TestBoundRace(t *testing.T) {
	d := NewDirector(2)
	must(t, d.AddService(ServiceSpec{Key: www, Servers: []RealSpec{{Key: RealKey{ip("10.1.0.1"), 80}, Upper: 2, Weight: 1}}}))
	s := d.Current()
	var wait sync.WaitGroup
	for worker := range 2 {
		wait.Go(func() {
			row := s.Rows(worker).Real(0)
			for range 5000 {
				row.Active.Add(1)
				s.bound(0)
				row.Active.Add(-1)
				s.unbound(0)
			}
		})
	}
	wait.Wait()
	if s.Overloaded(0) {
		t.Error("overloaded without a connection")
	}
}

// Connections and templates count in the rows of whoever binds and unbinds them,
// in sum on the server; one of a packet leaves nothing but the overload.
func TestBind(t *testing.T) {
	d := NewDirector(2)
	must(t, d.AddService(ServiceSpec{Key: www, Servers: []RealSpec{{Key: RealKey{ip("10.1.0.1"), 80}, Weight: 1, Upper: 2}}}))
	s := d.Current()
	here, there := s.Rows(0), s.Rows(1)
	counts := func() string {
		active, inactive := s.Load(0)
		return fmt.Sprintf("%d active, %d inactive, %d persistent, %d references, overloaded %t", active, inactive, s.Persistent(0), s.Refs(0), s.Overloaded(0))
	}
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"a connection", func() { s.Bind(here, 0, false) }, "0 active, 1 inactive, 0 persistent, 1 references, overloaded false"},
		{"a template", func() { s.BindTemplate(there, 0) }, "0 active, 1 inactive, 1 persistent, 2 references, overloaded false"},
		{"one of a packet", func() { s.Bind(there, 0, true) }, "0 active, 1 inactive, 1 persistent, 2 references, overloaded false"},
		{"a second", func() { s.Bind(there, 0, false) }, "0 active, 2 inactive, 1 persistent, 3 references, overloaded true"},
		{"the first is active", func() { here.Real(0).Inactive.Add(-1); here.Real(0).Active.Add(1) }, "1 active, 1 inactive, 1 persistent, 3 references, overloaded true"},
		{"and ends elsewhere", func() { s.Unbind(there, 0, false) }, "0 active, 1 inactive, 1 persistent, 2 references, overloaded false"},
		{"the template ends", func() { s.UnbindTemplate(here, 0) }, "0 active, 1 inactive, 0 persistent, 1 references, overloaded false"},
		{"the second ends", func() { s.Unbind(here, 0, true) }, "0 active, 0 inactive, 0 persistent, 0 references, overloaded false"},
	} {
		if step.do(); counts() != step.want {
			t.Errorf("%s: %s, want %s", step.what, counts(), step.want)
		}
	}
}
