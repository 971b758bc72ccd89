package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/ipvsadm"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/rings/xdpprog"
	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/slowpath/ftp"
	"github.com/sluice-lb/sluice/slowpath/neigh"
	"github.com/sluice-lb/sluice/slowpath/punt"
	"github.com/sluice-lb/sluice/workers"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// node is a running director: what the control API asks, and what SIGHUP
// changes.
type node struct {
	path    string
	log     *slog.Logger
	level   slog.LevelVar
	started time.Time

	director  *lb.Director
	pool      *workers.Pool
	templates *conn.Templates
	ftp       *ftp.Node    // nil: helpers.ftp is absent
	sets      []*rings.Set // by worker
	steer     *xdpprog.Steer
	answers   *xdpprog.Answers
	spread    *spread
	network   *neigh.Watcher
	tap       *punt.Tap
	slow      *slowpath.Path

	meter    ipvsadm.Meter
	names    []string       // of the interfaces
	nics     []int          // their indexes
	links    []portLink     // by interface, as last seen; the neighbour watcher's
	hops     *nexthop.Table // as last seen; the neighbour watcher's
	fatal    chan error     // why the node cannot go on
	unlearnt sync.Once      // to log that flows are not learnt
	// addresses has something in it when the host's may have changed.
	addresses chan struct{}
	// membership has something in it when members of bonds may have changed.
	membership chan struct{}

	mu      sync.Mutex // one change at a time
	cfg     *config.Config
	latest  *control.Reload
	devices []*device
	left    map[int][]xdpprog.Count // by interface, of members that left
	senders map[int][]int           // by bond, what its frames leave by: kernel indexes
}

// reload makes the configuration file's services the node's, whole or not at
// all, and says what changed.
func (n *node) reload() *control.Reload {
	n.mu.Lock()
	defer n.mu.Unlock()
	began := time.Now()
	r := &control.Reload{At: began}
	if err := n.apply(r); err != nil {
		r.Error = err.Error()
		n.log.Error("reload failed, nothing was changed", "file", n.path, "error", r.Error)
	}
	for _, list := range []*[]lb.Change{&r.Changes.Added, &r.Changes.Removed, &r.Changes.Edited} {
		if *list == nil {
			*list = []lb.Change{} // lists in JSON too
		}
	}
	r.Seconds = time.Since(began).Seconds()
	if r.Error == "" {
		n.log.Info("reloaded", "file", n.path, "generation", r.Changes.Generation, "added", len(r.Changes.Added),
			"removed", len(r.Changes.Removed), "edited", len(r.Changes.Edited), "connections_touched", r.Touched, "seconds", r.Seconds)
		logChanges(n.log, &r.Changes)
	}
	n.latest = r
	return r
}

// apply does the work of a reload.
func (n *node) apply(r *control.Reload) error {
	cfg, err := config.Load(n.path)
	if err != nil {
		return err
	}
	if err := n.cfg.CheckReload(cfg); err != nil {
		return err
	}
	// First let the XDP programs redirect what is new, then serve it, then stop
	// redirecting what is gone: at no time is a packet without a judge, and what
	// the programs cannot hold is refused before anything has changed.
	before := n.director.Current()
	if err := n.resteer(&cfg.Spec); err != nil {
		return err
	}
	if r.Changes, err = n.director.Apply(cfg.Spec); err != nil {
		return errors.Join(err, n.resteer(nil))
	}
	n.cfg = cfg
	n.level.Set(levelOf(cfg.Log))
	warnIgnored(n.log, &cfg.Spec.Sysctl)
	n.published()
	n.keepNeighbors()
	if err := n.resteer(nil); err != nil { // they redirect too much, until the next time
		n.log.Error("update XDP tables", "error", err)
	}
	r.Touched = touched(before, r.Changes.TouchedReals)
	return nil
}

// resteer has the XDP programs redirect what the director has and, unless that
// is nil, what it is to have next, and the tc program what servers on this host answer.
func (n *node) resteer(next *lb.Spec) error {
	spec := n.director.Spec()
	if next != nil {
		spec.Services, spec.Marks = append(spec.Services, next.Services...), next.Marks
	}
	w, err := wanted(spec.Services, n.director.Removed(), spec.Marks, n.network.Table(), n.cfg.FTPPorts)
	if err != nil {
		return err
	}
	if err := n.steer.Update(w); err != nil {
		return err
	}
	return n.answers.Update(locals(spec.Services, n.director.Removed(), n.network.Table()))
}

