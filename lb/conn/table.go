package conn

import (
	"fmt"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Table is one worker's connections: at most 128 bytes each, entry, index and
// timers included.
type Table struct {
	conns  []Conn      // by ID, entry 0 is not used; so are the next three
	reals  []flow.Addr // address of a NAT connection's server, else zero
	timers []timer
	older  [][2]ID // by side: the next older connection with an equal key
	index  index
	wheel  wheel

	seed     flow.Seed
	prefetch bool
	sink     uint8 // what the fetch loops read
	memory   memory
	freed    ID // the last entry that was deleted; the others hang behind it by timer.next
	fresh    ID // entries above this one were never used
	len      int
	reminder clock.Ticks
	reminded bool
	owed     owed
}

// At returns connection id; the pointer is good until its Delete.
func (t *Table) At(id ID) *Conn { return &t.conns[id] }

// RealAddr returns the address of the NAT server of connection id, as it was
// given to Insert; zero for one without a server key.
func (t *Table) RealAddr(id ID) *flow.Addr { return &t.reals[id] }

// Len returns the number of connections.
func (t *Table) Len() int { return t.len }

// Max returns the number of connections for which there is room.
func (t *Table) Max() int { return len(t.conns) - 1 }

// Lookup returns the newest connection with key k, 0 if there is none.
func (t *Table) Lookup(k *flow.Key) ID { return t.LookupHash(k, t.Hash(k)) }

// LookupHash is Lookup of a key whose hash is h.
func (t *Table) LookupHash(k *flow.Key, h uint64) ID {
	_, _, _, id := t.locate(k, h)
	return id
}

// Older returns the newest of the connections that are older than id and have
// an equal client key, 0 if there is none.
func (t *Table) Older(id ID) ID { return t.older[id][flow.ClientSide] }

// Insert copies c into a free entry, files it under its client key and, if
// server is not nil (NAT), under that too, and starts its timer. Among equal
// keys the newest is found (K-CONN-4), until it is deleted. It returns false if
// the table is full, and then has changed nothing. It panics if server is not
// a server's key of c (its Client, ClientPort, Proto and RealPort, and an
// address that is not zero).
func (t *Table) Insert(c *Conn, server *flow.Key) (ID, bool) {
	if server != nil && (*server != c.serverKey(&server.Local) || server.Local.IsZero()) {
		panic(fmt.Sprintf("conn: server key %v does not belong to connection %v", *server, *c))
	}
	id := t.freed
	switch {
	case id != 0:
		if t.freed = t.timers[id].next; t.prefetch {
			t.prefetchEntry(t.freed) // for the next connection
		}
	case int(t.fresh) < t.Max():
		t.fresh++
		id = t.fresh
	default:
		return 0, false
	}
	e := &t.conns[id]
	*e = *c
	e.Timeout = min(c.Timeout, MaxTimeout)
	client := c.ClientKey()
	if !t.link(&client, t.Hash(&client), id) {
		t.release(id)
		return 0, false
	}
	if server != nil {
		t.reals[id] = server.Local
		if !t.owe(id, server) {
			t.unlink(&client, id)
			t.release(id)
			return 0, false
		}
	}
	if t.len == 0 {
		t.wheel.now = c.Stamp // an empty wheel starts where it is first needed
	}
	t.len++
	t.arm(id)
	return id, true
}

// Delete takes connection id out of the index and off the wheel; its entry is
// free. It panics if the entry is free already.
func (t *Table) Delete(id ID) {
	n := &t.timers[id]
	if id == 0 || id > t.fresh || n.prev == free {
		panic(fmt.Sprintf("conn: connection %d deleted, but it is free", id))
	}
	t.settle()
	client := t.conns[id].ClientKey()
	t.unlink(&client, id)
	if real := &t.reals[id]; !real.IsZero() {
		server := t.conns[id].serverKey(real)
		t.unlink(&server, id)
	}
	t.disarm(id)
	t.release(id)
	t.len--
}

// release puts an entry back on the free list.
func (t *Table) release(id ID) {
	t.reals[id] = flow.Addr{}
	t.timers[id] = timer{next: t.freed, prev: free}
	t.freed = id
}

// Hold counts one more connection that id controls: id should then not expire
// before it (K-CONN-13).
func (t *Table) Hold(id ID) { t.timers[id].holds++ }

// Unhold takes back one Hold.
func (t *Table) Unhold(id ID) {
	if t.timers[id].holds == 0 {
		panic(fmt.Sprintf("conn: connection %d unheld, but nothing holds it", id))
	}
	t.timers[id].holds--
}

// Held returns how many connections id controls.
func (t *Table) Held(id ID) int { return int(t.timers[id].holds) }

// Scan looks at n entries from ID from on (0: from the first), calls visit for
// those in use, and returns where to go on; 0: that was the last. visit may
// delete its connection. A connection that lives throughout a whole walk is
// visited once.
func (t *Table) Scan(from ID, n int, visit func(ID, *Conn)) (next ID) {
	id := max(from, 1)
	for ; n > 0 && id <= t.fresh; n-- {
		if t.timers[id].prev != free {
			visit(id, &t.conns[id])
		}
		id++
	}
	if id > t.fresh {
		return 0
	}
	return id
}
