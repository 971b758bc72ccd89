package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// firewall is what a careful operator has on a director that also routes: what
// nobody began from the right side is dropped, and so is what conntrack does not
// understand or has not come by the way back to where it is from, as firewalld
// has it. %s are further tables.
const firewall = `
table inet filter {
	counter invalid {}
	chain prerouting {
		type filter hook prerouting priority 0
		ct state invalid counter name invalid drop
		meta l4proto != ipv6-icmp fib saddr . iif oif missing counter name invalid drop
	}
	chain input {
		type filter hook input priority 0; policy drop
		iifname lo accept
		meta l4proto {icmp, ipv6-icmp} accept
		ct state established,related accept
		iifname "eth0" tcp dport 22 ct state new accept
		iifname "eth0" udp dport 5000 ct state new accept
	}
	chain forward {
		type filter hook forward priority 0; policy drop
		ct state established,related accept
		iifname "eth1" oifname "eth0" ct state new accept
	}
}
%s`

const masquerade = `
table inet nat {
	chain postrouting {
		type nat hook postrouting priority 100
		iifname "eth1" oifname "eth0" masquerade
	}
}
`

// What is the host's works as without a director: its services on a virtual
// address, and the servers' own traffic through it, also from the port that
// they serve on. Conntrack sees all of each flow, rules that name a NIC match,
// and the reverse path filter is what it is.
func TestHandBack(t *testing.T) {
	for _, program := range []string{"nft", "ping"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s: %v", program, err)
		}
	}
	for _, row := range []struct {
		mode, filter, nat string
	}{
		{"driver", "1", ""},
		{"driver", "0", masquerade}, // the kernel's default
		{"generic", "2", masquerade},
		{"generic", "1", ""},
	} {
		t.Run(fmt.Sprintf("%s, rp_filter %s, masquerade %v", row.mode, row.filter, row.nat != ""), func(t *testing.T) {
			plan := routed(1)
			plan.VIPs = []testnet.VIP{{In: "director", Addr: "203.0.113.10"}, {In: "director", Addr: "2001:db8::10"}}
			for _, key := range []string{"all", "eth0", "eth1"} {
				plan.Sysctls = append(plan.Sysctls, testnet.Sysctl{In: "director", Key: "net.ipv4.conf." + key + ".rp_filter", Value: row.filter})
			}
			n := testnet.New(t, plan)
			host := n.In("director")
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(fmt.Sprintf(firewall, row.nat))
			if err := errors.Join(host.Start(cmd), cmd.Wait()); err != nil {
				t.Fatal(err)
			}
			d := start(t, n, fmt.Sprintf("interfaces: [{name: eth0, role: client, mode: %s}, {name: eth1, role: server, mode: %[1]s}]\n", row.mode)+natService(1))
			t.Run("services of the host", func(t *testing.T) { hostServices(t, n) })
			t.Run("servers as clients", func(t *testing.T) {
				serversAsClients(t, n, d, row.nat != "")
			})
			out, err := host.Run("nft", "list", "counter", "inet", "filter", "invalid")
			if err != nil || !strings.Contains(out, "packets 0 bytes 0") {
				t.Errorf("packets are invalid to conntrack, or come by another way than back: %s %v", out, err)
			}
		})
	}
}

