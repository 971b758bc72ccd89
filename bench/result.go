package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Record is a series summed up, as it is written down.
type Record struct {
	Scenario string  `json:"scenario"`
	Subject  string  `json:"subject"`
	Metric   string  `json:"metric"`
	Unit     string  `json:"unit"`
	Median   float64 `json:"median"`
	Min      float64 `json:"min"`
	Max      float64 `json:"max"`
	Runs     int     `json:"runs"`
}

// Records sums up every series that has values.
func Records(all []Series) []Record {
	records := []Record{} // an array in JSON, if empty
	for i := range all {
		s := &all[i]
		if len(s.Values) == 0 {
			continue
		}
		records = append(records, Record{
			s.Scenario, s.Subject, s.Metric, s.Unit,
			Percentile(s.Values, 50), slices.Min(s.Values), slices.Max(s.Values), len(s.Values),
		})
	}
	return records
}

// Percentile returns the value below which p percent of the values lie, p from
// 0 to 100: between two of them on the straight line that joins them, so that
// 50 is the median. Of no values it is NaN. The values stay in their order.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := p / 100 * float64(len(sorted)-1)
	below := int(rank)
	if below+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[below] + (rank-float64(below))*(sorted[below+1]-sorted[below])
}

// WriteJSON writes the records as one array.
func WriteJSON(w io.Writer, records []Record) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(records)
}

// WriteTable writes the records for people, a line each, scenarios apart.
func WriteTable(w io.Writer, records []Record) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "scenario\tsubject\tmetric\tmedian\tmin\tmax\tunit\truns\t")
	for i := range records {
		r := &records[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t\n", r.Scenario, r.Subject, r.Metric,
			Number(r.Median), Number(r.Min), Number(r.Max), r.Unit, r.Runs)
	}
	return t.Flush()
}

// Number writes a value with three or more digits, and thousands apart where
// it has many.
func Number(v float64) string {
	switch magnitude := math.Abs(v); {
	case magnitude >= 10_000:
		return thousands(fmt.Sprintf("%.0f", v))
	case magnitude >= 100:
		return fmt.Sprintf("%.0f", v)
	case magnitude >= 10:
		return fmt.Sprintf("%.1f", v)
	case magnitude >= 1 || v == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// thousands puts a space before every third digit from the right.
func thousands(digits string) string {
	var out strings.Builder
	for i, c := range digits {
		if rest := len(digits) - i; i > 0 && rest%3 == 0 && digits[i-1] != '-' {
			out.WriteByte(' ')
		}
		out.WriteRune(c)
	}
	return out.String()
}

// WriteBenchstat writes every run for golang.org/x/perf/cmd/benchstat: a line
// each, with all metrics of a subject's run in a scenario.
func WriteBenchstat(w io.Writer, all []Series) error {
	for i := range all {
		first := &all[i]
		same := func(s *Series) bool { return s.Scenario == first.Scenario && s.Subject == first.Subject }
		if slices.IndexFunc(all, func(s Series) bool { return same(&s) }) < i {
			continue // its line is written
		}
		for run := range first.Values {
			line := fmt.Sprintf("Benchmark%s/%s 1", first.Scenario, first.Subject)
			for j := range all[i:] {
				if s := &all[i+j]; same(s) && run < len(s.Values) {
					line += fmt.Sprintf(" %g %s", s.Values[run], strings.ReplaceAll(s.Metric+"-"+s.Unit, " ", "-"))
				}
			}
			if _, err := fmt.Fprintln(w, strings.ReplaceAll(line, " / ", "-over-")); err != nil {
				return err
			}
		}
	}
	return nil
}
