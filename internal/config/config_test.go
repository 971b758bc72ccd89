package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/sched"
	"github.com/sluice-lb/sluice/slowpath"
)

const deploy = "../../deploy/"

// same compares configurations but for where their keys stood.
var same = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.IgnoreUnexported(Config{}),
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return c
}

// defaultSlowPath is the section that no file needs.
func defaultSlowPath() SlowPath {
	b := slowpath.DefaultBudgets()
	return SlowPath{
		HandBack: b[slowpath.HandBack], Unresolved: b[slowpath.Unresolved], ICMP: b[slowpath.ICMP], Fragments: b[slowpath.Fragments],
		Reassembly: Reassembly{Memory: 4 << 20, Share: 25, Timeout: 30 * time.Second, Timeout6: time.Minute},
		Helpers:    slowpath.Budget{Rate: 10_000, Burst: 1000},
		Errors:     slowpath.DefaultICMPLimits(),
	}
}

// TestDefaults holds the defaults of a file that says nothing, in every way
// of saying nothing.
func TestDefaults(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Node: host,
		Workers: Workers{
			Batch: 64, Idle: "spin", IdleSpin: 50 * time.Microsecond,
			UMEMFrames: 16384, FrameSize: 2048, HugePages: "auto",
		},
		Connections: Connections{Max: 1048576},
		SlowPath:    defaultSlowPath(),
		Spec: lb.Spec{
			Timeouts: lb.Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second},
			Sysctl:   lb.DefaultSysctl(),
		},
		Control: Control{Socket: "/run/sluice/control.sock", Listen: "127.0.0.1:9110"},
		Log:     Log{Level: "info", Format: "text"},
	}
	for stake, text := range map[string]string{
		"an empty file":    "",
		"comments":         "# nothing\n",
		"an empty mapping": "{}",
		"null":             "~\n",
		"sections all of whose lines are commented out": "interfaces:\nworkers:\nservices:\nsysctl:\nnetwork:\nhelpers:\n",
		"empty sections":              "interfaces: []\nworkers: {}\nservices: []\nsysctl: {}\nnetwork: {routes: []}\n",
		"0 keeps a timeout's default": "connections: {timeouts: {tcp: 0, tcp_fin: 0s, udp: 0}}\n",
	} {
		if diff := cmp.Diff(want, mustParse(t, text), same, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", stake, diff)
		}
	}
}

// TestServices holds what services become, default by default.
func TestServices(t *testing.T) {
	addr := netip.MustParseAddr
	c := mustParse(t, servicesText)
	want := []lb.ServiceSpec{
		{
			Name: "tcp-192.0.2.1-80", Key: lb.ServiceKey{Proto: 6, Addr: addr("192.0.2.1"), Port: 80}, Scheduler: "wrr", MSS: 1400,
			Servers: []lb.RealSpec{
				{Key: lb.RealKey{Addr: addr("10.0.0.1"), Port: 80}, Weight: 1},
				{Key: lb.RealKey{Addr: addr("10.0.0.2"), Port: 8080}},
				{Key: lb.RealKey{Addr: addr("10.0.0.3"), Port: 80}, Weight: 1, Forward: lb.DR},
				{Key: lb.RealKey{Addr: addr("2001:db8::3"), Port: 80}, Weight: 1, Forward: lb.TUN},
				{Key: lb.RealKey{Addr: addr("10.0.0.4")}, Weight: 1},
			},
		},
		{
			Name: "udp-2001:db8::53-53", Key: lb.ServiceKey{Proto: 17, Addr: addr("2001:db8::53"), Port: 53, V6: true}, Scheduler: "rr", OnePacket: true,
			Servers: []lb.RealSpec{{Key: lb.RealKey{Addr: addr("10.0.0.1"), Port: 53}, Weight: 1, Forward: lb.TUN}},
		},
		{Name: "sip-signalling", Key: lb.ServiceKey{Proto: 132, Addr: addr("192.0.2.1"), Port: 5060}, Scheduler: "rr"},
		{
			Name: "fwmark-31", Key: lb.ServiceKey{Mark: 31}, Scheduler: "rr", OnePacket: true, MSS: lb.AutoMSS,
			Servers: []lb.RealSpec{
				{Key: lb.RealKey{Addr: addr("10.0.0.1"), Port: 81}, Weight: 1},
				{Key: lb.RealKey{Addr: addr("10.0.0.1")}, Weight: 1},
				{Key: lb.RealKey{Addr: addr("10.0.0.2"), Port: 82}, Weight: 1, Forward: lb.DR},
			},
		},
		{
			Name: "tcp-192.0.2.2-80", Key: lb.ServiceKey{Proto: 6, Addr: addr("192.0.2.2"), Port: 80}, Scheduler: "rr",
			SchedulerFlags: []string{"flag-1", "flag-3"}, Persistence: &lb.Persistence{Timeout: 300 * time.Second, Prefix: 32, Engine: "sip"},
		},
		{Name: "fwmark-31-ipv6", Key: lb.ServiceKey{Mark: 31, V6: true}, Scheduler: "rr"},
	}
	if diff := cmp.Diff(want, c.Spec.Services, same, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("services (-want +got)\n%s", diff)
	}
	marks := []lb.MarkRule{
		{Mark: 4294967295},
		{
			Mark: 31, Interface: "eth0", Proto: 17, Source: netip.MustParsePrefix("0.0.0.0/0"),
			Destination: netip.MustParsePrefix("203.0.113.7/32"), PortLow: 80, PortHigh: 443,
		},
		{Mark: 31, Proto: 132, Destination: netip.MustParsePrefix("2001:db8::/32"), PortLow: 5060, PortHigh: 5060},
	}
	if diff := cmp.Diff(marks, c.Spec.Marks, same); diff != "" {
		t.Errorf("marks (-want +got)\n%s", diff)
	}
}

