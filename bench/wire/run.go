package wire

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sluice-lb/sluice/bench"
)

// run is a forwarder that forwards, and the loads it is given.
type run struct {
	*traffic
	subject *subject
	config  *Config
	process *process // nil: there is none
	highest float64  // rate that search has found; 0: not yet
}

// all measures what is wanted. Where answers are measured, the server answers from
// then on, so that comes last.
func (r *run) all(ctx context.Context, wanted []Scenario) (samples []bench.Sample, err error) {
	add := func(s Scenario, more []bench.Sample) {
		for _, sample := range more {
			sample.Scenario = s.String()
			samples = append(samples, sample)
		}
	}
	var timed []Scenario
	for _, s := range wanted {
		if r.subject.start == nil && s.Kind != Full {
			continue // it says what can be generated, nothing else
		}
		if s.Kind == Latency {
			timed = append(timed, s)
			continue
		}
		got, err := r.load(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", s, err)
		}
		add(s, got)
	}
	if len(timed) == 0 {
		return samples, nil
	}
	got, err := r.latency(ctx, timed)
	for i, s := range timed {
		if err == nil {
			add(s, got[i])
		}
	}
	return samples, err
}

// load measures what arrives of a load, and what CPU time that takes.
func (r *run) load(ctx context.Context, s Scenario) (samples []bench.Sample, err error) {
	if s.Kind == Full {
		stop, err := r.flood(r.config.CPUs.Generator)
		if err != nil {
			return nil, err
		}
		samples, err := r.window(ctx)
		return samples, errors.Join(err, stop())
	}
	stop, err := r.paced(r.config.CPUs.Generator)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if s.Kind == Rate {
		return r.best(ctx)
	}
	if err := r.pace(float64(s.Load)); err != nil {
		return nil, err
	}
	return r.window(ctx)
}

// best measures at the highest rate: a little below what search has found, where that
// does not stand for a whole window.
func (r *run) best(ctx context.Context) (samples []bench.Sample, err error) {
	if r.highest, err = r.search(ctx, r.config.Duration/trialPart); err != nil {
		return nil, err
	}
	for range steps {
		if err := r.pace(r.highest); err != nil {
			return nil, err
		}
		if samples, err = r.window(ctx); err != nil {
			return nil, err
		}
		value := func(metric string) float64 {
			return samples[slices.IndexFunc(samples, func(s bench.Sample) bool { return s.Metric == metric })].Value
		}
		// Others on the machine may have slowed the generator, not the forwarder.
		r.highest = min(r.highest, value(generatedMetric))
		if value(lossMetric) < 100*Loss {
			break
		}
		r.highest *= step
	}
	return append(samples, bench.Sample{Metric: "highest rate", Unit: "packets/s", Value: r.highest}), nil
}

// latency measures delays at parts of the highest rate: one way, and then to the
// server and back. A packet and its answer are two to forward, where the director
// forwards both, so that half as many are sent.
func (r *run) latency(ctx context.Context, all []Scenario) (samples [][]bench.Sample, err error) {
	stop, err := r.paced(r.config.CPUs.Generator)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if r.highest == 0 {
		if r.highest, err = r.search(ctx, r.config.Duration/trialPart); err != nil {
			return nil, err
		}
	}
	samples = make([][]bench.Sample, len(all))
	delays := func(what string, highest float64) error {
		for i, s := range all {
			rate := highest * float64(s.Load) / 100
			d, waited, err := r.delaysAt(ctx, rate)
			if err != nil {
				return err
			}
			if math.IsNaN(d.percentile(50)) {
				return fmt.Errorf("%v: no packet arrived, %s", s, what)
			}
			samples[i] = append(samples[i], bench.Sample{Metric: what + " rate", Unit: "packets/s", Value: rate})
			samples[i] = append(append(samples[i], d.samples(what)...), bench.Sample{Metric: what + " waited for its CPU", Unit: "%", Value: 100 * waited})
		}
		return nil
	}
	began := time.Now()
	if err := delays("one way", r.highest); err != nil {
		return nil, err
	}
	both := r.highest / 2
	if r.subject.direct {
		both = r.highest
	}
	if err := r.reflect(r.subject.answers()); err != nil {
		return nil, err
	}
	if err := delays("and back", both); err != nil {
		return nil, err
	}
	if slices.Contains([]string{SluiceNAT, SluiceDR, SluiceIPIP}, r.subject.name) {
		n, longest := r.process.pausesSince(began)
		for i := range samples {
			samples[i] = append(samples[i],
				bench.Sample{Metric: "GC pauses meanwhile", Unit: "pauses", Value: float64(n)},
				bench.Sample{Metric: "longest GC pause meanwhile", Unit: "µs", Value: float64(longest.Nanoseconds()) / 1000})
		}
	}
	return samples, nil
}

