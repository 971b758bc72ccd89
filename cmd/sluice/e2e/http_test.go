package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// serveWeb runs a web server in a namespace until the test ends. It answers a
// request with its namespace's name, a line, and the request's body.
func serveWeb(t *testing.T, s *testnet.Namespace, address string) {
	t.Helper()
	l, err := s.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, s.Name())
		_, _ = w.Write(body)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
}

// browser makes requests from a namespace, each over a connection of its own.
type browser struct{ http.Client }

// newBrowser returns one that gives up after a while.
func newBrowser(s *testnet.Namespace, timeout time.Duration) *browser {
	return &browser{http.Client{
		Timeout: timeout,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.Dial(ctx, &net.Dialer{Timeout: timeout}, network, address) // ctx does not end with the request
		}},
	}}
}

// post sends body to a web server and returns the server's name. An answer
// that does not hold the body is an error.
func (b *browser) post(address string, body []byte) (name string, err error) {
	r, err := b.Post("http://"+address+"/", "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(r.Body)
	if err != nil {
		return "", err
	}
	name, echo, found := strings.Cut(string(answer), "\n")
	if r.StatusCode != http.StatusOK || !found || echo != string(body) {
		return "", fmt.Errorf("%s: %s with %d bytes, not the %d of the request", address, r.Status, len(answer), len(body))
	}
	return name, nil
}

// noise is n bytes from a seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// HTTP by each method, in each family and, tunnelled, from one to the other.
// The race detector watches.
func TestHTTP(t *testing.T) {
	type row struct {
		what, vip, forward, scheduler string
		server                        func(int) string
		port                          int
	}
	rows := []row{
		{"NAT v4", "203.0.113.10", "nat", "rr", server4, 8080},
		{"NAT v6", "2001:db8::10", "nat", "wrr", server6, 8080},
		{"DR v4", "203.0.113.20", "dr", "rr", server4, 80},
		{"DR v6", "2001:db8::20", "dr", "rr", server6, 80},
		{"TUN v4", "203.0.113.30", "tun", "rr", server4, 80},
		{"TUN v6", "2001:db8::30", "tun", "rr", server6, 80},
		{"TUN v4 in v6", "203.0.113.40", "tun", "rr", server6, 80},
		{"TUN v6 in v4", "2001:db8::40", "tun", "wrr", server4, 80},
	}
	const servers, requests = 2, 12
	plan, config := routed(servers), "services:\n"
	for _, r := range rows {
		config += fmt.Sprintf("  - {name: %s, protocol: tcp, address: %q, port: 80, scheduler: %s, forward: %s, servers: [", strings.ReplaceAll(r.what, " ", "-"), r.vip, r.scheduler, r.forward)
		for i := range servers {
			config += fmt.Sprintf("{address: %q, port: %d}, ", r.server(i), r.port)
			if r.forward != "nat" {
				plan.VIPs = append(plan.VIPs, testnet.VIP{In: server(i), Addr: r.vip})
			}
		}
		config += "]}\n"
	}
	n := testnet.New(t, plan)
	for i := range servers {
		if _, err := n.Decapsulate(server(i)); err != nil {
			t.Fatal(err)
		}
		serveWeb(t, n.In(server(i)), ":80")
		serveWeb(t, n.In(server(i)), ":8080")
	}
	d := startBuild(t, n, config, raced)
	b := newBrowser(n.In("client"), patience)
	for i, r := range rows {
		t.Run(r.what, func(t *testing.T) {
			served := map[string]int{}
			for k := range requests {
				// From nothing to more than a window; also more than what fits
				// into a tunnel, which the client has to learn.
				name, err := b.post(netip.AddrPortFrom(netip.MustParseAddr(r.vip), 80).String(), noise(uint64(k), k*k*1000))
				if err != nil {
					t.Fatalf("request %d: %v", k, err)
				}
				served[name]++
			}
			if served[server(0)] != requests/2 || served[server(1)] != requests/2 {
				t.Errorf("served by %v, want %d each", served, requests/2)
			}
			s := d.services()[i]
			if s.Stats.Conns != requests || s.Address != r.vip || s.Servers[0].Forward != r.forward {
				t.Errorf("service %s %s: %d connections, want %s, %s, %d", s.Address, s.Servers[0].Forward, s.Stats.Conns, r.vip, r.forward, requests)
			}
			if s.Stats.InPackets < 3*requests || s.Stats.OutPackets < 3*requests {
				t.Errorf("counted %d packets in and %d out, want at least 3 a request: its replies pass here too", s.Stats.InPackets, s.Stats.OutPackets)
			}
		})
	}
	if d.stats().Totals.Dropped["too_big"] == 0 {
		t.Error("no client had to be told what fits into a tunnel")
	}
}