const servicesText = `
interfaces: [{name: eth0, role: both}]
services:
- protocol: tcp
  address: 192.0.2.1
  port: 80
  scheduler: wrr
  mss: 1400
  servers:
  - address: 10.0.0.1
  - {address: 10.0.0.2, port: 8080, weight: 0, forward: nat}
  - {address: 10.0.0.3, port: 8080, forward: dr}   # the service's port, as ipvsadm makes it
  - {address: "2001:db8::3", forward: tun}
  - {address: 10.0.0.4, port: 0} # the packet's own
- {protocol: udp, address: "2001:db8::53", port: 53, scheduler: rr, forward: tun, one_packet: true, servers: [{address: 10.0.0.1, tunnel: {}}]}
- {protocol: sctp, address: 192.0.2.1, port: 5060, scheduler: rr, name: sip-signalling}
- {fwmark: 0x1f, scheduler: rr, one_packet: true, mss: auto, servers: [{address: 10.0.0.1, port: 81}, {address: 10.0.0.1}, {address: 10.0.0.2, port: 82, forward: dr}]}
# What makes no sense to anybody is taken all the same, as it may come from ipvsadm.
- {protocol: tcp, address: 192.0.2.2, port: 80, scheduler: rr, scheduler_flags: [flag-1, flag-3], persistence: {engine: sip}}
- {fwmark: 31, family: ipv6, scheduler: rr}
marks:
- {mark: 4294967295}
- {mark: 31, interface: eth0, protocol: udp, source: 0.0.0.0/0, destination: 203.0.113.7/32, ports: 80-443}
- {mark: 31, protocol: sctp, destination: "2001:db8::/32", ports: 5060}
`