// window lets the traffic settle and counts. Where others took the forwarder's
// CPU from it, it counts again: the window with the least of that is the run's.
func (r *run) window(ctx context.Context) (best []bench.Sample, err error) {
	if err := sleep(ctx, warmUp); err != nil {
		return nil, err
	}
	d := r.config.Duration / windowPart
	least := time.Duration(math.MaxInt64)
	for range windows {
		before, err := r.reading()
		if err != nil {
			return nil, err
		}
		if err := sleep(ctx, d); err != nil {
			return nil, err
		}
		after, err := r.reading()
		if err != nil {
			return nil, err
		}
		samples, err := after.since(&before, r.subject.start != nil)
		if err != nil {
			return nil, err
		}
		waited := after.waiting - before.waiting
		if waited < least {
			least, best = waited, samples
		}
		if waited < d/disturbed {
			break
		}
	}
	return best, nil
}

// reading is all counters at one moment.
type reading struct {
	at      time.Time
	counts  counts
	used    cpuTimes
	waiting time.Duration // of the forwarder, for its CPU
}

func (r *run) reading() (now reading, err error) {
	if now.counts, err = r.counts(); err != nil {
		return now, err
	}
	now.at = time.Now()
	if now.used, err = readCPUTimes(r.config.CPUs.Worker); err != nil {
		return now, err
	}
	now.waiting, err = r.process.waiting(&r.config.CPUs)
	return now, err
}

// since returns what happened between two readings; forwarded says whether
// there was a forwarder between generator and sink.
func (r *reading) since(before *reading, forwarded bool) ([]bench.Sample, error) {
	took := r.at.Sub(before.at).Seconds()
	generated, received := float64(r.counts.generated-before.counts.generated), float64(r.counts.received-before.counts.received)
	if unwanted := r.counts.unwanted - before.counts.unwanted; received == 0 || unwanted > 0 {
		return nil, fmt.Errorf("%.0f packets arrived, and %d with another destination", received, unwanted)
	}
	samples := []bench.Sample{
		{Metric: generatedMetric, Unit: "packets/s", Value: generated / took},
		{Metric: "received", Unit: "packets/s", Value: received / took},
	}
	if !forwarded {
		return samples, nil
	}
	user, system, softirq := r.used.user-before.used.user, r.used.system-before.used.system, r.used.softirq-before.used.softirq
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / received }
	return append(samples,
		bench.Sample{Metric: lossMetric, Unit: "%", Value: 100 * max(0, 1-received/generated)},
		bench.Sample{Metric: "CPU time", Unit: "ns/packet", Value: each(user + system + softirq)},
		bench.Sample{Metric: "CPU time, user", Unit: "ns/packet", Value: each(user)},
		bench.Sample{Metric: "CPU time, system", Unit: "ns/packet", Value: each(system)},
		bench.Sample{Metric: "CPU time, softirq", Unit: "ns/packet", Value: each(softirq)},
		bench.Sample{Metric: "waited for its CPU", Unit: "%", Value: 100 * (r.waiting - before.waiting).Seconds() / took},
	), nil
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
