package rings

import (
	"fmt"
	"math/bits"
)

// A UMEM is a worker's packet memory: equal chunks, used by all its ports.
// Chunks that no ring, batch or slow path has are on the free stack; last in,
// first out, so that the next frame is the one that the cache still knows.
type UMEM struct {
	mem    []byte
	shift  uint     // log2 of the chunk's size
	free   []uint32 // IDs of free chunks; the top is the end
	owners owners   // build tag frameowner: who has each chunk
}

// NewUMEM makes a UMEM of memory whose length is a multiple of frameSize bytes,
// a power of two of at least 2048. All frames are free.
func NewUMEM(mem []byte, frameSize int) (*UMEM, error) {
	if frameSize < 2048 || frameSize&(frameSize-1) != 0 {
		return nil, fmt.Errorf("UMEM frame size %d: want a power of two, 2048 or more", frameSize)
	}
	if len(mem) == 0 || len(mem)%frameSize != 0 {
		return nil, fmt.Errorf("UMEM of %d bytes: want a multiple of the frame size %d", len(mem), frameSize)
	}
	n := len(mem) / frameSize
	u := &UMEM{mem: mem, shift: uint(bits.TrailingZeros(uint(frameSize))), free: make([]uint32, n)}
	for i := range u.free {
		u.free[i] = uint32(n - 1 - i) // frame 0 on top
	}
	u.owners.init(n)
	return u, nil
}

// Frames is the number of frames, FrameSize the bytes of each.
func (u *UMEM) Frames() int { return len(u.mem) >> u.shift }

// FrameSize is the size of a chunk in bytes.
func (u *UMEM) FrameSize() int { return 1 << u.shift }

// Free is the number of frames on the free stack.
func (u *UMEM) Free() int { return len(u.free) }

// Alloc takes up to len(b) free frames for packets that start here.
func (u *UMEM) Alloc(b []Frame) int {
	n := min(len(b), len(u.free))
	for i := range b[:n] {
		id := u.pop()
		u.owners.move(id, ownFree, ownSlow)
		b[i] = Frame{Chunk: u.chunk(id), Off: Headroom, ID: id}
	}
	return n
}

// Release gives frames back that are not sent.
func (u *UMEM) Release(b []Frame) {
	for i := range b {
		u.owners.move(b[i].ID, ownBatch|ownSlow, ownFree)
		u.push(b[i].ID)
	}
}

// chunk returns the memory of a frame. Its capacity ends with it, so that an
// append never runs into the neighbour.
func (u *UMEM) chunk(id uint32) []byte {
	start, end := uint64(id)<<u.shift, uint64(id+1)<<u.shift
	return u.mem[start:end:end]
}

// id returns the frame that an address of a ring is in. The kernel may return
// any address within the chunk.
func (u *UMEM) id(addr uint64) uint32 { return uint32(addr >> u.shift) }

// push and pop move frames on and off the stack; it has room for all of them.
func (u *UMEM) push(id uint32) { u.free = append(u.free, id) }

func (u *UMEM) pop() uint32 {
	id := u.free[len(u.free)-1]
	u.free = u.free[:len(u.free)-1]
	return id
}
