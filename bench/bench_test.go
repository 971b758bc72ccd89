package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/workers/cpu"
)

// counting returns a case that gives 1, 2, 3, … times by, and notes its runs.
func counting(subject string, by float64, order *[]string) Case {
	n := 0.0
	return Case{Scenario: "s", Subject: subject, Measure: func(context.Context) ([]Sample, error) {
		n++
		*order = append(*order, subject)
		return []Sample{{Metric: "rate", Unit: "1/s", Value: n * by}, {Metric: "loss", Unit: "%"}}, nil
	}}
}

// Subjects take turns, so that a slow minute of the machine is everybody's.
func TestRunsAreInterleaved(t *testing.T) {
	var order []string
	series, err := Run(t.Context(), []Case{counting("a", 1, &order), counting("b", 10, &order)}, 3, func(int, *Case, error) {})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, ""); got != "ababab" {
		t.Errorf("ran %s, want ababab", got)
	}
	if len(series) != 4 || !slices.Equal(series[2].Values, []float64{10, 20, 30}) || series[2].Subject != "b" {
		t.Errorf("series %+v", series)
	}
	if r := Ratio(series, "s", "rate", "b", "a"); !slices.Equal(r.Values, []float64{10, 10, 10}) || r.Subject != "b / a" {
		t.Errorf("ratio %+v, want 10 in each pair of runs", r)
	}
	if r := Ratio(series, "s", "rate", "b", "nobody"); len(r.Values) != 0 {
		t.Errorf("ratio to nobody: %v", r.Values)
	}
}

