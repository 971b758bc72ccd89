package engine

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bench/pktgen"
	"github.com/sluice-lb/sluice/rings"
)

// frameSize is a chunk's size in bytes, as in a UMEM.
const frameSize = 2048

// Frames is how many frames a lap of a measurement has: `workers.umem_frames`'s
// default. Chunks of 2 KiB stand so that the first lines of a packet fall into
// one in 32 of a cache's sets: an L2 cache of 2 MiB keeps 1024 of them, and
// every frame of the lap comes from beyond it, as from a NIC.
const Frames = 1 << 14

// Memory is the frames' memory, 2 KiB each. It is used by one Rig at a time.
type Memory struct {
	mem    []byte
	frames []rings.Frame // in that order, as they arrive; Len is the writer's
	order  []uint32      // the chunks in the order of their use, which no prefetcher foresees
}

// NewMemory maps memory for so many frames, in huge pages where the kernel has
// some: that is what a UMEM gets.
func NewMemory(frames int) (*Memory, error) {
	size := frames * frameSize
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes for frames: %w", size, err)
	}
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // a kernel without them gives others
	for i := 0; i < size; i += frameSize {
		mem[i] = 0 // have the page now
	}
	m := &Memory{mem: mem, order: pktgen.Shuffled(frames, 2)}
	for _, id := range m.order {
		m.frames = append(m.frames, rings.Frame{Chunk: m.chunk(id), Off: rings.Headroom, ID: id})
	}
	return m, nil
}

// Close gives the memory back.
func (m *Memory) Close() error { return unix.Munmap(m.mem) }

func (m *Memory) chunk(id uint32) []byte {
	at := int(id) * frameSize
	return m.mem[at : at+frameSize : at+frameSize]
}

// lap is the frames that arrive one after the other before the next pause.
type lap struct {
	memory *Memory
	order  []uint32 // chunks
}

// frame returns where frame i of the lap is written.
func (l *lap) frame(i int) []byte { return l.memory.chunk(l.order[i])[rings.Headroom:] }
