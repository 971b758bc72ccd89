// Package spsc is a ring of fixed-size slots between two goroutines.
//
// One goroutine produces, one consumes; each owns its own end and neither
// waits for the other. All memory is made at start. A slot belongs to the
// producer from Reserve to Commit and to the consumer from Front to Release.
package spsc

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/cpu"
)

// Slot is one place of a ring: a value and a buffer of the ring's slot size.
type Slot[M any] struct {
	Meta M
	Data []byte // full capacity; Commit says how much of it counts
	used int
}

// Ring holds up to its number of slots between one producer and one consumer.
// Each end counts in its own cache line and keeps the other's last seen count
// there, so that the lines move only when an end runs into the other.
type Ring[M any] struct {
	slots []Slot[M]
	mask  uint64

	_        cpu.CacheLinePad
	tail     atomic.Uint64 // slots ever committed, written by the producer
	headSeen uint64

	_        cpu.CacheLinePad
	head     atomic.Uint64 // slots ever released, written by the consumer
	tailSeen uint64

	_ cpu.CacheLinePad
}

// New returns an empty ring of slots places, a power of two, with slotBytes of
// buffer each. It panics on other sizes: they are checked with the
// configuration.
func New[M any](slots, slotBytes int) *Ring[M] {
	if slots <= 0 || slots&(slots-1) != 0 || slotBytes < 0 {
		panic(fmt.Sprintf("spsc: %d slots of %d bytes, want a power of two and no less than 0", slots, slotBytes))
	}
	r := &Ring[M]{slots: make([]Slot[M], slots), mask: uint64(slots - 1)}
	mem := make([]byte, slots*slotBytes)
	for i := range r.slots {
		r.slots[i].Data = mem[i*slotBytes : (i+1)*slotBytes : (i+1)*slotBytes]
	}
	return r
}

// Reserve returns the next free slot's value and buffer, as they were left
// there, for the producer to fill; false if the ring is full. Until Commit the
// same slot is returned again.
func (r *Ring[M]) Reserve() (*M, []byte, bool) {
	tail := r.tail.Load()
	if tail-r.headSeen == uint64(len(r.slots)) {
		if r.headSeen = r.head.Load(); tail-r.headSeen == uint64(len(r.slots)) {
			return nil, nil, false
		}
	}
	s := &r.slots[tail&r.mask]
	return &s.Meta, s.Data, true
}

// Commit hands the reserved slot, n bytes of its buffer used, to the consumer.
// It panics if n is larger than the buffer.
func (r *Ring[M]) Commit(n int) {
	tail := r.tail.Load()
	s := &r.slots[tail&r.mask]
	s.used = len(s.Data[:n])
	r.tail.Store(tail + 1)
}

// Front returns the oldest slot's value and the bytes committed with it, for
// the consumer to read or change in place; false if the ring is empty. Until
// Release the same slot is returned again.
func (r *Ring[M]) Front() (*M, []byte, bool) {
	head := r.head.Load()
	if head == r.tailSeen {
		if r.tailSeen = r.tail.Load(); head == r.tailSeen {
			return nil, nil, false
		}
	}
	s := &r.slots[head&r.mask]
	return &s.Meta, s.Data[:s.used], true
}

// Release gives the front slot back to the producer.
func (r *Ring[M]) Release() { r.head.Store(r.head.Load() + 1) }

// Len returns how many slots are filled. Either side may ask; while the other
// end moves, the answer is as of a moment ago.
func (r *Ring[M]) Len() int {
	head := r.head.Load()
	return int(r.tail.Load() - head)
}