// wake has everybody look at what was published, once there is somebody.
func (n *node) wake() {
	if n.pool != nil {
		n.pool.Wake()
		n.slow.Wake()
	}
}

// portLink is what was last seen of an interface.
type portLink struct {
	index int // the kernel's
	up    bool
}

// watchLinks logs links of the node's interfaces that go down and come up, and
// ends the node when one of them is gone: its sockets and its XDP program went
// with it, and the rest would be half a director.
func (n *node) watchLinks(t *nexthop.Table) {
	first := n.links == nil
	for i, name := range n.names {
		is := portLink{t.Interfaces[i].Index, t.Interfaces[i].Up}
		if first {
			n.links = append(n.links, is)
			continue
		}
		was := n.links[i]
		n.links[i] = is
		switch {
		case is.index != was.index:
			select {
			case n.fatal <- fmt.Errorf("interface %s is gone", name):
			default: // one reason is enough
			}
		case is.up && !was.up:
			n.log.Info("link up", "interface", name)
		case !is.up && was.up:
			n.log.Warn("link down", "interface", name)
		}
	}
}

// awaitFatal returns why the node cannot go on, or nil when ctx ends.
func (n *node) awaitFatal(ctx context.Context) error {
	select {
	case err := <-n.fatal:
		return err
	case <-ctx.Done():
		return nil
	}
}

// keepNeighbors names the real servers to the neighbour watcher, so that their
// MAC addresses are known before their first packet.
func (n *node) keepNeighbors() {
	snap := n.director.Current()
	var addrs []netip.Addr
	for _, svc := range snap.Services {
		if svc == nil {
			continue
		}
		for _, d := range svc.Dests {
			addrs = append(addrs, d.Addr.Netip())
		}
	}
	n.network.Keep(addrs)
}

// touched counts the live connections of real servers.
func touched(s *lb.Snapshot, reals []uint32) (conns int) {
	for _, id := range reals {
		active, inactive := s.Load(id)
		conns += int(active) + int(inactive)
	}
	return conns
}

// logChanges logs the first changes in words.
func logChanges(log *slog.Logger, c *lb.Changes) {
	const most = 20
	logged := 0
	for _, group := range []struct {
		what    string
		changes []lb.Change
	}{{"added", c.Added}, {"removed", c.Removed}, {"edited", c.Edited}} {
		for _, change := range group.changes {
			if logged++; logged > most {
				log.Info("more changes are not logged one by one; see the API")
				return
			}
			log.Info("change", "what", group.what, "of", change.String())
		}
	}
}

// collect frees removed servers that nothing points at any more, until ctx
// ends (K-DST-8).
func (n *node) collect(ctx context.Context) {
	every := time.NewTicker(10 * time.Second)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		before := n.director.Current().Generation
		n.director.Collect(time.Duration(clock.System{}.Now()), nil)
		if n.director.Current().Generation == before {
			continue
		}
		n.published()
		n.mu.Lock()
		err := n.resteer(nil)
		n.mu.Unlock()
		if err != nil {
			n.log.Error("update XDP tables", "error", err)
		}
	}
}

// Services returns the services with their servers and counters.
func (n *node) Services(ctx context.Context) ([]control.Service, error) {
	s := n.director.Current()
	stats, err := n.pool.Stats(ctx, s)
	if err != nil {
		return nil, err
	}
	return control.ServicesOf(s, stats, clock.TicksAt(clock.System{}.Now())), nil
}

// Conns visits the live connections.
func (n *node) Conns(ctx context.Context, visit func(control.Conn) bool) error {
	return n.pool.Conns(ctx, func(worker int, r *workers.ConnRow) bool { return visit(control.ConnOf(worker, r)) })
}

// LastReload returns the last reload.
func (n *node) LastReload(context.Context) (*control.Reload, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.latest, nil
}

// Reload is what the API offers of reload.
func (n *node) Reload(context.Context) *control.Reload { return n.reload() }

// Stats returns all counters.
func (n *node) Stats(ctx context.Context) (*control.AllStats, error) {
	services, err := n.Services(ctx)
	if err != nil {
		return nil, err
	}
	slow := n.slow.Counters() // before the workers', so that it counts no packet that they don't
	reports, err := n.pool.Reports(ctx)
	if err != nil {
		return nil, err
	}
	out := &control.AllStats{Totals: workers.Sum(reports, &slow), SlowPath: control.SlowPathOf(&slow, reports, n.ftp), Tap: n.tap.Counters(), Services: services}
	for i := range services {
		out.Sum.Add(services[i].Stats)
	}
	return out, nil
}

