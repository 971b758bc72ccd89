package conn

import (
	"crypto/sha256"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// model is the plain twin of a Table: a map of what should be in it.
type model struct {
	t      *Table
	live   map[ID]*entry
	now    clock.Ticks
	serial int // of the last Insert
}

type entry struct {
	conn   Conn
	server *flow.Key
	serial int
	holds  int
}

func (e *entry) expiry() clock.Ticks { return e.conn.Stamp + e.conn.Timeout }

// find returns the newest connection with key k.
func (m *model) find(k flow.Key) (found ID) {
	serial := 0
	for id, e := range m.live {
		own := e.conn.ClientKey()
		if (own == k || e.server != nil && *e.server == k) && e.serial > serial {
			found, serial = id, e.serial
		}
	}
	return found
}

// ids returns the live connections in order, so that a run can be repeated.
func (m *model) ids() []ID {
	ids := make([]ID, 0, len(m.live))
	for id := range m.live {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (m *model) pick(t *rapid.T) ID {
	if len(m.live) == 0 {
		t.Skip("no connection")
	}
	return rapid.SampledFrom(m.ids()).Draw(t, "id")
}

// maxLag is how late Advance may be while connections are armed.
const maxLag = clock.MaxTicks - MaxTimeout

// Few addresses and ports, so that keys meet often; both families, and an
// IPv6 address that differs from a mapped one in one bit.
var (
	drawAddr = rapid.SampledFrom([]flow.Addr{
		flow.From4([4]byte{10, 0, 0, 1}), flow.From4([4]byte{10, 0, 0, 2}),
		{0: 0x20, 1: 1, 15: 1},
		{8: 1, 10: 0xff, 11: 0xff, 12: 10, 15: 1},
	})
	drawPort  = rapid.Uint16Range(1, 3)
	drawProto = rapid.SampledFrom([]uint8{protoTCP, protoUDP, protoSCTP})
	drawSpan  = rapid.Custom(func(t *rapid.T) clock.Ticks { // any magnitude, slot boundaries often
		n := uint32(1) << rapid.IntRange(0, 30).Draw(t, "bits")
		return clock.Ticks(n + rapid.Uint32Max(n-1).Draw(t, "ticks"))
	})
)

func (m *model) insert(t *rapid.T) {
	c := Conn{
		Client: drawAddr.Draw(t, "client"), ClientPort: drawPort.Draw(t, "cport"),
		Virtual: drawAddr.Draw(t, "virtual"), VirtualPort: drawPort.Draw(t, "vport"),
		RealPort: drawPort.Draw(t, "rport"), Proto: drawProto.Draw(t, "proto"),
		Stamp: m.now, Timeout: min(drawSpan.Draw(t, "timeout"), MaxTimeout),
		Packets: rapid.Uint32().Draw(t, "packets"), Real: NoReal, Flags: Inactive,
	}
	var server *flow.Key
	if rapid.Bool().Draw(t, "nat") {
		real := drawAddr.Draw(t, "real")
		k := c.serverKey(&real)
		server = &k
	}
	id, ok := m.t.Insert(&c, server)
	if !ok {
		m.refused(t, &c, server)
		return
	}
	if m.live[id] != nil || id == 0 || int(id) > m.t.Max() {
		t.Fatalf("Insert returned %d, which is in use or no ID", id)
	}
	m.serial++
	m.live[id] = &entry{conn: c, server: server, serial: m.serial}
}

// refused checks that Insert had a reason: no entry left, or one of the keys
// is new and both its buckets are full.
func (m *model) refused(t *rapid.T, c *Conn, server *flow.Key) {
	if len(m.live) == m.t.Max() {
		return
	}
	keys := []flow.Key{c.ClientKey()}
	if server != nil {
		keys = append(keys, *server)
	}
	for _, k := range keys {
		p := m.t.index.place(m.t.Hash(&k))
		// The other key may just have been taken out again: one free slot.
		free := bitCount(m.t.index[p.first].match(0)) + bitCount(m.t.index[p.second].match(0))
		if m.find(k) == 0 && free <= len(keys)-1 {
			return
		}
	}
	t.Fatalf("Insert refused %v with %d of %d connections", *c, len(m.live), m.t.Max())
}

func bitCount(m uint32) (n int) {
	for ; m != 0; m &= m - 1 {
		n++
	}
	return n
}

func (m *model) delete(id ID) {
	m.t.Delete(id)
	delete(m.live, id)
}

// advance runs both to now and compares: each connection that is due, at its
// tick, earliest first, and nothing else.
func (m *model) advance(t *rapid.T, budget int) (more bool) {
	return m.t.Advance(m.now, budget, func(id ID) clock.Ticks {
		e := m.live[id]
		if e == nil {
			t.Fatalf("connection %d expired, which was deleted", id)
		}
		due := e.expiry()
		if before(m.now, due) {
			t.Fatalf("connection %d expired at tick %d, due at %d", id, m.now, due)
		}
		for other, o := range m.live {
			if before(o.expiry(), due) {
				t.Fatalf("connection %d expired before %d, which was due %d ticks earlier", id, other, due-o.expiry())
			}
		}
		switch rapid.IntRange(0, 5).Draw(t, "on expiry") {
		case 3:
			e.conn.Stamp, e.conn.Timeout = due, HeldTicks
			return HeldTicks
		case 1: // a connection ends others with it
			if id := m.pick(t); m.live[id] != e {
				m.delete(id)
			}
		case 2: // and a new one may take its place
			m.delete(id)
			if m.now-due < maxLag {
				m.insert(t)
			}
			return 0
		}
		m.delete(id)
		return 0
	})
}

func (m *model) check(t *rapid.T) {
	if m.t.Len() != len(m.live) {
		t.Fatalf("Len %d, want %d", m.t.Len(), len(m.live))
	}
	keys := make([]flow.Key, 0, 2*len(m.live)+1)
	absent := flow.Key{Client: flow.From4([4]byte{10, 0, 0, 1}), ClientPort: 9, Proto: protoTCP}
	keys = append(keys, absent)
	due, some := m.t.NextDue()
	if some != (len(m.live) > 0) {
		t.Fatalf("NextDue %v with %d connections", some, len(m.live))
	}
	for _, id := range m.ids() {
		e := m.live[id]
		if got := *m.t.At(id); got != e.conn {
			t.Fatalf("connection %d is\n%v, want\n%v", id, got, e.conn)
		}
		if m.t.Held(id) != e.holds {
			t.Fatalf("connection %d held %d times, want %d", id, m.t.Held(id), e.holds)
		}
		if before(e.expiry(), due) {
			t.Fatalf("NextDue %d, but connection %d is due at %d", due, id, e.expiry())
		}
		keys = append(keys, e.conn.ClientKey())
		if e.server != nil {
			keys = append(keys, *e.server)
			if *m.t.RealAddr(id) != e.server.Local {
				t.Fatalf("connection %d has server %v, want %v", id, *m.t.RealAddr(id), e.server.Local)
			}
		}
	}
	hashes, found := make([]uint64, len(keys)), make([]ID, len(keys))
	lookupBatch(m.t, keys, hashes, found)
	for i, k := range keys {
		want := m.find(k)
		if one := m.t.Lookup(&k); found[i] != want || one != want {
			t.Fatalf("%v: in a batch %d, Lookup %d, want %d", k, found[i], one, want)
		}
	}
}

// tableProperty runs random operations on a Table and its twin, from a tick
// that may soon wrap, in a table that may be too small or have too few buckets.
func tableProperty(t *rapid.T) {
	table, err := New(Config{
		Max:     rapid.IntRange(1, 60).Draw(t, "max"),
		Seed:    flow.Seed{rapid.Uint64().Draw(t, "seed"), 1},
		Variant: rapid.SampledFrom(Variants()).Draw(t, "variant"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	table.index = table.index[:rapid.IntRange(2, min(4, len(table.index))).Draw(t, "buckets")]
	m := &model{t: table, live: map[ID]*entry{}}
	m.now = rapid.OneOf(rapid.Just(clock.Ticks(0)), rapid.Just(clock.Ticks(math.MaxUint32-200)),
		rapid.Map(rapid.Uint32(), func(n uint32) clock.Ticks { return clock.Ticks(n) })).Draw(t, "start")
	more := false
	t.Repeat(map[string]func(*rapid.T){
		"insert": func(t *rapid.T) {
			for range rapid.IntRange(1, 30).Draw(t, "n") {
				m.insert(t)
			}
		},
		"delete": func(t *rapid.T) { m.delete(m.pick(t)) },
		"wait": func(t *rapid.T) {
			if more {
				t.Skip("the wheel is behind")
			}
			wait, budget := drawSpan.Draw(t, "wait"), 0
			if wait < maxLag {
				budget = rapid.IntRange(0, 5).Draw(t, "budget")
			}
			m.now += wait
			more = m.advance(t, budget)
		},
		"go on": func(t *rapid.T) {
			budget := rapid.IntRange(0, 5).Draw(t, "budget")
			if more = m.advance(t, budget); more && budget == 0 {
				t.Fatal("stopped early without a budget")
			}
		},
		"step back": func(t *rapid.T) {
			if more {
				t.Skip("the wheel is behind")
			}
			if m.t.Advance(m.now-1, 0, func(id ID) clock.Ticks {
				t.Fatalf("connection %d expired when time went back", id)
				return 0
			}) {
				t.Fatal("work was left in the past")
			}
		},
		"touch": func(t *rapid.T) {
			id := m.pick(t)
			m.t.Touch(id, m.now)
			m.live[id].conn.Stamp = m.now
		},
		"set timeout": func(t *rapid.T) {
			id, span := m.pick(t), drawSpan.Draw(t, "timeout")
			m.t.SetTimeout(id, span, m.now)
			m.live[id].conn.Stamp, m.live[id].conn.Timeout = m.now, min(span, MaxTimeout)
		},
		"hold": func(t *rapid.T) {
			id := m.pick(t)
			m.t.Hold(id)
			m.live[id].holds++
		},
		"unhold": func(t *rapid.T) {
			if id := m.pick(t); m.live[id].holds > 0 {
				m.t.Unhold(id)
				m.live[id].holds--
			}
		},
		"scan": func(t *rapid.T) {
			var seen []ID
			for from := ID(0); ; {
				from = m.t.Scan(from, rapid.IntRange(1, 50).Draw(t, "n"), func(id ID, c *Conn) {
					if c != m.t.At(id) {
						t.Fatalf("Scan visits %d with another connection", id)
					}
					seen = append(seen, id)
				})
				if from == 0 {
					break
				}
			}
			if !slices.Equal(seen, m.ids()) {
				t.Fatalf("Scan visited %v, want %v", seen, m.ids())
			}
		},
		"": m.check,
	})
	for _, id := range m.ids() {
		m.delete(id)
	}
	for i, b := range table.index {
		if b.tags != [slots + 1]uint8{} || b.overflow != 0 {
			t.Fatalf("bucket %d of an empty table is %v", i, b)
		}
	}
	if table.wheel.full != [levels]uint64{} || table.wheel.heads != [levels][levelMask + 1]ID{} {
		t.Fatalf("the wheel of an empty table is %v", table.wheel)
	}
}

func TestTable(t *testing.T) { rapid.Check(t, tableProperty) }

// FuzzTable draws from the input; what that leaves open comes from a generator
// that the input seeds.
func FuzzTable(f *testing.F) {
	run := rapid.MakeFuzz(tableProperty)
	f.Fuzz(func(t *testing.T, input []byte) {
		rest := make([]byte, 1<<18)
		if _, err := rand.NewChaCha8(sha256.Sum256(input)).Read(rest); err != nil {
			t.Fatal(err)
		}
		run(t, slices.Concat(input, rest))
	})
}
