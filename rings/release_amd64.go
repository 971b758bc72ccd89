//go:build !race

package rings

import "sync/atomic"

// storeRelease stores v after all that was stored before: on amd64 any store does.
// Go's own waits until the others have arrived too, which nobody needs here, and takes
// long where the kernel has the entries' cache lines on another processor.
//
//go:noescape
func storeRelease(word *atomic.Uint32, v uint32)