// TestNode holds the rest of a file, each key with a value that is not its
// default.
func TestNode(t *testing.T) {
	c := mustParse(t, `
node: edge1
interfaces:
- {name: eth0, role: client, mode: zerocopy, queues: [1, 0], ring_size: 64}
- {name: eth1, role: server, queues: all}
workers: {cpus: [3, 2], batch: 256, idle: adaptive, idle_spin: 0, umem_frames: 0x2000, frame_size: 4096, huge_pages: require}
connections: {max: 7, timeouts: {tcp: 1h, udp: 2678400s}}
sysctl: {conn_reuse_mode: 9, pmtu_disc: -5, nat_icmp_send: 1, expire_nodest_conn: 1, sloppy_tcp: 1, sloppy_sctp: 1}
helpers: {ftp: {ports: [2121, 21]}}
slowpath:
  hand_back: {ring: 16, rate: 1, burst: 2}
  unresolved: {ring: 32, rate: 3, burst: 4}
  icmp: {ring: 65536, rate: 10000000, burst: 6}
  fragments: {ring: 64, rate: 7, burst: 8}
  reassembly: {memory: 1048576, share: 100, timeout: 1s, timeout6: 10m}
  helpers: {rate: 9, burst: 10}
  errors: {ratelimit: 0, ratemask: 0x10, msgs_per_sec: 7, msgs_burst: 8, ratelimit6: 2s, ratemask6: 1}
network:
  interfaces:
  - {name: eth0, mac: "02:00:00:00:00:01", mtu: 9000, addresses: [203.0.113.1/24, "fe80::1/64"]}
  - {name: eth0.100.7, addresses: [], vlan_protocol: 802.1q}
  - {name: eth0.100, vlan_protocol: "802.1ad"}
  routes: [{to: "::/0", via: "fe80::2"}]
  neighbors: [{address: 203.0.113.254, mac: 02-00-00-00-00-FE, interface: eth0.100}]
control: {socket: /tmp/s, listen: ""}
log: {level: debug, format: json}
`)
	mac := func(last byte) MAC { return MAC{2, 0, 0, 0, 0, last} }
	sysctl := lb.DefaultSysctl()
	sysctl.ConnReuseMode, sysctl.PMTUDisc = 9, -5
	sysctl.NATICMPSend, sysctl.ExpireNoDestConn, sysctl.SloppyTCP, sysctl.SloppySCTP = 1, 1, 1, 1
	want := &Config{
		Node: "edge1",
		Interfaces: []Interface{
			{Name: "eth0", Role: RoleClient, Mode: "zerocopy", Queues: []int{1, 0}, RingSize: 64},
			{Name: "eth1", Role: RoleServer, Mode: "auto", RingSize: 2048},
		},
		Workers: Workers{
			CPUs: []int{3, 2}, Batch: 256, Idle: "adaptive", UMEMFrames: 8192, FrameSize: 4096, HugePages: "require",
		},
		Connections: Connections{Max: 7},
		FTPPorts:    []uint16{2121, 21},
		Spec:        lb.Spec{Timeouts: lb.Timeouts{TCP: time.Hour, TCPFin: 120 * time.Second, UDP: 744 * time.Hour}, Sysctl: sysctl},
		SlowPath: SlowPath{
			HandBack: slowpath.Budget{Ring: 16, Rate: 1, Burst: 2}, Unresolved: slowpath.Budget{Ring: 32, Rate: 3, Burst: 4},
			ICMP: slowpath.Budget{Ring: 65536, Rate: 10_000_000, Burst: 6}, Fragments: slowpath.Budget{Ring: 64, Rate: 7, Burst: 8},
			Reassembly: Reassembly{Memory: 1 << 20, Share: 100, Timeout: time.Second, Timeout6: 10 * time.Minute},
			Helpers:    slowpath.Budget{Rate: 9, Burst: 10},
			Errors:     slowpath.ICMPLimits{Ratemask: 16, MsgsPerSec: 7, MsgsBurst: 8, Ratelimit6: 2 * time.Second, Ratemask6: slowpath.TypeSet{2}},
		},
		Network: Network{
			Interfaces: []NetworkInterface{
				{Name: "eth0", MAC: mac(1), MTU: 9000, Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("fe80::1/64")}},
				{Name: "eth0.100.7", Addresses: []netip.Prefix{}, VLANProtocol: 0x8100},
				{Name: "eth0.100", VLANProtocol: 0x88a8},
			},
			Routes:    []Route{{netip.MustParsePrefix("::/0"), netip.MustParseAddr("fe80::2")}},
			Neighbors: []Neighbor{{netip.MustParseAddr("203.0.113.254"), mac(0xfe), "eth0.100"}},
		},
		Control: Control{Socket: "/tmp/s"},
		Log:     Log{Level: "debug", Format: "json"},
	}
	if diff := cmp.Diff(want, c, same); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := c.Network.Neighbors[0].MAC.String(); got != "02:00:00:00:00:fe" {
		t.Errorf("the MAC reads %s", got)
	}
}

func TestSplitVLAN(t *testing.T) {
	for _, row := range []struct {
		link, nic string
		vlans     []uint16
	}{
		{"eth0", "eth0", nil},
		{"eth0.100", "eth0", []uint16{100}},
		{"eth0.100.7", "eth0", []uint16{100, 7}},
		{"eth0.1.2.3", "eth0.1", []uint16{2, 3}}, // two tags are what a frame may have
		{"eth0.0", "eth0.0", nil},
		{"eth0.4095", "eth0.4095", nil},
		{"eth0.4094", "eth0", []uint16{4094}},
		{"eth0.x", "eth0.x", nil},
		{".5", ".5", nil},
		{"", "", nil},
	} {
		if nic, vlans := SplitVLAN(row.link); nic != row.nic || !slices.Equal(vlans, row.vlans) {
			t.Errorf("SplitVLAN(%q) = %q, %v, want %q, %v", row.link, nic, vlans, row.nic, row.vlans)
		}
	}
}

