package conn

import (
	"math/bits"

	"github.com/sluice-lb/sluice/lb/flow"
)

// Variants of LookupBatch; they differ in speed only.
const (
	VariantPlain    = "plain"    // loads whose values nobody waits for
	VariantPrefetch = "prefetch" // the processor's prefetch instruction; amd64
)

// Variants returns the variants that this architecture has, best first. Any
// processor of the architecture can run them.
func Variants() []string {
	if hasPrefetch {
		return []string{VariantPrefetch, VariantPlain}
	}
	return []string{VariantPlain}
}

// LookupBatch sets out[i] to what Lookup returns for keys[i], and hashes[i] to
// its hash. hashes and out are at least as long as keys. Each pass goes over
// the whole batch and needs only what the last one has fetched, so the reads
// of many keys are under way at once.
func (t *Table) LookupBatch(keys []flow.Key, hashes []uint64, out []ID) {
	hashes, out = hashes[:len(keys)], out[:len(keys)]
	for i := range keys {
		hashes[i] = keys[i].Hash(&t.seed)
		out[i] = ID(t.index.first(hashes[i])) // a bucket's number, for the next two passes
	}
	t.fetchBuckets(out)
	for i := range keys {
		out[i] = t.index[out[i]].candidate(tag(hashes[i], keys[i].Side))
	}
	t.fetchConns(out)
	t.fetchReals(keys, out)
	for i := range keys {
		id, k := out[i], &keys[i]
		if id == 0 && t.index[t.index.first(hashes[i])].overflow == 0 || id != 0 && t.equal(id, k) {
			continue
		}
		_, _, _, out[i] = t.locate(k, hashes[i])
	}
}

// candidate returns the ID in the first slot with that tag, 0 if there is
// none.
func (b *bucket) candidate(tag uint8) ID {
	m := b.match(tag)
	if m == 0 {
		return 0
	}
	return b.id(bits.TrailingZeros32(m))
}

// fetchBuckets brings the buckets of those numbers into the cache.
func (t *Table) fetchBuckets(numbers []ID) {
	if t.prefetch {
		t.prefetchBuckets(numbers)
		return
	}
	sum := t.sink
	for _, n := range numbers {
		sum += t.index[n].tags[0]
	}
	t.sink = sum // so that the loads are not optimized away
}

// fetchConns brings the entries of those IDs into the cache.
func (t *Table) fetchConns(ids []ID) {
	if t.prefetch {
		t.prefetchConns(ids)
		return
	}
	sum := t.sink
	for _, id := range ids {
		sum += t.conns[id].Proto
	}
	t.sink = sum
}

// fetchReals brings the servers' addresses that server keys are compared with
// into the cache.
func (t *Table) fetchReals(keys []flow.Key, ids []ID) {
	sum := t.sink
	for i, id := range ids {
		if keys[i].Side == flow.ServerSide {
			sum += t.reals[id][0]
		}
	}
	t.sink = sum
}
