package conn

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Stripes is how many parts a node's templates lie in.
const Stripes = 16

// Control names a template by its stripe and its ID there, and the topmost
// bit: helpers' names never reach it.
const (
	templateBit = ID(1) << 31
	idBits      = 24
)

// IsTemplate says whether a Conn.Control names a template, and not a session
// of a helper.
func (id ID) IsTemplate() bool { return id&templateBit != 0 }

// MaxCall is the longest Call-ID that a template keeps, in bytes (K-PE-1).
const MaxCall = 255

// callBytes is what a template has for its Call-ID: its length and the bytes.
const callBytes = 1 + MaxCall

// Templates are the persistence templates of a node (K-PERS-1): connections
// without a client port by which a client finds its server again.
//
// All workers share them. They lie in stripes, each a Table behind a lock that
// is held while a connection is made or ends, never for an established one's
// packets.
//
// A template of a persistence engine belongs to one call too (K-PE-1): its
// ClientPort, which other templates do not use, is a tag of the Call-ID, so
// that calls of one client are filed apart.
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
	calls  []byte // callBytes for each ID
	_      cpu.CacheLinePad
}

// NewTemplates returns templates with that much room in all. For their Call-IDs
// it only takes address space: memory comes with their use.
func NewTemplates(room int, seed flow.Seed) (*Templates, error) {
	t := &Templates{seed: flow.Seed{seed[1], ^seed[0]}} // not the hash that places a key within its stripe
	for i := range t.stripes {
		table, err := New(Config{Max: (room + Stripes - 1) / Stripes, Seed: seed})
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		t.stripes[i].Table, t.stripes[i].number = table, ID(i)
		const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_NORESERVE
		size := callBytes * (table.Max() + 1)
		if t.stripes[i].calls, err = unix.Mmap(-1, 0, size, prot, flags); err != nil {
			return nil, errors.Join(fmt.Errorf("map %d bytes for Call-IDs: %w", size, err), t.Close())
		}
	}
	return t, nil
}

// Close gives the memory back.
func (t *Templates) Close() error {
	var errs []error
	for i := range t.stripes {
		s := &t.stripes[i]
		if s.Table != nil {
			errs = append(errs, s.Table.Close())
		}
		if s.calls != nil {
			errs = append(errs, unix.Munmap(s.calls))
			s.calls = nil
		}
	}
	return errors.Join(errs...)
}

// Tag returns the ClientPort of templates with that Call-ID; 0 if it is empty.
func (t *Templates) Tag(call []byte) uint16 {
	if len(call) == 0 {
		return 0
	}
	seed := t.seed
	for len(call) > 0 {
		var k flow.Key // 32 bytes at a time
		call = call[copy(k.Client[:], call):]
		call = call[copy(k.Local[:], call):]
		seed[0] ^= k.Hash(&seed)
	}
	return max(1, uint16(seed[0]))
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

// Template returns the template of that key and Call-ID, the key's ClientPort
// being the Call-ID's tag; 0: there is none.
func (s *Stripe) Template(k *flow.Key, call []byte) ID {
	id := s.Lookup(k)
	for id != 0 && string(s.Call(id)) != string(call) {
		id = s.older[id][flow.ClientSide] // another Call-ID with that tag
	}
	return id
}

// Add inserts template c, which belongs to a call unless call, of at most
// MaxCall bytes, is empty. false: there is no room.
func (s *Stripe) Add(c *Conn, call []byte) (ID, bool) {
	id, ok := s.Insert(c, nil)
	if ok && len(call) > 0 {
		at := callBytes * int(id)
		s.calls[at] = uint8(copy(s.calls[at+1:at+callBytes], call))
	}
	return id, ok
}

// Call returns the Call-ID of template id, good until its Delete; it is empty
// for one that belongs to no call.
func (s *Stripe) Call(id ID) []byte {
	if s.conns[id].ClientPort == 0 {
		return nil
	}
	at := callBytes * int(id)
	return s.calls[at+1:][:s.calls[at]]
}

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
	c.VirtualPort, c.RealPort = 0xffff, 0xffff // ClientPort keeps those of many calls apart
	key = c.ClientKey()
	if !s.link(&key, s.Hash(&key), id) {
		*c = old
		key = c.ClientKey()
		s.link(&key, s.Hash(&key), id) // the place that it just left
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
// it looks at n entries. visit may delete its template.
func (t *Templates) ScanStripe(stripe int, from ID, n int, visit func(s *Stripe, id ID, c *Conn)) (next ID) {
	s := &t.stripes[stripe]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Table.Scan(from, n, func(id ID, c *Conn) { visit(s, id, c) })
}

// Sample returns where ScanStripe is to begin, a random number deciding, and how
// many entries it is to look at for one of share templates to be among them on
// average.
func (t *Templates) Sample(random uint64, share int) (stripe int, from ID, n int) {
	stripe = int(random >> 60)
	room := t.stripes[stripe].Max()
	return stripe, 1 + ID(random>>36&(1<<idBits-1))%ID(room), max(1, room*Stripes/share)
}

// Scan calls visit for every template, a stripe locked at a time. visit may
// delete its template.
func (t *Templates) Scan(visit func(s *Stripe, id ID, c *Conn)) {
	for i := range t.stripes {
		t.ScanStripe(i, 0, t.stripes[i].Max(), visit)
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
