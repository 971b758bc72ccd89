package conn

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/sluice-lb/sluice/lb/flow"
)

// slots is how many entries a bucket holds.
const slots = 15

// keysPerBucket is how many keys a bucket gets on average when a table is full
// of connections with two keys each. Of keys thrown at random into buckets of
// 15, one in a hundred then finds its first bucket full, and moving one entry
// makes room for it with a chance of failure below 1e-20.
const keysPerBucket = 10

// bucket is one cache line of the index: 15 slots, each an 8-bit tag and a
// 24-bit ID, kept apart so that one pass compares all tags. A key lives in one
// of two buckets that its hash names.
type bucket struct {
	tags     [slots + 1]uint8 // 0: free; the last is always 0
	high     [slots + 1]uint8 // ID bits 16 to 23; the last is not used
	low      [slots]uint16    // ID bits 0 to 15
	overflow uint16           // keys whose first bucket this is and who live in their second
}

// A count that reached overflowStuck is no longer kept: the second bucket is
// then always looked at.
const overflowStuck = 1<<16 - 1

// match returns a bit for each slot with that tag.
func (b *bucket) match(tag uint8) uint32 {
	pattern := uint64(tag) * 0x0101010101010101
	return equalBytes(binary.LittleEndian.Uint64(b.tags[:8])^pattern) |
		equalBytes(binary.LittleEndian.Uint64(b.tags[8:])^pattern)<<8&(1<<slots-1)
}

// equalBytes returns a bit for each byte of x that is zero. The sum carries
// into a byte's top bit if any of its other bits is set; the product gathers
// the eight top bits in its highest byte.
func equalBytes(x uint64) uint32 {
	const low = 0x7f7f7f7f7f7f7f7f
	zero := ^(x&low + low | x | low)
	return uint32(zero >> 7 * 0x0102040810204080 >> 56)
}

func (b *bucket) id(slot int) ID { return ID(b.high[slot])<<16 | ID(b.low[slot]) }

func (b *bucket) set(slot int, tag uint8, id ID) {
	b.tags[slot], b.high[slot], b.low[slot] = tag, uint8(id>>16), uint16(id)
}

// put fills a free slot; false: there is none.
func (b *bucket) put(tag uint8, id ID) bool {
	free := b.match(0)
	if free == 0 {
		return false
	}
	b.set(bits.TrailingZeros32(free), tag, id)
	return true
}

// index finds the newest connection of each key. Older ones with an equal key
// hang behind it, by Table.older.
type index []bucket

// place is where a key may live: its tag, and its first and second bucket.
type place struct {
	tag           uint8
	first, second uint32
}

// first returns the bucket that a key with hash h prefers.
func (x index) first(h uint64) uint32 { return uint32(h >> 32 * uint64(len(x)) >> 32) }

// tag returns what a slot keeps of the hash: seven bits that the bucket's
// number does not depend on, and the side, so that a server's key never meets
// a client's. It is never 0.
func tag(h uint64) uint8 {
	t := uint8(h>>32)<<1 | uint8(h)&1
	if t < 2 {
		t += 2
	}
	return t
}

func (x index) place(h uint64) place {
	p := place{tag: tag(h), first: x.first(h)}
	p.second = uint32(uint64(uint32(h)) * uint64(len(x)) >> 32)
	if p.second == p.first {
		if p.second++; int(p.second) == len(x) {
			p.second = 0
		}
	}
	return p
}

// put fills a free slot of the bucket at, one of p's two; false: it has none.
func (x index) put(p place, at uint32, id ID) bool {
	if !x[at].put(p.tag, id) {
		return false
	}
	if n := &x[p.first].overflow; at != p.first && *n != overflowStuck {
		*n++
	}
	return true
}

// drop frees a slot of the bucket at, one of p's two.
func (x index) drop(p place, at uint32, slot int) {
	x[at].set(slot, 0, 0)
	if n := &x[p.first].overflow; at != p.first && *n != overflowStuck {
		*n--
	}
}

// key returns the key of connection id on that side.
func (t *Table) key(id ID, side flow.Side) flow.Key {
	if side == flow.ServerSide {
		return t.conns[id].serverKey(&t.reals[id])
	}
	return t.conns[id].ClientKey()
}

