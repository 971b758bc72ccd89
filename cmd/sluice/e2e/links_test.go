package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-lb/sluice/internal/testnet"
	"github.com/sluice-lb/sluice/slowpath"
)

// A link that goes down, at either end of its cable and on either side of the
// director, and comes back: traffic resumes, a connection lives on.
func TestLinkDownAndUp(t *testing.T) {
	plan := routed(1)
	// The client on a switch too, so that its own interface stays up.
	ends := plan.Links[0]
	plan.Links = nil
	plan.Switches = append(plan.Switches, testnet.Switch{Name: "clients", Ends: []testnet.End{ends.A, ends.B}})
	n := testnet.New(t, plan)
	echoTCP(t, n.In(server(0)), ":8080")
	serveWeb(t, n.In(server(0)), ":8081")
	d := start(t, n, natService(1)+"  - {protocol: tcp, address: 203.0.113.10, port: 81, scheduler: rr, servers: [{address: 10.0.2.11, port: 8081}]}\n")
	living, err := n.In("client").DialContext(t.Context(), "tcp", "203.0.113.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	talk := func() error {
		_ = living.SetDeadline(time.Now().Add(patience))
		var got [5]byte
		_, err := living.Write([]byte("hello"))
		if err == nil {
			_, err = living.Read(got[:])
		}
		if err == nil && string(got[:]) != "hello" {
			err = fmt.Errorf("echo %q", got)
		}
		return err
	}
	b := newBrowser(n.In("client"), patience)
	for _, row := range []struct{ stake, in, dev, mine string }{
		{"the carrier, client side", "clients", "director", "eth0"},
		{"the carrier, server side", "switch", "director", "eth1"},
		{"the interface, client side", "director", "eth0", "eth0"},
		{"the interface, server side", "director", "eth1", "eth1"},
	} {
		t.Run(row.stake, func(t *testing.T) {
			if err := talk(); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := n.In(row.in).SetUp(row.dev, false); err != nil {
				t.Fatal(err)
			}
			up := func() bool {
				for _, i := range d.status().Interfaces {
					if i.Name == row.mine {
						return i.Up
					}
				}
				return false
			}
			if err := d.await(patience, row.mine+" is seen to be down", func() bool { return !up() }); err != nil {
				t.Fatal(err)
			}
			if _, err := newBrowser(n.In("client"), 300*time.Millisecond).post("203.0.113.10:81", nil); err == nil {
				t.Error("a request was answered over a link that is down")
			}
			if err := n.In(row.in).SetUp(row.dev, true); err != nil {
				t.Fatal(err)
			}
			if err := d.await(patience, row.mine+" is seen to be up", up); err != nil {
				t.Fatal(err)
			}
			if err := talk(); err != nil {
				t.Errorf("the connection from before: %v", err)
			}
			if _, err := b.post("203.0.113.10:81", noise(2, 10_000)); err != nil {
				t.Errorf("a new connection: %v", err)
			}
		})
	}
}

// counted is a stream of numbered datagrams through a service, each of which
// comes back: what is lost either way is known.
type counted struct {
	net.Conn
	sent int
	back atomic.Int64
	seen []bool
	end  chan struct{}
}

// send sends the next datagram.
func (c *counted) send() error {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(c.sent))
	c.sent++
	_, err := c.Write(b[:])
	return err
}

// newCounted begins a stream of at most limit datagrams.
func newCounted(t *testing.T, s *testnet.Namespace, address string, limit int) *counted {
	t.Helper()
	c := &counted{Conn: udpConn(t, s, address), seen: make([]bool, limit), end: make(chan struct{})}
	go func() {
		defer close(c.end)
		for {
			var b [9]byte
			n, err := c.Read(b[:])
			if err != nil {
				return
			}
			if k := binary.BigEndian.Uint64(b[:]); n == 8 && k < uint64(limit) && !c.seen[k] {
				c.seen[k] = true
				c.back.Add(1)
			}
		}
	}()
	return c
}

// lost ends the stream and returns how many datagrams did not come back.
func (c *counted) lost() int {
	for deadline := time.Now().Add(2 * time.Second); int(c.back.Load()) < c.sent && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	c.Close()
	<-c.end
	return c.sent - int(c.back.Load())
}

