package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/bench/engine"
)

// Tables writes the records in Markdown: the targets, the engine's times by
// method and family, and each other scenario with a line a subject. Values are
// medians, with the least and the greatest in brackets.
func Tables(records []bench.Record) string {
	var out strings.Builder
	section := func(title, table string) {
		if table != "" {
			fmt.Fprintf(&out, "### %s\n\n%s\n", title, table)
		}
	}
	section("targets", targetTable(records))
	section("engine, established connections, ns/packet", pivot(records, func(s engine.Scenario) (row, column string) {
		if s.Workers > 1 || s.Mix.Opens() > 0 || s.Scale != (engine.Scale{}) {
			return "", ""
		}
		return fmt.Sprintf("%s %s %s", s.Method, s.Family, s.Mix), engine.Short(s.Conns)
	}, "time"))
	section("engine, new connections, ns each", pivot(records, func(s engine.Scenario) (row, column string) {
		if s.Workers > 1 || s.Mix.Opens() == 0 || s.Scale != (engine.Scale{}) {
			return "", ""
		}
		return fmt.Sprintf("%s %s", s.Mix, s.Family), "beside " + engine.Short(s.Conns)
	}, "time"))
	section("engine, workers, Mpps of all", pivot(records, func(s engine.Scenario) (row, column string) {
		if s.Mix != engine.Steady || s.Method != engine.NATIn || s.Scale != (engine.Scale{}) || !twice(records, s) {
			return "", ""
		}
		return engine.Short(s.Conns) + " connections", fmt.Sprintf("workers: %d", s.Workers)
	}, "rate"))
	section("engine, services x servers, ns/packet", pivot(records, func(s engine.Scenario) (row, column string) {
		if s.Workers > 1 || s.Scale == (engine.Scale{}) {
			return "", ""
		}
		return s.Scale.String(), fmt.Sprintf("%s %s, %s connections", s.Method, s.Family, engine.Short(s.Conns))
	}, "time"))
	section("engine, ratios run by run", engineRatios(records))
	for _, name := range scenarios(records, "") {
		if _, err := engine.Parse(name); err != nil {
			section(name, subjectTable(records, name))
			section(name+", ratios run by run", ratioTable(records, name))
		}
	}
	return out.String()
}

// twice says whether there is the scenario with more than one worker.
func twice(records []bench.Record, s engine.Scenario) bool {
	s.Workers = 2
	return len(measured(records, s.String(), "rate")) > 0
}

// pivot is a table of one metric of the engine's scenarios that have a place
// in it, few connections first; "" if there are none.
func pivot(records []bench.Record, place func(s engine.Scenario) (row, column string), metric string) string {
	var g grid
	conns := map[string]int{} // of a column's scenarios
	for i := range records {
		r := &records[i]
		s, err := engine.Parse(r.Scenario)
		if err != nil || r.Metric != metric || compares(r) {
			continue
		}
		if row, column := place(s); row != "" {
			g.set(row, column, spread(r))
			conns[column] = s.Conns
		}
	}
	slices.SortStableFunc(g.columns, func(a, b string) int { return cmp.Compare(conns[a], conns[b]) })
	return g.String()
}

// subjectTable has a line for each metric of a scenario and a column for each
// subject.
func subjectTable(records []bench.Record, scenario string) string {
	var g grid
	for i := range records {
		if r := &records[i]; r.Scenario == scenario && !compares(r) {
			g.set(r.Metric+", "+r.Unit, r.Subject, spread(r))
		}
	}
	return g.String()
}

// compares says whether a record is the ratio of two subjects or scenarios.
func compares(r *bench.Record) bool { return r.Unit == "ratio" && strings.Contains(r.Subject, " / ") }

// grid is a table whose rows and columns have names, in the order in which
// they came.
type grid struct {
	rows, columns []string
	cells         map[[2]string]string
}

func (g *grid) set(row, column, text string) {
	if !slices.Contains(g.rows, row) {
		g.rows = append(g.rows, row)
	}
	if !slices.Contains(g.columns, column) {
		g.columns = append(g.columns, column)
	}
	if g.cells == nil {
		g.cells = map[[2]string]string{}
	}
	g.cells[[2]string{row, column}] = text
}

// String writes the table, "" if it is empty.
func (g *grid) String() string {
	if g.rows == nil {
		return ""
	}
	table := [][]string{append([]string{""}, g.columns...)}
	for _, row := range g.rows {
		line := []string{row}
		for _, column := range g.columns {
			line = append(line, g.cells[[2]string{row, column}])
		}
		table = append(table, line)
	}
	return markdown(table)
}

// engineRatios are those of scenarios that differ in one thing.
func engineRatios(records []bench.Record) string {
	table := [][]string{{"scenario", "of", "metric", "ratio"}}
	for i := range records {
		r := &records[i]
		if _, err := engine.Parse(r.Scenario); err == nil && compares(r) {
			table = append(table, []string{r.Scenario, r.Subject, r.Metric, spread(r)})
		}
	}
	if len(table) == 1 {
		return ""
	}
	return markdown(table)
}

// ratioTable has a line for each pair of a scenario's subjects.
func ratioTable(records []bench.Record, scenario string) string {
	var g grid
	for i := range records {
		if r := &records[i]; r.Scenario == scenario && compares(r) {
			g.set(r.Subject, r.Metric, spread(r))
		}
	}
	return g.String()
}

// many is from where on a table has k and M.
const many = 100_000

// spread writes a record's median, and the least and greatest if there were
// several runs.
func spread(r *bench.Record) string {
	write := bench.Number
	if r.Max >= many {
		write = short
	}
	if r.Runs == 1 || r.Min == r.Max {
		return write(r.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", write(r.Median), write(r.Min), write(r.Max))
}

// markdown writes a table; the first row is its head.
func markdown(rows [][]string) string {
	var out strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			out.WriteString("|" + strings.Repeat("---|", len(row)) + "\n")
		}
	}
	return out.String()
}
