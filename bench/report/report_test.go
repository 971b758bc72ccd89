package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/bench/engine"
)

var update = flag.Bool("update", false, "write testdata anew")

func records(t *testing.T) (all []bench.Record) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "records.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// golden holds text against a file of testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s differs; go test ./bench/report -update writes it anew. It is now\n%s", path, text)
	}
}

// Each chart is the same as ever, and well-formed; there are no others.
func TestCharts(t *testing.T) {
	charts := Charts(records(t))
	names := map[string]bool{}
	for _, c := range charts {
		names[c.Name+".svg"] = true
		golden(t, c.Name+".svg", c.SVG)
		for d := xml.NewDecoder(strings.NewReader(c.SVG)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
		}
	}
	files, err := filepath.Glob("testdata/*.svg")
	if err != nil || len(files) != len(charts) || len(names) != len(charts) || len(charts) < 6 {
		t.Errorf("%d charts with %d names, %d files (%v)", len(charts), len(names), len(files), err)
	}
	if got := Charts(nil); len(got) != 0 {
		t.Errorf("of no records there are %d charts", len(got))
	}
}

func TestTables(t *testing.T) { golden(t, "tables.md", Tables(records(t))) }

// A figure meets its target on the right side, and of several the worst counts.
func TestTargets(t *testing.T) {
	record := func(scenario, subject, metric string, median float64) bench.Record {
		return bench.Record{Scenario: scenario, Subject: subject, Metric: metric, Median: median}
	}
	records := []bench.Record{
		record("engine/nat-in/v4/64k/steady/1", "sluice", "time", 25),
		record("engine/nat-in/v4/1M/steady/1", "sluice", "time", 45.1),
		record("engine/nat-in/v4/64k/steady/2", "2 workers / 1", "rate", 1.95),
		record("engine/nat-in/v4/1M/steady/2", "2 workers / 1", "rate", 1.94),
		record("engine/nat-in/v4/64k/steady/2", "sluice", "rate", 1),
		record("engine/nat-in/v4/64k/steady/1", "sluice", "memory", 117),
		record("engine/nat-in/v6/64k/steady/1", "sluice", "memory", 130),
		record("engine/nat-in/v6/64k/steady/1", "sluice", "allocations", 0),
		record("wire/x", "sluice", "allocations", 9),
	}
	got := map[string]bool{}
	for _, target := range Targets() {
		if r, ok := target.found(records); ok {
			got[target.What] = target.met(&r)
		}
	}
	want := map[string]bool{
		"engine, NAT established, batch 64, 64 k connections": true,
		"same, 1 M connections, uniform":                      false,
		"2 workers over 1, 64 k connections":                  true,
		"2 workers over 1, 1 M connections":                   false,
		"memory, all included, v4 and v6":                     false,
		"allocations on the packet's way":                     true,
	}
	if len(got) != len(want) {
		t.Errorf("met: %v, want %v", got, want)
	}
	for what, met := range want {
		if got[what] != met {
			t.Errorf("%s: met is %v, want %v", what, got[what], met)
		}
	}
	for _, target := range Targets() {
		if _, err := engine.Parse(target.Scenario); err != nil && strings.HasPrefix(target.Scenario, "engine/") && !strings.HasSuffix(target.Scenario, "/") {
			t.Error(err)
		}
	}
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.25: "0.25", 12.34: "12.3", 999.4: "999", 999.6: "1 k", 14_000_000: "14 M", 2.5e9: "2.5 G", 1e13: "1e+04 G"} {
		if got := short(v); got != want {
			t.Errorf("short(%v) = %q, want %q", v, got, want)
		}
	}
}
