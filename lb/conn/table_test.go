package conn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// newTable returns a table that is closed at the end of the test.
func newTable(tb testing.TB, c Config) *Table {
	tb.Helper()
	t, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := t.Close(); err != nil {
			tb.Error(err)
		}
	})
	return t
}

// natConn returns the i-th of many connections to one service, with its
// server's key: 64 ports of each client, three servers in turn.
func natConn(i int) (Conn, flow.Key) {
	c := Conn{
		Client:     flow.From4([4]byte{10, byte(i >> 22), byte(i >> 14), byte(i >> 6)}),
		ClientPort: 1024 + uint16(i&63),
		Virtual:    flow.From4([4]byte{192, 0, 2, 1}), VirtualPort: 80,
		RealPort: 8080, Proto: protoTCP, Timeout: 6000,
	}
	real := flow.From4([4]byte{10, 0, 2, byte(i % 3)})
	return c, c.serverKey(&real)
}

// drConn6 returns the i-th of many IPv6 connections without a server's key.
func drConn6(i int) Conn {
	return Conn{
		Client:     flow.Addr{0x20, 1, 0xd, 0xb8, 14: byte(i >> 14), 15: byte(i >> 6)},
		ClientPort: 1024 + uint16(i&63),
		Virtual:    flow.Addr{0x20, 1, 0xd, 0xb8, 5: 1, 15: 1}, VirtualPort: 443,
		Proto: protoTCP, Timeout: 6000, Flags: V6 | NoOutput | 3,
	}
}

// TestFill holds that a table takes exactly Max connections, whatever keys
// they have, and finds each: refusal before that would drop traffic although
// there is room.
func TestFill(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	random := func() (a flow.Addr) {
		for i := range a {
			a[i] = byte(r.Uint32())
		}
		return a
	}
	for _, test := range []struct {
		stake string
		conn  func(i int) (Conn, *flow.Key)
	}{
		{"NAT over IPv4, two keys each", func(i int) (Conn, *flow.Key) { c, k := natConn(i); return c, &k }},
		{"DR over IPv6, one key each", func(i int) (Conn, *flow.Key) { return drConn6(i), nil }},
		{"NAT with random addresses", func(int) (Conn, *flow.Key) {
			c := Conn{Client: random(), Virtual: random(), ClientPort: uint16(r.Uint32()), Timeout: 1}
			real := random()
			k := c.serverKey(&real)
			return c, &k
		}},
	} {
		for _, size := range []int{1, 2, 15, 100, 50_000} {
			t.Run(fmt.Sprintf("%s/max=%d", test.stake, size), func(t *testing.T) {
				table := newTable(t, Config{Max: size, Seed: flow.Seed{r.Uint64(), r.Uint64()}})
				keys, ids := []flow.Key{}, []ID{}
				for i := range size {
					c, server := test.conn(i)
					id, ok := table.Insert(&c, server)
					if !ok {
						t.Fatalf("connection %d of %d refused (seed %d)", i+1, size, seed)
					}
					keys, ids = append(keys, c.ClientKey()), append(ids, id)
					if server != nil {
						keys, ids = append(keys, *server), append(ids, id)
					}
				}
				if c, server := test.conn(size); table.Len() != size {
					t.Errorf("Len %d, want %d", table.Len(), size)
				} else if id, ok := table.Insert(&c, server); ok || id != 0 {
					t.Errorf("a full table took one more as %d", id)
				}
				found := make([]ID, len(keys))
				lookupBatch(table, keys, make([]uint64, len(keys)), found)
				for i, id := range ids {
					if found[i] != id {
						t.Fatalf("key %d: in a batch %d, want %d (seed %d)", i, found[i], id, seed)
					}
				}
			})
		}
	}
}

