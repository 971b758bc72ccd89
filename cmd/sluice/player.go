package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/ipvsadm"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/rings/pcapport"
	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/slowpath/frag"
	"github.com/sluice-lb/sluice/slowpath/ftp"
	"github.com/sluice-lb/sluice/slowpath/neigh"
	"github.com/sluice-lb/sluice/workers"
)

// passed is a packet as it was received.
type passed struct {
	frame []byte
	iface int // that it came in by
	cause string
	at    int64
}

// noTime is before every time stamp.
const noTime = -1 << 63

// player is a director whose NICs are captures: one worker and the slow path,
// on one goroutine, in the time of the packets.
type player struct {
	stdout    io.Writer
	clock     clock.Fake
	cfg       *config.Config
	director  *lb.Director
	table     *conn.Table
	templates *conn.Templates
	ftp       *ftp.Node // nil: no helper
	worker    *workers.Worker
	ports     []*pcapport.Port // by interface of the configuration
	path      *slowpath.Path
	hops      atomic.Pointer[nexthop.Table]
	out       *pcapport.Writer
	read      []int  // interface of the configuration, by the capture's
	written   []int  // interface of the output, by the configuration's
	folder    string // of the configuration file: reload names files from there

	meter     ipvsadm.Meter
	tickAt    int64 // when the rates tick next
	collectAt int64 // when the trash is looked into next; 0: it is empty

	now    int64
	number uint64 // of the packet being handled
	cause  string // comment of what is sent now
	host   passed // what the host's stack gets if the packet being handled is passed
	err    error  // of writing the output
}

// frameBytes is the size of a replay's frames: any packet that a capture can
// hold, and headroom for a tunnel.
const frameBytes = 1 << 17

// newPlayer builds the director of cfg, which was read from path, for a
// capture with these interfaces.
func newPlayer(cfg *config.Config, path string, captured []string, out, stdout io.Writer) (*player, error) {
	p := &player{cfg: cfg, stdout: stdout, director: lb.NewDirector(1), folder: filepath.Dir(path)}
	var names []string
	var roles []fastpath.Role
	for _, i := range cfg.Interfaces {
		names = append(names, i.Name)
		roles = append(roles, roleOf(i.Role))
	}
	if err := p.capture(captured, names, out); err != nil {
		return nil, err
	}
	p.director.SetInterfaces(names)
	if _, err := p.director.Apply(cfg.Spec); err != nil {
		return nil, err
	}
	hops, err := neigh.FromConfig(names, network(cfg))
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	p.hops.Store(hops)
	p.path = slowpath.New(slowpath.Config{
		Tables: p.hops.Load, Emit: p.emit, Answered: p.answered, Host: p, Resolve: func(uint16, *flow.Addr) {}, Now: p.clock.Now,
		Deliver: func(_ uint16, d *slowpath.Datagram) { p.worker.Slow.Lend(d) },
		Cause:   func() uint64 { return p.number }, Part: p.part,
		Limits: slowpath.Limits{FrameBytes: frameBytes, HoldFrames: 128},
	})
	if p.table, err = conn.New(conn.Config{Max: cfg.Connections.Max}); err != nil {
		return nil, err
	}
	if p.templates, err = conn.NewTemplates(templateRoom(cfg), flow.Seed{}); err != nil {
		return nil, err
	}
	umem, err := rings.NewUMEM(make([]byte, 64*frameBytes), frameBytes)
	if err != nil {
		return nil, err
	}
	ports := make([]rings.Port, len(names))
	for i := range names {
		port := pcapport.NewPort(umem, func(frame []byte) { p.write(i, frame, p.cause, p.now) })
		p.ports, ports[i] = append(p.ports, port), port
	}
	own := workers.Config{
		CPU: -1, Ports: ports, Roles: roles, Batch: cfg.Workers.Batch, Conns: p.table, Templates: p.templates, Clock: &p.clock,
		Steering: flow.NewSteering(1, nil, nil), Services: p.director.Published(), Routes: &p.hops,
		Slow: slowpath.NewIntake(replayBudgets(), frameBytes), WakeSlow: func() {},
	}
	if len(cfg.FTPPorts) > 0 {
		if p.ftp, err = ftp.New(ftp.Config{Ports: cfg.FTPPorts, Steering: own.Steering}); err != nil {
			return nil, err
		}
		own.Helper, own.Expected = p.ftp.Worker(p.table), p.ftp.Expected()
	}
	p.worker, err = workers.New(own)
	return p, err
}

