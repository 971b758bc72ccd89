package conn

import (
	"math/bits"

	"github.com/sluice-lb/sluice/lb/flow"
)

// A batch is looked up in steps, so that the reads of many keys are under way
// at once: each step goes over the batch and needs only what the last one has
// asked for. Hash; Seek; Candidates, FetchReal; Confirm.

// Hash returns a key's hash, whose lowest bit is its Side.
func (t *Table) Hash(k *flow.Key) uint64 { return k.Hash(&t.seed)&^1 | uint64(k.Side)&1 }

// Hash4 is Hash of a key between IPv4 addresses.
func (t *Table) Hash4(k flow.Key4) uint64 { return k.Hash(&t.seed)&^1 | k.Rest>>40 }

// Seek sets out[i] to the number of the bucket to look into for hashes[i], and
// asks for its memory. out is at least as long as hashes.
func (t *Table) Seek(hashes []uint64, out []ID) {
	out = out[:len(hashes)]
	if t.prefetch {
		t.prefetchBuckets(hashes, out)
		return
	}
	sum := t.sink
	for i, h := range hashes {
		out[i] = ID(t.index.first(h))
		sum += t.index[out[i]].tags[0]
	}
	t.sink = sum // so that the loads are not optimized away
}

// Candidates sets out[i], the bucket's number for hashes[i], to a connection that
// may have that key, and asks for its memory; 0: there is none in that bucket.
func (t *Table) Candidates(hashes []uint64, out []ID) {
	t.settle()
	out = out[:len(hashes)]
	if t.prefetch {
		t.prefetchCandidates(hashes, out)
		return
	}
	for i, h := range hashes {
		out[i] = t.index[out[i]].candidate(tag(h))
	}
	sum := t.sink
	for _, id := range out {
		sum += t.conns[id].Proto
	}
	t.sink = sum
}

// FetchReal asks for the address of a NAT connection's server, which a server's
// key is compared with.
func (t *Table) FetchReal(id ID) { t.sink += t.reals[id][0] }

// Confirm returns what Lookup returns for k, whose hash h is; id is what
// Candidates found.
func (t *Table) Confirm(k *flow.Key, h uint64, id ID) ID {
	if id == 0 && t.index[t.index.first(h)].overflow == 0 || id != 0 && t.equal(id, k) {
		return id
	}
	return t.LookupHash(k, h)
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
