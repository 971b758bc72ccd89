package rings

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapRing returns the ring in mapped memory. Its words and entries are typed
// views of mem: the kernel aligns them at the offsets that it gives, and mem
// outlives the ring.
func mapRing[T any](mem []byte, off unix.XDPRingOffset, size int) ring[T] {
	word := func(at uint64) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&mem[at])) }
	var entry T
	_ = mem[off.Desc+uint64(size)*uint64(unsafe.Sizeof(entry))-1] // all of it is there
	return ring[T]{
		producer: word(off.Producer), consumer: word(off.Consumer), flags: word(off.Flags),
		entries: unsafe.Slice((*T)(unsafe.Pointer(&mem[off.Desc])), size),
		mask:    uint32(size - 1),
	}
}
