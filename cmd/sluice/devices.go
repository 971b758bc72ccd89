package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/rings/xdpprog"
)

// device is a NIC whose queues are the node's: an interface of the configuration,
// or a member of one that is a bond.
type device struct {
	name     string
	bond     string // whose member it is; empty: nobody's
	index    int    // the kernel's
	port     int    // number of the interface
	queues   []int  // by worker
	sockets  []*rings.Queue
	attached *xdpprog.Attachment
	steering string       // what the NIC was made to do
	restore  func() error // takes that back
}

// plannedDevices returns the NICs of all interfaces, a bond's one after the other.
func (n *node) plannedDevices() (all []*device, err error) {
	table := n.network.Table()
	for port, c := range n.cfg.Interfaces {
		i := &table.Interfaces[port]
		if bond := bondOf(table, i.Index); bond != "" {
			return nil, fmt.Errorf("interfaces[%d]: %s is a member of %s: name that instead", port, c.Name, bond)
		}
		if i.Bond == "" {
			d, err := n.device(port, c.Name, "")
			if err != nil {
				return nil, err
			}
			all = append(all, d)
			continue
		}
		if len(i.Members) == 0 {
			return nil, fmt.Errorf("interfaces[%d]: %s is a bond without members: give it one (ip link set dev NIC master %s)", port, c.Name, c.Name)
		}
		for _, m := range i.Members {
			d, err := n.device(port, m.Name, c.Name)
			if err != nil {
				return nil, err
			}
			all = append(all, d)
		}
	}
	return all, nil
}

// bondOf returns the bond that a link is a member of.
func bondOf(t *nexthop.Table, index int) string {
	for i := range t.Interfaces {
		if slices.ContainsFunc(t.Interfaces[i].Members, func(m nexthop.Member) bool { return m.Index == index }) {
			return t.Interfaces[i].Name
		}
	}
	return ""
}

// device returns a NIC of interface port with the queues that are the node's.
func (n *node) device(port int, name, bond string) (*device, error) {
	nic, err := rings.Inspect(name)
	if err != nil {
		return nil, err
	}
	d := &device{name: name, bond: bond, index: nic.Index, port: port, queues: n.cfg.Interfaces[port].Queues}
	if d.queues == nil {
		d.queues = make([]int, max(1, nic.Queues))
		for i := range d.queues {
			d.queues[i] = i
		}
	} else if nic.Queues > len(d.queues) {
		n.log.Warn("packets of the other queues stay with the host", "interface", name, "queues", nic.Queues, "used", len(d.queues))
	}
	return d, nil
}

// serves returns an error if d cannot serve so many workers.
func (d *device) serves(workers int) error {
	if len(d.queues) == workers {
		return nil
	}
	return fmt.Errorf("interfaces[%d]: %s has %d queues for %d workers: worker i owns queue i of every interface; "+
		"set the NIC's queues (ethtool -L %s combined %d), name them in queues, or name other workers.cpus",
		d.port, d.name, len(d.queues), workers, d.name, workers)
}

// queue is d's queue of a worker, to be opened.
func (n *node) queue(d *device, worker int) rings.Interface {
	c := &n.cfg.Interfaces[d.port]
	mode, _ := rings.ParseMode(c.Mode)
	return rings.Interface{Name: d.name, Bond: d.bond, Index: d.index, Queue: d.queues[worker], RingSize: c.RingSize, Mode: mode}
}

// attach runs the XDP program on d and gives it d's sockets: from here on its
// packets come. It tries the modes that d's binding allows, in their order.
func (n *node) attach(d *device) error {
	var failed []error
	for _, mode := range d.sockets[0].Binding().Attach {
		as := xdpprog.Driver
		if mode == rings.Generic {
			as = xdpprog.Generic
		}
		var err error
		if d.attached, err = n.steer.Attach(d.index, as); err == nil {
			return n.attachedTo(d)
		}
		failed = append(failed, err)
		if errors.Is(err, xdpprog.ErrOccupied) {
			break
		}
		n.log.Info("XDP attach failed", "interface", d.name, "mode", mode.String(), "error", err)
	}
	return errors.Join(failed...)
}

// attachedTo does what follows an attachment.
func (n *node) attachedTo(d *device) error {
	if d.attached.Lingers() {
		n.log.Warn("this kernel has no bpf_link for XDP: a killed sluice leaves its program attached", "interface", d.name)
	}
	if d.attached.Mode() == xdpprog.Generic && d.bond == "" { // what is handed back to a bond does not pass a member
		n.tap.Mark(d.port)
	}
	for _, q := range d.sockets {
		if err := d.attached.SetSocket(q.Binding().Queue, q.FD()); err != nil {
			return err
		}
	}
	n.log.Info("interface attached", "interface", d.name, "role", n.cfg.Interfaces[d.port].Role, "mode", d.mode(), "workers", len(d.sockets), "steering", d.steering)
	return nil
}

// mode says how d's queues are bound.
func (d *device) mode() string {
	if d.sockets[0].Binding().ZeroCopy {
		return "zerocopy"
	}
	return d.attached.Mode().String()
}
