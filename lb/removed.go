package lb

import (
	"cmp"
	"maps"
	"slices"
)

// Removed is a server in the trash, and the service that it belonged to.
type Removed struct {
	Service ServiceKey
	Real    RealKey
	Forward Forward
	Tunnel  Tunnel
}

// Removed returns the servers whose connections may still be alive (K-DST-8):
// their packets are the node's to judge although nothing is configured for
// them any more. Their order is that of their IDs.
func (d *Director) Removed() []Removed {
	d.mu.Lock()
	defer d.mu.Unlock()
	trash := slices.SortedFunc(maps.Values(d.trash), func(a, b *server) int { return cmp.Compare(a.id, b.id) })
	out := make([]Removed, len(trash))
	for i, r := range trash {
		out[i] = Removed{r.identity.service, r.identity.real, r.spec.Forward, r.spec.Tunnel}
	}
	return out
}
