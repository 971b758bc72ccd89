package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// ConnsScenario is where the names of the scenarios begin that measure
// connections a second.
const ConnsScenario = "wire/conns/"

// conns is a way of opening connections, as fast as the director goes along:
// a SYN only, or open, a byte each way, and close, as DPVS measures it.
type conns struct {
	name    string
	synOnly bool
}

var allConns = []conns{
	{"syn", true},
	{"open-1B-close", false},
}

// connections is how many differ in a run; sluice has room for as many by
// default.
const connections = 1_000_000

// opener is who makes connections between client and server.
type opener struct {
	name string
	// start has the director forward TCP from vip:vport to serverAddr:rport.
	// The process is nil where it is the kernel itself; undo is not.
	start func(ctx context.Context, n *testnet.Network, c *Config, dir string) (p *process, undo func() error, err error)
}

var openers = []opener{
	{Sluice, func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, func() error, error) {
		p, err := startSluice("tcp", "nat", rport)(ctx, n, c, dir)
		return p, func() error { return nil }, err
	}},
	{Conntrack, startConntrack},
	{IPVS, func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, func() error, error) {
		if err := needsIPVS(c); err != nil {
			return nil, nil, skipped(err)
		}
		p, err := startIPVS(threaded, "-t", "-m", rport)(ctx, n, c, dir)
		return p, func() error { return nil }, err
	}},
}

// connsCases returns a Case for each way of opening connections and each
// subject.
func connsCases(c Config) (cases []bench.Case) {
	for _, how := range allConns {
		for _, o := range openers {
			cases = append(cases, bench.Case{Scenario: ConnsScenario + how.name, Subject: o.name, Measure: func(ctx context.Context) ([]bench.Sample, error) {
				return how.measure(ctx, &c, &o)
			}})
		}
	}
	return cases
}

// connsRatios compares sluice with the others that were measured, run by run.
func connsRatios(all []bench.Series) (ratios []bench.Series) {
	for _, how := range allConns {
		for _, o := range openers[1:] {
			for _, metric := range []string{"connections", "CPU time"} {
				if r := bench.Ratio(all, ConnsScenario+how.name, metric, Sluice, o.name); len(r.Values) > 0 {
					ratios = append(ratios, r)
				}
			}
		}
	}
	return ratios
}

// connsPlan is floodPlan with a way back to the clients, which are many.
func connsPlan() testnet.Plan {
	p := floodPlan()
	p.Routes = append(p.Routes, testnet.Route{In: director, To: clientsNet, Via: clientAddr})
	return p
}

