package xdpprog

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Update makes the tables equal to w while packets flow. All that w adds is
// there before anything is removed, so what both states redirect is redirected
// throughout. A w that does not fit is refused whole (ErrTooManyMarks,
// ErrTooManyEntries, ErrInvalid). After any other error the tables hold at
// least what they held and w have in common, and Update may be called again.
func (s *Steer) Update(w Want) error {
	c, err := w.compile(s.max)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// An address leads to its endpoints, so it comes last and goes first.
	for _, step := range []func() error{
		func() error { return s.endpoints.widen(c.endpoints) },
		func() error { return s.addresses.widen(c.addresses) },
		func() error { return s.marks.set(c.marks) },
		func() error { return s.addresses.narrow(c.addresses) },
		func() error { return s.endpoints.narrow(c.endpoints) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("update XDP tables: %w", err)
		}
	}
	return nil
}

// table is a hash map of flags in the kernel and what is known of it here.
type table[K comparable, V ~uint32] struct {
	m      *ebpf.Map
	have   map[K]V
	unsure bool // a write failed half-way: have is to be read again
}

func (t *table[K, V]) to(m *ebpf.Map) { t.m, t.have = m, map[K]V{} }

// widen adds keys and flags until the table holds all of want.
func (t *table[K, V]) widen(want map[K]V) error {
	if t.unsure {
		have, err := t.read()
		if err != nil {
			return err
		}
		t.have, t.unsure = have, false
	}
	return t.put(func(yield func(K, V)) {
		for k, v := range want {
			if old, ok := t.have[k]; !ok || old|v != old {
				yield(k, old|v)
			}
		}
	})
}

// narrow removes the keys and flags that are not in want; widen came before.
func (t *table[K, V]) narrow(want map[K]V) error {
	err := t.put(func(yield func(K, V)) {
		for k, v := range want {
			if t.have[k] != v {
				yield(k, v)
			}
		}
	})
	if err != nil {
		return err
	}
	var gone []K
	for k := range t.have {
		if _, ok := want[k]; !ok {
			gone = append(gone, k)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if _, err := t.m.BatchDelete(gone, nil); err != nil {
		t.unsure = true
		return fmt.Errorf("remove %d entries: %w", len(gone), err)
	}
	for _, k := range gone {
		delete(t.have, k)
	}
	return nil
}

// put writes what each yields, in one system call.
func (t *table[K, V]) put(each func(yield func(K, V))) error {
	var keys []K
	var values []V
	each(func(k K, v V) { keys, values = append(keys, k), append(values, v) })
	if len(keys) == 0 {
		return nil
	}
	if _, err := t.m.BatchUpdate(keys, values, nil); err != nil {
		t.unsure = true
		return fmt.Errorf("write %d entries: %w", len(keys), err)
	}
	for i, k := range keys {
		t.have[k] = values[i]
	}
	return nil
}

// read returns what the kernel has.
func (t *table[K, V]) read() (map[K]V, error) {
	have := map[K]V{}
	keys, values := make([]K, t.m.MaxEntries()), make([]V, t.m.MaxEntries())
	var cursor ebpf.MapBatchCursor
	for {
		n, err := t.m.BatchLookup(&cursor, keys, values, nil)
		for i, k := range keys[:n] {
			have[k] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return have, nil // the end
		}
		if err != nil {
			return nil, fmt.Errorf("read back: %w", err)
		}
	}
}
