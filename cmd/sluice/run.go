package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/rings/xdpprog"
	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/slowpath/ftp"
	"github.com/sluice-lb/sluice/slowpath/neigh"
	"github.com/sluice-lb/sluice/slowpath/punt"
	"github.com/sluice-lb/sluice/workers"
	"github.com/sluice-lb/sluice/workers/cpu"
)

func newRun() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "run",
		Short: "Be the director",
		Long: `Run is the director: it takes the configured services' packets from the NICs' queues and
sends them to real servers until it is ended.

SIGHUP reads the file again: what changed is applied, connections are kept, a bad file changes
nothing and is reported. SIGTERM and SIGINT stop it cleanly; a director that is killed leaves the
host as it was.`,
		Example: `  sluice run -c /etc/sluice/sluice.yaml
  kill -HUP $(pidof sluice)            read the file again`,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), path, cmd.ErrOrStderr()) },
	}
	configFlag(c, &path)
	return c
}

// run is a node's life.
func run(ctx context.Context, path string, logTo io.Writer) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if err := cfg.CheckRun(); err != nil {
		return err
	}
	n := &node{path: path, cfg: cfg, started: time.Now(), fatal: make(chan error, 1), addresses: make(chan struct{}, 1)}
	n.membership, n.left, n.senders = make(chan struct{}, 1), map[int][]xdpprog.Count{}, map[int][]int{}
	n.level.Set(levelOf(cfg.Log))
	n.log = newLog(logTo, cfg.Log, &n.level)
	if err := n.start(); err != nil {
		return errors.Join(err, n.close())
	}
	err = n.serve(ctx, hup)
	if closeErr := n.close(); err == nil {
		err = closeErr
	}
	n.log.Info("stopped", "node", cfg.Node)
	return err
}

// levelOf returns the level that the configuration asks for.
func levelOf(c config.Log) (level slog.Level) {
	_ = level.UnmarshalText([]byte(c.Level)) // the configuration checked it
	return level
}

// newLog returns a log in the configured format.
func newLog(to io.Writer, c config.Log, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}

// start builds the node from the bottom up and attaches nothing until all of
// it is checked and there.
func (n *node) start() error {
	if err := control.CheckSocket(n.cfg.Control.Socket); err != nil {
		return err
	}
	if err := n.openNetwork(); err != nil {
		return err
	}
	plan, err := n.plan()
	if err != nil {
		return err
	}
	// A worker keeps its thread busy for ever; the rest of the process needs
	// threads of its own.
	runtime.GOMAXPROCS(len(plan.cpus) + max(2, runtime.NumCPU()-len(plan.cpus)))

	// What is not a worker would hold one up for milliseconds at a time.
	if len(plan.rest) > 0 {
		if err := cpu.PinProcess(plan.rest...); err != nil {
			return err
		}
	}

	n.director = lb.NewDirector(len(plan.cpus))
	n.director.SetInterfaces(n.names)
	if _, err := n.director.Apply(n.cfg.Spec); err != nil {
		return err
	}
	warnIgnored(n.log, &n.cfg.Spec.Sysctl)
	n.keepNeighbors()
	if err := n.openSockets(plan.open); err != nil {
		return err
	}
	if n.tap, err = punt.Open(punt.Config{NICs: n.nics}); errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%w; is another sluice running?", err)
	} else if err != nil {
		return err
	}
	if err := n.loadSteering(); err != nil {
		return err
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return err
	}
	n.slow = slowpath.New(slowpath.Config{
		Tables: n.network.Table, Emit: n.emit, Answered: n.answered, Host: n.tap, Resolve: n.network.Resolve, Learner: learner{n},
		Now: clock.System{}.Now, Deliver: n.deliver, Seed: secret,
		Limits: slowpath.Limits{ICMP: n.cfg.SlowPath.Errors, FrameBytes: n.cfg.Workers.FrameSize, Fragments: n.cfg.SlowPath.Reassembly.Limits()},
	})
	if err := n.makeWorkers(plan); err != nil {
		return err
	}
	return n.attachSteering()
}

// openNetwork begins to follow the kernel's network.
func (n *node) openNetwork() (err error) {
	if len(n.cfg.Interfaces) == 0 {
		return fmt.Errorf("%s: interfaces: there are none; name the NICs whose queues to read", n.path)
	}
	for _, c := range n.cfg.Interfaces {
		n.names = append(n.names, c.Name)
	}
	if n.network, err = neigh.Open(neigh.Config{
		Ports: n.names, Override: network(n.cfg), Log: n.log,
		OnChange: func(t *nexthop.Table) { n.wake(); n.watchLinks(t); n.reroute(t); n.moved(); n.linked() },
	}); err != nil {
		return err
	}
	for i := range n.names {
		n.nics = append(n.nics, n.network.Table().Interfaces[i].Index)
	}
	return nil
}

// openSockets opens each worker's queues of all devices.
func (n *node) openSockets(workers []rings.OpenConfig) error {
	for _, open := range workers {
		set, err := rings.Open(open)
		if err != nil {
			return err
		}
		n.sets = append(n.sets, set)
		for i, d := range n.devices {
			d.sockets = append(d.sockets, set.Queues[i])
		}
	}
	for port := range n.names {
		if i := &n.network.Table().Interfaces[port]; i.Bond != "" {
			n.senders[i.Index] = n.sendersOf(i)
			for _, set := range n.sets {
				set.Bond(i.Name).Use(n.senders[i.Index])
			}
		}
	}
	return nil
}

