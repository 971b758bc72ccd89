package engine

import (
	"fmt"

	"github.com/sluice-lb/sluice/bench"
)

// Ratios compares scenarios that differ in one thing, run by run: the rate of
// several workers with that of one, and the time a packet among many services
// and servers with that of one service with one server.
func Ratios(all []bench.Series) (ratios []bench.Series) {
	for i := range all {
		s, err := Parse(all[i].Scenario)
		if err != nil {
			continue // another harness's
		}
		if s.Workers > 1 && all[i].Metric == "rate" {
			one := s
			one.Workers = 1
			ratios = appendRatio(ratios, all, i, one, fmt.Sprintf("%d workers / 1", s.Workers))
		}
		if one := (Scale{1, 1}); s.Scale != one && all[i].Metric == "time" {
			few := s
			few.Scale = one
			ratios = appendRatio(ratios, all, i, few, fmt.Sprintf("%v / %v", s.Scale, one))
		}
	}
	return ratios
}

// appendRatio appends the series at i over the one of the same metric that
// another scenario gave, if that was measured.
func appendRatio(ratios, all []bench.Series, i int, other Scenario, subject string) []bench.Series {
	of := &all[i]
	for j := range all {
		if to := &all[j]; to.Scenario == other.String() && to.Metric == of.Metric && to.Subject == of.Subject {
			return append(ratios, bench.Over(of, to, of.Scenario, subject))
		}
	}
	return ratios
}
