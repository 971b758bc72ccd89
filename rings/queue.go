package rings

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Kernel is what a Queue asks of the kernel besides the rings: of a socket,
// or of ringstest, which plays it.
type Kernel interface {
	WakeRx() error // recvfrom(2): look at the fill ring
	WakeTx() error // sendto(2): look at the tx ring
	Statistics() (unix.XDPStatistics, error)
	FD() int
	Close() error
}

// Memory is the four rings of a socket as the kernel lays them out: mapped
// memory and where in each its words and entries are (XDP_MMAP_OFFSETS).
type Memory struct {
	Fill, Completion, Rx, Tx []byte
	Offsets                  unix.XDPMmapOffsets
	RingSize                 int // entries in each, a power of two
}

// A Queue is a Port on the four rings of an AF_XDP socket.
type Queue struct {
	umem       *UMEM
	fill       outRing[uint64]
	completion inRing[uint64]
	rx         inRing[unix.XDPDesc]
	tx         outRing[unix.XDPDesc]
	kernel     Kernel
	bound      Binding
	number     uint8 // its own among those on the UMEM
	pollRx     bool  // drive the NIC by WakeRx when there is nothing to receive
	pause      int   // turns until the next kick, after link errors
	stats      PortStats
}

var _ Port = (*Queue)(nil)

// Binding says how the queue was bound; the zero value if not to a socket.
func (q *Queue) Binding() Binding { return q.bound }

// Pending is the number of frames in the tx ring that wait: see Port.
func (q *Queue) Pending() int { return int(q.tx.pending()) }

// Alloc takes free frames of the UMEM: see Port.
func (q *Queue) Alloc(b []Frame) int { return q.umem.Alloc(b) }

// Room tells of the UMEM: see Port.
func (q *Queue) Room() (free, frames int) { return q.umem.Room() }

// Release gives frames back to the UMEM: see Port.
func (q *Queue) Release(b []Frame) { q.umem.Release(b) }

// Reclaim takes back what was sent, refills and wakes: see Port.
func (q *Queue) Reclaim() int {
	n := q.complete()
	q.refill()
	q.pause = max(0, q.pause-1)
	q.kickFill()
	if q.stats.InTx > 0 && q.tx.pending() > 0 {
		q.kickTx()
	}
	return n
}

// FD is the socket.
func (q *Queue) FD() int { return q.kernel.FD() }

// Stats returns the counters: see Port. What the kernel cannot tell is 0.
func (q *Queue) Stats() PortStats {
	s := q.stats
	if k, err := q.kernel.Statistics(); err == nil {
		s.RxDropped, s.RxInvalid, s.TxInvalid = k.Rx_dropped, k.Rx_invalid_descs, k.Tx_invalid_descs
		s.RxRingFull, s.FillEmpty, s.TxEmpty = k.Rx_ring_full, k.Rx_fill_ring_empty_descs, k.Tx_ring_empty_descs
	}
	s.Free = q.umem.Free()
	return s
}

// Close closes the socket: see Port.
func (q *Queue) Close() error { return q.closed(q.kernel.Close()) }

// closed says whose socket could not be closed.
func (q *Queue) closed(err error) error {
	if err != nil {
		return fmt.Errorf("close AF_XDP socket of %s queue %d: %w", q.bound.Interface, q.bound.Queue, err)
	}
	return nil
}

// A ring is memory shared with the kernel: entries, and two counters modulo
// 2^32 of those ever produced and ever consumed. Each word has one writer, who
// publishes by an atomic store; the other side's atomic load then sees the
// entries too (release and acquire; Go's are stronger).
type ring[T any] struct {
	producer, consumer, flags *atomic.Uint32
	entries                   []T
	mask                      uint32
}

// needWakeup says that the kernel sleeps and wants a call.
func (r *ring[T]) needWakeup() bool { return r.flags.Load()&unix.XDP_RING_NEED_WAKEUP != 0 }

// An outRing is a ring that we produce into: fill and tx.
type outRing[T any] struct {
	ring[T]
	head uint32 // entries produced; the producer word follows at submit
	seen uint32 // the kernel's consumer word, when last looked at
}

func (r *outRing[T]) start() { r.head, r.seen = r.producer.Load(), r.consumer.Load() }

// reserve returns how many of the next n entries may be written now. It looks
// at the kernel's word only if what it saw last is not enough.
func (r *outRing[T]) reserve(n uint32) uint32 {
	size := uint32(len(r.entries))
	if size-(r.head-r.seen) < n {
		r.seen = r.consumer.Load()
	}
	return min(n, size-(r.head-r.seen))
}

// slot is the i-th reserved entry.
func (r *outRing[T]) slot(i uint32) *T { return &r.entries[(r.head+i)&r.mask] }

// submit gives the kernel the first n reserved entries.
func (r *outRing[T]) submit(n uint32) {
	r.head += n
	storeRelease(r.producer, r.head)
}

// pending is the number of entries that the kernel has not consumed.
func (r *outRing[T]) pending() uint32 { return r.head - r.consumer.Load() }

// An inRing is a ring that we consume from: rx and completion.
type inRing[T any] struct {
	ring[T]
	tail uint32 // entries consumed; the consumer word follows at release
	seen uint32 // the kernel's producer word, when last looked at
}

func (r *inRing[T]) start() { r.tail, r.seen = r.consumer.Load(), r.producer.Load() }

// peek returns how many of the next n entries are there. It looks at the
// kernel's word only if what it saw last is not enough.
func (r *inRing[T]) peek(n uint32) uint32 {
	if r.seen-r.tail < n {
		r.seen = r.producer.Load()
	}
	return min(n, r.seen-r.tail)
}

// slot is the i-th entry peeked at.
func (r *inRing[T]) slot(i uint32) *T { return &r.entries[(r.tail+i)&r.mask] }

// release gives the kernel the first n entries back.
func (r *inRing[T]) release(n uint32) {
	r.tail += n
	storeRelease(r.consumer, r.tail)
}
