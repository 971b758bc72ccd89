package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/workers/cpu"
)

// A soak changes services and collects garbage while every packet goes on being
// forwarded, and tells how long batches took.
func TestSoak(t *testing.T) {
	soak, err := ParseSoak("engine/soak/nat-in/v4/1k/new1/1/1x10")
	if err != nil {
		t.Fatal(err)
	}
	if got := soak.String(); got != "engine/soak/nat-in/v4/1k/new1/1/1x10" {
		t.Errorf("its name is %s", got)
	}
	cpus := usable(t)
	t.Cleanup(func() { _ = cpu.PinProcess(cpus...) })
	cases := SoakCases([]Soak{soak}, memory(t, 40*Batch), 500*time.Millisecond, cpus)
	samples, err := cases[0].Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	value := map[string]float64{}
	for _, s := range samples {
		value[s.Metric] = s.Value
	}
	if value["GC cycles"] < 1 || value["changes of services"] < 1 || value["batches"] < 40 {
		t.Errorf("too little went on: %v", samples)
	}
	if least := float64(longBatch.Microseconds()); value["longest batch beside a GC cycle"] < least || value["longest batch else"] < least || value["longest pauses of a GC cycle"] <= 0 {
		t.Errorf("samples %v", samples)
	}
	for _, name := range []string{"engine/nat-in/v4/1k/steady/1", "engine/soak/nat-in/v4/1k/steady/2", "engine/soak/nat-in/v4"} {
		if s, err := ParseSoak(name); !errors.Is(err, ErrScenario) {
			t.Errorf("ParseSoak(%q) = %v, %v", name, s, err)
		}
	}
}

// A batch counts as beside the collector if any of it was, and without the time
// that others took.
func TestSoakSorts(t *testing.T) {
	const us = time.Microsecond
	b := batches{beside: longBatch, without: longBatch}
	b.sort([]long{
		{span{100 * us, 150 * us}, 50 * us}, // before
		{span{190 * us, 230 * us}, 40 * us}, // into the first
		{span{250 * us, 900 * us}, 30 * us}, // around the second, though others had most of it
		{span{910 * us, 980 * us}, 70 * us}, // behind
	}, []span{{200 * us, 220 * us}, {300 * us, 400 * us}})
	if want := (batches{beside: 40 * us, without: 70 * us}); b != want {
		t.Errorf("%+v, want %+v", b, want)
	}
}

// A collection that goes on when it is asked for is told then, and again at its
// end.
func TestCollected(t *testing.T) {
	c := &churn{began: time.Now(), spans: []span{{1, 2}, {from: 3}}, open: true}
	if got := c.collected(); len(got) != 2 || got[1].to <= got[1].from || len(c.spans) != 1 {
		t.Errorf("%v, left %v", got, c.spans)
	}
	c.collect()
	if got := c.collected(); len(got) != 2 || got[1].to <= got[1].from || len(c.collected()) != 0 || c.cycles != 1 {
		t.Errorf("then %v after %d cycles", got, c.cycles)
	}
}