// measure is one run: a network, the director, a connection between sockets to
// see that it forwards, and as many between programs as it can make.
func (how *conns) measure(ctx context.Context, c *Config, o *opener) (samples []bench.Sample, err error) {
	n, err := testnet.Build(connsPlan())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	dir, err := os.MkdirTemp("", "sluice-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	p, undo, err := o.start(ctx, n, c, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, undo()) }()
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := greet(ctx, n); err != nil {
		return nil, p.blame(err)
	}
	d, err := newDialog(n, how.synOnly)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	stop := repeat(n, c.CPUs.Generator, d.open)
	samples, err = d.window(ctx, c, p)
	return samples, p.blame(errors.Join(err, stop()))
}

// greet opens a connection between sockets, sends a byte each way and closes
// it: a director that spoils anything fails here.
func greet(ctx context.Context, n *testnet.Network) error {
	s, err := openStream(ctx, n, rport)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(startTime)
	_ = s.server.SetDeadline(deadline)
	_ = s.client.SetReadDeadline(deadline)
	_, err = s.server.Write([]byte{1})
	if err == nil {
		_, err = s.client.Read(make([]byte, 1))
	}
	for err == nil && s.received.Load() == 0 {
		if time.Now().After(deadline) {
			err = errors.New("nothing arrives at the server")
		}
		time.Sleep(time.Millisecond)
	}
	return errors.Join(err, s.close())
}

// connsReading is all counters at one moment.
type connsReading struct {
	at      time.Time
	counts  dialogCounts
	used    cpuTimes
	waiting time.Duration
}

func (d *dialog) reading(p *process, cpus *bench.CPUs) (r connsReading, err error) {
	if r.counts, err = d.counts(); err != nil {
		return r, err
	}
	r.at = time.Now()
	if r.used, err = readCPUTimes(cpus.Worker); err != nil {
		return r, err
	}
	r.waiting, err = p.waiting(cpus)
	return r, err
}

// window lets the traffic settle and counts, for the configured time or until
// every connection has had its SYN.
func (d *dialog) window(ctx context.Context, c *Config, p *process) ([]bench.Sample, error) {
	if err := errors.Join(begun(d.objects.Done, 0), sleep(ctx, warmUp)); err != nil {
		return nil, err
	}
	before, err := d.reading(p, &c.CPUs)
	if err != nil {
		return nil, err
	}
	for after := before; ; {
		if err := sleep(ctx, min(c.Duration, 10*time.Millisecond)); err != nil {
			return nil, err
		}
		now, err := d.reading(p, &c.CPUs)
		if err != nil {
			return nil, err
		}
		if now.counts.done > after.counts.done || now.at.Sub(before.at) >= c.Duration {
			after = now
		}
		if after.at.Sub(before.at) >= c.Duration || now.counts.done == connections {
			return after.since(&before, p != nil)
		}
	}
}

// since returns what happened between two readings; own says whether the
// director is a process.
func (r *connsReading) since(before *connsReading, own bool) ([]bench.Sample, error) {
	took := r.at.Sub(before.at).Seconds()
	done, failed := float64(r.counts.done-before.counts.done), float64(r.counts.failed-before.counts.failed)
	if wrong := r.counts.wrong - before.counts.wrong; done == 0 || wrong > 0 {
		return nil, fmt.Errorf("%.0f connections came to their end, %.0f did not, and %d packets went to another place", done, failed, wrong)
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / done }
	user, system, softirq := r.used.user-before.used.user, r.used.system-before.used.system, r.used.softirq-before.used.softirq
	samples := []bench.Sample{
		{Metric: "connections", Unit: "1/s", Value: done / took},
		{Metric: "failed", Unit: "%", Value: 100 * failed / (done + failed)},
		{Metric: "CPU time", Unit: "ns/connection", Value: each(user + system + softirq)},
		{Metric: "CPU time, user", Unit: "ns/connection", Value: each(user)},
		{Metric: "CPU time, system", Unit: "ns/connection", Value: each(system)},
		{Metric: "CPU time, softirq", Unit: "ns/connection", Value: each(softirq)},
	}
	if own {
		samples = append(samples, bench.Sample{Metric: "waited for its CPU", Unit: "%", Value: 100 * (r.waiting - before.waiting).Seconds() / took})
	}
	return samples, nil
}

// nftRules is the service of nftables: a new connection goes to what its hash
// says in a map, which conntrack remembers. Both entries are the one server.
const nftRules = `table ip bench {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr %[1]s tcp dport %[2]d dnat ip addr . port to jhash ip saddr . tcp sport mod 2 map { 0 : %[3]s . %[4]d, 1 : %[3]s . %[4]d }
	}
}
`

// startConntrack has the kernel's nftables forward, with DNAT.
func startConntrack(_ context.Context, n *testnet.Network, c *Config, dir string) (_ *process, undo func() error, err error) {
	rules := filepath.Join(dir, "rules.nft")
	if err := os.WriteFile(rules, fmt.Appendf(nil, nftRules, vip, vport, serverAddr, rport), 0o600); err != nil {
		return nil, nil, err
	}
	if err := threaded.prepare(n, c); err != nil {
		return nil, nil, err
	}
	if _, err := n.In(director).Run("nft", "-f", rules); err != nil {
		return nil, nil, skipped(err)
	}
	undo, err = raiseConntrack(2 * connections)
	return nil, undo, err
}

// skipped marks the reason for which this machine cannot have a subject.
func skipped(reason error) error { return fmt.Errorf("%w: %w", bench.ErrUnavailable, reason) }

// conntrackMax is how many connections all network namespaces together may
// track. Only the host's own can set it.
const conntrackMax = "/proc/sys/net/netfilter/nf_conntrack_max"

// raiseConntrack makes room for that many connections; undo sets the limit as
// it was.
func raiseConntrack(to int) (undo func() error, err error) {
	was, err := os.ReadFile(conntrackMax)
	if err != nil {
		return nil, err
	}
	var now int
	if _, err := fmt.Sscan(string(was), &now); err != nil {
		return nil, fmt.Errorf("%s: %w", conntrackMax, err)
	}
	if now >= to {
		return func() error { return nil }, nil
	}
	return func() error { return os.WriteFile(conntrackMax, was, 0o644) }, os.WriteFile(conntrackMax, fmt.Append(nil, to), 0o644)
}
