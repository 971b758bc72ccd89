package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/bench/engine"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		what string
		args []string
		want func(o *options) bool // nil: refused
	}{
		{"nothing said", nil, func(o *options) bool { return o.runs == 5 && o.run == time.Second && !o.short }},
		{"all said", []string{"-match", "wire", "-time", "250ms", "-runs", "3"}, func(o *options) bool { return o.runs == 3 && o.run == 250*time.Millisecond }},
		{"short", []string{"-time", "short"}, func(o *options) bool { return o.short && o.runs == 1 }},
		{"as short as a Go benchmark", []string{"-time", "1x", "-runs", "9"}, func(o *options) bool { return o.short && o.runs == 1 }},
		{"no pattern", []string{"-match", "("}, nil},
		{"no time", []string{"-time", "0s"}, nil},
		{"no duration", []string{"-time", "2x"}, nil},
		{"no runs", []string{"-runs", "0"}, nil},
		{"arguments", []string{"wire"}, nil},
	} {
		o, err := parse(c.args, io.Discard)
		if (err == nil) != (c.want != nil) || err == nil && !c.want(o) {
			t.Errorf("%s: %+v (%v)", c.what, o, err)
		}
	}
}

// A pattern selects scenarios of either harness, and short few of them.
func TestCases(t *testing.T) {
	for _, c := range []struct {
		what         string
		args         []string
		root         bool
		engine, wire int
		says         string
	}{
		{"everything", nil, true, len(engine.All()), 3, ""},
		{"short", []string{"-time", "short"}, true, len(engine.Few()), 3, ""},
		{"one scenario", []string{"-match", "dr/v6/1M"}, true, 1, 0, ""},
		{"the wire", []string{"-match", "^wire"}, true, 0, 3, ""},
		{"without root", nil, false, len(engine.All()), 0, "need root"},
		{"without root, not asked for", []string{"-match", "^engine"}, false, len(engine.All()), 0, ""},
	} {
		o, err := parse(c.args, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		inMemory, onWire := o.engine(nil, 0), o.wire(bench.CPUs{}, c.root, &log)
		if len(inMemory) != c.engine || len(onWire) != c.wire || !strings.Contains(log.String(), c.says) || (c.says == "") != (log.Len() == 0) {
			t.Errorf("%s: %d cases in memory, %d on the wire, and says %q", c.what, len(inMemory), len(onWire), log.String())
		}
	}
}
