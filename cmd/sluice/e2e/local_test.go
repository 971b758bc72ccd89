package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// conns are the director's connections as ipvsadm lists them, without what
// time changes: "TCP ESTABLISHED virtual server".
func (d *director) conns() (list []string) {
	d.t.Helper()
	out := d.command(d.binary, "", "ipvsadm", "--socket", d.socket(), "-L", "-c", "-n").out
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 6 && (f[0] == "TCP" || f[0] == "UDP") {
			list = append(list, strings.Join([]string{f[0], f[2], f[4], f[5]}, " "))
		}
	}
	return list
}

// service returns the service of a name.
func (d *director) service(name string) control.Service {
	d.t.Helper()
	for _, s := range d.services() {
		if s.Name == name {
			return s
		}
	}
	d.t.Fatalf("there is no service %s", name)
	return control.Service{}
}

// K-FWD-LOCAL: a real server that is the director itself is served by the host's
// own stack. Translated are the requests and the answers, of NAT; counted and
// tracked are both, of every method, as in the kernel. With offloads, as a NIC
// has them, and the reverse path filter that distributions set.
func TestLocalServer(t *testing.T) {
	plan := routed(0)
	plan.Sysctls = append(plan.Sysctls, testnet.Sysctl{In: "director", Key: "net.ipv4.conf.all.rp_filter", Value: "2"})
	for _, own := range []string{"203.0.113.20", "203.0.113.25", "203.0.113.30", "2001:db8::20"} {
		plan.VIPs = append(plan.VIPs, testnet.VIP{In: "director", Addr: own})
	}
	n := testnet.New(t, plan)
	host, client := n.In("director"), n.In("client")
	for _, nic := range []string{"eth0", "eth1"} {
		if err := host.EnableOffloads(nic); err != nil {
			t.Fatal(err)
		}
	}
	serveWeb(t, host, ":8080")
	serveWeb(t, host, ":80")
	echoUDP(t, host, ":5353") // which answers from the address that routing chooses
	d := start(t, n, `
services:
  - {name: nat4, protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, forward: nat, servers: [{address: 10.0.1.1, port: 8080}]}
  - {name: nat6, protocol: tcp, address: "2001:db8::10", port: 80, scheduler: rr, forward: nat, servers: [{address: "fd00:2::1", port: 8080}]}
  - {name: other, protocol: tcp, address: 203.0.113.11, port: 80, scheduler: rr, forward: nat, servers: [{address: 10.0.2.1, port: 8080}]}
  - {name: dr4, protocol: tcp, address: 203.0.113.20, port: 80, scheduler: rr, forward: dr, servers: [{address: 10.0.2.1}]}
  - {name: dr6, protocol: tcp, address: "2001:db8::20", port: 80, scheduler: rr, forward: dr, servers: [{address: "fd00:2::1"}]}
  - {name: tun4, protocol: tcp, address: 203.0.113.25, port: 80, scheduler: rr, forward: tun, servers: [{address: 10.0.2.1}]}
  - {name: loop, protocol: tcp, address: 203.0.113.30, port: 80, scheduler: rr, forward: dr, servers: [{address: 127.0.0.1}]}
  - {name: lost, protocol: tcp, address: 203.0.113.40, port: 80, scheduler: rr, forward: nat, servers: [{address: 127.0.0.1}]}
  - {name: dns4, protocol: udp, address: 203.0.113.10, port: 53, scheduler: rr, forward: nat, servers: [{address: 10.0.1.1, port: 5353}]}
  - {name: dns6, protocol: udp, address: "2001:db8::10", port: 53, scheduler: rr, forward: nat, servers: [{address: "fd00:1::1", port: 5353}]}
  - {name: shut, protocol: udp, address: 203.0.113.10, port: 54, scheduler: rr, forward: nat, servers: [{address: 10.0.1.1, port: 5454}]}
`)
	b := newBrowser(client, patience)
	const size = 3_000_000
	for _, row := range []struct{ service, server string }{
		{"nat4", "10.0.1.1:8080"},
		{"nat6", "[fd00:2::1]:8080"},
		{"other", "10.0.2.1:8080"},
		{"dr4", "10.0.2.1:80"},
		{"dr6", "[fd00:2::1]:80"},
		{"tun4", "10.0.2.1:80"},
		{"loop", "127.0.0.1:80"},
	} {
		t.Run(row.service, func(t *testing.T) {
			vip := netip.AddrPortFrom(netip.MustParseAddr(d.service(row.service).Address), 80).String()
			idle, err := client.DialContext(t.Context(), "tcp", vip)
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			if name, err := b.post(vip, noise(1, size)); err != nil || name != "director" {
				t.Fatalf("%s was answered by %q (%v), want the director itself", vip, name, err)
			}
			d.quiet()
			want := []string{"TCP ESTABLISHED " + vip + " " + row.server, "TCP TIME_WAIT " + vip + " " + row.server}
			if got := d.listed(vip, 2); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("connections %q, want %q", got, want)
			}
			s := d.service(row.service)
			if s.Stats.Conns != 2 || s.Servers[0].Active != 1 || s.Servers[0].Inactive != 1 {
				t.Errorf("%d connections, %d active and %d inactive; want 2, 1 and 1", s.Stats.Conns, s.Servers[0].Active, s.Servers[0].Inactive)
			}
			if s.Stats.InBytes < size || s.Stats.OutBytes < size || s.Stats.OutPackets < size/1500 {
				t.Errorf("counted %+v, want %d bytes and more each way, in packets of the wire", s.Stats, size)
			}
		})
	}
	t.Run("UDP", func(t *testing.T) {
		for i, vip := range []string{"203.0.113.10:53", "[2001:db8::10]:53"} {
			c := udpConn(t, client, vip)
			for k := range 10 {
				echo(t, c, noise(uint64(k), 100+1000*k)) // most of them in fragments, either way
			}
			name := fmt.Sprintf("dns%d", 4+2*i)
			if s := d.service(name).Stats; s.InPackets != 10 || s.OutPackets != 10 || s.OutBytes != s.InBytes {
				t.Errorf("%s: counted %+v, want 10 datagrams each way", name, s)
			}
			direct := udpConn(t, client, []string{"10.0.1.1:5353", "[fd00:1::1]:5353"}[i])
			for k := range 10 {
				echo(t, direct, noise(uint64(k), 100+1000*k))
			}
		}
	})
	t.Run("a port that nobody listens on", func(t *testing.T) {
		c := udpConn(t, client, "203.0.113.10:54") // connected: only an error that quotes this address reaches it
		if _, err := c.Write([]byte("anybody?")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want the host's ICMP error, from the service", err)
		}
	})
	t.Run("a loopback address is nobody's outside", func(t *testing.T) {
		if _, err := client.Dial(t.Context(), &net.Dialer{Timeout: 300 * time.Millisecond}, "tcp", "203.0.113.40:80"); err == nil {
			t.Error("127.0.0.1 is served by NAT (K-PATH-9)")
		}
		if s := d.quiet().Totals; s.Dropped["local_server"] == 0 {
			t.Errorf("dropped %v, want local_server", s.Dropped)
		}
	})
	t.Run("asked directly", func(t *testing.T) {
		for _, address := range []string{"10.0.1.1:8080", "[fd00:1::1]:8080", "203.0.113.20:8080"} {
			if name, err := b.post(address, noise(2, 300_000)); err != nil || name != "director" {
				t.Errorf("%s was answered by %q (%v), want the host as without a director", address, name, err)
			}
		}
	})
}