// makeWorkers makes a worker on each CPU and connects them.
func (n *node) makeWorkers(p *plan) error {
	var seed flow.Seed
	if err := binary.Read(rand.Reader, binary.NativeEndian, &seed); err != nil {
		return err
	}
	var err error
	if n.templates, err = conn.NewTemplates(templateRoom(n.cfg), seed); err != nil {
		return fmt.Errorf("connections.max: %w", err)
	}
	if len(n.cfg.FTPPorts) > 0 {
		budget := n.cfg.SlowPath.Helpers
		if n.ftp, err = ftp.New(ftp.Config{Ports: n.cfg.FTPPorts, Seed: seed, Steering: p.steer, Rate: budget.Rate, Burst: budget.Burst}); err != nil {
			return fmt.Errorf("helpers.ftp: %w", err)
		}
	}
	each := (n.cfg.Connections.Max + len(p.cpus) - 1) / len(p.cpus)
	var made []*workers.Worker
	for i, c := range p.cpus {
		table, err := conn.New(conn.Config{Max: each, Seed: seed, HugePages: n.cfg.Workers.HugePages != "off", Variant: cpu.Variant(conn.Variants())})
		if err != nil {
			return fmt.Errorf("connections.max: %w", err)
		}
		own := workers.Config{
			ID: i, CPU: c, Ports: n.sets[i].Ports, Roles: p.roles, Batch: n.cfg.Workers.Batch,
			Idle:  workers.Idle{Adaptive: n.cfg.Workers.Idle == "adaptive", Spin: n.cfg.Workers.IdleSpin},
			Conns: table, Templates: n.templates, Random: seed[0] + uint64(i), Steering: p.steer, Clock: clock.System{},
			Services: n.director.Published(), Routes: n.network.Published(),
			ICMP: fastpath.Budget{Rate: n.cfg.SlowPath.ICMP.Rate, Burst: n.cfg.SlowPath.ICMP.Burst},
			Slow: slowpath.NewIntake(n.cfg.SlowPath.Budgets(), n.cfg.Workers.FrameSize), WakeSlow: n.slow.Wake,
			Learning: n.steer.Generation(), MaxLearnt: xdpprog.MaxLearnt,
		}
		if n.ftp != nil {
			own.Helper, own.Expected = n.ftp.Worker(table), n.ftp.Expected()
		}
		w, err := workers.New(own)
		if err != nil {
			return err
		}
		made = append(made, w)
	}
	n.pool = workers.NewPool(made, n.cfg.Workers.FrameSize)
	return nil
}

// templateRoom is for how many persistence templates there is room beside the
// connections: few services are persistent, and a client has one for many.
func templateRoom(c *config.Config) int { return max(1024, c.Connections.Max/8) }

// loadSteering makes the kernel's programs and their tables.
func (n *node) loadSteering() (err error) {
	queues := 0
	for _, d := range n.devices {
		queues = max(queues, 1+slices.Max(d.queues))
	}
	if n.steer, err = xdpprog.Load(xdpprog.Options{Queues: queues, Returned: n.tap.MAC()}); err != nil {
		return err
	}
	n.answers = xdpprog.NewAnswers(n.tap.Index(), n.nics)
	return nil
}

// attachSteering fills the tables and attaches the XDP programs: from here on
// packets come.
func (n *node) attachSteering() error {
	if err := n.resteer(nil); err != nil {
		return err
	}
	for _, d := range n.devices {
		if err := n.attach(d); err != nil {
			return err
		}
	}
	return nil
}

// emit has a worker send a frame of the slow path's.
func (n *node) emit(m *slowpath.Out, frame []byte) bool {
	port := n.network.Table().Interfaces[m.Iface].Port
	return port >= 0 && n.pool.Send(int(m.Worker), port, frame)
}

// answered has a worker count an ICMP error of the slow path's.
func (n *node) answered(worker uint16, message []byte) { n.pool.Answered(int(worker), message) }

// deliver lends a worker a datagram of the slow path's.
func (n *node) deliver(worker uint16, d *slowpath.Datagram) {
	w := n.pool.Workers[worker]
	w.Slow.Lend(d)
	w.Wake()
}

// serve runs everything until ctx ends or a part fails.
func (n *node) serve(ctx context.Context, hup <-chan os.Signal) error {
	g, ctx := errgroup.WithContext(ctx)
	var toSlow []*slowpath.Intake
	for _, w := range n.pool.Workers {
		toSlow = append(toSlow, w.Slow)
	}
	g.Go(func() error { return n.pool.Run(ctx) })
	g.Go(func() error { n.slow.Run(ctx, toSlow); return nil })
	g.Go(func() error { return n.network.Run(ctx) })
	g.Go(func() error { return n.tap.Run(ctx, n.pool.FromHost) })
	g.Go(func() error { n.collect(ctx); return nil })
	g.Go(func() error { n.followAddresses(ctx); return nil })
	g.Go(func() error { n.followMembers(ctx); return nil })
	g.Go(func() error { return n.awaitFatal(ctx) })
	g.Go(func() error { n.meterRates(ctx); return nil })
	g.Go(func() error { n.hangups(ctx, hup); return nil })
	api := &control.Server{Node: n, Log: n.log, Socket: n.cfg.Control.Socket, Listen: n.cfg.Control.Listen}
	g.Go(func() error {
		return api.Serve(ctx, func() {
			n.log.Info("running", "node", n.cfg.Node, "workers", len(n.sets), "socket", n.cfg.Control.Socket)
		})
	})
	return g.Wait()
}

// hangups reloads at each SIGHUP.
func (n *node) hangups(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			n.reload()
		}
	}
}
