package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// manyServices is a configuration of n services with ten servers each, the
// version-th one: from one to the next, servers of every service change their
// weights, some come, some go, and so do services. Only the first two
// services' first two servers exist.
func manyServices(n, version int) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i, protocol := range []string{"udp", "tcp"} {
		// The second server takes new connections now and then, the others
		// never, and one of those is another one each time.
		fmt.Fprintf(&b, "  - {protocol: %s, address: 203.0.113.10, port: 80, scheduler: wrr, servers: [{address: %s, port: 8080}, {address: %s, port: 8080, weight: %d}",
			protocol, server4(0), server4(1), version%2)
		for k := range 7 {
			fmt.Fprintf(&b, ", {address: 10.7.%d.%d, port: 8080, weight: 0}", i, 1+k)
		}
		fmt.Fprintf(&b, ", {address: 10.7.%d.%d, port: 8080, weight: 0}]}\n", i, 100+version)
	}
	for i := 2; i < n; i++ {
		number := i
		if i < n/20 { // services that come and go
			number += n * (1 + version)
		}
		fmt.Fprintf(&b, "  - {protocol: tcp, address: 198.18.%d.%d, port: %d, scheduler: rr, servers: [", i/250, 1+i%250, 1000+number%50_000)
		for k := range 10 {
			port := 8080
			if i%10 == 1 && k == 9 { // a server that goes, and another that comes
				port += version
			}
			fmt.Fprintf(&b, "{address: 10.8.%d.%d, port: %d, weight: %d}, ", i/25, 1+i%25*10+k, port, 1+(version+k)%3)
		}
		b.WriteString("]}\n")
	}
	return b.String()
}

// Reloads while packets flow: 1,000 services with 10,000 servers change 20
// times, each time within a second, and no packet of a counted stream is
// lost; connections live on. The race detector sees a smaller one.
func TestReloadUnderLoad(t *testing.T) {
	for _, row := range []struct {
		what     string
		build    func() (string, error)
		services int
		reloads  int
	}{
		{"1,000 services", plain, 1000, 20},
		{"race detector", raced, 100, 5},
	} {
		t.Run(row.what, func(t *testing.T) {
			plan := routed(2)
			plan.Routes = append(plan.Routes, testnet.Route{In: "director", To: "10.0.0.0/8", Via: "10.0.2.254"})
			n := testnet.New(t, plan)
			for i := range 2 {
				echoUDP(t, n.In(server(i)), ":8080")
				serveWeb(t, n.In(server(i)), ":8080")
			}
			d := startBuild(t, n, manyServices(row.services, 0), row.build)
			if s := d.status(); s.Services != row.services || s.Servers != 10*row.services {
				t.Fatalf("%d services with %d servers, want %d with %d", s.Services, s.Servers, row.services, 10*row.services)
			}
			const flows, pause = 4, 2 * time.Millisecond // 2,000 packets a second, and as many back
			stream := newStream(t, n.In("client"), flows, pause)
			living := newLiving(t, n.In("client"), 10)
			var took []float64
			for k := range row.reloads {
				d.configure(manyServices(row.services, k+1))
				r := hangup(d)
				if r.Error != "" || r.Added == 0 || r.Removed == 0 || r.Edited < row.services {
					t.Fatalf("reload %d: %q, %d added, %d removed, %d edited", k, r.Error, r.Added, r.Removed, r.Edited)
				}
				took = append(took, r.Seconds)
				// What begins now goes by the new configuration.
				fresh := newCounted(t, n.In("client"), "203.0.113.10:80", 20)
				for range 20 {
					if err := fresh.send(); err != nil {
						t.Fatal(err)
					}
				}
				if lost := fresh.lost(); lost > 0 {
					t.Errorf("reload %d: %d of 20 datagrams of a new flow lost", k, lost)
				}
				if err := living.talk(k); err != nil {
					t.Errorf("reload %d: %v", k, err)
				}
			}
			sent, lost := stream.end()
			slices.Sort(took)
			t.Logf("%d reloads: median %.3f s, longest %.3f s; %d datagrams each way, %d lost", row.reloads, took[len(took)/2], took[len(took)-1], sent, lost)
			if lost > 0 {
				t.Errorf("%d of %d datagrams lost", lost, sent)
				for i, p := range d.status().Workers[0].Ports {
					t.Logf("port %d: %+v", i, p)
				}
			}
			// A second is what is promised; a machine that does much else at
			// once may take longer.
			if longest := took[len(took)-1]; longest > 5 {
				t.Errorf("a reload took %.3f s", longest)
			}
		})
	}
}

// hangup sends SIGHUP and returns what came of it.
func hangup(d *director) *control.ReloadSummary {
	d.t.Helper()
	// The log says when; the answer of the API is long after a long reload.
	reports := func() int {
		log := d.log()
		return strings.Count(log, "msg=reloaded ") + strings.Count(log, `msg="reload failed`)
	}
	before := reports()
	d.signal(syscall.SIGHUP)
	if err := d.await(30*time.Second, "a reload is reported", func() bool { return reports() > before }); err != nil {
		d.t.Fatal(err)
	}
	return d.status().LastReload
}

// stream is counted flows that are sent side by side until ended.
type stream struct {
	flows []*counted
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func newStream(t *testing.T, s *testnet.Namespace, flows int, pause time.Duration) *stream {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	m := &stream{stop: stop}
	for range flows {
		m.flows = append(m.flows, newCounted(t, s, "203.0.113.10:80", 1<<20))
	}
	m.done.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, f := range m.flows {
				_ = f.send() // what is not sent is missed at the end
			}
		}
	})
	t.Cleanup(stop)
	return m
}

// end returns how many datagrams were sent and how many of them did not come
// back.
func (m *stream) end() (sent, lost int) {
	m.stop()
	m.done.Wait()
	for _, f := range m.flows {
		lost += f.lost()
		sent += f.sent
	}
	return sent, lost
}

// living is HTTP connections that stay open.
type living []net.Conn

func newLiving(t *testing.T, s *testnet.Namespace, n int) (l living) {
	t.Helper()
	for range n {
		c, err := s.Dial(t.Context(), &net.Dialer{Timeout: patience}, "tcp", "203.0.113.10:80")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		l = append(l, c)
	}
	return l
}

// talk makes a request on each connection.
func (l living) talk(k int) error {
	for i, c := range l {
		_ = c.SetDeadline(time.Now().Add(patience))
		body := fmt.Sprintf("body %d", k)
		if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		answer := make([]byte, 4096)
		for n := 0; !strings.HasSuffix(string(answer[:n]), body); {
			m, err := c.Read(answer[n:])
			if n += m; err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
	}
	return nil
}
