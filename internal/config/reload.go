package config

import (
	"fmt"
	"reflect"
	"time"

	"github.com/sluice-lb/sluice/lb"
)

// CheckRun reports what a configuration lacks for sluice run, though a
// replay may do with it.
func (c *Config) CheckRun() error {
	s := newSource(c.source.file)
	s.lines = c.source.lines
	client, server := false, false
	for _, n := range c.Interfaces {
		client = client || n.Role != RoleServer
		server = server || n.Role != RoleClient
	}
	switch {
	case len(c.Interfaces) == 0:
		s.fail("interfaces", "missing, want the NICs whose queues the fast path reads")
	case !client:
		s.fail("interfaces", "none has role client or both: no request could enter")
	case !server && c.usesNAT():
		s.fail("interfaces", "none has role server or both: the replies of NAT servers could not enter")
	}
	return s.err()
}

// fixed are the keys that a running director cannot change.
var fixed = []struct {
	key string
	of  func(*Config) any
}{
	{"node", func(c *Config) any { return c.Node }},
	{"interfaces", func(c *Config) any { return c.Interfaces }},
	{"workers.cpus", func(c *Config) any { return c.Workers.CPUs }},
	{"workers.batch", func(c *Config) any { return c.Workers.Batch }},
	{"workers.idle", func(c *Config) any { return c.Workers.Idle }},
	{"workers.idle_spin", func(c *Config) any { return c.Workers.IdleSpin }},
	{"workers.umem_frames", func(c *Config) any { return c.Workers.UMEMFrames }},
	{"workers.frame_size", func(c *Config) any { return c.Workers.FrameSize }},
	{"workers.huge_pages", func(c *Config) any { return c.Workers.HugePages }},
	{"connections.max", func(c *Config) any { return c.Connections.Max }},
	{"helpers.ftp.ports", func(c *Config) any { return c.FTPPorts }},
	{"slowpath", func(c *Config) any { return c.SlowPath }},
	{"network.interfaces", func(c *Config) any { return c.Network.Interfaces }},
	{"network.routes", func(c *Config) any { return c.Network.Routes }},
	{"network.neighbors", func(c *Config) any { return c.Network.Neighbors }},
	{"control.socket", func(c *Config) any { return c.Control.Socket }},
	{"control.listen", func(c *Config) any { return c.Control.Listen }},
	{"log.format", func(c *Config) any { return c.Log.Format }},
}

// CheckReload reports, with its place in next, each key in which next
// differs from c and which only a restart can change. What remains (Spec
// and Log.Level) may be applied to the running director.
func (c *Config) CheckReload(next *Config) error {
	s := newSource(next.source.file)
	s.lines = next.source.lines
	for _, f := range fixed {
		was, is := f.of(c), f.of(next)
		if reflect.DeepEqual(was, is) {
			continue
		}
		switch was.(type) {
		case string, int, time.Duration:
			s.fail(f.key, "changed from %s to %s, which needs a restart", plain(fmt.Sprint(was)), plain(fmt.Sprint(is)))
		default:
			s.fail(f.key, "changed, which needs a restart")
		}
	}
	return s.err()
}

func (c *Config) usesNAT() bool {
	for _, s := range c.Spec.Services {
		for _, r := range s.Servers {
			if r.Forward == lb.NAT {
				return true
			}
		}
	}
	return false
}
