package conn

import (
	"errors"
	"sync"

	"golang.org/x/sys/cpu"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Stripes is how many parts a node's templates lie in.
const Stripes = 16

// Control names a template by its stripe and its ID there, and the topmost
// bit: connections' own IDs never reach it.
const (
	templateBit = ID(1) << 31
	idBits      = 24
)

// IsTemplate says whether a Conn.Control names a template, and not a
// connection of the same table.
func (id ID) IsTemplate() bool { return id&templateBit != 0 }

// Templates are the persistence templates of a node (K-PERS-1): connections
// without a client port by which a client finds its server again.
//
// All workers share them. They lie in stripes, each a Table behind a lock that
// is held while a connection is made or ends, never for an established one's
// packets.
type Templates struct {
	seed    flow.Seed
	stripes [Stripes]Stripe
}

// Stripe is a part of the templates, locked. Its Table's methods may be called
// until Unlock.
type Stripe struct {
	*Table
	mu     sync.Mutex
	number ID
	_      cpu.CacheLinePad
}

// NewTemplates returns templates with that much room in all.
func NewTemplates(room int, seed flow.Seed) (*Templates, error) {
	t := &Templates{seed: flow.Seed{seed[1], ^seed[0]}} // not the hash that places a key within its stripe
	for i := range t.stripes {
		table, err := New(Config{Max: (room + Stripes - 1) / Stripes, Seed: seed})
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		t.stripes[i].Table, t.stripes[i].number = table, ID(i)
	}
	return t, nil
}

// Close gives the memory back.
func (t *Templates) Close() error {
	var errs []error
	for i := range t.stripes {
		if t.stripes[i].Table != nil {
			errs = append(errs, t.stripes[i].Table.Close())
		}
	}
	return errors.Join(errs...)
}

// Lock returns the stripe of a template's key, locked.
func (t *Templates) Lock(k *flow.Key) *Stripe {
	s := &t.stripes[k.Hash(&t.seed)%Stripes]
	s.mu.Lock()
	return s
}

// Find returns the stripe and ID of the template that control names, the
// stripe locked.
func (t *Templates) Find(control ID) (*Stripe, ID) {
	s := &t.stripes[control&^templateBit>>idBits]
	s.mu.Lock()
	return s, control & (1<<idBits - 1)
}

// Unlock ends what Lock or Find began.
func (s *Stripe) Unlock() { s.mu.Unlock() }

// Control returns what Conn.Control holds to name template id of the stripe.
func (s *Stripe) Control(id ID) ID { return templateBit | s.number<<idBits | id }

// Invalidate files template id where no packet finds it, with both ports
// 65535, for the rest of its time (K-PERS-4). One that is filed so already, or
// for which there is no other place, stays where it is.
func (s *Stripe) Invalidate(id ID) {
	c := &s.conns[id]
	if c.VirtualPort == 0xffff {
		return
	}
	old := *c
	key := c.ClientKey()
	s.unlink(&key, id)
	c.ClientPort, c.VirtualPort, c.RealPort = 0, 0xffff, 0xffff
	key = c.ClientKey()
	if !s.link(&key, id) {
		*c = old
		key = c.ClientKey()
		s.link(&key, id) // the place that it just left
	}
}

// Advance runs the timers of the stripes that worker, of so many workers,
// looks after: see Table.Advance. budget is for each stripe. expire is called
// with the stripe locked.
func (t *Templates) Advance(worker, workers int, now clock.Ticks, budget int, expire func(s *Stripe, id ID) clock.Ticks) (more bool) {
	for i := worker; i < Stripes; i += workers {
		s := &t.stripes[i]
		s.mu.Lock()
		if s.len > 0 {
			more = s.Table.Advance(now, budget, func(id ID) clock.Ticks { return expire(s, id) }) || more
		}
		s.mu.Unlock()
	}
	return more
}

// NextDue returns a lower bound of the next tick at which a template of the
// worker's stripes is due; false: there is none.
func (t *Templates) NextDue(worker, workers int) (due clock.Ticks, some bool) {
	for i := worker; i < Stripes; i += workers {
		s := &t.stripes[i]
		s.mu.Lock()
		if at, ok := s.Table.NextDue(); ok && (!some || int32(at-due) < 0) {
			due, some = at, true
		}
		s.mu.Unlock()
	}
	return due, some
}

// ScanStripe is Table.Scan of one stripe, 0 to Stripes-1, locked for as long as
// it looks at n entries.
func (t *Templates) ScanStripe(stripe int, from ID, n int, visit func(ID, *Conn)) (next ID) {
	s := &t.stripes[stripe]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Table.Scan(from, n, visit)
}

// Scan calls visit for every template, a stripe locked at a time. visit may
// delete its template.
func (t *Templates) Scan(visit func(s *Stripe, id ID, c *Conn)) {
	for i := range t.stripes {
		s := &t.stripes[i]
		s.mu.Lock()
		s.Table.Scan(0, s.Max(), func(id ID, c *Conn) { visit(s, id, c) })
		s.mu.Unlock()
	}
}

// Len returns how many templates there are.
func (t *Templates) Len() (n int) {
	for i := range t.stripes {
		s := &t.stripes[i]
		s.mu.Lock()
		n += s.len
		s.mu.Unlock()
	}
	return n
}
