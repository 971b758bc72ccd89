//go:build amd64

package conn

import "unsafe"

// hasPrefetch says that this architecture has prefetch.
const hasPrefetch = true

// prefetch asks for the cache lines base+64×at[i], at any number, without
// waiting for them. Written in prefetch_amd64.s; it keeps no pointer.
//
//go:noescape
func prefetch(base unsafe.Pointer, at []ID)

// prefetchBuckets and prefetchConns hand over the address of a mapping that
// outlives the call; only hints go there, so even a wrong number does no harm.
func (t *Table) prefetchBuckets(at []ID) {
	prefetch(unsafe.Pointer(unsafe.SliceData(t.index)), at)
}

func (t *Table) prefetchConns(at []ID) {
	prefetch(unsafe.Pointer(unsafe.SliceData(t.conns)), at)
}