// TestNewest: connections that share a key are found newest first, and the
// next newest when that one is gone (K-CONN-4). One client port can meet one
// server through as many services as there are.
func TestNewest(t *testing.T) {
	const n = 100
	table := newTable(t, Config{Max: n})
	var ids []ID
	_, server := natConn(0)
	for i := range n {
		c, _ := natConn(0)
		c.VirtualPort = uint16(i)
		id, ok := table.Insert(&c, &server)
		if !ok {
			t.Fatalf("connection %d with the same server key refused", i)
		}
		ids = append(ids, id)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for len(ids) > 0 {
		if got, want := table.Lookup(&server), ids[len(ids)-1]; got != want {
			t.Fatalf("found %d, want %d, the newest of %d", got, want, len(ids))
		}
		i := r.IntN(len(ids))
		table.Delete(ids[i])
		ids = slices.Delete(ids, i, i+1)
	}
	if got := table.Lookup(&server); got != 0 {
		t.Errorf("found %d in an empty table", got)
	}
}

// TestEqual changes one field of a key at a time: a tag may meet any key, so
// the comparison alone must keep connections apart.
func TestEqual(t *testing.T) {
	table := newTable(t, Config{Max: 1})
	c, server := natConn(5)
	id, _ := table.Insert(&c, &server)
	for side, own := range []flow.Key{c.ClientKey(), server} {
		if !table.equal(id, &own) {
			t.Errorf("side %d: a connection does not equal its own key %v", side, own)
		}
		for field, change := range map[string]func(*flow.Key){
			"first byte of the client": func(k *flow.Key) { k.Client[0] ^= 1 },
			"last byte of the client":  func(k *flow.Key) { k.Client[15] ^= 1 },
			"first byte of the local":  func(k *flow.Key) { k.Local[0] ^= 1 },
			"last byte of the local":   func(k *flow.Key) { k.Local[15] ^= 1 },
			"client's port":            func(k *flow.Key) { k.ClientPort ^= 1 << 15 },
			"local port":               func(k *flow.Key) { k.LocalPort ^= 1 },
			"protocol":                 func(k *flow.Key) { k.Proto = protoUDP },
			"side":                     func(k *flow.Key) { k.Side ^= 1 },
		} {
			k := own
			if change(&k); table.equal(id, &k) {
				t.Errorf("side %d: a key that differs in the %s is taken for equal", side, field)
			}
		}
	}
}

// TestOverflowSticks: the count of a bucket's overflowed keys cannot wrap, or
// they would no longer be found.
func TestOverflowSticks(t *testing.T) {
	x := make(index, 2)
	p := place{tag: 9, first: 0, second: 1}
	x[0].overflow = overflowStuck - 1
	for i := range 3 {
		if !x.put(p, p.second, ID(i+1)) || x[0].overflow != overflowStuck {
			t.Fatalf("overflow %d after put %d, want it to stay at %d", x[0].overflow, i, overflowStuck)
		}
	}
	for slot := range 3 {
		if x.drop(p, p.second, slot); x[0].overflow != overflowStuck {
			t.Fatalf("overflow %d after drop %d, want it to stay at %d", x[0].overflow, slot, overflowStuck)
		}
	}
}

// FuzzMatch compares the bucket's tag match with a loop over its slots.
func FuzzMatch(f *testing.F) {
	f.Fuzz(func(t *testing.T, tags []byte, tag uint8) {
		var b bucket
		copy(b.tags[:slots], tags)
		var want uint32
		for slot := range slots {
			if b.tags[slot] == tag {
				want |= 1 << slot
			}
		}
		if got := b.match(tag); got != want {
			t.Errorf("match(%#x) in %x = %#b, want %#b", tag, b.tags, got, want)
		}
	})
}

// TestSize measures what a connection takes, from what was really mapped.
func TestSize(t *testing.T) {
	if size := reflect.TypeFor[Conn]().Size(); size != 64 {
		t.Errorf("a Conn has %d bytes, want 64", size)
	}
	if size := reflect.TypeFor[bucket]().Size(); size != 64 {
		t.Errorf("a bucket has %d bytes, want 64", size)
	}
	for _, huge := range []bool{false, true} {
		for _, size := range []int{1 << 16, 1_000_000, 1 << 20} {
			table := newTable(t, Config{Max: size, HugePages: huge})
			// Transparent pages leave unused address space for alignment.
			if got := len(table.memory.mapped); got-table.memory.usedBytes > hugePageBytes {
				t.Errorf("%d bytes mapped, %d used", got, table.memory.usedBytes)
			}
			got := table.BytesPerConn()
			t.Logf("max %d, huge pages asked for: %v, got %s: %d bytes a connection", size, huge, table.Pages(), got)
			// 64 + 16 + 16 + 8 for the entry, 2/10 × 64 for two keys.
			limit := 128
			if table.Pages() == PagesHuge {
				limit += hugePageBytes / size // the last one is not full
			}
			if got < 64+16+16+8+12 || got > limit {
				t.Errorf("max %d: %d bytes a connection, want at most %d", size, got, limit)
			}
			for name, at := range map[string]any{"Conn": &table.conns[1], "bucket": &table.index[1]} {
				if p := reflect.ValueOf(at).Pointer(); p%64 != 0 {
					t.Errorf("%s at %#x, which is not a cache line's start", name, p)
				}
			}
		}
	}
}

func TestNewErrors(t *testing.T) {
	for _, test := range []struct {
		stake string
		c     Config
		want  error
	}{
		{"no room", Config{}, ErrMax},
		{"an ID would not fit a slot", Config{Max: MaxConns + 1}, ErrMax},
		{"a variant of another architecture", Config{Max: 1, Variant: "sve"}, ErrVariant},
	} {
		if _, err := New(test.c); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.stake, err, test.want)
		}
	}
	for _, variant := range append(Variants(), "") {
		table := newTable(t, Config{Max: 1, Variant: variant})
		if want := slices.Index(Variants(), variant); table.Variant() != Variants()[max(want, 0)] {
			t.Errorf("variant %q asked for, got %q", variant, table.Variant())
		}
	}
	table := newTable(t, Config{Max: 1})
	for range 2 {
		if err := table.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// TestBroken holds that a slip of the owner stops the program with a reason
// instead of leaving the index or the free list wrong.
func TestBroken(t *testing.T) {
	c, server := natConn(1)
	_, foreign := natConn(64)
	for _, test := range []struct {
		stake, want string
		do          func(*Table, ID)
	}{
		{"deleted twice", "is free", func(t *Table, id ID) { t.Delete(id); t.Delete(id) }},
		{"no ID", "is free", func(t *Table, id ID) { t.Delete(0) }},
		{"never inserted", "is free", func(t *Table, id ID) { t.Delete(id + 1) }},
		{"key changed in place", "key changed", func(t *Table, id ID) { t.At(id).ClientPort++; t.Delete(id) }},
		{"inserted with another's server key", "does not belong", func(t *Table, id ID) { t.Insert(&c, &foreign) }},
		{"inserted without a server's address", "does not belong", func(t *Table, id ID) {
			k := c.serverKey(&flow.Addr{})
			t.Insert(&c, &k)
		}},
		{"unheld too often", "nothing holds it", func(t *Table, id ID) { t.Hold(id); t.Unhold(id); t.Unhold(id) }},
	} {
		t.Run(test.stake, func(t *testing.T) {
			table := newTable(t, Config{Max: 4})
			id, _ := table.Insert(&c, &server)
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, test.want) {
					t.Errorf("panic %q, want one that says %q", got, test.want)
				}
			}()
			test.do(table, id)
		})
	}
}

