//go:build amd64

package conn

import "unsafe"

// hasPrefetch says that this architecture has prefetch.
const hasPrefetch = true

// seek and candidates are Seek and Candidates of VariantPrefetch, written in
// prefetch_amd64.s. They keep no pointer.
//
//go:noescape
func seek(index unsafe.Pointer, buckets int, hashes []uint64, out []ID)

//go:noescape
func candidates(index, conns unsafe.Pointer, hashes []uint64, out []ID)

// prefetchBuckets and prefetchCandidates hand over addresses of a mapping that
// outlives the call. out is as long as hashes, and of candidates holds what seek
// wrote: numbers of buckets. What the entries are asked for are hints.
func (t *Table) prefetchBuckets(hashes []uint64, out []ID) {
	seek(unsafe.Pointer(unsafe.SliceData(t.index)), len(t.index), hashes, out)
}

func (t *Table) prefetchCandidates(hashes []uint64, out []ID) {
	candidates(unsafe.Pointer(unsafe.SliceData(t.index)), unsafe.Pointer(unsafe.SliceData(t.conns)), hashes, out)
}

// fetchEntry asks for all that there is of an entry.
//
//go:noescape
func fetchEntry(conns, reals, timers, older unsafe.Pointer, id ID)

func (t *Table) prefetchEntry(id ID) {
	fetchEntry(unsafe.Pointer(unsafe.SliceData(t.conns)), unsafe.Pointer(unsafe.SliceData(t.reals)),
		unsafe.Pointer(unsafe.SliceData(t.timers)), unsafe.Pointer(unsafe.SliceData(t.older)), id)
}
