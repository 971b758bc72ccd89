//go:build !amd64

package conn

// hasPrefetch says that this architecture has no prefetch here: Variants does
// not offer it, and the functions are never called.
const hasPrefetch = false

func (t *Table) prefetchBuckets([]uint64, []ID)    {}
func (t *Table) prefetchCandidates([]uint64, []ID) {}
func (t *Table) prefetchEntry(ID)                  {}
