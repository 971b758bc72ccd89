package scenarios

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/sluice-lb/sluice/bench/engine"
)

// The folder's files say what they are about, and have what docs/PERFORMANCE.md
// promises a table of.
func TestFiles(t *testing.T) {
	files, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if len(f.About) < 20 {
			t.Errorf("%s says %q about itself", f.Name, f.About)
		}
	}
	all, err := Engine(files, Full)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		if slices.Contains(all[:i], s) {
			t.Errorf("%v is there twice", s)
		}
	}
	for _, name := range []string{
		"engine/nat-in/v4/64k/steady/1", "engine/nat-in/v4/1M/steady/1", "engine/nat-in/v4/16M/steady/1", "engine/nat-in/v4/1M/new/1",
		"engine/nat-in/v4/1M/new-mh/1", "engine/nat-in/v4/64k/steady/2", "engine/gue/v6/1k/steady/1", "engine/nat-in/mixed/1M/zipf/1",
		"engine/nat-in/v4/64k/steady/1/1x1", "engine/nat-in/v4/64k/steady/1/10kx10k", "engine/nat-in/v4/64k/steady/1/1x10k", "engine/nat-in/v4/64k/steady/1/10kx1",
	} {
		if s, err := engine.Parse(name); err != nil || !slices.Contains(all, s) {
			t.Errorf("no file has %s (%v)", name, err)
		}
	}
	if soaks, err := Soaks(files); err != nil || len(soaks) != 1 {
		t.Errorf("soaks %v: %v", soaks, err)
	}
	usual, err := Engine(files, Usual)
	if err != nil || len(usual) >= len(all) {
		t.Errorf("%d scenarios as usual, %d in full: %v", len(usual), len(all), err)
	}
	for _, s := range usual {
		if s.Conns > 1_000_000 {
			t.Errorf("%v takes long", s)
		}
	}
	few, err := Engine(files, Short)
	if err != nil || len(few) == 0 || len(few) > 15 {
		t.Errorf("short form of %d scenarios: %v", len(few), err)
	}
	for _, s := range few {
		if s.Conns > 1000 {
			t.Errorf("%v is no short scenario", s)
		}
	}
}

// The wire's scenarios have what docs/PERFORMANCE.md promises a table of.
func TestWireFiles(t *testing.T) {
	files, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	all, err := Wire(files, Usual)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"wire/full/v4/10k/60B", "wire/rate/v4/10k/60B", "wire/latency/v4/10k/60B/10", "wire/latency/v4/10k/60B/50", "wire/latency/v4/10k/60B/90",
		"wire/conns/syn", "wire/conns/open-1B-close", "wire/flood/icmp-errors", "wire/reload/100",
	} {
		if !slices.Contains(all, name) {
			t.Errorf("no file has %s", name)
		}
	}
	if few, err := Wire(files, Short); err != nil || len(few) == 0 || len(few) >= len(all) {
		t.Errorf("short form of %d scenarios of %d: %v", len(few), len(all), err)
	}
}

// What a file gets wrong is said with its name.
func TestWrongFiles(t *testing.T) {
	const right = "about: a file\nengine: {methods: [dr], families: [v4], connections: [1k], mixes: [steady], workers: [1]}\n"
	for _, c := range []struct{ what, text, says string }{
		{"no YAML", "about: [", "x.yaml"},
		{"a key that there is not", right + "abuot: x\n", "abuot"},
		{"a method that there is not", strings.Replace(right, "dr", "nat", 1), "nat-in"},
		{"a number that is none", strings.Replace(right, "1k", "1G", 1), `"1G"`},
		{"a soak that there is not", "about: a file\nsoak: [engine/dr/v4/1k/steady/1]\n", "engine/soak/"},
		{"an empty list", strings.Replace(right, "[steady]", "[]", 1), "empty"},
		{"a load of the wire's that there is not", "about: a file\nwire: [wire/full/v4/10k]\n", "wire/full/v4/10k"},
		{"a short scenario that there is not", right + "short: [engine/dr/v4]\n", "METHOD"},
	} {
		files, err := load(fstest.MapFS{"x.yaml": {Data: []byte(c.text)}})
		if err == nil {
			_, whole := Engine(files, Full)
			_, short := Engine(files, Short)
			_, soaks := Soaks(files)
			_, wire := Wire(files, Full)
			err = errors.Join(whole, short, soaks, wire)
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "x.yaml") {
			t.Errorf("%s: %v, want an error that says %q and names the file", c.what, err, c.says)
		}
	}
}
