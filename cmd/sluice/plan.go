package main

import (
	"crypto/rand"
	"fmt"
	"log/slog"
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
	roles []fastpath.Role    // of the interfaces
	cpus  []int              // by worker; -1: not pinned
	rest  []int              // CPUs that no worker has
	open  []rings.OpenConfig // by worker, devices in their order
	steer *flow.Steering
}

// plan checks the configuration against the machine: queues, CPUs, memory.
// Then the devices' RSS is set.
func (n *node) plan() (*plan, error) {
	p := &plan{}
	devices, err := n.plannedDevices()
	if err != nil {
		return nil, err
	}
	topology, err := cpu.Read(os.DirFS("/sys"))
	if err != nil {
		return nil, err
	}
	if p.cpus = n.cfg.Workers.CPUs; p.cpus == nil {
		p.cpus, err = topology.Choose(len(devices[0].queues), cpu.NodeOf(os.DirFS("/sys"), devices[0].name))
	} else {
		err = topology.Check(p.cpus)
	}
	if err != nil {
		return nil, fmt.Errorf("workers.cpus: %w", err)
	}
	p.rest = topology.Without(p.cpus)
	for _, c := range n.cfg.Interfaces {
		p.roles = append(p.roles, roleOf(c.Role))
	}
	for _, d := range devices {
		if err := d.serves(len(p.cpus)); err != nil {
			return nil, err
		}
	}
	huge, _ := rings.ParseHugePages(n.cfg.Workers.HugePages)
	for w := range p.cpus {
		open := rings.OpenConfig{Worker: w, Frames: n.cfg.Workers.UMEMFrames, FrameSize: n.cfg.Workers.FrameSize, HugePages: huge, Log: n.log}
		for _, d := range devices {
			open.Interfaces = append(open.Interfaces, n.queue(d, w))
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
	n.devices = devices
	n.spread, p.steer = newSpread(devices[0].name, len(p.cpus))
	for _, d := range devices {
		n.spread.apply(n.log, d, n.cfg.Interfaces[d.port].Role)
	}
	return p, nil
}

// spread is how NICs deliver both directions of a connection to the worker that owns
// it, as far as they can.
type spread struct {
	rss     rings.RSS // the first NIC's key; the table is each NIC's own
	workers int
	why     string // not empty: they need not, or cannot
}

// newSpread takes the key of the first NIC, and returns who owns what.
func newSpread(first string, workers int) (*spread, *flow.Steering) {
	s := &spread{workers: workers, why: "one worker"}
	var err error
	if s.rss, err = rings.ReadRSS(first); workers > 1 {
		if s.why = ""; err != nil {
			s.why = "hand-over: " + err.Error()
		}
	}
	if s.why != "" {
		key := make([]byte, 40)
		_, _ = rand.Read(key) // it never fails
		return s, flow.NewSteering(workers, key, nil)
	}
	table := make([]uint16, len(s.rss.Indirection))
	for i := range table {
		table[i] = uint16(i % workers)
	}
	return s, flow.NewSteering(workers, s.rss.Key, table)
}

// apply has a NIC deliver to the owners.
func (s *spread) apply(log *slog.Logger, d *device, role string) {
	if d.steering = s.why; s.why != "" {
		return
	}
	if role == config.RoleBoth {
		d.steering = "hand-over: requests and replies share the interface"
		return
	}
	d.steering = "NIC"
	side := rings.ClientIsSource
	if role == config.RoleServer {
		side = rings.ClientIsDestination
	}
	rss := rings.RSS{Key: s.rss.Key, Indirection: make([]uint32, len(s.rss.Indirection))}
	for at := range rss.Indirection {
		rss.Indirection[at] = uint32(d.queues[at%s.workers])
	}
	attempts, restore := rings.Steer(d.name, side, rss)
	d.restore = restore
	for _, a := range attempts {
		if a.Err != nil {
			d.steering = "hand-over: " + a.What + ": " + a.Err.Error()
			log.Info("NIC cannot spread by client, workers hand over", "interface", d.name, "what", a.What, "error", a.Err)
		}
	}
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
