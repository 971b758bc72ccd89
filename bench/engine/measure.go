package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/sluice-lb/sluice/bench"
)

// Subject is who is measured in this package's cases.
const Subject = "sluice"

// Cases returns a Case for each scenario: a Node of its own a run, a lap to
// warm up, and laps of at least that much CPU time of each worker. They share
// the memory, a Memory a worker, so they run one at a time. Worker i is pinned
// to onCPUs[i]; a scenario with more workers than CPUs fails.
func Cases(scenarios []Scenario, memories []*Memory, atLeast time.Duration, onCPUs []int) (cases []bench.Case) {
	for _, s := range scenarios {
		cases = append(cases, bench.Case{Scenario: s.String(), Subject: Subject, Measure: func(ctx context.Context) ([]bench.Sample, error) {
			return measure(ctx, s, memories, atLeast, onCPUs)
		}})
	}
	return cases
}

func measure(ctx context.Context, s Scenario, memories []*Memory, atLeast time.Duration, onCPUs []int) (samples []bench.Sample, err error) {
	if s.Workers > len(onCPUs) || s.Workers > len(memories) {
		return nil, fmt.Errorf("%d workers want a CPU each: there are %d for them", s.Workers, min(len(onCPUs), len(memories)))
	}
	n, err := New(s, memories)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	start := newBarrier(s.Workers)
	all, errs := make([]totals, s.Workers), make([]error, s.Workers)
	var running sync.WaitGroup
	for i, r := range n.Rigs {
		running.Go(func() { errs[i] = all[i].run(ctx, r, start, atLeast, onCPUs[i]) })
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return summary(n, all), ctx.Err()
}

// totals adds up a worker's laps.
type totals struct {
	busy, expiring time.Duration
	packets, ended uint64 // ended: connections that expired
	laps           int
	mallocs        float64 // a packet, in the lap with the fewest: other goroutines' are among them
}

// run measures laps of one worker, each begun together with the others'.
func (t *totals) run(ctx context.Context, r *Rig, start *barrier, atLeast time.Duration, onCPU int) error {
	defer start.leave()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := bench.Pin(onCPU)
	if err != nil {
		return err
	}
	defer restore()
	if _, err := r.Lap(); err != nil { // warm up
		return err
	}
	for t.busy < atLeast && ctx.Err() == nil {
		if err := t.lap(r, start); err != nil {
			return err
		}
	}
	return nil
}

// lap runs and adds the next lap.
func (t *totals) lap(r *Rig, start *barrier) error {
	ending := r.opened()
	began, err := threadTime()
	if err != nil {
		return err
	}
	if err := r.Expire(); err != nil {
		return err
	}
	ended, err := threadTime()
	if err != nil {
		return err
	}
	t.expiring += ended - began
	t.ended += uint64(ending)
	if err := r.Refill(); err != nil {
		return err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start.wait()
	took, err := r.Lap()
	runtime.ReadMemStats(&after)
	t.busy += took
	t.packets += uint64(r.Len())
	mallocs := float64(after.Mallocs-before.Mallocs) / float64(r.Len())
	if t.laps++; t.laps == 1 || mallocs < t.mallocs {
		t.mallocs = mallocs
	}
	return err
}

// summary is what all workers of a node did. Its rate is the sum of theirs.
func summary(n *Node, all []totals) []bench.Sample {
	var t totals
	rate := 0.0
	for i := range all {
		w := &all[i]
		t.busy, t.packets, t.expiring, t.ended = t.busy+w.busy, t.packets+w.packets, t.expiring+w.expiring, t.ended+w.ended
		t.mallocs = max(t.mallocs, w.mallocs)
		rate += float64(w.packets) / w.busy.Seconds() / 1e6
	}
	packets := float64(t.packets)
	samples := []bench.Sample{
		{Metric: "time", Unit: "ns/packet", Value: float64(t.busy.Nanoseconds()) / packets},
		{Metric: "rate", Unit: "Mpps", Value: rate},
		{Metric: "allocations", Unit: "1/packet", Value: t.mallocs},
		{Metric: "memory", Unit: "B/connection", Value: float64(n.BytesPerConn())},
	}
	if t.ended > 0 {
		samples = append(samples, bench.Sample{Metric: "expiry", Unit: "ns/connection", Value: float64(t.expiring.Nanoseconds()) / float64(t.ended)})
	}
	return samples
}

// barrier has workers begin their laps together. One that has done its part
// leaves, and is not waited for any more.
type barrier struct {
	mu      sync.Mutex
	cond    sync.Cond
	members int
	waiting int
	round   int
}

func newBarrier(members int) *barrier {
	b := &barrier{members: members}
	b.cond.L = &b.mu
	return b
}

// wait returns when every member waits.
func (b *barrier) wait() {
	b.mu.Lock()
	defer b.mu.Unlock()
	round := b.round
	b.waiting++
	b.pass()
	for b.round == round {
		b.cond.Wait()
	}
}

// leave takes the caller out of the members.
func (b *barrier) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.members--
	b.pass()
}

// pass ends the round if nobody is missing.
func (b *barrier) pass() {
	if b.waiting == b.members {
		b.waiting = 0
		b.round++
		b.cond.Broadcast()
	}
}
