package ringstest

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/sluice-lb/sluice/rings"
	"golang.org/x/sys/unix"
)

// offsets are those of Linux 6.18 on amd64 (struct xdp_ring): producer,
// consumer and flags on cache lines of their own, then the entries.
var offsets = unix.XDPRingOffset{Producer: 0, Consumer: 128, Flags: 192, Desc: 320}

// descBytes and addrBytes are the sizes of a ring's entries.
const descBytes, addrBytes = 16, 8

// half is one ring as the kernel has it: plain indexes, its own word and the
// worker's.
type half[T any] struct {
	producer, consumer, flags *atomic.Uint32
	entries                   []T
	next                      uint32 // of the kernel's word
}

// filled is the number of entries produced and not consumed.
func (h *half[T]) filled() int { return int(h.producer.Load() - h.consumer.Load()) }

// take consumes an entry of a ring that the worker produces.
func (h *half[T]) take() (entry T, ok bool) {
	if h.producer.Load() == h.next {
		return entry, false
	}
	entry = h.entries[h.next%uint32(len(h.entries))]
	h.next++
	h.consumer.Store(h.next)
	return entry, true
}

// put produces an entry of a ring that the worker consumes; false: it is full.
func (h *half[T]) put(entry T) bool {
	if h.next-h.consumer.Load() == uint32(len(h.entries)) {
		return false
	}
	h.entries[h.next%uint32(len(h.entries))] = entry
	h.next++
	h.producer.Store(h.next)
	return true
}

// needWakeup sets or clears the ring's flag.
func (h *half[T]) needWakeup(on bool) {
	if on {
		h.flags.Store(unix.XDP_RING_NEED_WAKEUP)
	} else {
		h.flags.Store(0)
	}
}

// makeRing returns ring memory whose words begin at start, and the kernel's
// half of it.
func makeRing[T any](size, entryBytes int, start uint32) ([]byte, half[T]) {
	mem := make([]byte, int(offsets.Desc)+size*entryBytes)
	h := view[T](mem, size)
	h.producer.Store(start)
	h.consumer.Store(start)
	h.next = start
	return mem, h
}

// item is a frame on its way through the kernel.
type item struct {
	addr uint64
	len  uint32
	due  uint64 // step
}

// line is a FIFO of items; its memory is reused.
type line struct {
	items []item
	first int
}

func (l *line) push(i item) { l.items = append(l.items, i) }
func (l *line) len() int    { return len(l.items) - l.first }

// due is the oldest item, if its time has come.
func (l *line) due(now uint64) (item, bool) {
	if l.len() == 0 || l.items[l.first].due > now {
		return item{}, false
	}
	return l.items[l.first], true
}

func (l *line) pop() {
	l.first++
	if l.first*2 >= len(l.items) {
		l.items = l.items[:copy(l.items, l.items[l.first:])]
		l.first = 0
	}
}

// socket is one port's far side: its rings, and the frames between them.
type socket struct {
	kernel     *Kernel
	port       int
	fill       half[uint64]
	completion half[uint64]
	rx         half[unix.XDPDesc]
	tx         half[unix.XDPDesc]
	spare      []uint64 // taken from the fill ring, not used yet
	arriving   line     // on the way to the rx ring
	sending    line     // on the way to the completion ring
	asleep     bool     // found the fill ring empty, and waits for WakeRx
	closed     bool
	down       atomic.Bool
	woken      [2]atomic.Bool // rx, tx: since the last step
	wakes      *rand.Rand     // the worker's goroutine: what wake-ups answer
	stats      [6]atomic.Uint64
}

// Statistics returns what the kernel would: see rings.Kernel.
func (s *socket) Statistics() (unix.XDPStatistics, error) {
	return unix.XDPStatistics{
		Rx_dropped: s.stats[rxDropped].Load(), Rx_ring_full: s.stats[rxRingFull].Load(),
		Rx_fill_ring_empty_descs: s.stats[fillEmpty].Load(), Tx_invalid_descs: s.stats[txInvalid].Load(),
		Rx_invalid_descs: s.stats[rxInvalid].Load(), Tx_ring_empty_descs: s.stats[txEmpty].Load(),
	}, nil
}

// Indexes of socket.stats.
const (
	rxDropped = iota
	rxInvalid
	rxRingFull
	fillEmpty
	txInvalid
	txEmpty
)

// FD is none.
func (s *socket) FD() int { return -1 }

// Close has the kernel forget all frames that it had of this port.
func (s *socket) Close() error {
	forget := func(addr uint64) { s.kernel.held[addr/uint64(s.kernel.config.FrameSize)] = false }
	for _, addr := range s.spare {
		forget(addr)
	}
	for _, l := range []*line{&s.arriving, &s.sending} {
		for ; l.len() > 0; l.pop() {
			forget(l.items[l.first].addr)
		}
	}
	s.closed = true
	return nil
}

// memory makes the four rings of a socket.
func (s *socket) memory(size int, start uint32) rings.Memory {
	m := rings.Memory{RingSize: size, Offsets: unix.XDPMmapOffsets{Rx: offsets, Tx: offsets, Fr: offsets, Cr: offsets}}
	m.Fill, s.fill = makeRing[uint64](size, addrBytes, start)
	m.Completion, s.completion = makeRing[uint64](size, addrBytes, start)
	m.Rx, s.rx = makeRing[unix.XDPDesc](size, descBytes, start)
	m.Tx, s.tx = makeRing[unix.XDPDesc](size, descBytes, start)
	return m
}
