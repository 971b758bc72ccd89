package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/bench"
)

// benchCommand runs sluice bench and returns what it printed and its status.
func benchCommand(t *testing.T, args ...string) (out, said string, status int) {
	t.Helper()
	root := newRoot()
	var o, e strings.Builder
	root.SetOut(&o)
	root.SetErr(&e)
	status = execute(t.Context(), root, append([]string{"bench"}, args...))
	return o.String(), e.String(), status
}

// Patterns select scenarios of either harness.
func TestBenchList(t *testing.T) {
	for _, c := range []struct {
		what  string
		args  []string
		has   []string
		hasNo string
	}{
		{"everything", nil, []string{"engine/nat-in/v4/64k/steady/1", "wire/full/v4/10k/60B"}, ""},
		{"one harness", []string{"engine"}, []string{"engine/gue/v6/1M/steady/1"}, "wire"},
		{"the other", []string{"wire"}, []string{"wire/full/v4/10k/60B", "wire/flood/icmp-errors"}, "engine"},
		{"connections", []string{"wire", "conns"}, []string{"wire/conns/syn", "wire/conns/open-1B-close"}, "flood"},
		{"reloads", []string{"wire", "reload"}, []string{"wire/reload/100"}, "1k"},
		{"many reloads, by name", []string{"wire", "wire/reload/1k"}, []string{"wire/reload/1k"}, "100"},
		{"all reloads", []string{"wire", "--full", "reload"}, []string{"wire/reload/1k", "wire/reload/100"}, "flood"},
		{"a flood", []string{"wire", "wire/flood"}, []string{"wire/flood/icmp-errors"}, "nat"},
		{"a pattern", []string{"engine", "dr/v6/1M"}, []string{"engine/dr/v6/1M/steady/1"}, "v4"},
		{"a whole name that no file has", []string{"engine", "engine/dr/v6/12/zipf/1"}, []string{"engine/dr/v6/12/zipf/1"}, "steady"},
		{"those that take long", []string{"engine", "--full", "16M"}, []string{"engine/nat-in/v4/16M/steady/1"}, "/1M/"},
		{"as usual", []string{"engine", "nat-in/v4"}, []string{"engine/nat-in/v4/64k/steady/1/10kx10k"}, "16M"},
		{"soaks", []string{"engine", "soak", "engine/soak/dr/v6/1k/steady/1"}, []string{"engine/soak/nat-in/v4/64k/new1/1", "engine/soak/dr/v6/1k/steady/1"}, "nat-out"},
		{"the short form", []string{"engine", "--short"}, []string{"engine/nat-in/v4/1k/steady/1"}, "1M"},
	} {
		out, said, status := benchCommand(t, append(c.args, "--list")...)
		if status != 0 || said != "" || c.hasNo != "" && strings.Contains(out, c.hasNo) {
			t.Errorf("%s: status %d, %s%s", c.what, status, said, out)
		}
		for _, name := range c.has {
			if !slices.Contains(strings.Fields(out), name) {
				t.Errorf("%s: no %s in\n%s", c.what, name, out)
			}
		}
	}
}

func TestBenchRefuses(t *testing.T) {
	for _, c := range []struct {
		what   string
		args   []string
		says   string
		status int
	}{
		{"no such harness", []string{"disk"}, "disk", exitUsage},
		{"no pattern", []string{"engine", "("}, "missing closing )", exitUsage},
		{"a pattern that nothing matches", []string{"engine", "token-ring"}, "--list", exitFailed},
		{"no time", []string{"--time", "0s"}, "more than 0", exitUsage},
		{"long and short", []string{"--short", "--full"}, "one of them", exitUsage},
		{"no runs", []string{"--runs", "0"}, "more than 0", exitUsage},
	} {
		out, said, status := benchCommand(t, c.args...)
		if status != c.status || out != "" || !strings.Contains(said, c.says) {
			t.Errorf("%s: status %d, says %q, prints %q", c.what, status, said, out)
		}
	}
}

// The records are one JSON array on standard output and nothing else; benchstat
// gets a line a run.
func TestBenchJSON(t *testing.T) {
	const name = "engine/nat-in/mixed/10/zipf/1"
	dir := t.TempDir()
	file := filepath.Join(dir, "runs.txt")
	out, said, status := benchCommand(t, "engine", name, "--json", "--runs", "2", "--time", "5ms", "--benchstat", file, "--svg", filepath.Join(dir, "img"))
	if status != 0 {
		t.Fatalf("status %d: %s", status, said)
	}
	var records []bench.Record
	if err := json.Unmarshal([]byte(out), &records); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	metrics := map[string]string{}
	for _, r := range records {
		metrics[r.Metric] = r.Unit
		if r.Scenario != name || r.Subject != "sluice" || r.Runs != 2 || r.Min > r.Median || r.Median > r.Max {
			t.Errorf("record %+v", r)
		}
	}
	if metrics["time"] != "ns/packet" || metrics["memory"] != "B/connection" {
		t.Errorf("metrics %v", metrics)
	}
	text, err := os.ReadFile(file)
	if lines := strings.Split(strings.TrimSpace(string(text)), "\n"); err != nil || len(lines) != 2 || !strings.HasPrefix(lines[0], "Benchmark"+name+"/sluice 1 ") {
		t.Errorf("for benchstat: %q (%v)", text, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "img")); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said, "worker on CPU") || !strings.Contains(said, "run 2") {
		t.Errorf("says %q, want the machine and the runs", said)
	}
}

// Records of several files become charts and tables; a document's tables are
// put in the place of those of before.
func TestBenchReport(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const record = `[{"scenario": "engine/nat-in/v4/%s/steady/1", "subject": "sluice", "metric": "time", "unit": "ns/packet", "median": 20, "min": 19, "max": 21, "runs": 3}]`
	one, other := file("one.json", fmt.Sprintf(record, "64k")), file("other.json", fmt.Sprintf(record, "1M"))
	charts := filepath.Join(dir, "img", "new")
	if _, said, status := benchCommand(t, "chart", charts, one, other); status != 0 {
		t.Fatal(said)
	}
	if text, err := os.ReadFile(filepath.Join(charts, "engine-connections.svg")); err != nil || !strings.HasPrefix(string(text), "<svg ") {
		t.Errorf("chart %.20q (%v)", text, err)
	}
	out, said, status := benchCommand(t, "table", one, other)
	if status != 0 || !strings.Contains(out, "20.0 (19.0–21.0) | 20.0 (19.0–21.0)") {
		t.Errorf("status %d, %s%s", status, said, out)
	}
	doc := file("doc.md", "before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n")
	for range 2 {
		if _, said, status := benchCommand(t, "table", "--into", doc, one, other); status != 0 {
			t.Fatal(said)
		}
		text, err := os.ReadFile(doc)
		if want := "before\n<!-- tables -->\n\n" + out + "<!-- end of tables -->\nafter\n"; err != nil || string(text) != want {
			t.Errorf("the document is %q (%v), want %q", text, err, want)
		}
	}
	for what, args := range map[string][]string{
		"no such file": {"table", filepath.Join(dir, "none.json")},
		"no records":   {"chart", charts, doc},
		"no place":     {"table", "--into", one, one},
	} {
		if _, said, status := benchCommand(t, args...); status != exitFailed || said == "" {
			t.Errorf("%s: status %d, %q", what, status, said)
		}
	}
}
