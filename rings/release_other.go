//go:build !amd64 || race

package rings

import "sync/atomic"

// storeRelease stores v after all that was stored before.
func storeRelease(word *atomic.Uint32, v uint32) { word.Store(v) }