// replayBudgets are without rates: what is replayed comes in its own time.
func replayBudgets() (b slowpath.Budgets) {
	for class := range b {
		b[class].Ring = 16
	}
	return b
}

// close gives the player's memory back.
func (p *player) close() {
	if p.table != nil {
		p.table.Close()
	}
	if p.templates != nil {
		p.templates.Close()
	}
	if p.ftp != nil {
		p.ftp.Close()
	}
}

// capture opens the output: the capture's interfaces, then the
// configuration's others.
func (p *player) capture(captured, names []string, out io.Writer) (err error) {
	all := slices.Clone(captured)
	for i, name := range names {
		if !slices.Contains(captured, name) {
			all = append(all, name)
		}
		p.written = append(p.written, slices.Index(all, names[i]))
	}
	for _, name := range captured {
		i := slices.Index(names, name)
		if i < 0 {
			return fmt.Errorf("the capture's interface %q is not among the configuration's interfaces", name)
		}
		p.read = append(p.read, i)
	}
	p.out, err = pcapport.NewWriter(out, all)
	return err
}

// play sends in's packets through, with timers and script lines at their
// times.
func (p *player) play(in *pcapport.Reader, script []scriptLine, until int64) error {
	origin, number := int64(0), uint64(0)
	for ; ; number++ {
		iface, nanos, frame, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if number == 0 {
			origin = nanos
			p.begin(origin, true, script)
		}
		nanos = max(nanos, p.now)
		if script, err = p.runScript(script, origin, nanos); err != nil {
			return err
		}
		if err := p.packet(number, p.read[iface], frame); err != nil {
			return err
		}
	}
	if number == 0 {
		p.begin(origin, false, script)
	}
	end := p.now
	if until != noTime {
		end = max(end, origin+until)
	}
	last := end
	if until == noTime && len(script) > 0 {
		last = max(last, origin+script[len(script)-1].nanos) // a script is not cut off
	}
	if _, err := p.runScript(script, origin, last); err != nil {
		return err
	}
	p.timers(last)
	return cmp.Or(p.err, p.out.Flush())
}

// begin starts the clock at the first event: the first packet at origin, if
// there is one, or the first line of the script.
func (p *player) begin(origin int64, packets bool, script []scriptLine) {
	p.now = origin
	if len(script) > 0 && (!packets || script[0].nanos < 0) {
		p.now = origin + script[0].nanos
	}
	p.clock.Set(p.now)
	p.tickAt = p.now + int64(ipvsadm.EstimatorPeriod)
	p.turn("timer")
}

// runScript runs the lines up to nanos, each after the timers of its time,
// and returns the rest.
func (p *player) runScript(script []scriptLine, origin, nanos int64) ([]scriptLine, error) {
	for len(script) > 0 && origin+script[0].nanos <= nanos {
		p.timers(max(p.now, origin+script[0].nanos))
		if _, err := fmt.Fprintf(p.stdout, "# %s\n", script[0].text); err != nil {
			return nil, err
		}
		p.command(script[0].command)
		script = script[1:]
	}
	p.timers(nanos)
	return script, p.err
}

// timers lets time pass to nanos and runs what falls due on the way, each at
// its time.
func (p *player) timers(nanos int64) {
	for {
		due, ok := p.nextDue()
		if !ok || due > nanos {
			break
		}
		p.now = max(p.now+1, due)
		p.clock.Set(p.now)
		p.cause = "timer"
		p.path.Tick(p.now)
		p.housekeep()
		p.turn("timer")
	}
	p.now = nanos
	p.clock.Set(nanos)
}

