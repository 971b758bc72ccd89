package config

import (
	"math"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/slowpath/frag"
)

// Limits that the file states and that no kernel row sets.
const (
	maxConnections = 1 << 30             // the kernel's own upper bound of conn_max
	maxPerWorker   = 1<<24 - 1           // what a worker's connection table can number
	maxUMEM        = 1<<32 - 1           // bytes: a UMEM's length has 32 bits here
	maxTimeout     = 31 * 24 * time.Hour // ipvsadm's, for --set and -p
)

// root is the file: every key that there is, with what may stand there and
// its default. It and deploy/sluice.example.yaml say the same.
var root = section(
	key{name: "node", shape: name()},
	key{name: "interfaces", shape: list(section(
		key{name: "name", shape: device(), required: true},
		key{name: "role", shape: words(RoleClient, RoleServer, RoleBoth), required: true},
		key{name: "mode", shape: words("auto", "zerocopy", "driver", "generic"), def: "auto"},
		key{name: "queues", shape: wordOr("all", list(integer(0, 4095), 1, 4096))},
		key{name: "ring_size", shape: powerOfTwo(64, 32768), def: 2048},
	), 0, 64)},
	key{name: "workers", shape: section(
		key{name: "cpus", shape: wordOr("auto", list(integer(0, 8191), 1, 256))},
		key{name: "batch", shape: integer(1, 256), def: 64},
		key{name: "idle", shape: words("spin", "adaptive"), def: "spin"},
		key{name: "idle_spin", shape: duration(0, time.Second, 1, time.Millisecond), def: 50 * time.Microsecond},
		key{name: "umem_frames", shape: powerOfTwo(128, 1<<20), def: 16384},
		key{name: "frame_size", shape: oneOf(choice{"2048", 2048}, choice{"4096", 4096}), def: 2048},
		key{name: "huge_pages", shape: words("auto", "require", "off"), def: "auto"},
	)},
	key{name: "connections", shape: section(
		key{name: "max", shape: integer(1, maxConnections), def: 1 << 20},
		key{name: "timeouts", shape: section(
			key{name: "tcp", shape: duration(0, maxTimeout, time.Second, 300*time.Second), def: defaultTCP},
			key{name: "tcp_fin", shape: duration(0, maxTimeout, time.Second, 300*time.Second), def: defaultTCPFin},
			key{name: "udp", shape: duration(0, maxTimeout, time.Second, 300*time.Second), def: defaultUDP},
		)},
	)},
	key{name: "sysctl", shape: section(sysctls...)},
	key{name: "helpers", shape: section(
		key{name: "ftp", optional: true, shape: section(
			key{name: "ports", shape: list(integer(1, 65535), 1, 8), def: []any{21}},
		)},
	)},
	key{name: "slowpath", shape: slowPath(slowpath.DefaultBudgets(), slowpath.DefaultICMPLimits(), frag.DefaultLimits())},
	key{name: "marks", shape: list(section(
		key{name: "mark", shape: integer(1, math.MaxUint32), required: true},
		key{name: "interface", shape: device()},
		key{name: "protocol", shape: protocol},
		key{name: "source", shape: network()},
		key{name: "destination", shape: network()},
		key{name: "ports", shape: ports()},
	), 0, 0)},
	key{name: "services", shape: list(serviceShape, 0, 0)},
	key{name: "network", shape: section(
		key{name: "interfaces", shape: list(section(
			key{name: "name", shape: device(), required: true},
			key{name: "mac", shape: hardware()},
			key{name: "mtu", shape: integer(68, 65535)},
			key{name: "addresses", shape: list(hostPrefix(), 0, 0)},
			key{name: "vlan_protocol", shape: oneOf(choice{"802.1q", uint16(packet.EtherVLAN)}, choice{"802.1ad", uint16(packet.EtherQinQ)})},
		), 0, 0)},
		key{name: "routes", shape: list(section(
			key{name: "to", shape: network(), required: true},
			key{name: "via", shape: unicast(true), required: true},
		), 0, 0)},
		key{name: "neighbors", shape: list(section(
			key{name: "address", shape: unicast(true), required: true},
			key{name: "mac", shape: hardware(), required: true},
			key{name: "interface", shape: device(), required: true},
		), 0, 0)},
	)},
	key{name: "control", shape: section(
		key{name: "socket", shape: socketPath(), def: "/run/sluice/control.sock"},
		key{name: "listen", shape: listen(), def: "127.0.0.1:9110"},
	)},
	key{name: "log", shape: section(
		key{name: "level", shape: words("debug", "info", "warn", "error"), def: "info"},
		key{name: "format", shape: words("text", "json"), def: "text"},
	)},
)

// The kernel's timeouts of ESTABLISHED, FIN_WAIT and UDP (section 1.7).
const (
	defaultTCP    = 900 * time.Second
	defaultTCPFin = 120 * time.Second
	defaultUDP    = 300 * time.Second
)

