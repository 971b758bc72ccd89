package engine

import (
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/bench"
)

// Only scenarios that differ in nothing but the number of workers, or nothing
// but the scale, are compared.
func TestRatios(t *testing.T) {
	series := func(name, metric string, values ...float64) bench.Series {
		return bench.Series{Scenario: name, Subject: Subject, Metric: metric, Values: values}
	}
	all := []bench.Series{
		series("engine/dr/v4/1k/steady/1", "rate", 10, 20),
		series("engine/dr/v4/1k/steady/1", "time", 15, 11),
		series("engine/dr/v4/1k/steady/2", "rate", 19, 40),
		series("engine/dr/v6/1k/steady/2", "rate", 5),
		series("engine/dr/v4/1k/steady/1/1x1", "time", 10, 10),
		series("engine/dr/v4/1k/steady/1/10x1", "time", 11, 12, 13),
		series("engine/dr/v4/1k/steady/1/10x1", "allocations", 0),
		series("wire/nat/v4", "rate", 1),
	}
	type ratio struct {
		scenario, subject string
		values            []float64
	}
	var got []ratio
	for _, r := range Ratios(all) {
		got = append(got, ratio{r.Scenario, r.Subject, r.Values})
	}
	want := []ratio{
		{"engine/dr/v4/1k/steady/1", "1x100 / 1x1", []float64{1.5, 1.1}},
		{"engine/dr/v4/1k/steady/2", "2 workers / 1", []float64{1.9, 2}},
		{"engine/dr/v4/1k/steady/1/10x1", "10x1 / 1x1", []float64{1.1, 1.2}},
	}
	if !slices.EqualFunc(got, want, func(a, b ratio) bool {
		return a.scenario == b.scenario && a.subject == b.subject && slices.Equal(a.values, b.values)
	}) {
		t.Errorf("%v, want %v", got, want)
	}
}
