package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckRun(t *testing.T) {
	const nat = "services: [{fwmark: 1, scheduler: rr, servers: [{address: 10.0.0.1}]}]\n"
	const dr = "services: [{fwmark: 1, scheduler: rr, forward: dr, servers: [{address: 10.0.0.1}]}]\n"
	for _, row := range []struct {
		stake, text, want string
	}{
		{"nothing to read from", "services: []\n", "f.yaml: interfaces: missing, want the NICs whose queues the fast path reads"},
		{"no way in", "node: a\ninterfaces: [{name: eth0, role: server}]\n", "f.yaml:2: interfaces: none has role client or both: no request could enter"},
		{"no way back", nat + "interfaces: [{name: eth0, role: client}]\n", "f.yaml:2: interfaces: none has role server or both: the replies of NAT servers could not enter"},
		{"DR needs no way back", dr + "interfaces: [{name: eth0, role: client}]\n", ""},
		{"one arm", nat + "interfaces: [{name: eth0, role: both}]\n", ""},
		{"two arms", nat + "interfaces: [{name: eth0, role: client}, {name: eth1, role: server}]\n", ""},
	} {
		got := ""
		if err := mustParse(t, row.text).CheckRun(); err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%s: CheckRun says %q, want %q", row.stake, got, row.want)
		}
	}
}

// TestCheckReload changes each key by itself.
func TestCheckReload(t *testing.T) {
	const base = `node: a
interfaces: [{name: eth0, role: both}]
workers: {cpus: [1], batch: 64, idle: spin, idle_spin: 1ms, umem_frames: 16384, frame_size: 2048, huge_pages: auto}
connections: {max: 100, timeouts: {tcp: 900s}}
sysctl: {sloppy_tcp: 0}
services: [{fwmark: 1, scheduler: rr}]
marks: [{mark: 1, ports: 80}]
network: {interfaces: [{name: eth0, mtu: 1500}], routes: [{to: 0.0.0.0/0, via: 10.0.0.1}], neighbors: [{address: 10.0.0.1, mac: "02:00:00:00:00:01", interface: eth0}]}
control: {socket: /run/a, listen: ":1"}
log: {level: info, format: text}
slowpath: {icmp: {rate: 10}}
`
	for _, row := range []struct{ was, is, want string }{
		{"node: a", "node: b", "1: node: changed from a to b, which needs a restart"},
		{"role: both", "role: client", "2: interfaces: changed, which needs a restart"},
		{"name: eth0, role: both", "name: eth0, role: both, queues: [0]", "2: interfaces: changed, which needs a restart"},
		{"cpus: [1]", "cpus: [2]", "3: workers.cpus: changed, which needs a restart"},
		{"cpus: [1]", "cpus: auto", "3: workers.cpus: changed, which needs a restart"},
		{"batch: 64", "batch: 32", "3: workers.batch: changed from 64 to 32, which needs a restart"},
		{"batch: 64, ", "", ""},
		{"idle: spin", "idle: adaptive", "3: workers.idle: changed from spin to adaptive, which needs a restart"},
		{"idle_spin: 1ms", "idle_spin: 2ms", "3: workers.idle_spin: changed from 1ms to 2ms, which needs a restart"},
		{"umem_frames: 16384", "umem_frames: 32768", "3: workers.umem_frames: changed from 16384 to 32768, which needs a restart"},
		{"frame_size: 2048", "frame_size: 4096", "3: workers.frame_size: changed from 2048 to 4096, which needs a restart"},
		{"huge_pages: auto", "huge_pages: off", "3: workers.huge_pages: changed from auto to off, which needs a restart"},
		{"max: 100", "max: 101", "4: connections.max: changed from 100 to 101, which needs a restart"},
		{"tcp: 900s", "tcp: 800s", ""},
		{"sloppy_tcp: 0", "sloppy_tcp: 1", ""},
		{"scheduler: rr", "scheduler: wrr", ""},
		{"ports: 80", "ports: 81", ""},
		{"mtu: 1500", "mtu: 1400", "8: network.interfaces: changed, which needs a restart"},
		{"via: 10.0.0.1", "via: 10.0.0.2", "8: network.routes: changed, which needs a restart"},
		{"00:01", "00:02", "8: network.neighbors: changed, which needs a restart"},
		{"/run/a", "/run/b", "9: control.socket: changed from /run/a to /run/b, which needs a restart"},
		{`":1"`, `""`, `9: control.listen: changed from :1 to "", which needs a restart`},
		{"level: info", "level: debug", ""},
		{"rate: 10", "rate: 11", "11: slowpath: changed, which needs a restart"},
		{"format: text", "format: json", "10: log.format: changed from text to json, which needs a restart"},
	} {
		text := strings.Replace(base, row.was, row.is, 1)
		if text == base {
			t.Fatalf("%q is not in the file", row.was)
		}
		got := ""
		if err := mustParse(t, base).CheckReload(mustParse(t, text)); err != nil {
			got = err.Error()
		}
		want := row.want
		if want != "" {
			want = "f.yaml:" + want
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q → %q (-want +got)\n%s", row.was, row.is, diff)
		}
	}
	// A key that the new file leaves out stands in no line.
	err := mustParse(t, base).CheckReload(mustParse(t, strings.Replace(base, "node: a\n", "", 1)))
	if err == nil || !strings.HasPrefix(err.Error(), "f.yaml: node: changed from a to ") {
		t.Errorf("without node: %v", err)
	}
}
