package conn

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

var sizes = []int{1_000, 64_000, 1_000_000}

// filled returns a full table of size NAT connections and their keys of that
// side, shuffled.
func filled(tb testing.TB, c Config, side flow.Side) (*Table, []flow.Key) {
	tb.Helper()
	t := newTable(tb, c)
	keys := make([]flow.Key, c.Max)
	for i := range keys {
		conn, server := natConn(i)
		if _, ok := t.Insert(&conn, &server); !ok {
			tb.Fatalf("connection %d of %d refused", i, c.Max)
		}
		keys[i] = conn.ClientKey()
		if side == flow.ServerSide {
			keys[i] = server
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return t, keys
}

// lookupBatch looks keys up by all the steps of a batch.
func lookupBatch(t *Table, keys []flow.Key, hashes []uint64, out []ID) {
	hashes = hashes[:len(keys)]
	for i := range keys {
		hashes[i] = t.Hash(&keys[i])
	}
	t.Seek(hashes, out)
	t.Candidates(hashes, out)
	for i := range keys {
		t.FetchReal(out[i])
	}
	for i := range keys {
		out[i] = t.Confirm(&keys[i], hashes[i], out[i])
	}
}

func BenchmarkLookupBatch(b *testing.B) {
	const batch = 256
	for _, n := range sizes {
		for side, name := range []string{"client", "server"} {
			for _, variant := range Variants() {
				b.Run(fmt.Sprintf("conns=%d/side=%s/variant=%s", n, name, variant), func(b *testing.B) {
					t, keys := filled(b, Config{Max: n, HugePages: true, Variant: variant}, flow.Side(side))
					hashes, out := make([]uint64, batch), make([]ID, batch)
					at := 0
					for b.Loop() {
						if at+batch > len(keys) {
							at = 0
						}
						lookupBatch(t, keys[at:at+batch], hashes, out)
						at += batch
					}
					if slices.Contains(out, 0) {
						b.Fatal("a connection was not found")
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/pkt")
				})
			}
		}
	}
}

func BenchmarkInsertDelete(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("conns=%d", n), func(b *testing.B) {
			t, _ := filled(b, Config{Max: n}, flow.ClientSide)
			r := rand.New(rand.NewPCG(1, 2))
			for b.Loop() {
				id := ID(1 + r.IntN(n))
				c := *t.At(id)
				k := c.serverKey(t.RealAddr(id))
				t.Delete(id)
				t.Insert(&c, &k)
			}
		})
	}
}

func BenchmarkTouch(b *testing.B) {
	t, _ := filled(b, Config{Max: 64_000}, flow.ClientSide)
	id, now := ID(1), clock.Ticks(0)
	for b.Loop() {
		t.Touch(id, now)
		if id++; int(id) > t.Max() {
			id, now = 1, now+1
		}
	}
}

// BenchmarkAdvance lets every connection of a full table be re-armed once per
// 60 s of the wheel's time, and reports the cost for each.
func BenchmarkAdvance(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("conns=%d", n), func(b *testing.B) {
			t, _ := filled(b, Config{Max: n}, flow.ClientSide)
			now, looked := clock.Ticks(0), 0
			for b.Loop() {
				now++
				t.Advance(now, 0, func(ID) clock.Ticks { looked++; return 6000 })
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(max(looked, 1)), "ns/expiry")
		})
	}
}
