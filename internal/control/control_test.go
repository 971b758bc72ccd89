package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/workers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a made-up director.
type node struct {
	fault    error
	reloads  int
	tunables lb.Sysctl
}

var conns = []Conn{
	{Protocol: "udp", Client: "10.0.0.2", ClientPort: 5, Virtual: "192.0.2.1", VirtualPort: 53, Server: "10.0.1.1", ServerPort: 53, State: "UDP", Expires: 300},
	{Protocol: "tcp", Client: "10.0.0.2", ClientPort: 9, Virtual: "192.0.2.1", VirtualPort: 80, Server: "10.0.1.1", ServerPort: 80, State: "ESTABLISHED", Expires: 899.9},
	{Protocol: "tcp", Client: "10.0.0.10", ClientPort: 7, Virtual: "192.0.2.1", VirtualPort: 80, Server: "10.0.1.2", ServerPort: 80, State: "SYN_RECV", Expires: 60},
}

func (n *node) Status(context.Context) (*Status, error) {
	return &Status{Node: "edge1", Totals: workers.Totals{Received: 3, Dropped: map[string]uint64{"no_server": 3}}}, n.fault
}

func (n *node) Services(context.Context) ([]Service, error) {
	return []Service{{Name: "www", Protocol: "tcp", Flags: []string{}, Servers: []Real{{Address: "10.0.1.1", Weight: 1}}}}, n.fault
}

func (n *node) Stats(context.Context) (*AllStats, error) {
	return &AllStats{Sum: Stats{Conns: 7}}, n.fault
}

func (n *node) Conns(_ context.Context, visit func(Conn) bool) error {
	for _, c := range conns {
		if !visit(c) {
			break
		}
	}
	return n.fault
}

func (n *node) IPVSAdm(_ context.Context, a Admin) (*AdminResult, error) {
	return &AdminResult{Stdout: strings.Join(a.Args, "|"), Stderr: a.Stdin, Exit: 255}, n.fault
}

func (n *node) Sysctl(_ context.Context, edit func(*lb.Sysctl) error) (*lb.Sysctl, error) {
	if edit != nil {
		return &n.tunables, edit(&n.tunables)
	}
	return &n.tunables, n.fault
}

func (n *node) Save(context.Context) (*Saved, error) { return &Saved{"node: edge1\n"}, n.fault }

func (n *node) LastReload(context.Context) (*Reload, error) {
	if n.reloads == 0 {
		return nil, n.fault
	}
	return &Reload{Touched: n.reloads}, n.fault
}

func (n *node) Reload(context.Context) *Reload {
	n.reloads++
	return &Reload{Error: "sluice.yaml:3: node: made up", Touched: 4}
}