// nextDue returns the time of the next timer, of a connection or of the slow
// path.
func (p *player) nextDue() (nanos int64, ok bool) {
	timers := []func() (clock.Ticks, bool){p.table.NextDue, func() (clock.Ticks, bool) { return p.templates.NextDue(0, 1) }}
	if p.ftp != nil {
		timers = append(timers, p.ftp.NextDue)
	}
	for _, next := range timers {
		if ticks, some := next(); some {
			left := int64(int32(ticks - clock.TicksAt(p.now)))
			if at := (p.now/clock.TickNanos + left) * clock.TickNanos; !ok || at < nanos {
				nanos, ok = at, true
			}
		}
	}
	if due, some := p.path.NextDue(); some && (!ok || due < nanos) {
		nanos, ok = due, true
	}
	for _, due := range []int64{p.tickAt, p.collectAt} {
		if due != 0 && (!ok || due < nanos) {
			nanos, ok = due, true
		}
	}
	return nanos, ok
}

// packet handles one packet of the input.
func (p *player) packet(number uint64, iface int, frame []byte) error {
	p.number, p.host = number, passed{frame: frame, iface: iface, cause: causedBy(number), at: p.now}
	if err := p.ports[iface].Feed(frame); err != nil {
		return fmt.Errorf("packet %d: %w", number, err)
	}
	p.turn(causedBy(number))
	return nil
}

// causedBy is the comment of what packet number n of the input causes.
func causedBy(n uint64) string { return fmt.Sprintf("in=%d", n) }

// part tells that the host's stack gets another packet next than the one being
// handled: a fragment of the same datagram, which came before it.
func (p *player) part(o *frag.Origin, arrived []byte) {
	p.host = passed{frame: arrived, iface: int(o.Iface), cause: causedBy(o.Cause), at: o.At}
}

// turn lets the worker and the slow path work until nothing is left to do.
func (p *player) turn(cause string) {
	p.cause = cause
	for busy := true; busy; {
		busy = p.worker.Turn()
		busy = p.path.Take(p.worker.Slow, 1) || busy
	}
}

// emit writes a frame of the slow path's.
func (p *player) emit(m *slowpath.Out, frame []byte) bool {
	if port := p.hops.Load().Interfaces[m.Iface].Port; port >= 0 {
		p.write(port, frame, p.cause, p.now)
		return true
	}
	return false
}

// answered has the worker count an ICMP error of the slow path's.
func (p *player) answered(_ uint16, message []byte) { p.worker.Answered(message) }

// Inject is the host's stack: it gets the packet as it was received.
func (p *player) Inject(int, []byte) error {
	p.write(p.host.iface, p.host.frame, "pass "+p.host.cause, p.host.at)
	return nil
}

// write puts a frame into the output, of that time.
func (p *player) write(iface int, frame []byte, comment string, at int64) {
	if err := p.out.Write(p.written[iface], at, frame, comment); err != nil && p.err == nil {
		p.err = fmt.Errorf("write capture: %w", err)
	}
}

// command runs one command of a script and prints what it says.
func (p *player) command(text string) {
	words := strings.Fields(text)
	var err error
	switch {
	case words[0] == "reload" && len(words) == 2:
		err = p.reload(words[1])
	case words[0] == "reload":
		err = usageError{errors.New("reload: want the name of a configuration file")}
	case words[0] == "ipvsadm":
		p.ipvsadm(words[1:])
	case words[0] == "sysctl" && len(words) > 1:
		err = p.sysctl(words[1:])
	default:
		err = usageError{fmt.Errorf("%s: want ipvsadm, sysctl NAME=VALUE or reload FILE", words[0])}
	}
	p.changed()
	if err == nil {
		return
	}
	status := exitFailed
	if errors.As(err, new(usageError)) {
		status = exitUsage
	}
	fmt.Fprintf(p.stdout, "%v\n# exit %d\n", err, status)
}

// reload makes another file's services the director's.
func (p *player) reload(path string) error {
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.folder, path)
	}
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	if err := p.cfg.CheckReload(cfg); err != nil {
		return err
	}
	if _, err := p.director.Apply(cfg.Spec); err != nil {
		return err
	}
	p.cfg = cfg
	return nil
}

