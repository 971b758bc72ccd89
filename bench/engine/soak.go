package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// soakPrefix is where the names of soaks begin, behind which is a scenario's.
const soakPrefix = "engine/soak/"

// Soak is how long packets have to wait while the garbage collector runs: a
// scenario of one worker, whose every batch is timed, beside a goroutine that
// changes services and collects garbage.
type Soak struct{ Of Scenario }

// String returns the name that records have, engine/soak/NAME.
func (s Soak) String() string { return soakPrefix + s.Of.Name() }

// ParseSoak returns the soak of such a name.
func ParseSoak(name string) (Soak, error) {
	of, found := strings.CutPrefix(name, soakPrefix)
	if !found {
		return Soak{}, fmt.Errorf("%w: %q, want %sMETHOD/FAMILY/CONNECTIONS/MIX/1", ErrScenario, name, soakPrefix)
	}
	s, err := Parse(of)
	if err == nil && s.Workers != 1 {
		err = fmt.Errorf("%w: %d workers, want 1 to soak", ErrScenario, s.Workers)
	}
	return Soak{s}, err
}

const (
	changes     = 10 * time.Millisecond  // between two of services
	collections = 100 * time.Millisecond // between two of garbage
	longBatch   = 20 * time.Microsecond  // batches below are not told from each other
	mostLong    = 1 << 10                // of a lap
)

// SoakCases returns a Case for each soak, which lasts that long a run. The
// worker is pinned to the first of onCPUs, all other threads of the process to
// the rest, and stay there.
func SoakCases(soaks []Soak, memory *Memory, length time.Duration, onCPUs []int) (cases []bench.Case) {
	for _, s := range soaks {
		cases = append(cases, bench.Case{Scenario: s.String(), Subject: Subject, Measure: func(ctx context.Context) ([]bench.Sample, error) {
			return s.measure(ctx, memory, length, onCPUs)
		}})
	}
	return cases
}

func (s Soak) measure(ctx context.Context, memory *Memory, length time.Duration, onCPUs []int) (samples []bench.Sample, err error) {
	n, err := New(s.Of, []*Memory{memory})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := cpu.PinProcess(onCPUs[min(1, len(onCPUs)-1):]...); err != nil {
		return nil, err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it collects when c says so
	c := &churn{node: n, began: time.Now()}
	ctx, stop := context.WithTimeout(ctx, length)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	w, err := soak(ctx, n.Rigs[0], c, onCPUs[0])
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return nil, err
	}
	return w.samples(c), nil
}

// span is a stretch of time, both ends since the same moment.
type span struct{ from, to time.Duration }

func (s *span) touches(o *span) bool { return s.from <= o.to && o.from <= s.to }

// churn is what a node does beside its workers.
type churn struct {
	node *Node

	began     time.Time
	cycles    int
	longest   time.Duration // the pauses of one collection, together
	snapshots int           // changes of services

	mu    sync.Mutex
	spans []span // of collections
	open  bool   // the last one has no end yet
}

// run changes a server's weight and collects garbage, each in its time, until
// ctx ends.
func (c *churn) run(ctx context.Context) error {
	change := time.NewTicker(changes)
	defer change.Stop()
	collect := time.NewTicker(collections)
	defer collect.Stop()
	server := &c.node.spec.Services[0].Servers[0]
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-change.C:
			server.Weight = 3 - server.Weight // 1 and 2 in turn
			if _, err := c.node.director.Apply(c.node.spec); err != nil {
				return err
			}
			c.snapshots++
		case <-collect.C:
			c.collect()
		}
	}
}

// collect runs one cycle of the collector and notes when.
func (c *churn) collect() {
	c.mu.Lock()
	c.spans, c.open = append(c.spans, span{from: time.Since(c.began)}), true
	c.mu.Unlock()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans[len(c.spans)-1].to, c.open = time.Since(c.began), false
	c.cycles++
	c.longest = max(c.longest, time.Duration(m.PauseNs[(m.NumGC+255)%256])) // NumGC+255 is the last cycle's
}

