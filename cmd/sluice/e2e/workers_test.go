package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// Two workers and two queues, where all packets of one side, or of both, come
// in by the first queue: workers hand over what is the other's, and every
// connection works.
func TestTwoWorkers(t *testing.T) {
	for _, row := range []struct {
		stake            string
		clients, servers int // queues that their packets arrive on
	}{
		{"replies on the wrong queue", 2, 1},
		{"requests on the wrong queue", 1, 2},
		{"all on the first queue", 1, 1},
	} {
		t.Run(row.stake, func(t *testing.T) {
			plan := routed(1)
			plan.Switches = nil
			plan.Links[0].A.TxQueues, plan.Links[0].A.RxQueues = row.clients, 2
			plan.Links[0].B.TxQueues, plan.Links[0].B.RxQueues = 2, 2
			plan.Links = append(plan.Links, testnet.Link{
				A: testnet.End{In: server(0), Name: "eth0", TxQueues: row.servers, RxQueues: 2, Addrs: []string{server4(0) + "/24", server6(0) + "/64"}},
				B: testnet.End{In: "director", Name: "eth1", TxQueues: 2, RxQueues: 2, Addrs: []string{"10.0.2.1/24", "fd00:2::1/64"}},
			})
			n := testnet.New(t, plan)
			serveWeb(t, n.In(server(0)), ":8080")
			echoUDP(t, n.In(server(0)), ":8080")
			d := startBuild(t, n, natService(1), raced)
			b := newBrowser(n.In("client"), patience)
			for k := range 40 {
				for _, address := range []string{"203.0.113.10:80", "[2001:db8::10]:80"} {
					if _, err := b.post(address, noise(uint64(k), k*1000)); err != nil {
						t.Fatalf("request %d: %v", k, err)
					}
				}
				c := newCounted(t, n.In("client"), "203.0.113.10:80", 20)
				for range 20 {
					if err := c.send(); err != nil {
						t.Fatal(err)
					}
				}
				if lost := c.lost(); lost > 0 {
					t.Errorf("%d of 20 datagrams of flow %d were lost", lost, k)
				}
				if err := bounce(udpConn(t, n.In("client"), "[2001:db8::10]:80"), noise(uint64(k), 4000)); err != nil {
					t.Errorf("datagram %d in fragments: %v", k, err)
				}
			}
			s := d.status()
			if len(s.Workers) != 2 {
				t.Fatalf("%d workers, want 2", len(s.Workers))
			}
			over, in := uint64(0), uint64(0)
			for _, w := range s.Workers {
				over, in = over+w.HandedOver, in+w.HandedIn
				if w.Connections == 0 || w.Transmitted == 0 {
					t.Errorf("worker %d has %d connections and sent %d packets, want some of both", w.ID, w.Connections, w.Transmitted)
				}
			}
			if s.Workers[0].HandedOver == 0 {
				t.Error("worker 0 handed nothing over, though packets of the other's connections came to it")
			}
			if over != in {
				t.Errorf("%d packets handed over, %d received so", over, in)
			}
			for _, i := range s.Interfaces {
				if !strings.HasPrefix(i.Steering, "hand-over") {
					t.Errorf("%s is said to be steered by: %s; a veth cannot", i.Name, i.Steering)
				}
			}
			t.Logf("%d of %d packets handed over", over, s.Totals.Received)
		})
	}
}

// An ICMP error about a connection comes in on any queue, and reaches the
// client by the worker that owns the connection.
func TestTwoWorkersRelated(t *testing.T) {
	plan := routed(1)
	plan.Switches = nil
	plan.Links[0].B.TxQueues, plan.Links[0].B.RxQueues = 2, 2
	plan.Links[0].A.RxQueues = 2
	plan.Links = append(plan.Links, testnet.Link{
		A: testnet.End{In: server(0), Name: "eth0", RxQueues: 2, Addrs: []string{server4(0) + "/24", server6(0) + "/64"}},
		B: testnet.End{In: "director", Name: "eth1", TxQueues: 2, RxQueues: 2, Addrs: []string{"10.0.2.1/24", "fd00:2::1/64"}},
	})
	n := testnet.New(t, plan)
	// Linux limits the errors that it sends to one address.
	for _, key := range []string{"net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"} {
		if err := n.In(server(0)).Sysctl(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, n, natService(1))
	for _, address := range []string{"203.0.113.10:80", "[2001:db8::10]:80"} {
		for k := range 16 {
			c := udpConn(t, n.In("client"), address)
			if err := refusedBy(c); err != nil {
				t.Errorf("flow %d to %s: %v", k, address, err)
			}
		}
	}
	if s := d.status(); s.Workers[0].HandedOver == 0 {
		t.Error("nothing was handed over")
	}
}

// refusedBy sends a datagram to where nobody listens; the error is nil if the
// client learns that.
func refusedBy(c net.Conn) error {
	if _, err := fmt.Fprint(c, "anybody?"); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	switch _, err := c.Read(make([]byte, 1)); {
	case err == nil:
		return errors.New("an answer from nobody")
	case !errors.Is(err, syscall.ECONNREFUSED):
		return err
	}
	return nil
}
