//go:build !amd64

package conn

// hasPrefetch says that this architecture has no prefetch here: Variants does
// not offer it, and the two functions are never called.
const hasPrefetch = false

func (t *Table) prefetchBuckets([]ID) {}
func (t *Table) prefetchConns([]ID)   {}
