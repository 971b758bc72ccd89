package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

//go:generate go run -modfile=../../tools.mod github.com/cilium/ebpf/cmd/bpf2go -target bpfel reload reload.bpf.c -- -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

// ReloadScenario is where the names begin of what reloads cost: so many
// services of ten servers each change 100 times while packets go to most of
// them.
const ReloadScenario = "wire/reload/"

// reloadSizes are how many services there are, and what that is called.
var reloadSizes = []struct {
	name string
	n    int
}{{"100", 100}, {"1k", 1000}}

const (
	reloadServers = 10 // of each service
	reloadSpared  = 20 // one in so many services is not sent to, and comes and goes
	reloadClients = 10 // ports that send to each
	reloadRate    = 100_000
	reloads       = 100
	reloadsShort  = 10
	firstService  = 1000 // port
	firstRealPort = 20_000
	reloadPause   = 5 * time.Millisecond // between two looks at whether a reload is over
	reloadTime    = 10 * time.Second     // for one, at most
)

// reloadCases returns a Case for each number of services.
func reloadCases(c Config) (cases []bench.Case) {
	for _, size := range reloadSizes {
		cases = append(cases, bench.Case{Scenario: ReloadScenario + size.name, Subject: Sluice, Measure: func(ctx context.Context) ([]bench.Sample, error) {
			return measureReloads(ctx, &c, size.n)
		}})
	}
	return cases
}

// reloadLoaded is how many of n services are sent to.
func reloadLoaded(n int) int { return n - n/reloadSpared }

// reloadYAML is the director's configuration with n services, the version-th
// one: from one to the next a server of every service changes its weight, of
// every service a server without weight goes and another comes, and so do the
// services that nothing is sent to.
func reloadYAML(c *Config, socket string, n, version int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `node: bench
interfaces:
  - {name: %s, role: client}
  - {name: %s, role: server}
workers: {cpus: [%d], idle: spin}
control: {socket: %s, listen: ""}
services:
`, front, back, c.CPUs.Worker, socket)
	for i := range n {
		port := firstService + i
		if i >= reloadLoaded(n) {
			port += n * (1 + version%2)
		}
		fmt.Fprintf(&b, "  - {protocol: udp, address: %s, port: %d, scheduler: wrr, forward: nat, servers: [", vip, port)
		for k := range reloadServers - 1 {
			fmt.Fprintf(&b, "{address: %s, port: %d, weight: %d}, ", serverAddr, firstRealPort+i*reloadServers+k, 1+(version+k)%2)
		}
		fmt.Fprintf(&b, "{address: 10.0.2.%d, port: %d, weight: 0}]}\n", 100+version%100, rport)
	}
	return b.String()
}

// reloader is a director that is reloaded, under a load.
type reloader struct {
	network *testnet.Network
	config  *Config
	objects reloadObjects
	sink    link.Link
	frame   []byte
	process *process
	path    string // of the configuration
	socket  string
	client  http.Client
	n       int // services
	version int
}

// measureReloads is one run: a network, the director with n services, the load
// alone, and the load with reloads.
func measureReloads(ctx context.Context, c *Config, n int) (samples []bench.Sample, err error) {
	nw, err := testnet.Build(plan())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, nw.Close()) }()
	dir, err := os.MkdirTemp("", "sluice-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r := newReloader(nw, c, dir, n)
	defer r.client.CloseIdleConnections()
	if err := r.write(); err != nil {
		return nil, err
	}
	if r.process, err = startProcess(ctx, nw, &c.CPUs, dir, "msg=running", c.Sluice, "run", "-c", r.path); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.process.stop()) }()
	if err := r.attach(serverAddr); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.detach()) }()
	stop := repeat(nw, c.CPUs.Generator, r.send)
	samples, err = r.run(ctx)
	return samples, r.process.blame(errors.Join(err, stop()))
}

func newReloader(n *testnet.Network, c *Config, dir string, services int) *reloader {
	r := &reloader{network: n, config: c, n: services, path: filepath.Join(dir, "sluice.yaml"), socket: filepath.Join(dir, "control.sock")}
	r.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
	}}
	return r
}

// write writes the next version of the configuration.
func (r *reloader) write() error {
	r.version++
	return os.WriteFile(r.path, []byte(reloadYAML(r.config, r.socket, r.n, r.version)), 0o600)
}