// hostServices uses what the host itself offers on the virtual addresses.
func hostServices(t *testing.T, n *testnet.Network) {
	t.Helper()
	host, client := n.In("director"), n.In("client")
	serveWeb(t, host, ":22")
	for _, vip := range []string{"203.0.113.10", "2001:db8::10"} {
		if name, err := newBrowser(client, patience).post(net.JoinHostPort(vip, "22"), noise(1, 500_000)); err != nil || name != "director" {
			t.Errorf("TCP to %s was answered by %q: %v", vip, name, err)
		}
		echoUDP(t, host, net.JoinHostPort(vip, "5000")) // bound, so that it answers from there
		c := udpConn(t, client, net.JoinHostPort(vip, "5000"))
		for k := range 5 {
			echo(t, c, noise(uint64(k), 200+1000*k)) // some in fragments
		}
		for _, size := range []string{"56", "4000"} {
			if out, err := client.Run("ping", "-c", "2", "-i", "0.01", "-W", "5", "-s", size, vip); err != nil {
				t.Errorf("ping of %s bytes: %v\n%s", size, err, out)
			}
		}
	}
	// An error about what the host itself sends from a virtual address.
	for vip, to := range map[string]string{"203.0.113.10": "10.0.1.10", "2001:db8::10": "fd00:1::10"} {
		c, err := host.Dial(t.Context(), &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(vip)}}, "udp", net.JoinHostPort(to, "9999"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write([]byte("anybody?"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("from %s to a closed port: %v, want to be refused", vip, err)
		}
		c.Close()
	}
}

// serversAsClients has the server use a service of the client's, from the port
// that it serves on, for which only the director's tables can tell, and from others.
func serversAsClients(t *testing.T, n *testnet.Network, d *director, masqueraded bool) {
	t.Helper()
	client, from := n.In("client"), n.In(server(0))
	for _, row := range []struct{ server, router, client string }{{server4(0), "10.0.1.1", "10.0.1.10"}, {server6(0), "fd00:1::1", "fd00:1::10"}} {
		echoTCP(t, client, net.JoinHostPort(row.client, "9000"))
		echoUDP(t, client, net.JoinHostPort(row.client, "9000"))
		peer := row.server
		if masqueraded {
			peer = row.router
		}
		for port, step := range map[uint16]int{8080: 1000, 8081: 200} { // fragments from a server make the detour, whatever port
			before := d.stats().Totals.Passed
			local := netip.AddrPortFrom(netip.MustParseAddr(row.server), port)
			c, err := from.Dial(t.Context(), &net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(local)}, "tcp", net.JoinHostPort(row.client, "9000"))
			if err != nil {
				t.Errorf("TCP from port %d: %v", port, err)
				continue
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_ = c.(*net.TCPConn).SetLinger(0) // the port is free again at once
			sent := noise(2, 300_000)
			got := make([]byte, len(sent))
			go func() { _, _ = c.Write(sent) }()
			if _, err := io.ReadFull(c, got); err != nil || string(got) != string(sent) {
				t.Errorf("TCP from port %d: %v", port, err)
			}
			c.Close()
			u, err := from.Dial(t.Context(), &net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(local)}, "udp", net.JoinHostPort(row.client, "9000"))
			if err != nil {
				t.Fatal(err)
			}
			for k := range 5 {
				echo(t, u, noise(uint64(k), 200+step*k))
			}
			u.Close()
			if passed := d.quiet().Totals.Passed - before; (passed > 0) != (port == 8080) {
				t.Errorf("from port %d: %d packets made the detour", port, passed)
			}
		}
		if out, err := from.Run("ping", "-c", "2", "-i", "0.01", "-W", "5", row.client); err != nil {
			t.Errorf("ping: %v\n%s", err, out)
		}
		if got := seenFrom(t, client, from, row.client); got != peer {
			t.Errorf("the client sees the server as %s, want %s", got, peer)
		}
	}
}

// seenFrom says from what address a namespace's datagrams come, sent from the
// port that is served there.
func seenFrom(t *testing.T, client, from *testnet.Namespace, address string) string {
	t.Helper()
	l, err := client.ListenPacket("udp", net.JoinHostPort(address, "9001"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := from.Dial(t.Context(), &net.Dialer{LocalAddr: &net.UDPAddr{Port: 8080}}, "udp", net.JoinHostPort(address, "9001"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = l.SetReadDeadline(time.Now().Add(patience))
	_, peer, err := l.ReadFrom(make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	return peer.(*net.UDPAddr).AddrPort().Addr().Unmap().String()
}
