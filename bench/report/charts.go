package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/bench/engine"
)

// Chart is a picture of some records.
type Chart struct {
	Name string // of its file, without .svg
	SVG  string
}

// Charts draws what the records have: packets or connections a second by
// subject for each scenario of the wire, its latencies, and the engine's
// curves.
func Charts(records []bench.Record) (all []Chart) {
	all = append(all, rates(records)...)
	all = append(all, latencies(records)...)
	return append(all, curves(records)...)
}

// measured returns the records of a scenario and metric that are no ratios.
func measured(records []bench.Record, scenario, metric string) (found []bench.Record) {
	for _, r := range records {
		if r.Scenario == scenario && r.Metric == metric && !compares(&r) {
			found = append(found, r)
		}
	}
	return found
}

// scenarios returns the names with a prefix, in the order of the records.
func scenarios(records []bench.Record, prefix string) (names []string) {
	for i := range records {
		if name := records[i].Scenario; strings.HasPrefix(name, prefix) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// generator is no director, and beside its bar all others would be short.
const generator = "generator"

// rateMetrics are what is drawn as bars, the first that a scenario has.
var rateMetrics = []string{"highest rate", "received", "connections"}

func rates(records []bench.Record) (all []Chart) {
	for _, name := range scenarios(records, "wire/") {
		for _, metric := range rateMetrics {
			found := measured(records, name, metric)
			if len(found) == 0 {
				continue
			}
			var bars []Bar
			for _, r := range found {
				if r.Subject != generator {
					bars = append(bars, Bar{r.Subject, Point{0, r.Median, r.Min, r.Max}})
				}
			}
			all = append(all, Chart{fileName(name), Bars(name, metric+", "+found[0].Unit, bars)})
			break
		}
	}
	return all
}

// percentiles are the metrics of a latency distribution, behind what it is of.
var percentiles = []string{"p50", "p90", "p99", "p99.9", "max"}

// distributions are what latencies are of.
var distributions = []string{"one way", "and back"}

func latencies(records []bench.Record) (all []Chart) {
	for _, name := range scenarios(records, "wire/") {
		for _, of := range distributions {
			var lines []Line
			for x, p := range percentiles {
				for _, r := range measured(records, name, of+" "+p) {
					lines = appendPoint(lines, r.Subject, Point{float64(x), r.Median, r.Min, r.Max})
				}
			}
			if len(lines) > 0 {
				all = append(all, Chart{fileName(name + " " + of), Lines(name+", "+of, Axis{Names: percentiles}, Axis{Label: "µs", Log: true}, lines)})
			}
		}
	}
	return all
}

// curve is how the engine's time a packet depends on one thing.
type curve struct {
	file, title, x string
	// point returns where on the curve a scenario is, and on which lines.
	point func(s engine.Scenario) (x int, lines []string)
}

var allCurves = []curve{
	{"engine-connections", "engine: time a packet by number of connections", "established connections", byConnections},
	{"engine-scale", "engine: time a packet by number of services and real servers", "services, servers, or both", byScale},
}

func byConnections(s engine.Scenario) (x int, lines []string) {
	if s.Workers == 1 && s.Mix == engine.Steady && s.Scale == (engine.Scale{}) {
		lines = []string{fmt.Sprintf("%s, %s", s.Method, s.Family)}
	}
	return s.Conns, lines
}

func byScale(s engine.Scenario) (x int, lines []string) {
	services, servers := s.Scale.Sizes()
	if s.Workers != 1 || s.Mix != engine.Steady || s.Method != engine.NATIn || s.Family != engine.V4 || s.Conns != 64_000 {
		return 0, nil
	}
	if servers == 1 {
		lines = append(lines, "services that share 1 server")
	}
	if services == 1 {
		lines = append(lines, "servers of 1 service")
	}
	if services == servers {
		lines = append(lines, "services, each with a server of its own")
	}
	return max(services, servers), lines
}

func curves(records []bench.Record) (all []Chart) {
	for _, c := range allCurves {
		if lines := c.lines(records); len(lines) > 0 {
			all = append(all, Chart{c.file, Lines(c.title, Axis{Label: c.x, Log: true}, Axis{Label: "ns/packet"}, lines)})
		}
	}
	return all
}

// lines returns those with two points at least.
func (c *curve) lines(records []bench.Record) (lines []Line) {
	for i := range records {
		r := &records[i]
		s, err := engine.Parse(r.Scenario)
		if err != nil || r.Metric != "time" || compares(r) {
			continue
		}
		x, names := c.point(s)
		for _, name := range names {
			lines = appendPoint(lines, name, Point{float64(x), r.Median, r.Min, r.Max})
		}
	}
	lines = slices.DeleteFunc(lines, func(l Line) bool { return len(l.Points) < 2 })
	for i := range lines {
		slices.SortStableFunc(lines[i].Points, func(a, b Point) int { return cmp.Compare(a.X, b.X) })
	}
	return lines
}

// appendPoint appends a point to the line of that name, which may be new.
func appendPoint(lines []Line, name string, p Point) []Line {
	i := slices.IndexFunc(lines, func(l Line) bool { return l.Name == name })
	if i < 0 {
		i = len(lines)
		lines = append(lines, Line{Name: name})
	}
	lines[i].Points = append(lines[i].Points, p)
	return lines
}

// fileName makes one of a scenario's name.
func fileName(scenario string) string {
	return strings.NewReplacer("/", "-", " ", "-").Replace(scenario)
}