// equal reports whether k is a key of connection id.
func (t *Table) equal(id ID, k *flow.Key) bool {
	c := &t.conns[id]
	if c.Client != k.Client || c.ClientPort != k.ClientPort || c.Proto != k.Proto {
		return false
	}
	if k.Side == flow.ServerSide {
		return c.RealPort == k.LocalPort && t.reals[id] == k.Local
	}
	return c.VirtualPort == k.LocalPort && c.Virtual == k.Local
}

// locate returns the bucket, slot and connection that hold key k with hash h;
// the ID is 0 if none does.
func (t *Table) locate(k *flow.Key, h uint64) (place, uint32, int, ID) {
	if t.owed.n > 0 && h&1 != 0 {
		t.settle()
	}
	p := t.index.place(h)
	at := p.first
	for {
		b := &t.index[at]
		for m := b.match(p.tag); m != 0; m &= m - 1 {
			slot := bits.TrailingZeros32(m)
			if id := b.id(slot); t.equal(id, k) {
				return p, at, slot, id
			}
		}
		if at != p.first || b.overflow == 0 {
			return p, 0, 0, 0
		}
		at = p.second
	}
}

// link files connection id under key k, whose hash is h; false: there is no room.
func (t *Table) link(k *flow.Key, h uint64, id ID) bool {
	p, at, slot, head := t.locate(k, h)
	t.older[id][k.Side] = head
	if head != 0 {
		t.index[at].set(slot, p.tag, id)
		return true
	}
	x := t.index
	return x.put(p, p.first, id) || x.put(p, p.second, id) ||
		t.evict(p.first) && x.put(p, p.first, id) ||
		t.evict(p.second) && x.put(p, p.second, id)
}

// evict frees a slot of a full bucket by moving one entry to its other bucket;
// false: all of those are full too.
func (t *Table) evict(at uint32) bool {
	b := &t.index[at]
	for slot := range slots {
		id := b.id(slot)
		k := t.key(id, flow.Side(b.tags[slot]&1))
		p := t.index.place(t.Hash(&k))
		if t.index.put(p, p.first^p.second^at, id) {
			t.index.drop(p, at, slot)
			return true
		}
	}
	return false
}

// unlink takes connection id away from key k, under which it was filed. To
// reach an older one it walks the newer ones with an equal key: on the server's
// side there may be as many as services have that server in common, on the
// client's side normally none.
func (t *Table) unlink(k *flow.Key, id ID) {
	p, at, slot, head := t.locate(k, t.Hash(k))
	older := t.older[id][k.Side]
	switch {
	case head != id:
		for head != 0 && t.older[head][k.Side] != id {
			head = t.older[head][k.Side]
		}
		if head == 0 {
			panic(fmt.Sprintf("conn: connection %d is not filed under %v: was its key changed?", id, *k))
		}
		t.older[head][k.Side] = older
	case older != 0:
		t.index[at].set(slot, p.tag, older)
	default:
		t.index.drop(p, at, slot)
	}
}

// owed are connections that are not filed under their server's key yet: its bucket's
// memory was asked for, and is waited for when they are many, or when any server's key is looked for.
type owed struct {
	n      int
	ids    [64]ID
	hashes [64]uint64
	bucket [1]ID // scratch
}

// owe leaves connection id to be filed under its server's key k; false: there is no room.
func (t *Table) owe(id ID, k *flow.Key) bool {
	o, h := &t.owed, t.Hash(k)
	if 2*t.len >= keysPerBucket*len(t.index) {
		return t.link(k, h, id) // more keys than New makes room for: it may be refused
	}
	if o.n == len(o.ids) {
		t.settle()
	}
	o.ids[o.n], o.hashes[o.n] = id, h
	o.n++
	t.Seek(o.hashes[o.n-1:o.n], o.bucket[:])
	return true
}

// settle files what is owed.
func (t *Table) settle() {
	o := &t.owed
	n := o.n
	o.n = 0
	for i, id := range o.ids[:n] {
		if key := t.conns[id].serverKey(&t.reals[id]); !t.link(&key, o.hashes[i], id) {
			t.reals[id] = flow.Addr{} // filed nowhere: as unlikely as keysPerBucket says
		}
	}
}
