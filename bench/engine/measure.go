package engine

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/sluice-lb/sluice/bench"
)

// Subject is who is measured in this package's cases.
const Subject = "sluice"

// Cases returns a Case for each scenario: a Rig of its own a run, a lap to
// warm up, and laps of at least that much CPU time together. They share m, so
// they run one at a time. The worker's thread is pinned to the CPU; -1: not.
func Cases(scenarios []Scenario, m *Memory, atLeast time.Duration, onCPU int) (cases []bench.Case) {
	for _, s := range scenarios {
		cases = append(cases, bench.Case{Scenario: s.String(), Subject: Subject, Measure: func(ctx context.Context) ([]bench.Sample, error) {
			return measure(ctx, s, m, atLeast, onCPU)
		}})
	}
	return cases
}

func measure(ctx context.Context, s Scenario, m *Memory, atLeast time.Duration, onCPU int) (samples []bench.Sample, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if onCPU >= 0 {
		restore, err := bench.Pin(onCPU)
		if err != nil {
			return nil, err
		}
		defer restore()
	}
	r, err := New(s, m)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if _, err := r.Lap(); err != nil {
		return nil, err
	}
	var t totals
	for t.busy < atLeast && ctx.Err() == nil {
		if err := t.lap(r); err != nil {
			return nil, err
		}
	}
	return t.samples(r), ctx.Err()
}

// totals adds up laps.
type totals struct {
	busy, expiring   time.Duration
	packets, mallocs uint64
}

// lap runs and adds the next lap.
func (t *totals) lap(r *Rig) error {
	began, err := threadTime()
	if err != nil {
		return err
	}
	if r.scenario.Mix.New() {
		if err := r.Expire(); err != nil {
			return err
		}
	}
	ended, err := threadTime()
	if err != nil {
		return err
	}
	t.expiring += ended - began
	if err := r.Refill(); err != nil {
		return err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	took, err := r.Lap()
	runtime.ReadMemStats(&after)
	t.busy += took
	t.packets += uint64(r.Len())
	t.mallocs += after.Mallocs - before.Mallocs
	return err
}

func (t *totals) samples(r *Rig) []bench.Sample {
	n := float64(t.packets)
	samples := []bench.Sample{
		{Metric: "time", Unit: "ns/packet", Value: float64(t.busy.Nanoseconds()) / n},
		{Metric: "rate", Unit: "Mpps", Value: n / t.busy.Seconds() / 1e6},
		{Metric: "allocations", Unit: "1/packet", Value: float64(t.mallocs) / n},
		{Metric: "memory", Unit: "B/connection", Value: float64(r.BytesPerConn())},
	}
	if r.scenario.Mix.New() {
		samples = append(samples, bench.Sample{Metric: "expiry", Unit: "ns/connection", Value: float64(t.expiring.Nanoseconds()) / n})
	}
	return samples
}
