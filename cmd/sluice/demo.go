package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/testnet"
)

func newDemo() *cobra.Command {
	length := 24 * time.Second
	c := &cobra.Command{
		Use:   "demo",
		Short: "See it work: a client, a director and three web servers on this machine",
		Long: `Demo builds a network of namespaces, runs a director on AF_XDP in it with a NAT, a DR and a
TUN service, and has a client fetch pages from them. On the way a web server is drained and
removed by SIGHUP. It needs root, no package, touches nothing but what it made, and ends by
itself; Ctrl-C ends it sooner.`,
		Example: `  sudo sluice demo
  sudo sluice demo --length 1m`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if length < 8*time.Second {
				return usageError{fmt.Errorf("--length %s is too short, want 8s or more", length)}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return runDemo(ctx, length, cmd.OutOrStdout())
		},
	}
	c.Flags().DurationVar(&length, "length", length, "how long requests flow")
	return c
}

// demoService is one of the demo's services. Each web server serves all.
type demoService struct {
	method, vip string
	port        int // of the web servers
	served      [demoServers]atomic.Uint64
	failed      atomic.Uint64
	firstError  atomic.Pointer[error]
}

const demoServers = 3

// demo is a running demonstration.
type demo struct {
	out      io.Writer
	folder   string
	net      *testnet.Network
	services []*demoService
	director *exec.Cmd
	died     chan error
	client   *control.Client
	live     bool // the output is a terminal: the table is drawn over
	lines    int  // of the table drawn last
}

func runDemo(ctx context.Context, length time.Duration, out io.Writer) (err error) {
	d := &demo{out: out, died: make(chan error, 1), services: []*demoService{
		{method: "nat", vip: "203.0.113.10", port: 8080},
		{method: "dr", vip: "203.0.113.20", port: 80},
		{method: "tun", vip: "203.0.113.30", port: 80},
	}}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		d.live = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	if d.folder, err = os.MkdirTemp("", "sluice-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.folder)
	if d.net, err = testnet.Build(demoNetwork(d.services)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.net.Close()) }()
	if err := d.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return d.play(ctx, length)
}

// demoNetwork is one client, the director between two networks, and the web
// servers, which have the DR and TUN services' addresses on their loopback.
func demoNetwork(services []*demoService) testnet.Plan {
	p := testnet.Plan{
		Links: []testnet.Link{{
			A: testnet.End{In: "client", Name: "eth0", Addrs: []string{"10.0.1.10/24"}},
			B: testnet.End{In: "director", Name: "eth0", Addrs: []string{"10.0.1.1/24"}},
		}},
		Switches: []testnet.Switch{{Name: "switch", Ends: []testnet.End{{In: "director", Name: "eth1", Addrs: []string{"10.0.2.1/24"}}}}},
		Routes:   []testnet.Route{{In: "client", To: "default", Via: "10.0.1.1"}},
		Sysctls:  []testnet.Sysctl{{In: "director", Key: "net.ipv4.ip_forward", Value: "1"}},
	}
	for i := range demoServers {
		web := webName(i)
		p.Switches[0].Ends = append(p.Switches[0].Ends, testnet.End{In: web, Name: "eth0", Addrs: []string{webAddr(i) + "/24"}})
		p.Routes = append(p.Routes, testnet.Route{In: web, To: "default", Via: "10.0.2.1"})
		for _, s := range services {
			if s.method != "nat" {
				p.VIPs = append(p.VIPs, testnet.VIP{In: web, Addr: s.vip})
			}
		}
	}
	return p
}

func webName(i int) string { return fmt.Sprintf("web%d", i+1) }
func webAddr(i int) string { return fmt.Sprintf("10.0.2.%d", 11+i) }

