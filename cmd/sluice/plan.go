package main

import (
	"crypto/rand"
	"fmt"
	"os"

	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/slowpath/neigh"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// plan is what the machine and the configuration make of each other.
type plan struct {
	names []string // of the interfaces
	roles []fastpath.Role
	cpus  []int // by worker; -1: not pinned
	open  []rings.OpenConfig
	steer *flow.Steering
}

// plan checks the configuration against the machine: queues, CPUs, memory.
func (n *node) plan() (*plan, error) {
	p := &plan{}
	queues, err := n.queues()
	if err != nil {
		return nil, err
	}
	topology, err := cpu.Read(os.DirFS("/sys"))
	if err != nil {
		return nil, err
	}
	if p.cpus = n.cfg.Workers.CPUs; p.cpus == nil {
		p.cpus, err = topology.Choose(len(queues[0]), cpu.NodeOf(os.DirFS("/sys"), n.cfg.Interfaces[0].Name))
	} else {
		err = topology.Check(p.cpus)
	}
	if err != nil {
		return nil, fmt.Errorf("workers.cpus: %w", err)
	}
	for i, c := range n.cfg.Interfaces {
		p.names = append(p.names, c.Name)
		p.roles = append(p.roles, roleOf(c.Role))
		if len(queues[i]) != len(p.cpus) {
			return nil, fmt.Errorf("interfaces[%d]: %s has %d queues for %d workers: worker i owns queue i of every interface; "+
				"set the NIC's queues (ethtool -L %s combined %d), name them in queues, or name other workers.cpus",
				i, c.Name, len(queues[i]), len(p.cpus), c.Name, len(p.cpus))
		}
	}
	huge, _ := rings.ParseHugePages(n.cfg.Workers.HugePages)
	for w := range p.cpus {
		open := rings.OpenConfig{Worker: w, Frames: n.cfg.Workers.UMEMFrames, FrameSize: n.cfg.Workers.FrameSize, HugePages: huge, Log: n.log}
		for i, c := range n.cfg.Interfaces {
			nic, err := rings.Inspect(c.Name)
			if err != nil {
				return nil, err
			}
			mode, _ := rings.ParseMode(c.Mode)
			open.Interfaces = append(open.Interfaces, rings.Interface{Name: c.Name, Index: nic.Index, Queue: queues[i][w], RingSize: c.RingSize, Mode: mode})
		}
		p.open = append(p.open, open)
	}
	warnings, err := rings.Check(p.open)
	for _, w := range warnings {
		n.log.Warn("machine", "warning", w)
	}
	if err != nil {
		return nil, err
	}
	p.steer = n.spread(queues)
	return p, nil
}

// queues returns each interface's queues, by worker.
func (n *node) queues() ([][]int, error) {
	if len(n.cfg.Interfaces) == 0 {
		return nil, fmt.Errorf("%s: interfaces: there are none; name the NICs whose queues to read", n.path)
	}
	var out [][]int
	for _, c := range n.cfg.Interfaces {
		nic, err := rings.Inspect(c.Name)
		if err != nil {
			return nil, err
		}
		q := c.Queues
		if q == nil {
			q = make([]int, max(1, nic.Queues))
			for i := range q {
				q[i] = i
			}
		} else if nic.Queues > len(q) {
			n.log.Warn("packets of the other queues stay with the host", "interface", c.Name, "queues", nic.Queues, "used", len(q))
		}
		out = append(out, q)
	}
	return out, nil
}

// spread has the NICs deliver both directions of a connection to the worker
// that owns it, as far as they can, and returns who owns what. queues are each
// interface's, by worker.
func (n *node) spread(queues [][]int) *flow.Steering {
	count := len(queues[0])
	n.steering = make([]string, len(n.cfg.Interfaces))
	rss, err := rings.ReadRSS(n.cfg.Interfaces[0].Name)
	if count == 1 || err != nil {
		for i := range n.steering {
			n.steering[i] = "one worker"
			if count > 1 {
				n.steering[i] = "hand-over: " + err.Error()
			}
		}
		key := make([]byte, 40)
		_, _ = rand.Read(key) // it never fails
		return flow.NewSteering(count, key, nil)
	}
	table := make([]uint16, len(rss.Indirection))
	for i := range table {
		table[i] = uint16(i % count)
	}
	for i, c := range n.cfg.Interfaces {
		n.steering[i] = "NIC"
		if c.Role == config.RoleBoth {
			n.steering[i] = "hand-over: requests and replies share the interface"
			continue
		}
		side := rings.ClientIsSource
		if c.Role == config.RoleServer {
			side = rings.ClientIsDestination
		}
		for at := range rss.Indirection {
			rss.Indirection[at] = uint32(queues[i][at%count])
		}
		for _, a := range rings.Steer(c.Name, side, rss) {
			if a.Err != nil {
				n.steering[i] = "hand-over: " + a.What + ": " + a.Err.Error()
				n.log.Info("NIC cannot spread by client, workers hand over", "interface", c.Name, "what", a.What, "error", a.Err)
			}
		}
	}
	return flow.NewSteering(count, rss.Key, table)
}

// roleOf translates a configured role.
func roleOf(role string) fastpath.Role {
	switch role {
	case config.RoleClient:
		return fastpath.RoleClient
	case config.RoleServer:
		return fastpath.RoleServer
	}
	return fastpath.RoleBoth
}

// network is the configuration's network section, for the neighbour watcher.
func network(c *config.Config) (n neigh.Network) {
	for _, i := range c.Network.Interfaces {
		n.Interfaces = append(n.Interfaces, neigh.Interface{Name: i.Name, MAC: i.MAC, MTU: i.MTU, Addresses: i.Addresses, TPID: i.VLANProtocol})
	}
	for _, r := range c.Network.Routes {
		n.Routes = append(n.Routes, neigh.Route{To: r.To, Via: r.Via})
	}
	for _, b := range c.Network.Neighbors {
		n.Neighbors = append(n.Neighbors, neigh.Neighbor{Addr: b.Address, MAC: b.MAC, Interface: b.Interface})
	}
	return n
}