// Status returns the node at a glance.
func (n *node) Status(ctx context.Context) (*control.Status, error) {
	slow := n.slow.Counters() // before the workers', so that it counts no packet that they don't
	reports, err := n.pool.Reports(ctx)
	if err != nil {
		return nil, err
	}
	counts, err := n.steer.Counts()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	snap := n.director.Current()
	s := &control.Status{
		Node: n.cfg.Node, Version: version(), PID: os.Getpid(), Started: n.started, ConfigFile: n.path,
		Generation: snap.Generation, LastReload: n.latest.Summary(), CPUModel: cpu.Model(), Variant: cpu.Variant(conn.Variants()),
		MaxConns: n.cfg.Connections.Max, Totals: workers.Sum(reports, &slow), SlowPath: control.SlowPathOf(&slow, reports, n.ftp), Tap: n.tap.Counters(),
	}
	for _, svc := range snap.Services {
		if svc != nil {
			s.Services++
			s.Servers += len(svc.Dests)
		}
	}
	for i := range reports {
		s.Connections += reports[i].Conns
		s.Workers = append(s.Workers, n.workerStatus(i, &reports[i]))
	}
	for i := range n.cfg.Interfaces {
		s.Interfaces = append(s.Interfaces, n.interfaceStatus(i, counts))
	}
	return s, nil
}

func (n *node) workerStatus(i int, r *workers.Report) control.Worker {
	return control.Worker{
		ID: i, CPU: n.pool.Workers[i].CPU, Idle: n.cfg.Workers.Idle, Connections: r.Conns,
		Received: r.Received, Transmitted: r.Transmitted(), HandedOver: r.HandedOver(), HandedIn: r.HandedIn,
		Sleeps: r.Sleeps, Turns: r.Turns, Originated: r.Originated, Ports: r.Ports,
	}
}

func (n *node) interfaceStatus(i int, counts []xdpprog.Count) control.Interface {
	c := &n.cfg.Interfaces[i]
	iface := &n.network.Table().Interfaces[i]
	v := control.Interface{
		Name: c.Name, Role: c.Role, MAC: config.MAC(iface.MAC).String(), MTU: iface.MTU, Up: iface.Up,
		Bond: iface.Bond, Queues: []int{}, XDP: map[string]uint64{},
	}
	for _, d := range n.devices {
		if d.port != i {
			continue
		}
		of := ofDevice(counts, d)
		addCounts(&v, of)
		v.Mode, v.Steering, v.Queues = d.mode(), d.steering, d.queues
		if iface.Bond != "" {
			v.Members = append(v.Members, n.memberStatus(d, of))
		}
	}
	addCounts(&v, n.left[i])
	return v
}

// memberStatus is a bond's member that is served.
func (n *node) memberStatus(d *device, counts []xdpprog.Count) control.Member {
	m := control.Member{Name: d.name, Mode: d.mode(), Steering: d.steering}
	for _, sends := range n.senders {
		m.Sends = m.Sends || slices.Contains(sends, d.index)
	}
	for _, row := range counts {
		m.Redirected += row.Redirected
		m.Passed += row.Passed
	}
	return m
}

// ofDevice are the counts of one device.
func ofDevice(counts []xdpprog.Count, d *device) (of []xdpprog.Count) {
	for _, row := range counts {
		if row.Ifindex == d.index {
			of = append(of, row)
		}
	}
	return of
}

// addCounts adds what XDP programs counted.
func addCounts(v *control.Interface, counts []xdpprog.Count) {
	for _, row := range counts {
		v.Redirected += row.Redirected
		v.Passed += row.Passed
		for reason, n := range row.ByReason {
			if n > 0 {
				v.XDP[xdpprog.Reason(reason).String()] += n
			}
		}
	}
}

// close undoes what start did, in reverse: first the kernel's programs, so that
// the host's stack has every packet again.
func (n *node) close() error {
	var errs []error
	if n.answers != nil {
		errs = append(errs, n.answers.Close())
	}
	if n.steer != nil {
		errs = append(errs, n.steer.Close())
	}
	for _, d := range n.devices {
		if d.restore != nil {
			errs = append(errs, d.restore())
		}
	}
	for _, s := range n.sets {
		errs = append(errs, s.Close())
	}
	if n.tap != nil {
		errs = append(errs, n.tap.Close())
	}
	if n.pool != nil {
		for _, w := range n.pool.Workers {
			errs = append(errs, w.Config.Conns.Close())
		}
	}
	if n.templates != nil {
		errs = append(errs, n.templates.Close())
	}
	if n.ftp != nil {
		errs = append(errs, n.ftp.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