// TestNoAllocation holds every call of the packet's way and of the tick to
// zero.
func TestNoAllocation(t *testing.T) {
	const batch = 256
	for _, variant := range Variants() {
		table, keys := filled(t, Config{Max: 4 * batch, Variant: variant}, flow.ServerSide)
		hashes, out := make([]uint64, batch), make([]ID, batch)
		now := clock.Ticks(0)
		expire := func(ID) clock.Ticks { return HeldTicks }
		visit := func(ID, *Conn) {}
		for name, do := range map[string]func(){
			"a batch":    func() { lookupBatch(table, keys[:batch], hashes, out) },
			"Lookup":     func() { table.Lookup(&keys[0]) },
			"Touch":      func() { table.Touch(1, now) },
			"SetTimeout": func() { table.SetTimeout(1, 10, now) },
			"Hold":       func() { table.Hold(1); table.Unhold(1) },
			"Advance":    func() { now += 1000; table.Advance(now, 0, expire) },
			"NextDue":    func() { table.NextDue() },
			"Scan":       func() { table.Scan(0, batch, visit) },
			"Delete and Insert": func() {
				c := *table.At(2)
				server := c.serverKey(table.RealAddr(2))
				table.Delete(2)
				table.Insert(&c, &server)
			},
			"states": func() { NextTCP(true, Output, TCPSynRecv, flow.EventACK); NextSCTP(Input, SCTPInit, flow.EventInit) },
		} {
			if n := testing.AllocsPerRun(100, do); n != 0 {
				t.Errorf("%s (%s) allocates %v times a call, want 0", name, variant, n)
			}
		}
	}
}