// serve runs a server of n, and returns its client, its TCP address and its
// socket. It ends with the test.
func serve(t *testing.T, n *node) (*Client, string, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	l.Close()
	socket := filepath.Join(t.TempDir(), "run", "control.sock")
	s := &Server{Node: n, Log: slog.New(slog.DiscardHandler), Socket: socket, Listen: listen}
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	client := NewClient(socket)
	t.Cleanup(func() {
		client.http.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return client, listen, socket
}

// What the node says reaches the client whole.
func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	n := &node{}
	c, _, socket := serve(t, n)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v; want mode 0660", info.Mode(), err)
	}
	status, err := c.Status(ctx)
	want, _ := n.Status(ctx)
	if diff := cmp.Diff(want, status); err != nil || diff != "" {
		t.Errorf("status: %v\n%s", err, diff)
	}
	services, err := c.Services(ctx)
	wantServices, _ := n.Services(ctx)
	if diff := cmp.Diff(wantServices, services); err != nil || diff != "" {
		t.Errorf("services: %v\n%s", err, diff)
	}
	stats, err := c.Stats(ctx)
	wantStats, _ := n.Stats(ctx)
	if diff := cmp.Diff(wantStats, stats); err != nil || diff != "" {
		t.Errorf("stats: %v\n%s", err, diff)
	}
	if saved, err := c.Save(ctx); err != nil || saved.YAML != "node: edge1\n" {
		t.Errorf("save: %+v, %v", saved, err)
	}
	admin, err := c.IPVSAdm(ctx, Admin{Args: []string{"-L", "-n"}, Stdin: "text"})
	if diff := cmp.Diff(&AdminResult{"-L|-n", "text", 255}, admin); err != nil || diff != "" {
		t.Errorf("ipvsadm: %v\n%s", err, diff)
	}
	set, err := c.SetSysctl(ctx, map[string]Value{"drop_entry": "3", "sync_threshold": "4 50"})
	if diff := cmp.Diff(&lb.Sysctl{DropEntry: 3, SyncThreshold: [2]int{4, 50}}, set); err != nil || diff != "" {
		t.Errorf("set sysctl: %v\n%s", err, diff)
	}
	if tunables, err := c.Sysctl(ctx); err != nil || tunables.DropEntry != 3 {
		t.Errorf("sysctl: %+v, %v", tunables, err)
	}
	if last, err := c.LastReload(ctx); err != nil || last != nil {
		t.Errorf("last reload before there was one: %+v, %v", last, err)
	}
	reload, err := c.Reload(ctx)
	if err != nil || reload.Touched != 4 || reload.Error == "" || n.reloads != 1 {
		t.Errorf("reload: %+v, %v", reload, err)
	}
	if last, err := c.LastReload(ctx); err != nil || last == nil || last.Touched != 1 {
		t.Errorf("last reload: %+v, %v", last, err)
	}
}

// Each row is a filter and the client ports of the connections it selects, in
// the order in which they are shown.
func TestFilter(t *testing.T) {
	c, _, _ := serve(t, &node{})
	for _, row := range []struct {
		stake     string
		f         Filter
		want      []uint16
		truncated bool
	}{
		{"all, sorted", Filter{}, []uint16{7, 9, 5}, false},
		{"protocol", Filter{Protocol: "udp"}, []uint16{5}, false},
		{"client", Filter{Client: netip.MustParseAddr("10.0.0.2")}, []uint16{9, 5}, false},
		{"server and state", Filter{Server: netip.MustParseAddr("10.0.1.1"), State: "ESTABLISHED"}, []uint16{9}, false},
		{"state in small letters", Filter{State: "syn_recv"}, []uint16{7}, false},
		{"port", Filter{Port: 53, Virtual: netip.MustParseAddr("192.0.2.1")}, []uint16{5}, false},
		{"limit", Filter{Limit: 2}, []uint16{9, 5}, true},
		{"none", Filter{Port: 1}, nil, false},
	} {
		got, err := c.Conns(context.Background(), row.f)
		if err != nil {
			t.Fatalf("%s: %v", row.stake, err)
		}
		var ports []uint16
		for _, k := range got.Connections {
			ports = append(ports, k.ClientPort)
		}
		if !cmp.Equal(ports, row.want) || got.Truncated != row.truncated {
			t.Errorf("%s: %v, truncated %v; want %v, %v", row.stake, ports, got.Truncated, row.want, row.truncated)
		}
	}
}

