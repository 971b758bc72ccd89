package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFaults holds each rule of the file to its message. A row is a whole
// file; what is wanted are all of its faults, in order, without the file's
// name.
func TestFaults(t *testing.T) {
	const eth = "interfaces: [{name: eth0, role: client}, {name: eth1, role: server}]\n"
	// svc is a file whose only service, in line 2, has these keys.
	svc := func(keys string) string {
		return "services:\n- {" + keys + "}\n"
	}
	web := func(more string) string {
		return svc("protocol: tcp, address: 192.0.2.1, port: 80, scheduler: rr, " + more)
	}
	rows := []struct {
		stake string
		text  string
		want  []string
	}{
		{"text that is not YAML", "node: [edge1\nlog: 1\n", []string{`1: not YAML: did not find expected ',' or ']'`}},
		{"a tab as indentation", "log:\n\tlevel: info\n", []string{`2: not YAML: found character that cannot start any token`}},
		{"the second of two documents would be ignored", "node: a\n---\nnode: b\n", []string{`2: a second YAML document, want one`}},
		{"a file that is a list", "- node: a\n", []string{`1: a list, want a mapping with keys of node, interfaces, workers, connections, sysctl, helpers, slowpath, marks, services, network, control, log`}},
		{"a misspelt key", "log: {leve1: info}\n", []string{`1: log.leve1: unknown key, want one of level, format`}},
		{"viper would take Level for level", "log: {Level: info}\n", []string{`1: log.Level: unknown key, want one of level, format`}},
		{"a key of odd characters stays in one line", "log: {\"a\\nb\": 1}\n", []string{`1: log."a\nb": unknown key, want one of level, format`}},
		{"a key that is no word", "log: {[a]: 1}\n", []string{`1: log: a list as a key, want a mapping with keys of level, format`}},
		{"the later of two keys would win", "log:\n  level: info\n  format: text\n  level: warn\n", []string{`4: log.level: duplicate key, first in line 2`}},
		{"merge keys are keys", "log: &l {level: info}\ncontrol:\n  <<: *l\n", []string{`3: control.<<: unknown key, want one of socket, listen`}},
		{"an alias", "node: &n a\ncontrol: {socket: *n}\n", []string{`2: control.socket: *n: aliases are not supported, write the value out`}},
		{"a key without a value", "node:\n", []string{`1: node: no value, want 1 to 64 printable characters without blanks (a number in quotes)`}},
		{"a name that YAML takes for a number", "node: 5\n", []string{`1: node: 5, want 1 to 64 printable characters without blanks (a number in quotes)`}},
		{"an unknown word", "log: {level: loud}\n", []string{`1: log.level: "loud" is unknown, want debug | info | warn | error`}},

		{"an interface without name and role", "interfaces: [{}]\n", []string{
			`1: interfaces[0].name: missing, want an interface name of 1 to 15 characters`,
			`1: interfaces[0].role: missing, want client | server | both`,
		}},
		{"an interface name too long for the kernel", "interfaces: [{name: abcdefghijklmnop, role: both}]\n", []string{`1: interfaces[0].name: "abcdefghijklmnop", want an interface name of 1 to 15 characters`}},
		{"an interface twice", "interfaces:\n- {name: eth0, role: client}\n- {name: eth0, role: server}\n", []string{`3: interfaces[1].name: interface eth0 is there twice, first in line 2`}},
		{"a ring that cannot be masked", "interfaces: [{name: eth0, role: both, ring_size: 1000}]\n", []string{`1: interfaces[0].ring_size: 1000 is not a power of two 64..32768`}},
		{"a queue twice", "interfaces: [{name: eth0, role: both, queues: [0, 1, 0]}]\n", []string{`1: interfaces[0].queues[2]: 0 is listed twice`}},
		{"no queue at all", "interfaces: [{name: eth0, role: both, queues: []}]\n", []string{`1: interfaces[0].queues: 0 elements, want 1..4096`}},
		{"a word for queues", "interfaces: [{name: eth0, role: both, queues: some}]\n", []string{`1: interfaces[0].queues: text "some", want all or a list, each a number 0..4095`}},
		{"not a mapping, and what comes after it keeps its index", "interfaces:\n- eth0\n- {name: eth1, role: none}\n", []string{
			`2: interfaces[0]: text "eth0", want a mapping with keys of name, role, mode, queues, ring_size`,
			`3: interfaces[1].role: "none" is unknown, want client | server | both`,
		}},

		{"a class that there is not", "slowpath: {host: {rate: 1}}\n", []string{`1: slowpath.host: unknown key, want one of hand_back, unresolved, icmp, fragments, reassembly, helpers, errors`}},
		{"a ring that cannot be masked, no rate and no burst", "slowpath:\n  icmp: {ring: 100, rate: 0, burst: 10000001}\n", []string{
			`2: slowpath.icmp.ring: 100 is not a power of two 16..65536`,
			`2: slowpath.icmp.rate: 0 is out of range, want 1..10000000`,
			`2: slowpath.icmp.burst: 10000001 is out of range, want 1..10000000`,
		}},
		{"reassembly out of bounds", "slowpath:\n  reassembly: {memory: 1000, share: 0, timeout: 30}\n", []string{
			`2: slowpath.reassembly.memory: 1000 is out of range, want 262144..1073741824`,
			`2: slowpath.reassembly.share: 0 is out of range, want 1..100`,
			`2: slowpath.reassembly.timeout: 30 has no unit, want a duration like 30s within 1s..10m`,
		}},
		{"the kernel's milliseconds", "slowpath:\n  errors:\n    ratelimit: 1000\n", []string{`3: slowpath.errors.ratelimit: 1000 has no unit, want a duration like 1s within 0s..1m`}},
		{"types beyond a byte", "slowpath: {errors: {ratemask6: \"1-300\"}}\n", []string{`1: slowpath.errors.ratemask6: "1-300" is not a range of ICMP types within 0-255`}},

		{"two workers on a CPU", "workers: {cpus: [2, 2]}\n", []string{`1: workers.cpus[1]: 2 is listed twice`}},
		{"batch out of range", "workers:\n  batch: 257\n", []string{`2: workers.batch: 257 is out of range, want 1..256`}},
		{"batch is a whole number", "workers: {batch: 6.4}\n", []string{`1: workers.batch: 6.4, want a number 1..256`}},
		{"a number in quotes", "workers: {batch: \"64\"}\n", []string{`1: workers.batch: text "64", want a number 1..256`}},
		{"a number beyond 64 bits", "workers: {batch: 9223372036854775808}\n", []string{`1: workers.batch: 9223372036854775808 is out of range, want 1..256`}},
		{"016 is 14 to some readers", "workers: {batch: 016}\n", []string{`1: workers.batch: 016 is not decimal, want 1..256 without leading zeros`}},
		{"a duration without unit", "workers: {idle_spin: 50}\n", []string{`1: workers.idle_spin: 50 has no unit, want a duration like 1ms within 0s..1s`}},
		{"a duration of no sense", "workers: {idle_spin: soon}\n", []string{`1: workers.idle_spin: "soon", want a duration like 1ms within 0s..1s`}},
		{"frame size", "workers: {frame_size: 1024}\n", []string{`1: workers.frame_size: "1024" is unknown, want 2048 | 4096`}},
		{"UMEM too small for the rings", eth + "workers: {umem_frames: 4096}\n", []string{`2: workers.umem_frames: 4096 UMEM frames cannot keep the fill and tx rings of 2 interfaces full, want workers.umem_frames of at least 8192`}},
		{"rings too large for the UMEM's default", "interfaces: [{name: eth0, role: both, ring_size: 16384}]\n", []string{`1: interfaces[0].ring_size: 16384 UMEM frames cannot keep the fill and tx rings of 1 interfaces full, want workers.umem_frames of at least 32768`}},
		{"a UMEM beyond 4 GiB", "workers: {umem_frames: 1048576, frame_size: 4096}\n", []string{`1: workers.umem_frames: 1048576 frames of 4096 bytes are more than a UMEM holds, want at most 524288`}},
		{"more connections than a table can number", "workers: {cpus: [1, 2]}\nconnections: {max: 33554432}\n", []string{`2: connections.max: 33554432 is out of range for 2 workers, want 1..33554430`}},
		{"no connections", "connections: {max: 0}\n", []string{`1: connections.max: 0 is out of range, want 1..1073741824`}},
		{"timeouts are whole seconds, up to ipvsadm's 31 days", "connections:\n  timeouts:\n    tcp: 1500ms\n    tcp_fin: -1s\n    udp: 745h\n", []string{
			`3: connections.timeouts.tcp: 1500ms is not a multiple of 1s`,
			`4: connections.timeouts.tcp_fin: -1s is out of range, want 0s..744h`,
			`5: connections.timeouts.udp: 745h is out of range, want 0s..744h`,
		}},

		{"a sysctl out of the kernel's range", "sysctl: {sync_version: 2}\n", []string{`1: sysctl.sync_version: 2 is out of range, want 0..1`}},
		{"yes is no number", "sysctl: {sloppy_tcp: yes}\n", []string{`1: sysctl.sloppy_tcp: text "yes", want a number -2147483648..2147483647`}},
		{"a number that the kernel keeps in 32 bits", "sysctl: {sloppy_tcp: 2147483648}\n", []string{`1: sysctl.sloppy_tcp: 2147483648 is out of range, want -2147483648..2147483647`}},
		{"a time that the kernel keeps in ticks", "sysctl: {lblc_expiration: 21474837}\n", []string{`1: sysctl.lblc_expiration: 21474837 is out of range, want -21474836..21474836`}},
		{"modes of a defence", "sysctl: {drop_entry: 4}\n", []string{`1: sysctl.drop_entry: 4 is out of range, want 0..3`}},
		{"a threshold above its period", "sysctl: {sync_threshold: [50, 3]}\n", []string{
			`1: sysctl.sync_threshold: [50, 3]: the threshold reaches the period, want a smaller one (or period 0)`,
		}},
		{"a threshold without its period", "sysctl: {sync_threshold: [3]}\n", []string{`1: sysctl.sync_threshold: 1 elements, want 2`}},
		{"three sync ports", "sysctl: {sync_ports: 3}\n", []string{`1: sysctl.sync_ports: 3 is not a power of two 1..1073741824`}},
		{"helpers of nobody", "helpers: {sip: {}}\n", []string{`1: helpers.sip: unknown key, want one of ftp`}},
		{"a helper has no ring", "slowpath: {helpers: {ring: 16}}\n", []string{`1: slowpath.helpers.ring: unknown key, want one of rate, burst`}},
		{"nine FTP ports, where the kernel has eight", "helpers: {ftp: {ports: [1, 2, 3, 4, 5, 6, 7, 8, 9]}}\n", []string{
			`1: helpers.ftp.ports: 9 elements, want 1..8`,
		}},

		{"a mark rule without mark", "marks: [{protocol: tcp}]\n", []string{`1: marks[0].mark: missing, want a number 1..4294967295`}},
		{"mark 0 is no mark", "marks: [{mark: 0}]\n", []string{`1: marks[0].mark: 0 is out of range, want 1..4294967295`}},
		{"a network with host bits", "marks: [{mark: 1, source: 10.0.0.1/24}]\n", []string{`1: marks[0].source: 10.0.0.1/24 has host bits, want 10.0.0.0/24`}},
		{"a mark rule of two families", "marks: [{mark: 1, source: 10.0.0.0/24, destination: \"2001:db8::/32\"}]\n", []string{`1: marks[0].destination: 2001:db8::/32 is of another address family than source 10.0.0.0/24`}},
		{"ports the wrong way round", "marks: [{mark: 1, ports: 443-80}]\n", []string{`1: marks[0].ports: "443-80", want a port or a range like 80-443 within 1..65535`}},
		{"a mark of an interface that nobody reads", eth + "marks: [{mark: 1, interface: eth7}]\n", []string{`2: marks[0].interface: eth7 is not among interfaces, want eth0 | eth1 or a VLAN of it like eth0.100`}},

		{"a service that is nothing", svc("scheduler: rr"), []string{
			`2: services[0].protocol: missing, want tcp | udp | sctp (or an fwmark)`,
			`2: services[0].address: missing, want an IPv4 or IPv6 address (or an fwmark)`,
			`2: services[0].port: missing, want a number 0..65535 (or an fwmark)`,
		}},
		{"a service by mark and by address", svc("fwmark: 7, protocol: tcp, scheduler: rr"), []string{`2: services[0].protocol: cannot be with fwmark: a service is known by the one or by protocol, address and port`}},
		{"the family of an address", web("family: ipv4"), []string{`2: services[0].family: is for fwmark services only: an address has its own family`}},
		{
			"a service twice, in other words", "services:\n- {protocol: tcp, address: \"2001:db8::1\", port: 80, scheduler: rr}\n- {name: b, protocol: tcp, address: \"2001:DB8:0::1\", port: 0x50, scheduler: wrr}\n",
			[]string{`3: services[1].address: service TCP [2001:db8::1]:80 is there twice, first in line 2`},
		},
		{
			"a mark service twice", "services:\n- {fwmark: 7, scheduler: rr}\n- {fwmark: 7, family: ipv6, scheduler: rr}\n- {fwmark: 7, family: ipv4, scheduler: rr}\n",
			[]string{`4: services[2].fwmark: service FWM 7 is there twice, first in line 2`},
		},
		{"a service name twice", "services:\n- {name: a, fwmark: 7, scheduler: rr}\n- {name: a, fwmark: 8, scheduler: rr}\n", []string{`3: services[1].name: service name a is there twice, first in line 2`}},
		{"a given name that another service has by default", "services:\n- {name: fwmark-8, fwmark: 7, scheduler: rr}\n- {fwmark: 8, scheduler: rr}\n", []string{`3: services[1].name: service name fwmark-8 is there twice, first in line 2`}},
		{"a multicast VIP", svc("protocol: udp, address: 239.0.0.1, port: 53, scheduler: rr"), []string{`2: services[0].address: 239.0.0.1 is a multicast address, want a unicast address`}},
		{"an IPv4 address that is written as IPv6", svc(`protocol: udp, address: "::ffff:192.0.2.1", port: 53, scheduler: rr`), []string{`2: services[0].address: ::ffff:192.0.2.1 is an IPv4 address in IPv6 form, want 192.0.2.1`}},
		{"a host name", svc("protocol: udp, address: localhost, port: 53, scheduler: rr"), []string{`2: services[0].address: "localhost", want an IPv4 or IPv6 address`}},
		{"no scheduler at all", svc("fwmark: 7, scheduler: random"), []string{`2: services[0].scheduler: "random" is unknown, want rr | wrr | lc | wlc | lblc | lblcr | dh | sh | sed | nq | fo | ovf | mh | twos | none`}},
		{"flags of another scheduler", web("scheduler_flags: [sh-port]"), []string{
			`2: services[0].scheduler_flags[0]: sh-port is a flag of scheduler sh, not of rr`,
		}},
		{"K-SVC-6: every port, but each connection for itself", svc("protocol: tcp, address: 192.0.2.1, port: 0, scheduler: rr"), []string{`2: services[0].port: 0 means every port, which only a persistent service can have, want 1..65535 or a persistence section`}},
		{"an empty persistence could mean on or off", web("persistence: "), []string{`2: services[0].persistence: no value, want a mapping with keys of timeout, netmask, engine`}},
		{"K-PERS-3: a mask for IPv6", svc(`protocol: udp, address: "2001:db8::1", port: 53, scheduler: rr, persistence: {netmask: 255.255.0.0}`), []string{
			`2: services[0].persistence.netmask: 255.255.0.0 is a mask of IPv4, want 1..128`,
		}},
		{"a mask of nothing known", web("persistence: {netmask: wide}"), []string{
			`2: services[0].persistence.netmask: "wide", want a prefix length 1..128, or a mask of IPv4 like 255.255.255.0`,
		}},
		{"K-PERS-3: prefix of the other family", web("persistence: {netmask: 64}"), []string{
			`2: services[0].persistence.netmask: 64 is out of range for IPv4, want 1..32`,
		}},
		{"K-CONN-8: one-packet scheduling of TCP", web("one_packet: true"), []string{`2: services[0].one_packet: true is for udp and fwmark services only, want false`}},
		{"a segment size of UDP", svc("protocol: udp, address: 192.0.2.1, port: 53, scheduler: rr, mss: auto"), []string{`2: services[0].mss: auto is for tcp and fwmark services only, want it left out`}},
		{"a segment size that no TCP takes", web("mss: 87"), []string{`2: services[0].mss: 87 is out of range, want 88..65495`}},
		{"a segment size in words", web("mss: large"), []string{`2: services[0].mss: text "large", want auto | a number 88..65495`}},
		{"YAML 1.1's other booleans", web("one_packet: yes"), []string{`2: services[0].one_packet: text "yes", want true | false`}},

		{"a server without address", web("servers: [{}]"), []string{`2: services[0].servers[0].address: missing, want an IPv4 or IPv6 address`}},
		{"a key for a server elsewhere", web("servers: [{address: 10.0.0.1, scheduler: rr}]"), []string{`2: services[0].servers[0].scheduler: unknown key, want one of address, port, weight, forward, tunnel, upper_threshold, lower_threshold`}},
		{"weight out of range", web("servers: [{address: 10.0.0.1, weight: -1}, {address: 10.0.0.2, weight: 2147483648}]"), []string{
			`2: services[0].servers[0].weight: -1 is out of range, want 0..2147483647`,
			`2: services[0].servers[1].weight: 2147483648 is out of range, want 0..2147483647`,
		}},
		{"K-DST-1: a server twice, once by the default port", web("servers: [{address: 10.0.0.1}, {address: 10.0.0.1, port: 80}]"), []string{`2: services[0].servers[1].address: server 10.0.0.1:80 is there twice, first in line 2`}},
		{"DR ports are forced, so these two are one", web("forward: dr, servers: [{address: 10.0.0.1, port: 81}, {address: 10.0.0.1, port: 82}]"), []string{`2: services[0].servers[1].address: server 10.0.0.1:80 is there twice, first in line 2`}},
		{"K-DST-3: a multicast server", web("servers: [{address: 224.0.0.1}]"), []string{`2: services[0].servers[0].address: 224.0.0.1 is a multicast address, want a unicast address`}},
		{"K-DST-3: a broadcast server", web("servers: [{address: 255.255.255.255}]"), []string{`2: services[0].servers[0].address: 255.255.255.255 is the broadcast address, want a unicast address`}},
		{"K-PROTO-V6: a link-local server", svc(`fwmark: 7, family: ipv6, scheduler: rr, servers: [{address: "fe80::1"}]`), []string{`2: services[0].servers[0].address: fe80::1 is a link-local address, want a unicast address`}},
		{"a server with a zone", svc(`fwmark: 7, family: ipv6, scheduler: rr, servers: [{address: "fe80::1%eth0"}]`), []string{`2: services[0].servers[0].address: fe80::1%eth0 has a zone, want a unicast address`}},
		{"K-PROTO-MIX: families mixed without a tunnel", web(`servers: [{address: "2001:db8::1"}]`), []string{`2: services[0].servers[0].address: 2001:db8::1 is IPv6 and the service is not: only forward tun can do that`}},
		{"K-PROTO-MIX: and of a mark service", svc(`fwmark: 7, family: ipv6, scheduler: rr, forward: dr, servers: [{address: 10.0.0.1}]`), []string{`2: services[0].servers[0].address: 10.0.0.1 is IPv4 and the service is not: only forward tun can do that`}},
		{"K-DST-3: lower above upper", web("servers: [{address: 10.0.0.1, upper_threshold: 5, lower_threshold: 6}]"), []string{
			`2: services[0].servers[0].lower_threshold: 6 is above upper_threshold 5, want at most that`,
		}},
		{"local is for the kernel to choose", web("forward: local"), []string{`2: services[0].forward: "local" is unknown, want nat | dr | tun`}},
		{"K-FWD-TUN-FLAGS: gue needs a port", web("forward: tun, tunnel: {type: gue}"), []string{
			`2: services[0].tunnel.port: a gue tunnel needs its port, want 1..65535`,
		}},
		{"K-FWD-TUN-FLAGS: ipip has neither port nor checksum", web("servers: [{address: 10.0.0.1, forward: tun, tunnel: {port: 6080, checksum: csum}}]"), []string{
			`2: services[0].servers[0].tunnel.port: 6080: only a gue tunnel has a port, want 0`,
			`2: services[0].servers[0].tunnel.checksum: an ipip tunnel has no checksum, want none`,
		}},
		{"K-FWD-TUN-FLAGS: gre has no remote checksum", web("forward: tun, tunnel: {type: gre, checksum: remcsum}"), []string{
			`2: services[0].tunnel.checksum: a gre tunnel has no remote checksum, want none | csum`,
		}},

		{"a link twice", eth + "network:\n  interfaces: [{name: eth0}, {name: eth0}]\n", []string{`3: network.interfaces[1].name: interface eth0 is there twice, first in line 3`}},
		{"a link of no NIC", eth + "network:\n  interfaces: [{name: eth2.100}]\n", []string{`3: network.interfaces[0].name: eth2.100 is not among interfaces, want eth0 | eth1 or a VLAN of it like eth0.100`}},
		{"a neighbour where there are no NICs", "network:\n  neighbors: [{address: 10.0.0.1, mac: \"02:00:00:00:00:01\", interface: eth0}]\n", []string{`2: network.neighbors[0].interface: eth0 is not among interfaces, which are none`}},
		{"a multicast MAC", eth + "network: {interfaces: [{name: eth0, mac: \"01:00:5e:00:00:01\"}]}\n", []string{`2: network.interfaces[0].mac: 01:00:5e:00:00:01 is not the address of a station (multicast or zero)`}},
		{"a MAC of another kind", eth + "network: {interfaces: [{name: eth0, mac: \"02:00:00:00:01\"}]}\n", []string{`2: network.interfaces[0].mac: "02:00:00:00:01", want an Ethernet address like "02:00:00:00:00:01"`}},
		{"an MTU that IPv4 does not know", eth + "network: {interfaces: [{name: eth0, mtu: 67}]}\n", []string{`2: network.interfaces[0].mtu: 67 is out of range, want 68..65535`}},
		{"an address without its length", eth + "network: {interfaces: [{name: eth0, addresses: [10.0.0.1]}]}\n", []string{`2: network.interfaces[0].addresses[0]: "10.0.0.1", want an address with its prefix length like 10.0.1.1/24`}},
		{"a VLAN's protocol of a NIC", eth + "network:\n  interfaces:\n  - {name: eth0, vlan_protocol: 802.1ad}\n", []string{`4: network.interfaces[0].vlan_protocol: eth0 is no VLAN: leave it out, or want a name like eth0.100`}},
		{"a VLAN of another protocol", eth + "network: {interfaces: [{name: eth0.5, vlan_protocol: 802.1x}]}\n", []string{`2: network.interfaces[0].vlan_protocol: "802.1x" is unknown, want 802.1q | 802.1ad`}},
		{"a route twice", "network:\n  routes:\n  - {to: 0.0.0.0/0, via: 10.0.0.1}\n  - {to: 0.0.0.0/0, via: 10.0.0.2}\n", []string{`4: network.routes[1].to: route to 0.0.0.0/0 is there twice, first in line 3`}},
		{"a route through the other family", "network: {routes: [{to: 0.0.0.0/0, via: \"fe80::1\"}]}\n", []string{`1: network.routes[0].via: fe80::1 is of another address family than 0.0.0.0/0`}},
		{
			"a neighbour twice", eth + "network:\n  neighbors:\n  - {address: 10.0.0.1, mac: \"02:00:00:00:00:01\", interface: eth0}\n  - {address: 10.0.0.1, mac: \"02:00:00:00:00:02\", interface: eth1}\n  - {address: 10.0.0.1, mac: \"02:00:00:00:00:02\", interface: eth0}\n",
			[]string{`6: network.neighbors[2].address: neighbor 10.0.0.1 on eth0 is there twice, first in line 4`},
		},

		{"a socket in no certain folder", "control: {socket: control.sock}\n", []string{`1: control.socket: "control.sock", want an absolute path of at most 107 bytes`}},
		{"a port alone", "control: {listen: \"9110\"}\n", []string{`1: control.listen: "9110", want ADDRESS:PORT like 127.0.0.1:9110, [::1]:9110 or :9110, or ""`}},
		{"a name to listen on", "control: {listen: \"localhost:9110\"}\n", []string{`1: control.listen: "localhost:9110", want ADDRESS:PORT like 127.0.0.1:9110, [::1]:9110 or :9110, or ""`}},

		{"all faults of a file come at once, in the order of lines", "log: {level: loud}\nworkers:\n  batch: 0\n" + strings.Replace(web("servers: [{address: 10.0.0.1}, {address: 10.0.0.1}]"), "rr,", "rx,", 1) + "control: {socket: x, port: 1}\n", []string{
			`1: log.level: "loud" is unknown, want debug | info | warn | error`,
			`3: workers.batch: 0 is out of range, want 1..256`,
			`5: services[0].scheduler: "rx" is unknown, want rr | wrr | lc | wlc | lblc | lblcr | dh | sh | sed | nq | fo | ovf | mh | twos | none`,
			`5: services[0].servers[1].address: server 10.0.0.1:80 is there twice, first in line 5`,
			`6: control.socket: "x", want an absolute path of at most 107 bytes`,
			`6: control.port: unknown key, want one of socket, listen`,
		}},
	}
	for _, row := range rows {
		t.Run(row.stake, func(t *testing.T) {
			c, err := Parse("f.yaml", []byte(row.text))
			var faults Errors
			if !errors.As(err, &faults) || c != nil {
				t.Fatalf("Parse gives %v, %v, want only Errors of\n%s", c, err, row.text)
			}
			want := "f.yaml:" + strings.Join(row.want, "\nf.yaml:")
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Errorf("%s(-want +got)\n%s", row.text, diff)
			}
		})
	}
}

// TestErrorText covers the forms without line and key.
func TestErrorText(t *testing.T) {
	for want, e := range map[string]Error{
		"f: all wrong":       {File: "f", Message: "all wrong"},
		"f:7: all wrong":     {File: "f", Line: 7, Message: "all wrong"},
		"f: node: all wrong": {File: "f", Key: "node", Message: "all wrong"},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%#v reads %q, want %q", e, got, want)
		}
	}
}
