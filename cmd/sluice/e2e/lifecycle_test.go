package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// visitors request pages until ended; no request may fail.
type visitors struct {
	t       *testing.T
	stop    context.CancelFunc
	running sync.WaitGroup
	served  atomic.Int64
	failure atomic.Pointer[error]
}

// visit begins n visitors of an address, each making one request after the
// other.
func visit(t *testing.T, s *testnet.Namespace, address string, n int) *visitors {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	v := &visitors{t: t, stop: stop}
	t.Cleanup(func() { v.end() })
	for range n {
		v.running.Go(func() {
			for b := newBrowser(s, patience); ctx.Err() == nil; v.served.Add(1) {
				if _, err := b.post(address, noise(1, 2000)); err != nil {
					v.failure.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	return v
}

// more waits until n more requests are served.
func (v *visitors) more(n int64) {
	v.t.Helper()
	want := v.served.Load() + n
	for deadline := time.Now().Add(patience); v.served.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			v.t.Fatalf("only %d requests served within %s, want %d more", v.served.Load()-want+n, patience, n)
		}
	}
}

// end lets the requests that were begun end and returns how many there were.
func (v *visitors) end() int64 {
	v.t.Helper()
	v.stop()
	v.running.Wait()
	if err := v.failure.Swap(nil); err != nil {
		v.t.Errorf("a request failed: %v", *err)
	}
	return v.served.Load()
}

// web is a network with one director and web servers behind it.
func web(t *testing.T, servers int) *testnet.Network {
	t.Helper()
	n := testnet.New(t, routed(servers))
	for i := range servers {
		serveWeb(t, n.In(server(i)), ":8080")
	}
	return n
}

// SIGTERM ends the director within 2 s, also while packets flow.
func TestSIGTERM(t *testing.T) {
	n := web(t, 1)
	d := start(t, n, natService(1))
	busy := udpConn(t, n.In("client"), "203.0.113.10:80")
	v := visit(t, n.In("client"), "203.0.113.10:80", 4)
	v.more(20)
	v.end()
	// Datagrams, and the server's answers that nobody listens, to the very end.
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	flood.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(100 * time.Microsecond) {
			_, _ = busy.Write([]byte("x")) // refused now and then, by the server's ICMP
		}
	})
	took := d.stop()
	stop()
	flood.Wait()
	t.Logf("SIGTERM to the end: %s", took.Round(time.Millisecond))
	if took > 2*time.Second {
		t.Errorf("the director took %s to end, want 2 s at most", took)
	}
	d.clean(0)
	if log := d.log(); !strings.Contains(log, "msg=stopped") {
		t.Error("the log does not say that the director stopped")
	}
}

// kill -9 leaves the host as it was, and a new director works at once.
func TestKill(t *testing.T) {
	n := web(t, 1)
	d := start(t, n, natService(1))
	v := visit(t, n.In("client"), "203.0.113.10:80", 2)
	v.more(20)
	v.end()
	d.signal(syscall.SIGKILL)
	<-d.ended
	d.clean(2 * time.Second) // the kernel takes away in the background what the process had
	if _, err := os.Stat(d.socket()); err != nil {
		t.Errorf("a killed director leaves its socket, which the next one has to cope with: %v", err)
	}
	began := time.Now()
	d.run()
	t.Logf("started anew within %s", time.Since(began).Round(time.Millisecond))
	again := visit(t, n.In("client"), "203.0.113.10:80", 2)
	again.more(20)
	again.end()
}

// A director whose NIC is taken away ends with its reason: what is left would
// be half a director.
func TestInterfaceGone(t *testing.T) {
	n := web(t, 1)
	d := start(t, n, natService(1))
	link, err := d.host.Netlink().LinkByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.host.Netlink().LinkDel(link); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.ended:
	case <-time.After(patience):
		t.Fatal("the director goes on without its NIC")
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(d.log(), "interface eth1 is gone") {
		t.Errorf("exit status %d, want 1 and the reason; the log:\n%s", code, d.log())
	}
}

// A file that is wrong changes nothing, and both log and API say why.
func TestBadReload(t *testing.T) {
	n := web(t, 2)
	d := start(t, n, natService(1))
	v := visit(t, n.In("client"), "203.0.113.10:80", 2)
	v.more(10)
	before, generation := d.services(), d.status().Generation
	for _, row := range []struct{ stake, config, says string }{
		{"a fault in the text", strings.Replace(natService(2), "scheduler: rr", "scheduler: rrr", 1), "scheduler"},
		{"what needs a restart", "node: other\n" + natService(2), "node"},
		{"not YAML", "services: [", "sluice.yaml"},
	} {
		t.Run(row.stake, func(t *testing.T) {
			d.configure(row.config)
			if r := hangup(d); !strings.Contains(r.Error, row.says) {
				t.Errorf("API says %q, want something about %q", r.Error, row.says)
			}
			if log := d.log(); strings.Count(log, "reload failed, nothing was changed") == 0 || !strings.Contains(log, row.says) {
				t.Errorf("the log does not tell about %q", row.says)
			}
			if _, err := d.ask("reload"); err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), row.says) {
				t.Errorf("sluice reload: %v, want exit status 1 and something about %q", err, row.says)
			}
			if now := d.services(); len(now) != len(before) || len(now[0].Servers) != 1 {
				t.Errorf("the services are %+v now, want no change", now)
			}
			if g := d.status().Generation; g != generation {
				t.Errorf("generation %d, want %d still", g, generation)
			}
		})
	}
	v.more(10)
	// And the file made right is applied.
	d.configure(natService(2))
	if r := answer[control.Reload](d, "reload"); r.Error != "" || len(r.Changes.Added) == 0 {
		t.Errorf("reload of the right file: %+v, want servers added", r)
	}
	v.more(10)
	v.end()
	if now := d.services(); len(now[0].Servers) != 2 {
		t.Errorf("the services are %+v, want two servers", now)
	}
}

// More servers than the XDP programs' tables hold are refused before anything
// has changed: a service that no packet reaches would not be one.
func TestReloadBeyondXDPTables(t *testing.T) {
	n := web(t, 1)
	d := start(t, n, natService(1))
	v := visit(t, n.In("client"), "203.0.113.10:80", 1)
	v.more(10)
	generation := d.status().Generation
	var huge strings.Builder
	huge.WriteString(natService(2) + "  - {protocol: tcp, address: 203.0.113.99, port: 80, scheduler: rr, servers: [")
	for i := range 65_600 {
		fmt.Fprintf(&huge, "{address: 10.0.99.1, port: %d},", 1+i%65_000)
		if i%32_800 == 32_799 {
			fmt.Fprintf(&huge, "]}\n  - {protocol: udp, address: 203.0.113.%d, port: 80, scheduler: rr, servers: [", 100+i/32_800)
		}
	}
	d.configure(huge.String() + "]}\n")
	if r := hangup(d); !strings.Contains(r.Error, "too many services and real servers") {
		t.Errorf("the reload says %q, want too many services and real servers", r.Error)
	}
	if s := d.status(); s.Generation != generation || s.Servers != 4 {
		t.Errorf("generation %d with %d servers, want %d and the 4 from before", s.Generation, s.Servers, generation)
	}
	v.more(10)
	v.end()
}