// Each row is a request over TCP, and the status and a part of the answer.
func TestOverTCP(t *testing.T) {
	_, listen, _ := serve(t, &node{})
	for _, row := range []struct {
		stake, method, path string
		status              int
		want                string
	}{
		{"reading", "GET", "/v1/status", 200, `"node":"edge1"`},
		{"TCP changes nothing", "POST", "/v1/reload", 405, ""},
		{"nor by ipvsadm", "POST", "/v1/ipvsadm", 404, ""},
		{"nor tunables", "POST", "/v1/sysctl", 405, ""},
		{"reading tunables", "GET", "/v1/sysctl", 200, `"drop_entry":0`},
		{"no such method", "POST", "/v1/status", 405, ""},
		{"no such thing", "GET", "/v2/status", 404, ""},
		{"a parameter that nobody knows", "GET", "/v1/conns?clint=1", 400, "clint: no such parameter"},
		{"no address", "GET", "/v1/conns?client=me", 400, "client: "},
		{"no port", "GET", "/v1/conns?port=70000", 400, "port: "},
		{"limit out of range", "GET", "/v1/conns?limit=0", 400, "want 1..100000"},
	} {
		req, err := http.NewRequest(row.method, "http://"+listen+row.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != row.status || !strings.Contains(string(body), row.want) {
			t.Errorf("%s: %d %s, want %d and %s", row.stake, resp.StatusCode, body, row.status, row.want)
		}
	}
}

// Each row is a body of POST /v1/sysctl, and the error of a node whose tunables
// are the defaults, or what they are after it.
func TestSetTunables(t *testing.T) {
	for _, row := range []struct{ stake, body, want string }{
		{"numbers, lists and texts", `{"drop_entry":1,"sync_threshold":[4,60],"secure_tcp":"2","amemthresh":-1}`, "1 [4 60] 2 -1"},
		{"nothing", `{}`, "0 [3 50] 0 1024"},
		{"one threshold keeps the period", `{"sync_threshold":7}`, "0 [7 50] 0 1024"},
		{"all or nothing", `{"drop_entry":1,"secure_tcp":4}`, "secure_tcp: 4 is out of range, want 0..3"},
		{"no such tunable", `{"drop_entries":1}`, "drop_entries: no such tunable"},
		{"a part of a number", `{"drop_entry":1.5}`, `drop_entry: "1.5" is no number`},
		{"true", `{"drop_entry":true}`, "body: true is no value of a tunable"},
		{"null", `{"drop_entry":null}`, "body: null is no value of a tunable"},
		{"no object", `3`, "body: json: cannot unmarshal number"},
		{"not JSON", `drop_entry=3`, "body: invalid character"},
	} {
		n := &node{tunables: lb.DefaultSysctl()}
		s := &Server{Node: n, Log: slog.New(slog.DiscardHandler)}
		w := httptest.NewRecorder()
		s.all().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/sysctl", strings.NewReader(row.body)))
		got := n.tunables
		text := fmt.Sprint(got.DropEntry, got.SyncThreshold, got.SecureTCP, got.AMemThresh)
		if w.Code == 400 && got == lb.DefaultSysctl() {
			var fault struct{ Error string }
			if err := json.Unmarshal(w.Body.Bytes(), &fault); err != nil {
				t.Fatal(err)
			}
			text = fault.Error
		}
		if !strings.HasPrefix(text, row.want) {
			t.Errorf("%s: %d %s, want %s", row.stake, w.Code, text, row.want)
		}
	}
}

// Errors say what was asked of whom.
func TestErrors(t *testing.T) {
	c, _, socket := serve(t, &node{fault: errors.New("the node is made up")})
	if _, err := c.Status(context.Background()); err == nil || !strings.Contains(err.Error(), "GET /v1/status: the node is made up") {
		t.Errorf("a node's error: %v", err)
	}
	second := &Server{Node: &node{}, Log: slog.New(slog.DiscardHandler), Socket: socket}
	if err := second.Serve(context.Background(), func() {}); err == nil || !strings.Contains(err.Error(), "is sluice running already") {
		t.Errorf("a second server: %v", err)
	}
	nobody := filepath.Join(t.TempDir(), "none.sock")
	if _, err := NewClient(nobody).Status(context.Background()); err == nil || !strings.Contains(err.Error(), "no sluice is running at "+nobody) {
		t.Errorf("nobody serves: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	third := &Server{Node: &node{}, Log: slog.New(slog.DiscardHandler), Socket: file}
	if err := third.Serve(context.Background(), func() {}); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file in the socket's place: %v", err)
	}
}

// A socket that a killed process left is replaced.
func TestStaleSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := &Server{Node: &node{}, Log: slog.New(slog.DiscardHandler), Socket: socket}
	go func() { ended <- s.Serve(ctx, stop) }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server neither served nor ended")
	}
	stop()
}
