package ringstest

import (
	"sync/atomic"
	"unsafe"
)

// view returns the ring in mem. Its words and entries are typed views: mem is
// aligned, being an allocation of its own, and lives as long as they do.
func view[T any](mem []byte, size int) half[T] {
	word := func(at uint64) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&mem[at])) }
	return half[T]{
		producer: word(offsets.Producer), consumer: word(offsets.Consumer), flags: word(offsets.Flags),
		entries: unsafe.Slice((*T)(unsafe.Pointer(&mem[offsets.Desc])), size),
	}
}