// attach loads the programs and has the server count what arrives for that
// address.
func (r *reloader) attach(to string) error {
	spec, err := loadReload()
	if err != nil {
		return err
	}
	out, err := r.network.In(client).Netlink().LinkByName(eth0)
	if err != nil {
		return fmt.Errorf("%s of the client: %w", eth0, err)
	}
	r.frame = packettest.Eth(frontMAC, clientMAC).IP4(clientAddr, vip).UDP(firstPort, firstService).Payload(make([]byte, 18)).Bytes()
	const sumAt = 40
	r.frame[sumAt], r.frame[sumAt+1] = 0, 0
	for name, value := range map[string]any{
		reloadVarFirst:      [liveWords * 8]byte(r.frame),
		reloadVarOutIfindex: uint32(out.Attrs().Index),
		reloadVarServices:   uint32(reloadLoaded(r.n)),
		reloadVarClients:    uint32(reloadClients),
		reloadVarServerAddr: addr4(to),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := spec.LoadAndAssign(&r.objects, nil); err != nil {
		return fmt.Errorf("load the programs of load and sink: %w", err)
	}
	if r.sink, err = attachXDP(r.network, server, r.objects.Arrive); err != nil {
		return errors.Join(err, r.objects.Close())
	}
	return nil
}

func (r *reloader) detach() error { return errors.Join(r.sink.Close(), r.objects.Close()) }

func (r *reloader) send(n uint32) error {
	if err := runLive(r.objects.Send.FD(), r.frame, n, fewAtOnce); err != nil {
		return fmt.Errorf("send live frames by BPF_PROG_TEST_RUN (Linux 5.18 or later): %w", err)
	}
	return nil
}

// run gives the load a while without reloads, and then with them.
func (r *reloader) run(ctx context.Context) ([]bench.Sample, error) {
	if _, err := r.under(ctx, func() error { return sleep(ctx, warmUp) }); err != nil { // every connection is made
		return nil, err
	}
	alone, err := r.under(ctx, func() error { return sleep(ctx, r.config.Duration) })
	if err != nil {
		return nil, err
	}
	times := reloads
	if r.config.Short {
		times = reloadsShort
	}
	var took []float64
	reloaded, err := r.under(ctx, func() error {
		for range times {
			ms, err := r.reload(ctx)
			if err != nil {
				return err
			}
			took = append(took, ms)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []bench.Sample{
		{Metric: "reloads", Unit: "reloads", Value: float64(times)},
		{Metric: "a reload", Unit: "ms", Value: bench.Percentile(took, 50)},
		{Metric: "longest reload", Unit: "ms", Value: bench.Percentile(took, 100)},
		{Metric: "sent", Unit: "packets", Value: float64(reloaded.sent)},
		{Metric: "lost", Unit: "packets", Value: float64(reloaded.sent) - float64(reloaded.arrived)},
		{Metric: "longest gap", Unit: "ms", Value: reloaded.arrivedGap},
		{Metric: "longest gap as sent", Unit: "ms", Value: reloaded.sentGap},
		{Metric: "sent without reloads", Unit: "packets", Value: float64(alone.sent)},
		{Metric: "lost without reloads", Unit: "packets", Value: float64(alone.sent) - float64(alone.arrived)},
		{Metric: "longest gap without reloads", Unit: "ms", Value: alone.arrivedGap},
		{Metric: "longest gap as sent without reloads", Unit: "ms", Value: alone.sentGap},
	}, nil
}

// loaded is what a load was.
type loaded struct {
	sent, arrived, wrong uint64
	sentGap, arrivedGap  float64 // ms
}

// under does something under the load.
func (r *reloader) under(ctx context.Context, do func() error) (l loaded, err error) {
	o := &r.objects
	if err := errors.Join(o.SentAt.Set(uint64(0)), o.ArrivedAt.Set(uint64(0)), o.SentGap.Set(uint64(0)), o.ArrivedGap.Set(uint64(0)),
		o.Sent.Set(uint64(0)), o.Arrived.Set(uint64(0)), o.Interval.Set(uint64(time.Second/reloadRate)), begun(o.Sent, 0)); err != nil {
		return l, err
	}
	if err := do(); err != nil {
		return l, err
	}
	if err := errors.Join(o.Interval.Set(uint64(0)), sleep(ctx, patience)); err != nil { // until the last has arrived
		return l, err
	}
	var sentGap, arrivedGap uint64
	if err := errors.Join(o.Sent.Get(&l.sent), o.Arrived.Get(&l.arrived), o.Wrong.Get(&l.wrong), o.SentGap.Get(&sentGap), o.ArrivedGap.Get(&arrivedGap)); err != nil {
		return l, err
	}
	l.sentGap, l.arrivedGap = float64(sentGap)/1e6, float64(arrivedGap)/1e6
	if l.arrived == 0 || l.wrong > 0 {
		return l, fmt.Errorf("of %d packets %d arrived, and %d with another destination", l.sent, l.arrived, l.wrong)
	}
	return l, nil
}

// lastReload is what the API says of it (docs/API.md).
type lastReload struct {
	At      time.Time `json:"at"`
	Error   string    `json:"error"`
	Seconds float64   `json:"seconds"`
}

// reload has the director read the next version of its configuration and
// returns how long that took, in ms.
func (r *reloader) reload(ctx context.Context) (ms float64, err error) {
	return r.await(ctx, func() error {
		if err := r.write(); err != nil {
			return err
		}
		return syscall.Kill(r.process.pid, syscall.SIGHUP)
	})
}

// await asks for a reload and waits for its end.
func (r *reloader) await(ctx context.Context, ask func() error) (ms float64, err error) {
	before, err := r.last(ctx)
	if err != nil {
		return 0, err
	}
	if err := ask(); err != nil {
		return 0, fmt.Errorf("ask for a reload: %w", err)
	}
	for deadline := time.Now().Add(reloadTime); time.Now().Before(deadline); {
		if err := sleep(ctx, reloadPause); err != nil {
			return 0, err
		}
		l, err := r.last(ctx)
		switch {
		case err != nil:
			return 0, err
		case l.At.Equal(before.At):
		case l.Error != "":
			return 0, fmt.Errorf("the director's reload: %s", l.Error)
		default:
			return 1000 * l.Seconds, nil
		}
	}
	return 0, fmt.Errorf("no reload in %v", reloadTime)
}

// last asks the director for its last reload; the zero one is none.
func (r *reloader) last(ctx context.Context) (l lastReload, err error) {
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sluice/v1/reload", http.NoBody)
	if err != nil {
		return l, err
	}
	answer, err := r.client.Do(ask)
	if err != nil {
		return l, err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&l); err != nil {
		return l, fmt.Errorf("the director's last reload: %w", err)
	}
	return l, nil
}