// collected returns when the collector has run since the last call, and runs
// now.
func (c *churn) collected() (spans []span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	spans, c.spans = c.spans, nil
	if c.open {
		last := &spans[len(spans)-1]
		c.spans = []span{*last} // it goes on
		last.to = time.Since(c.began)
	}
	return spans
}

// batches are what the worker has seen.
type batches struct {
	n               int
	beside, without time.Duration // the longest while the collector ran, and else
}

// long is a batch that took longer than longBatch: all of it, and without the
// time for which others had the worker's CPU.
type long struct {
	span
	took time.Duration
}

// soak times every batch of the worker until ctx ends.
func soak(ctx context.Context, r *Rig, c *churn, onCPU int) (b batches, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := bench.Pin(onCPU)
	if err != nil {
		return b, err
	}
	defer restore()
	waiting, err := openRunDelay()
	if err != nil {
		return b, err
	}
	defer waiting.close()
	b = batches{beside: longBatch, without: longBatch}
	some := make([]long, 0, mostLong)
	for ctx.Err() == nil {
		if some, err = b.lap(r, c.began, waiting, some[:0]); err != nil {
			return b, err
		}
		if len(some) > 0 {
			b.sort(some, c.collected())
		}
		if err := errors.Join(r.Done(), r.Refill()); err != nil {
			return b, err
		}
	}
	return b, nil
}

// lap runs a lap and appends its long batches.
func (b *batches) lap(r *Rig, began time.Time, waiting *runDelay, some []long) ([]long, error) {
	waited, err := waiting.read()
	if err != nil {
		return some, err
	}
	last := time.Since(began)
	for r.Turn() {
		now := time.Since(began)
		b.n++
		if now-last > longBatch {
			if len(some) == cap(some) {
				return some, fmt.Errorf("more than %d batches of a lap took longer than %v", mostLong, longBatch)
			}
			total, err := waiting.read()
			if err != nil {
				return some, err
			}
			some = append(some, long{span{last, now}, max(0, now-last-(total-waited))})
			waited = total
			now = time.Since(began)
		}
		last = now
	}
	return some, nil
}

// sort tells the batches beside which the collector ran from the others.
func (b *batches) sort(some []long, spans []span) {
	for i := range some {
		l := &some[i]
		if slices.ContainsFunc(spans, func(s span) bool { return l.touches(&s) }) {
			b.beside = max(b.beside, l.took)
		} else {
			b.without = max(b.without, l.took)
		}
	}
}

func (b *batches) samples(c *churn) []bench.Sample {
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return []bench.Sample{
		{Metric: "longest batch beside a GC cycle", Unit: "µs", Value: us(b.beside)},
		{Metric: "longest batch else", Unit: "µs", Value: us(b.without)},
		{Metric: "longest pauses of a GC cycle", Unit: "µs", Value: us(c.longest)},
		{Metric: "GC cycles", Unit: "cycles", Value: float64(c.cycles)},
		{Metric: "changes of services", Unit: "changes", Value: float64(c.snapshots)},
		{Metric: "batches", Unit: "batches", Value: float64(b.n)},
	}
}

// runDelay is for how long a thread was ready to run while others had its CPU.
type runDelay struct {
	fd  int
	buf [96]byte
}

// openRunDelay opens the calling thread's.
func openRunDelay() (*runDelay, error) {
	fd, err := unix.Open("/proc/thread-self/schedstat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the thread's schedstat: %w", err)
	}
	return &runDelay{fd: fd}, nil
}

// read returns the time so far: the second number of schedstat, in ns.
func (d *runDelay) read() (time.Duration, error) {
	n, err := unix.Pread(d.fd, d.buf[:], 0)
	if err != nil {
		return 0, fmt.Errorf("read the thread's schedstat: %w", err)
	}
	_, rest, _ := bytes.Cut(d.buf[:n], []byte{' '})
	waited := time.Duration(0)
	for _, digit := range rest {
		if digit < '0' || digit > '9' {
			break
		}
		waited = 10*waited + time.Duration(digit-'0')
	}
	return waited, nil
}

func (d *runDelay) close() { _ = unix.Close(d.fd) }