// TestExample holds the annotated example: it is a file that works.
func TestExample(t *testing.T) {
	c, err := Load(deploy + "sluice.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(c.Spec.Services); n != 2 || c.Spec.Services[1].Key.Mark != 7 || c.Spec.Sysctl != lb.DefaultSysctl() || c.Node != "edge1" {
		t.Errorf("%d services, sysctls %v, node %s: want two, the defaults and edge1", n, c.Spec.Sysctl, c.Node)
	}
	if err := c.CheckRun(); err != nil {
		t.Error(err)
	}
}

// TestExampleSaysAll holds example and schema together: each key of the
// schema stands in the example, and each default is what stands there (in
// the first of several).
func TestExampleSaysAll(t *testing.T) {
	text, err := os.ReadFile(deploy + "sluice.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	examples := map[string]any{}
	collect(strict{newSource("")}, doc.Content[0], &root, "", examples)
	var walk func(keys []key, pattern string)
	walk = func(keys []key, pattern string) {
		for _, k := range keys {
			at := join(pattern, k.name)
			value, ok := examples[at]
			if !ok {
				t.Errorf("%s is not in the example", at)
			}
			if k.def != nil && !reflect.DeepEqual(value, k.def) {
				t.Errorf("%s is %v in the example and by default %v", at, value, k.def)
			}
			walk(k.shape.keys, at)
			if k.shape.each != nil {
				walk(k.shape.each.keys, at+"[]")
			}
		}
	}
	walk(root.keys, "")
}

// collect notes the first value that each key has in n.
func collect(s strict, n *yaml.Node, want *shape, pattern string, into map[string]any) {
	if _, ok := into[pattern]; !ok {
		into[pattern], _ = s.value(n, want, pattern, true)
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			collect(s, n.Content[i+1], &find(want.keys, n.Content[i].Value).shape, join(pattern, n.Content[i].Value), into)
		}
	case yaml.SequenceNode:
		for _, e := range n.Content {
			collect(s, e, want.each, pattern+"[]", into)
		}
	}
}

// TestSchedulers holds the names that a file may say to those that there are.
func TestSchedulers(t *testing.T) {
	for _, name := range schedulers {
		if !slices.Contains(sched.Names(), name) {
			t.Errorf("%s is no scheduler", name)
		}
	}
}

// TestFiles loads the example configurations, which are to run, and
// configurations as replays of recorded cases have them, which need not;
// the director takes them all.
func TestFiles(t *testing.T) {
	runnable, err1 := filepath.Glob(deploy + "examples/*.yaml")
	replays, err2 := filepath.Glob("testdata/replay/*.yaml")
	if err := errors.Join(err1, err2); err != nil || len(runnable) < 4 || len(replays) < 6 {
		t.Fatalf("%v, %d examples, %d replays", err, len(runnable), len(replays))
	}
	for _, file := range append(runnable, replays...) {
		c, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(c.Spec.Services) == 0 || len(c.Spec.Services[0].Servers) == 0 {
			t.Errorf("%s has no service with servers", file)
		}
		if _, err := lb.NewDirector(1).Apply(c.Spec); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if err := c.CheckRun(); err != nil && slices.Contains(runnable, file) {
			t.Error(err)
		}
	}
}

// TestLoadFails covers files that cannot be read.
func TestLoadFails(t *testing.T) {
	for _, path := range []string{"testdata/none.yaml", "testdata", ""} {
		c, err := Load(path)
		if err == nil || c != nil || !strings.HasPrefix(err.Error(), "read configuration: ") {
			t.Errorf("Load(%q) = %v, %v, want an error of reading it", path, c, err)
		}
		if errors.As(err, new(Errors)) {
			t.Errorf("Load(%q) blames the content: %v", path, err)
		}
	}
	odd := filepath.Join(t.TempDir(), "odd.conf") // YAML whatever its name
	if err := os.WriteFile(odd, []byte("node: x\nlog: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(odd); err == nil || err.Error() != odd+":2: log: 1, want a mapping with keys of level, format" {
		t.Errorf("Load(%q) = %v", odd, err)
	}
}
