package main

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/internal/ipvsadm"
)

// everything is a file in which no section has its defaults.
const everything = `
node: "edge:1"
interfaces: [{name: eth0, role: client, mode: driver, queues: [0, 3], ring_size: 1024}, {name: eth1, role: both}]
workers: {cpus: [2, 3], batch: 32, idle: adaptive, idle_spin: 70us, umem_frames: 32768, frame_size: 4096, huge_pages: "off"}
connections: {max: 1000, timeouts: {tcp: 100s, tcp_fin: 20s, udp: 30s}}
sysctl: {sloppy_tcp: 1, drop_packet: 3, pmtu_disc: 0}
marks:
  - {mark: 7, interface: eth0, protocol: tcp, source: 10.0.0.0/8, destination: 203.0.113.7/32, ports: 80-443}
  - {mark: 8, destination: "2001:db8::/32"}
services:
  - {name: "a:b", protocol: udp, address: "2001:db8::1", port: 53, scheduler: mh, scheduler_flags: [mh-port], one_packet: true,
     servers: [{address: "2001:db8:1::1", weight: 3, upper_threshold: 9, lower_threshold: 2}, {address: 10.0.0.1, forward: tun}]}
  - {fwmark: 7, scheduler: rr, mss: auto, persistence: {timeout: 90s, netmask: 24}, forward: dr, servers: [{address: 10.0.0.2}]}
  - {protocol: tcp, address: 192.0.2.1, port: 80, mss: 1400, servers: []}
network:
  interfaces: [{name: eth0, mac: "02:00:00:00:00:01", mtu: 1400, addresses: [203.0.113.1/24]}, {name: eth1.7, addresses: []}]
  routes: [{to: 0.0.0.0/0, via: 203.0.113.254}]
  neighbors: [{address: 203.0.113.254, mac: "02:00:00:00:00:fe", interface: eth0}]
control: {socket: /tmp/x.sock, listen: ""}
log: {level: debug, format: json}
`

// What is saved loads as what was saved.
func TestSaveRoundTrip(t *testing.T) {
	configs := map[string]*config.Config{}
	c, err := config.Parse("everything", []byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	configs["everything"] = c
	examples, err := filepath.Glob("../../deploy/examples/*.yaml")
	if err != nil || len(examples) < 4 {
		t.Fatalf("%d examples, %v", len(examples), err)
	}
	for _, file := range examples {
		if configs[file], err = config.Load(file); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range configs {
		var b strings.Builder
		if err := config.Write(&b, c, ipvsadm.WriteServices); err != nil {
			t.Fatal(err)
		}
		again, err := config.Parse("saved", []byte(b.String()))
		if err != nil {
			t.Errorf("%s: saved, it does not load: %v\n%s", name, err, b.String())
			continue
		}
		if diff := cmp.Diff(c, again, cmpopts.IgnoreUnexported(config.Config{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: saved and loaded again it differs\n%s\n%s", name, diff, b.String())
		}
	}
}
