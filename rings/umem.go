package rings

// A UMEM is a worker's packet memory: equal chunks, used by all its ports.
// Chunks that no ring, batch or slow path has are on the free stack; last in,
// first out, so that the next frame is the one that the cache still knows.
type UMEM struct {
	mem    []byte
	shift  uint     // log2 of the chunk's size
	free   []uint32 // IDs of free chunks; the top is the end
	given  []uint8  // by ID: number of the queue that a chunk was last given to
	queues []*Queue // by number; nil: it is free
	owners owners   // build tag frameowner: who has each chunk
	_      [64]byte // another worker's may lie behind, and free changes with each packet
}

// Frames is the number of frames, FrameSize the bytes of each.
func (u *UMEM) Frames() int { return len(u.mem) >> u.shift }

// FrameSize is the size of a chunk in bytes.
func (u *UMEM) FrameSize() int { return 1 << u.shift }

// Free is the number of frames on the free stack.
func (u *UMEM) Free() int { return len(u.free) }

// Room is both numbers: see Port.
func (u *UMEM) Room() (free, frames int) { return u.Free(), u.Frames() }

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