// Who fails is left out and named; the others go on.
func TestFailuresAreNamed(t *testing.T) {
	var order []string
	broken := Case{Scenario: "s", Subject: "broken", Measure: func(context.Context) ([]Sample, error) {
		order = append(order, "x")
		return nil, errors.New("no such program")
	}}
	series, err := Run(t.Context(), []Case{broken, counting("a", 1, &order)}, 2, func(int, *Case, error) {})
	if err == nil || err.Error() != "s of broken: no such program" {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(order, ""); got != "xaa" || len(series) != 2 {
		t.Errorf("ran %s and got %+v, want xaa and what a gave", got, series)
	}
	absent := Case{Scenario: "s", Subject: "absent", Measure: func(context.Context) ([]Sample, error) {
		return nil, fmt.Errorf("%w: no such module", ErrUnavailable)
	}}
	var reasons []error
	_, err = Run(t.Context(), []Case{absent}, 2, func(_ int, _ *Case, unavailable error) { reasons = append(reasons, unavailable) })
	if err != nil || len(reasons) != 2 || reasons[0] != nil || !errors.Is(reasons[1], ErrUnavailable) {
		t.Errorf("a subject that there is not: %v, reported %v", err, reasons)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, []Case{broken}, 1, func(int, *Case, error) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("run that was cancelled: %v", err)
	}
}

func TestPercentile(t *testing.T) {
	for _, c := range []struct {
		what   string
		values []float64
		p      float64
		want   float64
	}{
		{"one value is every percentile", []float64{7}, 99, 7},
		{"median of an odd number, not sorted", []float64{9, 1, 5}, 50, 5},
		{"median of an even number is halfway", []float64{4, 1, 2, 3}, 50, 2.5},
		{"least", []float64{4, 1, 2}, 0, 1},
		{"greatest", []float64{4, 1, 2}, 100, 4},
		{"between the last two", []float64{0, 10, 20, 30, 40}, 90, 36},
	} {
		values := slices.Clone(c.values)
		if got := Percentile(values, c.p); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
		if !slices.Equal(values, c.values) {
			t.Errorf("%s: the values were reordered", c.what)
		}
	}
	if got := Percentile(nil, 50); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

// Readers of the records know these keys.
func TestRecords(t *testing.T) {
	series := []Series{
		{"engine/dr/v4/1/steady/1", "sluice", "time", "ns/packet", []float64{30, 10, 20}},
		{Scenario: "empty", Metric: "time"},
	}
	var out strings.Builder
	if err := WriteJSON(&out, Records(series)); err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil || len(got) != 1 {
		t.Fatalf("%s: %v", out.String(), err)
	}
	for key, want := range map[string]any{
		"scenario": "engine/dr/v4/1/steady/1", "subject": "sluice", "metric": "time", "unit": "ns/packet",
		"median": 20.0, "min": 10.0, "max": 30.0, "runs": 3.0,
	} {
		if got[0][key] != want {
			t.Errorf("%s is %v, want %v", key, got[0][key], want)
		}
		delete(got[0], key)
	}
	if len(got[0]) > 0 {
		t.Errorf("further keys: %v", got[0])
	}
	out.Reset()
	if err := WriteJSON(&out, Records(nil)); err != nil || strings.TrimSpace(out.String()) != "[]" {
		t.Errorf("no records are %q (%v), want []", out.String(), err)
	}
}

// benchstat finds each run's numbers in a line, units without spaces.
func TestBenchstat(t *testing.T) {
	var out strings.Builder
	err := WriteBenchstat(&out, []Series{
		{"wire/nat", "a", "CPU time", "ns/packet", []float64{1, 2}},
		{"wire/nat", "b", "CPU time", "ns/packet", []float64{3}},
		{"wire/nat", "a", "loss", "%", []float64{0.5}},
		{"wire/nat", "a / b", "CPU time", "ratio", []float64{0.3}},
	})
	const want = "Benchmarkwire/nat/a 1 1 CPU-time-ns/packet 0.5 loss-%\n" +
		"Benchmarkwire/nat/a 1 2 CPU-time-ns/packet\nBenchmarkwire/nat/b 1 3 CPU-time-ns/packet\nBenchmarkwire/nat/a-over-b 1 0.3 CPU-time-ratio\n"
	if err != nil || out.String() != want {
		t.Errorf("%v, writes\n%swant\n%s", err, out.String(), want)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := WriteTable(&out, []Record{{"wire", "sluice", "received", "packets/s", 1234567, 999, -12345, 5}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"scenario", " 1 234 567 ", " 999 ", " -12 345 ", " packets/s ", " 5"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, out.String())
		}
	}
	for v, want := range map[float64]string{0: "0.00", 0.12345: "0.123", 1.2345: "1.23", 56.78: "56.8", 567.8: "568", 9999: "9999", 10_000: "10 000", 123456: "123 456"} {
		if got := Number(v); got != want {
			t.Errorf("Number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestReadMachine(t *testing.T) {
	m := ReadMachine(fstest.MapFS{
		"proc/loadavg": {Data: []byte("0.10 0.20 0.30 1/200 4711\n")},
		"sys/devices/system/cpu/cpu0/cache/index2/size":        {Data: []byte("2048K\n")},
		"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": {Data: []byte("powersave\n")},
		"sys/kernel/mm/transparent_hugepage/enabled":           {Data: []byte("always [madvise] never\n")},
	})
	if m.Load != "0.10 0.20 0.30" || m.L2 != "2048K" || m.Governor != "powersave" || m.Huge != "madvise" || m.CPUs < 1 || m.Kernel == "" {
		t.Errorf("machine %+v", m)
	}
	m.CPUs = 4
	if got := m.Warnings(); len(got) != 1 || !strings.Contains(got[0], "powersave") {
		t.Errorf("warnings of a quiet machine that saves power: %q", got)
	}
	m.Governor, m.Load = "performance", "1.01 0 0"
	if got := m.Warnings(); len(got) != 1 || !strings.Contains(got[0], "1.01") {
		t.Errorf("warnings of a busy machine: %q", got)
	}
	m = ReadMachine(fstest.MapFS{})
	if m.Governor != "none" || m.Huge != "never" || m.L2 != "" || m.Load != "" {
		t.Errorf("machine without /sys and /proc: %+v", m)
	}
}

func TestAssign(t *testing.T) {
	for _, c := range []struct {
		what string
		cpus cpu.Topology
		want CPUs // without Warning
		warn bool
	}{
		{"four cores: the worker has none that others like", cpu.Topology{{ID: 0, Core: 0}, {ID: 1, Core: 1}, {ID: 2, Core: 2}, {ID: 3, Core: 3}}, CPUs{Worker: 1, Generator: 2, Rest: []int{3, 0}}, false},
		{"two: the worker stays alone", cpu.Topology{{ID: 0, Core: 0}, {ID: 1, Core: 1}}, CPUs{Worker: 1, Generator: 0, Rest: []int{0}}, true},
		{"two cores of two threads: worker and generator share none", cpu.Topology{{ID: 0, Core: 0}, {ID: 1, Core: 0}, {ID: 2, Core: 1}, {ID: 3, Core: 1}}, CPUs{Worker: 2, Generator: 0, Rest: []int{1, 3}}, false},
	} {
		got, err := Assign(c.cpus)
		if err != nil || got.Worker != c.want.Worker || got.Generator != c.want.Generator || !slices.Equal(got.Rest, c.want.Rest) || (got.Warning != "") != c.warn {
			t.Errorf("%s: %+v (%v), want %+v", c.what, got, err, c.want)
		}
	}
	if _, err := Assign(cpu.Topology{{ID: 3}}); err == nil {
		t.Error("one CPU is enough")
	}
}

// Pin moves the thread and its undoing moves it back.
func TestPin(t *testing.T) {
	var before, during, after unix.CPUSet
	_ = unix.SchedGetaffinity(0, &before)
	only := 0
	for !before.IsSet(only) {
		only++
	}
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine, which never unlocks it.
		runtime.LockOSThread()
		restore, err := Pin(only)
		if err == nil {
			_ = unix.SchedGetaffinity(0, &during)
			restore()
			_ = unix.SchedGetaffinity(0, &after)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if during.Count() != 1 || !during.IsSet(only) || after != before {
		t.Errorf("pinned to %d of CPUs (CPU %d: %v), afterwards as before: %v", during.Count(), only, during.IsSet(only), after == before)
	}
}
