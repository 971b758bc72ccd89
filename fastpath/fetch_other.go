//go:build !amd64

package fastpath

// fetch does nothing: this architecture has no prefetch here.
func fetch([]Packet) {}