// state is what is there now.
func (p *player) state() control.State {
	snap := p.director.Current()
	counts, _ := p.Counts()
	counts = p.meter.Since(snap, counts)
	stats := &workers.Stats{Services: counts.Services, Reals: counts.Reals}
	conns, _ := p.worker.ConnRows(nil, 0, p.table.Max())
	p.worker.Shared(func(r *workers.ConnRow) bool {
		conns = append(conns, *r)
		return true
	})
	s := control.State{Services: control.ServicesOf(snap, stats, clock.TicksAt(p.clock.Now())), Connections: []control.Conn{}}
	for i := range conns {
		s.Connections = append(s.Connections, control.ConnOf(0, &conns[i]))
	}
	control.SortConns(s.Connections)
	slow := p.path.Counters()
	s.Counters = workers.Sum([]workers.Report{p.worker.Report()}, &slow)
	return s
}

// ipvsadm does a command line of ipvsadm and prints what it says: its standard
// output, its standard error, and its exit status if that is not 0.
func (p *player) ipvsadm(args []string) {
	var errs bytes.Buffer
	status := ipvsadm.Run(args, ipvsadm.Env{
		Stdout: p.stdout, Stderr: &errs,
		Backend: &ipvsadm.DirectorBackend{Director: p.director, Live: p, Meter: &p.meter},
	})
	_, _ = p.stdout.Write(errs.Bytes())
	if status != 0 {
		fmt.Fprintf(p.stdout, "# exit %d\n", status)
	}
}

// sysctl sets and shows tunables, as sysctl(8) does.
func (p *player) sysctl(words []string) error {
	asked, bare, err := scriptTunables(words)
	if err != nil {
		return fmt.Errorf("sysctl: %w", err)
	}
	now := p.director.Current().Sysctl
	if err := asked.apply(&now); err != nil {
		return fmt.Errorf("sysctl: %w", err)
	}
	p.director.SetSysctl(now)
	return asked.print(p.stdout, &now, bare)
}

// changed lets the worker adopt what a command changed, so that it sees each
// change as the kernel's scheduler would, and begins to look after the trash.
func (p *player) changed() {
	p.turn("timer")
	if p.collectAt == 0 && len(p.director.Removed()) > 0 {
		// Of the kernel's timers of one tick the last that was set runs first:
		// before those of connections, which hold servers.
		p.collectAt = (p.now + int64(trashEvery)) / clock.TickNanos * clock.TickNanos
	}
}

// trashEvery is how often the kernel looks into its trash of removed servers
// while there is something in it (K-DST-8).
const trashEvery = 60 * time.Second

// housekeep does what is due besides packets' timers: the rates' tick, and the
// trash.
func (p *player) housekeep() {
	if p.now >= p.tickAt {
		p.tickAt += int64(ipvsadm.EstimatorPeriod)
		counts, _ := p.Counts()
		p.meter.Tick(p.director.Current(), counts)
	}
	if p.collectAt != 0 && p.now >= p.collectAt {
		p.director.Collect(time.Duration(p.now), nil)
		if p.collectAt += int64(trashEvery); len(p.director.Removed()) == 0 {
			p.collectAt = 0
		}
	}
}

// Counts returns the counters of now.
func (p *player) Counts() (ipvsadm.Counts, error) {
	snap := p.director.Current()
	stats := workers.NewStats(snap)
	rows := snap.Rows(0)
	rows.AddServices(0, stats.Services)
	rows.AddReals(0, stats.Reals)
	return ipvsadm.Counts{Services: stats.Services, Reals: stats.Reals}, nil
}

// Conns visits all connections and templates.
func (p *player) Conns(visit func(*ipvsadm.Conn)) error {
	conns, _ := p.worker.ConnRows(nil, 0, p.table.Max())
	for i := range conns {
		c := connOf(&conns[i])
		visit(&c)
	}
	p.worker.Shared(func(r *workers.ConnRow) bool {
		c := connOf(r)
		visit(&c)
		return true
	})
	return nil
}