// A server that is given another MAC address and says so, and one that says
// nothing, so that the director's kernel has to find out.
func TestMACChange(t *testing.T) {
	for _, row := range []struct {
		stake     string
		announced bool
	}{{"announced", true}, {"silent", false}} {
		t.Run(row.stake, func(t *testing.T) {
			t.Parallel()
			n := web(t, 1)
			s, host := n.In(server(0)), n.In("director")
			if row.announced {
				for _, key := range []string{"net.ipv4.conf.eth0.arp_notify", "net.ipv6.conf.eth0.ndisc_notify"} {
					if err := s.Sysctl(key, "1"); err != nil {
						t.Fatal(err)
					}
				}
			} else { // let the kernel doubt its neighbours soon
				for key, value := range map[string]string{"base_reachable_time_ms": "500", "delay_first_probe_time": "1", "retrans_time_ms": "200"} {
					if err := host.Sysctl("net.ipv4.neigh.eth1."+key, value); err != nil {
						t.Fatal(err)
					}
				}
			}
			d := start(t, n, natService(1))
			if _, err := newBrowser(n.In("client"), patience).post("203.0.113.10:80", nil); err != nil {
				t.Fatal(err)
			}
			links := s.Netlink()
			nic, err := links.LinkByName("eth0")
			if err != nil {
				t.Fatal(err)
			}
			if err := links.LinkSetHardwareAddr(nic, net.HardwareAddr{2, 0, 0, 0, 9, 9}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			b := newBrowser(n.In("client"), time.Second)
			if err := d.await(2*patience, "requests are served again", func() bool {
				_, err := b.post("203.0.113.10:80", nil)
				return err == nil
			}); err != nil {
				t.Fatal(err)
			}
			t.Logf("served again after %s", time.Since(began).Round(time.Millisecond))
		})
	}
}

// A route that moves to another gateway takes the connections along.
func TestRouteMoves(t *testing.T) {
	const rip = "10.9.9.9"
	plan := routed(2)
	for i := range 2 { // both servers have the address, each behind itself
		plan.VIPs = append(plan.VIPs, testnet.VIP{In: server(i), Addr: rip})
	}
	plan.Routes = append(plan.Routes, testnet.Route{In: "director", To: rip + "/32", Via: server4(0)})
	n := testnet.New(t, plan)
	for i := range 2 {
		serveWeb(t, n.In(server(i)), ":80")
	}
	d := start(t, n, "services: [{protocol: tcp, address: 203.0.113.10, port: 80, scheduler: rr, servers: [{address: "+rip+"}]}]\n")
	b := newBrowser(n.In("client"), patience)
	for _, i := range []int{0, 1, 0} {
		if err := n.In("director").AddRoute(rip+"/32", server4(i), ""); err != nil {
			t.Fatal(err)
		}
		if err := d.await(patience, "requests go to "+server(i), func() bool {
			name, err := b.post("203.0.113.10:80", noise(3, 5000))
			return err == nil && name == server(i)
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// A packet whose next hop's address is not known is held while the kernel
// asks for it, and not lost: a request to the server, a reply to the client.
func TestUnresolvedNeighbour(t *testing.T) {
	n := testnet.New(t, routed(1))
	echoUDP(t, n.In(server(0)), ":8080")
	d := start(t, n, natService(1))
	host := n.In("director")
	for _, row := range []struct{ stake, service, dev, neighbor string }{
		{"the server, v4", "203.0.113.10:80", "eth1", server4(0)},
		{"the server, v6", "[2001:db8::10]:80", "eth1", server6(0)},
		{"the client, v4", "203.0.113.10:80", "eth0", "10.0.1.10"},
		{"the client, v6", "[2001:db8::10]:80", "eth0", "fd00:1::10"},
	} {
		t.Run(row.stake, func(t *testing.T) {
			c := newCounted(t, n.In("client"), row.service, 10)
			if err := c.send(); err != nil {
				t.Fatal(err)
			}
			for c.back.Load() < 1 {
				time.Sleep(time.Millisecond)
			}
			nic, err := host.Netlink().LinkByName(row.dev)
			if err != nil {
				t.Fatal(err)
			}
			before := released(d)
			if err := host.Netlink().NeighDel(&netlink.Neigh{LinkIndex: nic.Attrs().Index, IP: net.ParseIP(row.neighbor)}); err != nil {
				t.Fatal(err)
			}
			// The table is built some milliseconds later; then a packet waits.
			for k := 1; k < 10 && released(d) == before; k++ {
				if err := c.send(); err != nil {
					t.Fatal(err)
				}
			}
			if lost := c.lost(); lost > 0 {
				t.Errorf("%d of %d datagrams were lost", lost, c.sent)
			}
			if released(d) == before {
				t.Errorf("no packet was held: %s", d.counters())
			}
		})
	}
}

// released is how many packets were held for a neighbour and sent on.
func released(d *director) uint64 {
	d.t.Helper()
	return d.stats().SlowPath.Packets[slowpath.NoNeighbour.String()][slowpath.Released.String()]
}