// listed waits until the director lists n connections to a virtual service.
func (d *director) listed(vip string, n int) (list []string) {
	d.t.Helper()
	_ = d.await(patience, "connections", func() bool { // what is listed then says more
		list = nil
		for _, c := range d.conns() {
			if strings.Contains(c, " "+vip+" ") {
				list = append(list, c)
			}
		}
		return len(list) == n && !strings.Contains(strings.Join(list, ""), "FIN_WAIT")
	})
	return list
}

// echo sends a datagram and wants it back.
func echo(t *testing.T, c net.Conn, sent []byte) {
	t.Helper()
	got := make([]byte, 1<<16)
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(got); err != nil || string(got[:n]) != string(sent) {
		t.Fatalf("%d bytes of %d came back: %v", n, len(sent), err)
	}
}

// A server is local when the host has its address, whenever that is, and what
// is on the NICs for it goes with the last one; after kill -9 it does nothing.
func TestLocalServerComesAndGoes(t *testing.T) {
	n := testnet.New(t, routed(0))
	host, client := n.In("director"), n.In("client")
	serveWeb(t, host, ":8080")
	const config = "services: [{name: www, protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, forward: nat, servers: [{address: 10.0.2.99, port: 8080}]}]\n"
	d := start(t, n, config)
	eth0, err := host.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	filtered := func(want bool) {
		t.Helper()
		if err := d.await(patience, fmt.Sprintf("a tc filter on eth0: %v", want), func() bool { return d.filtered(eth0) == want }); err != nil {
			t.Fatal(err)
		}
	}
	served := func(address string) {
		t.Helper()
		if name, err := newBrowser(client, patience).post(address, noise(1, 100_000)); err != nil || name != "director" {
			t.Fatalf("%s was answered by %q: %v", address, name, err)
		}
	}
	filtered(false)
	if err := host.AddAddr("eth1", "10.0.2.99/24"); err != nil {
		t.Fatal(err)
	}
	filtered(true)
	served("203.0.113.10:80")
	served("10.0.2.99:8080")

	d.signal(syscall.SIGKILL)
	<-d.ended
	served("10.0.2.99:8080") // what is left of the filter gives nothing to a device that is gone
	qdiscs, err := host.Netlink().QdiscList(eth0)
	if err != nil {
		t.Fatal(err)
	}
	if !d.filtered(eth0) {
		t.Errorf("no filter is left by kill -9 among %v: what the next lines show, they do not show", qdiscs)
	}
	d.run()
	served("203.0.113.10:80")
	served("10.0.2.99:8080")

	d.configure("services: []\n")
	if r := answer[control.Reload](d, "reload"); r.Error != "" {
		t.Fatal(r.Error)
	}
	filtered(true) // the connection may live on
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 2, 99), Mask: net.CIDRMask(24, 32)}}
	eth1, err := host.Netlink().LinkByName("eth1")
	if err == nil {
		err = host.Netlink().AddrDel(eth1, addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	filtered(false)
}

// A link of 1280 bytes in the way: what a router there says about the answers
// reaches the host's stack as if it were about what the host had sent.
func TestLocalServerLearnsPathMTU(t *testing.T) {
	plan := testnet.Plan{Links: []testnet.Link{
		{
			A: testnet.End{In: "client", Name: "eth0", Addrs: []string{"10.0.4.10/24", "fd00:4::10/64"}},
			B: testnet.End{In: "far", Name: "eth1", Addrs: []string{"10.0.4.1/24", "fd00:4::1/64"}},
		},
		{
			A: testnet.End{In: "far", Name: "eth0", Addrs: []string{"10.0.3.2/24", "fd00:3::2/64"}, MTU: 1280},
			B: testnet.End{In: "near", Name: "eth1", Addrs: []string{"10.0.3.1/24", "fd00:3::1/64"}, MTU: 1280},
		},
		{
			A: testnet.End{In: "near", Name: "eth0", Addrs: []string{"10.0.1.2/24", "fd00:1::2/64"}},
			B: testnet.End{In: "director", Name: "eth0", Addrs: []string{"10.0.1.1/24", "fd00:1::1/64"}},
		},
	}}
	for in, via := range map[string]string{"client": "4::1", "far": "3::1", "near": "1::1", "director": "1::2"} {
		plan.Routes = append(plan.Routes,
			testnet.Route{In: in, To: "default", Via: "10.0." + strings.ReplaceAll(via, "::", ".")}, testnet.Route{In: in, To: "default", Via: "fd00:" + via})
	}
	plan.Routes = append(plan.Routes,
		testnet.Route{In: "near", To: "10.0.4.0/24", Via: "10.0.3.2"}, testnet.Route{In: "near", To: "fd00:4::/64", Via: "fd00:3::2"})
	for _, router := range []string{"near", "far"} {
		plan.Sysctls = append(plan.Sysctls, testnet.Sysctl{In: router, Key: "net.ipv4.ip_forward", Value: "1"}, testnet.Sysctl{In: router, Key: "net.ipv6.conf.all.forwarding", Value: "1"})
	}
	n := testnet.New(t, plan)
	serveWeb(t, n.In("director"), ":8080")
	d := start(t, n, `
interfaces: [{name: eth0, role: both}]
services:
  - {name: nat4, protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, forward: nat, servers: [{address: 10.0.1.1, port: 8080}]}
  - {name: nat6, protocol: tcp, address: "2001:db8::10", port: 80, scheduler: rr, forward: nat, servers: [{address: "fd00:1::1", port: 8080}]}
`)
	for _, vip := range []string{"203.0.113.10:80", "[2001:db8::10]:80"} {
		if name, err := newBrowser(n.In("client"), patience).post(vip, noise(1, 500_000)); err != nil || name != "director" {
			t.Errorf("%s was answered by %q: %v", vip, name, err)
		}
	}
	if injected := d.stats().Tap.Injected; injected == 0 {
		t.Error("the host got nothing")
	}
}