// serviceShape is one of services.
var serviceShape = section(
	key{name: "name", shape: name()},
	key{name: "protocol", shape: protocol},
	key{name: "address", shape: unicast(true)},
	key{name: "port", shape: integer(0, 65535)},
	key{name: "fwmark", shape: integer(1, math.MaxUint32)},
	key{name: "family", shape: words("ipv4", "ipv6"), def: "ipv4"},
	key{name: "scheduler", shape: words(schedulers...), def: "wlc"},
	key{name: "scheduler_flags", shape: list(words("sh-fallback", "sh-port", "mh-fallback", "mh-port", "flag-1", "flag-2", "flag-3"), 0, 0), def: []any{}},
	key{name: "persistence", optional: true, shape: section(
		key{name: "timeout", shape: duration(time.Second, maxTimeout, time.Second, 300*time.Second), def: 300 * time.Second},
		key{name: "netmask", shape: netmask()},
		key{name: "engine", shape: words("", "sip"), def: ""},
	)},
	key{name: "one_packet", shape: flag(), def: false},
	key{name: "mss", shape: segmentSize()},
	key{name: "forward", shape: forward, def: lb.NAT},
	key{name: "tunnel", shape: tunnel},
	key{name: "servers", shape: list(server, 0, 0)},
)

// server is one of a service's servers.
var server = section(
	key{name: "address", shape: unicast(false), required: true},
	key{name: "port", shape: integer(0, 65535)},
	key{name: "weight", shape: integer(0, math.MaxInt32), def: 1}, // K-DST-3
	key{name: "forward", shape: forward},
	key{name: "tunnel", shape: tunnel},
	key{name: "upper_threshold", shape: integer(0, math.MaxUint32), def: 0},
	key{name: "lower_threshold", shape: integer(0, math.MaxUint32), def: 0},
)

// tunnel is how TUN encapsulates: K-FWD-TUN-FLAGS.
var tunnel = section(
	key{name: "type", shape: oneOf(choice{"ipip", lb.IPIP}, choice{"gue", lb.GUE}, choice{"gre", lb.GRE}), def: lb.IPIP},
	key{name: "port", shape: integer(0, 65535), def: 0},
	key{name: "checksum", shape: oneOf(choice{"none", lb.ChecksumNone}, choice{"csum", lb.Checksum}, choice{"remcsum", lb.ChecksumRemote}), def: lb.ChecksumNone},
)

var forward = oneOf(choice{"nat", lb.NAT}, choice{"dr", lb.DR}, choice{"tun", lb.TUN})

var protocol = oneOf(choice{"tcp", uint8(lb.ProtoTCP)}, choice{"udp", uint8(lb.ProtoUDP)}, choice{"sctp", uint8(lb.ProtoSCTP)})

// schedulers are the kernel's, by name (section 1.5).
var schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos", "none"}

// sysctls are the kernel's net.ipv4.vs.* with the defaults and ranges of Linux
// 6.1 (section 1.10): most take any number, and mean 0 or not 0.
var sysctls = []key{
	number("conntrack", 0),
	number("cache_bypass", 0),
	number("expire_nodest_conn", 0),
	number("expire_quiescent_template", 0),
	number("nat_icmp_send", 0),
	number("schedule_icmp", 0),
	number("sloppy_tcp", 0),
	number("sloppy_sctp", 0),
	number("conn_reuse_mode", 1),
	number("pmtu_disc", 1),
	within(0, 3, "drop_entry", 0),
	within(0, 3, "drop_packet", 0),
	within(0, 3, "secure_tcp", 0),
	number("am_droprate", 10),
	number("amemthresh", 1024),
	number("backup_only", 0),
	number("ignore_tunneled", 0),
	number("snat_reroute", 1),
	within(0, 1, "sync_version", 1),
	{name: "sync_threshold", shape: pair(), def: []any{3, 50}},
	seconds("sync_refresh_period", 0),
	within(0, 3, "sync_retries", 0),
	number("sync_persist_mode", 0),
	{name: "sync_ports", shape: powerOfTwo(1, 1<<30), def: 1},
	seconds("lblc_expiration", 86400),
	seconds("lblcr_expiration", 86400),
	number("run_estimation", 1),
}

// number is a tunable that takes whatever fits the kernel's int.
func number(name string, def int) key { return within(math.MinInt32, math.MaxInt32, name, def) }

// seconds is a tunable that the kernel keeps in ticks of 10 ms, in an int.
func seconds(name string, def int) key {
	return within(-(math.MaxInt32 / 100), math.MaxInt32/100, name, def)
}

func within(least, most int64, name string, def int) key {
	return key{name: name, shape: integer(least, most), def: def}
}

// pair is sync_threshold: two numbers, which may be equal.
func pair() shape {
	s := list(integer(0, math.MaxInt32), 2, 2)
	s.unique = false
	return s
}
