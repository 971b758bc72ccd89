package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/workers"
)

// retryJoin is when a member that could not join is tried again.
const retryJoin = 10 * time.Second

// linked tells followMembers that members of bonds may have come or gone.
func (n *node) linked() {
	select {
	case n.membership <- struct{}{}:
	default: // it will look anyway
	}
}

// followMembers has the node's NICs follow the members of its bonds, until ctx ends.
func (n *node) followMembers(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.membership:
		case <-retry.C:
		}
		if !n.matchMembers(ctx, n.network.Table()) {
			retry.Reset(retryJoin)
		}
	}
}

// matchMembers makes the members of the table's bonds the node's devices. false: one of
// them could not be.
func (n *node) matchMembers(ctx context.Context, t *nexthop.Table) (all bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	all = true
	for port := range n.names {
		i := &t.Interfaces[port]
		if i.Bond == "" {
			continue
		}
		changed := false
		for _, d := range slices.Clone(n.devices) {
			if d.port == port && !slices.ContainsFunc(i.Members, func(m nexthop.Member) bool { return m.Index == d.index }) {
				n.leave(ctx, d)
				changed = true
			}
		}
		for _, m := range i.Members {
			if !slices.ContainsFunc(n.devices, func(d *device) bool { return d.index == m.Index }) {
				err := n.join(ctx, port, &m)
				if all = all && err == nil; err == nil {
					changed = true
				} else if ctx.Err() == nil {
					n.log.Error("a member of a bond is not served: its packets stay with the host", "bond", i.Name, "interface", m.Name, "error", err)
				}
			}
		}
		n.use(ctx, i)
		if changed {
			if err := n.resteer(nil); err != nil { // rules of marks name interfaces
				n.log.Error("update XDP tables", "error", err)
			}
		}
	}
	return all
}

// sendersOf are the kernel indexes of the members that the kernel sends by, those that
// are not served left out.
func (n *node) sendersOf(bond *nexthop.Interface) (sends []int) {
	for _, m := range bond.Members {
		if m.Sends && slices.ContainsFunc(n.devices, func(d *device) bool { return d.index == m.Index }) {
			sends = append(sends, m.Index)
		}
	}
	return sends
}

// use has a bond's frames leave by those members, if they are others than before.
func (n *node) use(ctx context.Context, bond *nexthop.Interface) {
	sends := n.sendersOf(bond)
	if slices.Equal(n.senders[bond.Index], sends) {
		return
	}
	if err := n.onWorkers(ctx, func(w int) { n.sets[w].Bond(bond.Name).Use(sends) }); err == nil {
		n.senders[bond.Index] = sends
		n.log.Info("bond sends", "bond", bond.Name, "mode", bond.Bond, "members", n.namesOf(sends))
	}
}

// namesOf are the names of devices.
func (n *node) namesOf(indexes []int) (names []string) {
	for _, d := range n.devices {
		if slices.Contains(indexes, d.index) {
			names = append(names, d.name)
		}
	}
	return names
}

// onWorkers runs f for each worker, on that worker's goroutine.
func (n *node) onWorkers(ctx context.Context, f func(worker int)) error {
	for w, worker := range n.pool.Workers {
		if err := worker.Do(ctx, func(*workers.Worker) { f(w) }); err != nil {
			return err
		}
	}
	return nil
}

// join makes a bond's member a device: a socket for each worker on its UMEM, then the
// XDP program. Nothing stops meanwhile.
func (n *node) join(ctx context.Context, port int, m *nexthop.Member) error {
	d, err := n.device(port, m.Name, n.names[port])
	if err != nil {
		return err
	}
	if err := d.serves(len(n.sets)); err != nil {
		return err
	}
	if err := n.fits(d); err != nil {
		return err
	}
	for w, set := range n.sets {
		q, err := set.Join(n.queue(d, w))
		if err != nil {
			return errors.Join(err, n.giveUp(ctx, d))
		}
		d.sockets = append(d.sockets, q)
	}
	var failed error
	err = n.onWorkers(ctx, func(w int) { failed = errors.Join(failed, n.sets[w].Bond(d.bond).Add(d.sockets[w])) })
	if err = errors.Join(err, failed); err == nil {
		n.spread.apply(n.log, d, n.cfg.Interfaces[port].Role)
		err = n.attach(d)
	}
	if err != nil {
		return errors.Join(err, n.giveUp(ctx, d))
	}
	n.devices = append(n.devices, d)
	return nil
}

// fits compares d with what the workers' memory was made for.
func (n *node) fits(d *device) error {
	nic, err := rings.Inspect(d.name)
	if err != nil {
		return err
	}
	queue := n.queue(d, 0)
	warnings, err := nic.Check(&queue, n.cfg.Workers.FrameSize)
	for _, w := range warnings {
		n.log.Warn("machine", "warning", w)
	}
	return err
}

// leave ends the use of a device that is no member any more. The NIC may be gone
// with all that was on it.
func (n *node) leave(ctx context.Context, d *device) {
	if counts, err := n.steer.Counts(); err == nil {
		n.left[d.port] = append(n.left[d.port], ofDevice(counts, d)...)
	}
	n.devices = slices.DeleteFunc(n.devices, func(o *device) bool { return o == d })
	if err := n.giveUp(ctx, d); err != nil && ctx.Err() == nil {
		n.log.Warn("a NIC that left its bond", "interface", d.name, "bond", d.bond, "error", err)
	}
	n.log.Info("interface detached", "interface", d.name, "bond", d.bond)
}

// giveUp undoes what join did, in reverse: first the XDP program, so that no more
// frames come; then the workers let go of the queues, which are closed, and take
// their frames back.
func (n *node) giveUp(ctx context.Context, d *device) error {
	var errs []error
	if d.attached != nil {
		errs = append(errs, d.attached.Close())
	}
	if d.restore != nil {
		errs = append(errs, d.restore())
	}
	letGo := func(w int) {
		if w < len(d.sockets) {
			n.sets[w].Bond(d.bond).Remove(d.sockets[w])
		}
	}
	if err := n.onWorkers(ctx, letGo); err != nil {
		return errors.Join(append(errs, err)...) // the end of the node closes them
	}
	for w, q := range d.sockets {
		errs = append(errs, n.sets[w].Leave(q))
	}
	takeBack := func(w int) {
		if w < len(d.sockets) {
			n.sets[w].UMEM.Reclaim(d.sockets[w])
		}
	}
	return errors.Join(append(errs, n.onWorkers(ctx, takeBack))...)
}
