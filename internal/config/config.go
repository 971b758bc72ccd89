// Package config reads the configuration file: its text becomes a Config,
// whose Spec is what the director is to make true, and there is no shape in
// between that anybody else sees.
//
// viper reads the file, lays its values over the defaults and decodes them
// into structs; this package is its one importer. The YAML decoder that
// viper uses is ours (walk.go): it holds every node against one table of
// all keys (schema.go), which also is where the defaults come from, and
// remembers lines. Rules that concern several keys follow on the structs
// (services.go, network.go). Every fault of a file is reported, each with
// its line, key and what would be right.
//
// A Config is immutable once returned and belongs to whoever loaded it.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"

	"github.com/sluice-lb/sluice/lb"
)

// Config is one configuration file, complete with defaults.
type Config struct {
	Node        string // name of this director; default: the host name
	Interfaces  []Interface
	Workers     Workers
	Connections Connections
	Spec        lb.Spec  // services, marks, timeouts and sysctls, in file order
	FTPPorts    []uint16 // ports of the FTP helper; empty: off
	SlowPath    SlowPath
	Network     Network
	Control     Control
	Log         Log

	source *source
}

// Roles of an interface: where requests enter, where real servers answer.
const (
	RoleClient = "client"
	RoleServer = "server"
	RoleBoth   = "both"
)

// Interface is a NIC whose queues the fast path reads.
type Interface struct {
	Name     string
	Role     string // RoleClient, RoleServer or RoleBoth
	Mode     string // auto, zerocopy, driver or generic
	Queues   []int  // nil: all of them
	RingSize int    // descriptors in each of a queue's four rings, a power of two
}

// Workers says how the fast path's threads run.
type Workers struct {
	CPUs       []int         // one worker on each; nil: chosen from the topology
	Batch      int           // packets a stage handles at once, 1..256
	Idle       string        // spin or adaptive
	IdleSpin   time.Duration // adaptive: how long without a packet before sleeping
	UMEMFrames int           // per worker, a power of two
	FrameSize  int           // bytes, 2048 or 4096
	HugePages  string        // auto, require or off
}

// Connections is the size of the connection table.
type Connections struct {
	Max int // connections on the node
}

// Control is where the control API listens.
type Control struct {
	Socket string // path of the unix socket
	Listen string // TCP address of metrics and the read-only API; "": off
}

// Log is what is logged and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// Load reads the file at path. Faults of its content come as Errors; any
// other error is of reading it.
func Load(path string) (*Config, error) {
	return load(path, func(v *viper.Viper) error {
		v.SetConfigFile(path)
		return v.ReadInConfig()
	})
}

// Parse is Load of a text that is already in memory; name stands for the
// file in messages.
func Parse(name string, data []byte) (*Config, error) {
	return load(name, func(v *viper.Viper) error { return v.ReadConfig(bytes.NewReader(data)) })
}

// file is what viper decodes into: Config with services as they are
// written.
type file struct {
	Node        string
	Interfaces  []Interface
	Workers     Workers
	Connections struct {
		Max      int
		Timeouts struct{ TCP, TCPFin, UDP time.Duration }
	}
	Sysctl   lb.Sysctl
	Helpers  struct{ FTP struct{ Ports []uint16 } }
	SlowPath SlowPath
	Marks    []markText
	Services []serviceText
	Network  Network
	Control  Control
	Log      Log
}

func load(name string, read func(*viper.Viper) error) (*Config, error) {
	src := newSource(name)
	v := viper.NewWithOptions(viper.WithDecoderRegistry(strict{src}))
	v.SetConfigType("yaml")
	setDefaults(v, "", root.keys)
	if host, err := os.Hostname(); err == nil {
		v.SetDefault("node", host)
	}
	if err := read(v); err != nil {
		if faults := Errors(nil); errors.As(err, &faults) {
			return nil, faults
		}
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var f file
	if err := v.UnmarshalExact(&f, exactly); err != nil {
		return nil, fmt.Errorf("decode configuration %s: %w", name, err)
	}
	c := f.resolve(src)
	if err := src.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// exactly has viper decode without changing a type: the schema has judged
// that already. Field BatchSize is key batch_size.
func exactly(c *mapstructure.DecoderConfig) {
	c.WeaklyTypedInput = false
	c.DecodeHook = nil
	c.MatchName = matches
}

// matches reports that a key like idle_spin names a field like IdleSpin.
func matches(key, field string) bool {
	if len(field) > len(key) {
		return false // spares most pairs the work
	}
	return strings.EqualFold(strings.ReplaceAll(key, "_", ""), field)
}

// setDefaults tells viper the defaults of the sections that every file has.
func setDefaults(v *viper.Viper, path string, keys []key) {
	for _, k := range keys {
		full := join(path, k.name)
		switch {
		case k.def != nil:
			v.SetDefault(full, k.def)
		case !k.optional:
			setDefaults(v, full, k.shape.keys)
		}
	}
}

// resolve applies the rules that concern several keys.
func (f *file) resolve(src *source) *Config {
	c := &Config{
		Node: f.Node, Interfaces: f.Interfaces, Workers: f.Workers, Connections: Connections{f.Connections.Max},
		FTPPorts: f.Helpers.FTP.Ports, SlowPath: f.SlowPath, Network: f.Network, Control: f.Control, Log: f.Log, source: src,
	}
	c.checkInterfaces()
	c.checkWorkers()
	c.checkNetwork()
	c.Spec.Sysctl = f.Sysctl
	c.checkSysctl()
	t := f.Connections.Timeouts
	c.Spec.Timeouts.TCP = or(t.TCP, defaultTCP)
	c.Spec.Timeouts.TCPFin = or(t.TCPFin, defaultTCPFin)
	c.Spec.Timeouts.UDP = or(t.UDP, defaultUDP)
	c.resolveMarks(f.Marks)
	c.resolveServices(f.Services)
	return c
}

// or returns d, or its default if it is 0 (as ipvsadm --set has it).
func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
