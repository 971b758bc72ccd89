// Package bench measures sluice beside others: what its harnesses have in
// common, which is repeating, summing up, writing down and naming the machine.
//
// The harnesses are its folders: engine measures the packet's way in memory,
// wire a whole director on AF_XDP between network namespaces. Each gives
// Cases; Run runs them in turn, so that whatever the machine does meanwhile
// strikes all of them alike.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// Sample is one number that one run of a Case measured.
type Sample struct {
	Metric string // what: "time", "received"
	Unit   string // "ns/packet", "packets/s"
	Value  float64
	// Scenario is set where a Case measures several; empty: the Case's.
	Scenario string
}

// Case is something that is measured. Measure does one run: it sets up what it
// needs, checks that it works, measures and takes down.
type Case struct {
	Scenario string // "engine/nat-in/v4/1M/steady/1"
	Subject  string // who is measured in it
	Measure  func(ctx context.Context) ([]Sample, error)
}

// Series is what the runs of a Case gave for one metric, in their order.
type Series struct {
	Scenario, Subject, Metric, Unit string
	Values                          []float64
}

// ErrUnavailable is in the error of a Case whose subject this machine does not
// have: no failure, but nothing to measure either.
var ErrUnavailable = errors.New("not on this machine")

// Run runs every case, then every case again, runs times. A case whose run
// fails is left out from then on, with what it gave; the error names each.
// report is told of each run before it starts, and again with the reason if
// its subject is unavailable.
func Run(ctx context.Context, cases []Case, runs int, report func(run int, c *Case, unavailable error)) ([]Series, error) {
	var errs []error
	failed := make([]bool, len(cases))
	r := results{at: map[seriesKey]int{}}
	for run := range runs {
		for i := range cases {
			c := &cases[i]
			if failed[i] {
				continue
			}
			if ctx.Err() != nil {
				return r.series, errors.Join(append(errs, ctx.Err())...)
			}
			report(run, c, nil)
			samples, err := c.Measure(ctx)
			if failed[i] = err != nil; errors.Is(err, ErrUnavailable) {
				report(run, c, err)
				continue
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s of %s: %w", c.Scenario, c.Subject, err))
				continue
			}
			r.add(c, samples)
		}
	}
	return r.series, errors.Join(errs...)
}

type seriesKey struct{ scenario, subject, metric string }

// results collects series in the order in which they first appear.
type results struct {
	series []Series
	at     map[seriesKey]int
}

func (r *results) add(c *Case, samples []Sample) {
	for _, s := range samples {
		scenario := cmp.Or(s.Scenario, c.Scenario)
		key := seriesKey{scenario, c.Subject, s.Metric}
		i, ok := r.at[key]
		if !ok {
			i = len(r.series)
			r.at[key] = i
			r.series = append(r.series, Series{scenario, c.Subject, s.Metric, s.Unit, nil})
		}
		r.series[i].Values = append(r.series[i].Values, s.Value)
	}
}

// Ratio returns how a metric of one subject compares with that of another, run
// by run. It has no values if either has none.
func Ratio(all []Series, scenario, metric, of, to string) Series {
	find := func(subject string) *Series {
		for i := range all {
			if s := &all[i]; s.Scenario == scenario && s.Metric == metric && s.Subject == subject {
				return s
			}
		}
		return &Series{Metric: metric}
	}
	return Over(find(of), find(to), scenario, of+" / "+to)
}

// Over divides two series run by run: run i of the one by run i of the other,
// which followed each other.
func Over(of, to *Series, scenario, subject string) Series {
	ratio := Series{Scenario: scenario, Subject: subject, Metric: of.Metric, Unit: "ratio"}
	for i := range min(len(of.Values), len(to.Values)) {
		ratio.Values = append(ratio.Values, of.Values[i]/to.Values[i])
	}
	return ratio
}
