package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// bonded is a network in which the director is tied to its servers' switch by two
// cables, those of its bond0. This kernel may have no bonding, so a bridge stands for
// it, and one for the switch; the ports of both are isolated, so that nothing goes
// round.
func bonded(t *testing.T) *testnet.Network {
	t.Helper()
	cable := func(name string) testnet.Link {
		return testnet.Link{
			A: testnet.End{In: "director", Name: name, RxQueues: 2, TxQueues: 2},
			B: testnet.End{In: "rack", Name: name, RxQueues: 2, TxQueues: 2},
		}
	}
	n := testnet.New(t, testnet.Plan{Links: []testnet.Link{
		{
			A: testnet.End{In: "client", Name: "eth0", Addrs: []string{"10.0.1.10/24", "fd00:1::10/64"}, RxQueues: 2, TxQueues: 2},
			B: testnet.End{In: "director", Name: "eth0", Addrs: []string{"10.0.1.1/24", "fd00:1::1/64"}, RxQueues: 2, TxQueues: 2},
		},
		cable("m0"), cable("m1"), cable("m2"),
		{A: testnet.End{In: "director", Name: "short", RxQueues: 1}, B: testnet.End{In: "rack", Name: "short"}},
	}})
	ip(t, n.In("client"), "route add default via 10.0.1.1")
	ip(t, n.In("client"), "-6 route add default via fd00:1::1")
	for in, host := range map[string]string{"director": "1", "rack": "11"} {
		s := n.In(in)
		ip(t, s, "link add bond0 address 02:00:00:00:02:0"+host[:1]+" type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
		ip(t, s, "link set bond0 up")
		ip(t, s, "addr add 10.0.2."+host+"/24 dev bond0")
		ip(t, s, "addr add fd00:2::"+host+"/64 dev bond0 nodad")
	}
	ip(t, n.In("rack"), "link set bond0 address 02:00:00:00:02:0b")
	ip(t, n.In("rack"), "route add default via 10.0.2.1")
	ip(t, n.In("rack"), "-6 route add default via fd00:2::1")
	for _, m := range []string{"m0", "m1", "m2"} {
		enslave(t, n.In("rack"), m)
	}
	enslave(t, n.In("director"), "m0")
	enslave(t, n.In("director"), "m1")
	return n
}

// enslave makes an interface a member of bond0.
func enslave(t *testing.T, s *testnet.Namespace, dev string) {
	t.Helper()
	ip(t, s, "link set "+dev+" master bond0")
	ip(t, s, "link set "+dev+" type bridge_slave isolated on")
}

// bondOf waits until the director's bond has members like these: "m0> m1" is one that
// sends and one that does not.
func (d *director) bond(want string) control.Interface {
	d.t.Helper()
	var last control.Interface
	if err := d.await(patience, "the bond has the members "+want, func() bool {
		last = d.status().Interfaces[1]
		var got []string
		for _, m := range last.Members {
			got = append(got, m.Name+map[bool]string{true: ">", false: ""}[m.Sends])
		}
		slices.Sort(got)
		return strings.Join(got, " ") == want
	}); err != nil {
		d.t.Fatalf("%v; it has %+v", err, last.Members)
	}
	return last
}

// A bond: packets come in by all members and leave by those in use; members leave and
// join under traffic, which goes on; nothing of one that left is left on it.
func TestBond(t *testing.T) {
	n := bonded(t)
	host := n.In("director")
	echoTCP(t, n.In("rack"), ":80")
	echoUDP(t, n.In("rack"), ":80")
	d := startBuild(t, n, `
interfaces: [{name: eth0, role: client}, {name: bond0, role: server}]
workers: {idle: adaptive, umem_frames: 32768}
services:
  - {protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, servers: [{address: 10.0.2.11}]}
  - {protocol: tcp, address: "2001:db8::10", port: 80, scheduler: rr, servers: [{address: "fd00:2::11"}]}
  - {protocol: udp, address: 203.0.113.10, port: 80, scheduler: rr, servers: [{address: 10.0.2.11}]}
`, bridged)
	if i := d.bond("m0> m1>"); i.Name != "bond0" || i.MAC != "02:00:00:00:02:01" || i.Bond == "" || len(i.Queues) != 2 {
		t.Errorf("the bond is %+v, want its own MAC address and 2 queues", i)
	}
	var living []net.Conn
	for k := range 24 {
		c, err := n.In("client").DialContext(t.Context(), "tcp", []string{"203.0.113.10:80", "[2001:db8::10]:80"}[k%2])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		living = append(living, c)
	}
	talk := func(when string) {
		t.Helper()
		for i, c := range living {
			_ = c.SetDeadline(time.Now().Add(patience))
			var got [5]byte
			_, err := c.Write([]byte("hello"))
			if err == nil {
				_, err = c.Read(got[:])
			}
			if err != nil || string(got[:]) != "hello" {
				t.Fatalf("%s: connection %d: %q, %v", when, i, got, err)
			}
		}
	}
	talk("with both members")
	sent := func(of string) uint64 { return carried(t, host, of) }
	if a, b := sent("m0"), sent("m1"); a < 10 || b < 10 {
		t.Errorf("the members sent %d and %d packets, want a share each", a, b)
	}

	flood := make(chan int)
	stop := make(chan struct{})
	stream := newCounted(t, n.In("client"), "203.0.113.10:80", 1<<20)
	go func() {
		k := 0
		for ; ; k++ {
			select {
			case <-stop:
				flood <- k
				return
			default:
				_ = stream.send()
				time.Sleep(200 * time.Microsecond)
			}
		}
	}()
	d.membersLeft = true
	for round, step := range []struct{ command, want string }{
		{"link set m0 nomaster", "m1>"}, // its socket is that of the UMEM
		{"link set m2 master bond0", "m1> m2>"},
		{"link set m1 nomaster", "m2>"},
		{"link set m0 master bond0", "m0> m2>"},
		{"link set m0 down", "m0 m2>"},
		{"link set m0 up", "m0> m2>"},
		{"link set m1 master bond0", "m0> m1> m2>"},
		{"link del m2", "m0> m1>"},
	} {
		ip(t, host, step.command)
		if strings.HasSuffix(step.command, "master bond0") {
			dev := strings.Fields(step.command)[2]
			ip(t, host, "link set "+dev+" type bridge_slave isolated on")
		}
		d.bond(step.want)
		talk(fmt.Sprintf("step %d, %s", round, step.command))
		for _, m := range []string{"m0", "m1", "m2"} {
			if l, err := host.Netlink().LinkByName(m); err == nil {
				served, attached := strings.Contains(step.want, m), l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
				if served != attached {
					t.Errorf("step %d: an XDP program on %s is %t, want %t", round, m, attached, served)
				}
			}
		}
	}
	enslave(t, host, "short") // it has one queue, and there are two workers
	if err := d.await(patience, "the log says why a member is not served", func() bool {
		return strings.Contains(d.log(), "short has 1 queues for 2 workers")
	}); err != nil {
		t.Error(err)
	}
	d.bond("m0> m1>")
	talk("beside a member that is not served")
	close(stop)
	sentAll := <-flood
	t.Logf("%d of %d datagrams were lost while members came and went", stream.lost(), sentAll)
	whole(t, d)
}

// What is no bond to be served is an error at start that says what to do.
func TestBondRefused(t *testing.T) {
	n := bonded(t)
	d := &director{t: t, host: n.In("director"), binary: built(t, bridged), folder: t.TempDir()}
	ip(t, d.host, "link add lonely type bridge")
	for _, row := range []struct{ stake, name, want string }{
		{"a member of one", "m0", "interfaces[1]: m0 is a member of bond0: name that instead"},
		{"one without members", "lonely", "interfaces[1]: lonely is a bond without members: give it one (ip link set dev NIC master lonely)"},
	} {
		d.configure("interfaces: [{name: eth0, role: client}, {name: " + row.name + ", role: server}]\n" + natService(1))
		if status, said := d.refused("run", "-c", d.file()); status != 1 || !strings.Contains(said, row.want) {
			t.Errorf("%s: exit status %d, want 1 and %q; it said:\n%s", row.stake, status, row.want, said)
		}
		d.clean(patience)
	}
}

// carried is how many packets an interface has sent.
func carried(t *testing.T, s *testnet.Namespace, dev string) uint64 {
	t.Helper()
	l, err := s.Netlink().LinkByName(dev)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Statistics.TxPackets
}

// whole checks that no frame of the workers' was lost: each is free, or in a ring of a
// queue.
func whole(t *testing.T, d *director) {
	t.Helper()
	var s control.Status
	if err := d.await(patience, "every frame is free or in a ring", func() bool {
		s = d.status()
		for _, w := range s.Workers {
			frames := w.Ports[0].Free
			for _, p := range w.Ports {
				frames += p.InFill + p.InTx
			}
			if frames != 32768 {
				return false
			}
		}
		return true
	}); err != nil {
		t.Errorf("%v: %+v", err, s.Workers)
	}
}