// start brings up web servers and the director, and waits until it serves.
func (d *demo) start(ctx context.Context) error {
	for i := range demoServers {
		if _, err := d.net.Decapsulate(webName(i)); err != nil {
			return err
		}
		for _, port := range []string{":80", ":8080"} {
			l, err := d.net.In(webName(i)).Listen("tcp", port)
			if err != nil {
				return err
			}
			name := webName(i)
			go func() {
				_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) }))
			}()
			context.AfterFunc(ctx, func() { l.Close() })
		}
	}
	if err := d.configure([]int{1, 1, 1}); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.folder, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	d.director = exec.Command(self, "run", "-c", d.configFile())
	d.director.Stdout, d.director.Stderr = log, log
	d.director.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is the demo's to handle
	if err := d.net.In("director").Start(d.director); err != nil {
		return fmt.Errorf("start the director: %w", err)
	}
	go func() { d.died <- d.director.Wait() }()
	d.client = control.NewClient(d.socket())
	for {
		if _, err := d.client.Status(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-d.died:
			text, _ := os.ReadFile(filepath.Join(d.folder, "log"))
			return fmt.Errorf("the director did not start: %w\n%s", err, text)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *demo) configFile() string { return filepath.Join(d.folder, "sluice.yaml") }
func (d *demo) socket() string     { return filepath.Join(d.folder, "control.sock") }

// configure writes the director's configuration: weights by web server, below
// 0: not there.
func (d *demo) configure(weights []int) error {
	var b strings.Builder
	b.WriteString("node: demo\ninterfaces: [{name: eth0, role: client}, {name: eth1, role: server}]\n")
	b.WriteString("workers: {idle: adaptive}\nconnections: {max: 65536}\n")
	fmt.Fprintf(&b, "control: {socket: %q, listen: \"\"}\nservices:\n", d.socket())
	for _, s := range d.services {
		fmt.Fprintf(&b, "  - {name: %s, protocol: tcp, address: %s, port: 80, scheduler: rr, forward: %s, servers: [", s.method, s.vip, s.method)
		separator := ""
		for i, w := range weights {
			if w >= 0 {
				fmt.Fprintf(&b, "%s{address: %s, port: %d, weight: %d}", separator, webAddr(i), s.port, w)
				separator = ", "
			}
		}
		b.WriteString("]}\n")
	}
	return os.WriteFile(d.configFile(), []byte(b.String()), 0o644)
}

// play lets requests flow, shows who serves them, and drains and removes web2
// in the middle.
func (d *demo) play(ctx context.Context, length time.Duration) error {
	requests, stop := context.WithTimeout(ctx, length)
	defer stop()
	var clients sync.WaitGroup
	for _, s := range d.services {
		for range 4 {
			clients.Go(func() { d.fetch(requests, s) })
		}
	}
	fmt.Fprintf(d.out, "%s of HTTP requests: client ─ director (sluice run, pid %d) ─ web1, web2, web3\n\n", length, d.director.Process.Pid)
	began, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	drain, remove := length*2/5, length*3/5
	var last *control.Status
	for requests.Err() == nil {
		select {
		case <-requests.Done():
		case err := <-d.died:
			text, _ := os.ReadFile(filepath.Join(d.folder, "log"))
			return fmt.Errorf("the director ended: %w\n%s", err, text)
		case <-tick.C:
			passed := time.Since(began)
			last = d.show(ctx, passed, last)
			switch {
			case drain > 0 && passed >= drain:
				drain = 0
				if err := d.hangup("weight 0 for web2: it gets no new connections", []int{1, 0, 1}); err != nil {
					return err
				}
			case remove > 0 && passed >= remove:
				remove = 0
				if err := d.hangup("web2 removed", []int{1, -1, 1}); err != nil {
					return err
				}
			}
		}
	}
	clients.Wait()
	return d.end(ctx)
}

// hangup writes a configuration and has the director read it.
func (d *demo) hangup(what string, weights []int) error {
	if err := d.configure(weights); err != nil {
		return err
	}
	if err := d.director.Process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("SIGHUP to the director: %w", err)
	}
	fmt.Fprintf(d.out, "SIGHUP: %s\n", what)
	d.lines = 0
	return nil
}

// fetch is a client: page after page, each over a connection of its own.
func (d *demo) fetch(ctx context.Context, s *demoService) {
	client := http.Client{
		Timeout: 3 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return d.net.In("client").DialContext(ctx, network, address)
		}},
	}
	for ctx.Err() == nil {
		// A request that was begun is finished, also when time is up.
		if err := s.get(&client); err != nil {
			s.failed.Add(1)
			s.firstError.CompareAndSwap(nil, &err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// get fetches one page and notes who served it.
func (s *demoService) get(client *http.Client) error {
	resp, err := client.Get("http://" + s.vip + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 100))
	if err != nil {
		return err
	}
	for i := range s.served {
		if strings.TrimSpace(string(body)) == webName(i) {
			s.served[i].Add(1)
			return nil
		}
	}
	return fmt.Errorf("answer %q is no web server's", body)
}

// show draws the table, and returns the node's status for the next rate.
func (d *demo) show(ctx context.Context, passed time.Duration, last *control.Status) *control.Status {
	status, err := d.client.Status(ctx)
	if err != nil {
		return last
	}
	var b strings.Builder
	if d.live && d.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", d.lines)
	}
	mode := make([]string, 0, len(status.Interfaces))
	for _, i := range status.Interfaces {
		mode = append(mode, i.Name+" "+i.Mode)
	}
	rate := uint64(0)
	if last != nil {
		rate = status.Totals.Received - last.Totals.Received
	}
	rows := []string{fmt.Sprintf("%3.0f s  AF_XDP %s; %d packets/s, %d connections", passed.Seconds(), strings.Join(mode, ", "), rate, status.Connections)}
	for _, s := range d.services {
		row := fmt.Sprintf("       %-3s %s:80 ", s.method, s.vip)
		for i := range s.served {
			row += fmt.Sprintf("  %s %5d", webName(i), s.served[i].Load())
		}
		rows = append(rows, row+fmt.Sprintf("   failed %d", s.failed.Load()))
	}
	for _, row := range rows {
		b.WriteString(row)
		if d.live {
			b.WriteString("\x1b[K")
		}
		b.WriteByte('\n')
	}
	d.lines = len(rows)
	fmt.Fprint(d.out, b.String())
	return status
}

// end stops the director as its operator would and sums up.
func (d *demo) end(ctx context.Context) error {
	status, statusErr := d.client.Status(context.WithoutCancel(ctx))
	if err := d.director.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("SIGTERM to the director: %w", err)
	}
	select {
	case err := <-d.died:
		if err != nil {
			return fmt.Errorf("the director's end: %w", err)
		}
	case <-time.After(5 * time.Second):
		return errors.New("the director did not stop within 5 s of SIGTERM")
	}
	requests, failed := uint64(0), uint64(0)
	var first error
	for _, s := range d.services {
		for i := range s.served {
			requests += s.served[i].Load()
		}
		failed += s.failed.Load()
		if e := s.firstError.Load(); e != nil && first == nil {
			first = fmt.Errorf("%s: %w", s.method, *e)
		}
	}
	requests += failed
	fmt.Fprintf(d.out, "\n%d requests, %d failed", requests, failed)
	if statusErr == nil {
		t := &status.Totals
		dropped := uint64(0)
		for _, n := range t.Dropped {
			dropped += n
		}
		fmt.Fprintf(d.out, "; %d packets received = %d transmitted + %d passed to the host + %d held + %d dropped", t.Received, t.Transmitted, t.Passed, t.Held, dropped)
	}
	fmt.Fprintln(d.out)
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed, the first: %w", failed, requests, first)
	}
	return nil
}
