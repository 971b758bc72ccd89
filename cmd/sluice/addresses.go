package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-lb/sluice/lb/flow"
)

// moved tells followAddresses that the host's addresses may have changed.
func (n *node) moved() {
	select {
	case n.addresses <- struct{}{}:
	default: // it will look anyway
	}
}

// followAddresses has the kernel's programs follow which servers and which
// services' addresses are the host's own, until ctx ends.
func (n *node) followAddresses(ctx context.Context) {
	const pause = 50 * time.Millisecond // neighbours change more often than addresses
	owned := n.owned()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.addresses:
		}
		now := n.owned()
		if err := n.follow(!slices.Equal(now, owned)); err != nil {
			n.log.Error("follow the host's addresses", "error", err)
		}
		owned = now
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// follow updates the answers of servers that are the host and, if services' addresses
// came or went, who answers echo requests to these.
func (n *node) follow(services bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if services {
		return n.resteer(nil)
	}
	return n.answers.Update(locals(n.director.Spec().Services, n.director.Removed(), n.network.Table()))
}

// owned are the services' addresses that are the host's own, in the services'
// order.
func (n *node) owned() (vips []netip.Addr) {
	table := n.network.Table()
	for _, s := range n.director.Spec().Services {
		if a := flow.FromNetip(s.Key.Addr); s.Key.Mark == 0 && table.IsLocal(&a) {
			vips = append(vips, s.Key.Addr)
		}
	}
	return vips
}
