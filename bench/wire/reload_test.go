package wire

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// From one configuration to the next, every service changes, those without a
// load come and go, and those under load keep address, port and servers.
func TestReloadYAML(t *testing.T) {
	type server struct {
		Address string
		Port    int
		Weight  int
	}
	type service struct {
		Port    int
		Servers []server
	}
	read := func(version int) (all []service) {
		var file struct{ Services []service }
		if err := yaml.Unmarshal([]byte(reloadYAML(&Config{}, "/x", 100, version)), &file); err != nil {
			t.Fatal(err)
		}
		return file.Services
	}
	a, b := read(1), read(2)
	if len(a) != 100 || len(b) != 100 {
		t.Fatalf("%d and %d services", len(a), len(b))
	}
	ports := map[int]bool{}
	for i := range a {
		ports[a[i].Port] = true
		if stays := i < reloadLoaded(100); stays != (a[i].Port == b[i].Port) {
			t.Errorf("service %d has ports %d and %d", i, a[i].Port, b[i].Port)
		}
		if len(a[i].Servers) != reloadServers {
			t.Errorf("service %d has %d servers", i, len(a[i].Servers))
		}
		for k := range a[i].Servers {
			x, y := a[i].Servers[k], b[i].Servers[k]
			idle := k == reloadServers-1
			if same := x.Address == y.Address && x.Port == y.Port; same == idle || idle != (x.Weight == y.Weight) || idle != (x.Weight == 0) || (x.Address == serverAddr) == idle {
				t.Errorf("service %d, server %d: %v, then %v", i, k, x, y)
			}
		}
	}
	if len(ports) != 100 {
		t.Errorf("%d different ports", len(ports))
	}
}

// forwardingKernel is a reloader whose director is the kernel, by a route to the
// VIP at the server: it loses nothing and changes no address.
func forwardingKernel(t *testing.T) *reloader {
	t.Helper()
	c := &Config{CPUs: cpus(t), Duration: 50 * time.Millisecond}
	r := &reloader{network: testnet.New(t, plan()), config: c, n: 100}
	if _, err := startForward(inline)(t.Context(), r.network, c, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return r
}

// What the load sends and what arrives are counted, gaps too, and a packet to
// another place is found out.
func TestReloadLoad(t *testing.T) {
	needLive(t)
	r := forwardingKernel(t)
	if err := r.attach(vip); err != nil {
		t.Fatal(err)
	}
	stop := repeat(r.network, r.config.CPUs.Rest[0], r.send)
	l, err := r.under(t.Context(), func() error { return sleep(t.Context(), r.config.Duration) })
	if stopErr := stop(); err != nil || stopErr != nil {
		t.Fatal(err, stopErr)
	}
	if err := r.detach(); err != nil {
		t.Fatal(err)
	}
	if l.sent == 0 || l.arrived == 0 || l.arrived > l.sent || l.sentGap <= 0 || l.arrivedGap <= 0 {
		t.Errorf("%+v", l)
	}
	if err := r.attach(serverAddr); err != nil {
		t.Fatal(err)
	}
	stop = repeat(r.network, r.config.CPUs.Rest[0], r.send)
	_, err = r.under(t.Context(), func() error { return sleep(t.Context(), r.config.Duration) })
	if stopErr := stop(); stopErr != nil {
		t.Fatal(stopErr)
	}
	if err == nil || !strings.Contains(err.Error(), "with another destination") {
		t.Errorf("another destination: %v", err)
	}
	if err := r.detach(); err != nil {
		t.Fatal(err)
	}
}

// A reload is over when the director has another last one, and fails if that
// did.
func TestReloadWaits(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var asked int
	answers := []any{nil, nil, lastReload{At: time.Unix(5, 0), Seconds: 0.25}}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(answers[min(asked, len(answers)-1)])
		asked++
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	r := newReloader(nil, &Config{}, t.TempDir(), 1)
	r.socket = socket
	defer r.client.CloseIdleConnections()
	ms, err := r.await(t.Context(), func() error { return nil })
	if err != nil || ms != 250 || asked != 3 {
		t.Errorf("%v ms after %d questions: %v", ms, asked, err)
	}
	answers, asked = []any{lastReload{At: time.Unix(5, 0)}, lastReload{At: time.Unix(6, 0), Error: "line 3"}}, 0
	if _, err := r.await(t.Context(), func() error { return nil }); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("a reload that failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.await(ctx, func() error { return os.ErrClosed }); err == nil {
		t.Error("a director that is not asked has been reloaded")
	}
}
