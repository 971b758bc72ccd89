package wire

import (
	"errors"
	"math"
	"testing"
)

// The search ends near the limit, whatever it is, and below it.
func TestHighest(t *testing.T) {
	for _, limit := range []float64{5000, 123_456, 1e6, 1.49e6} {
		asked := 0
		got, err := highest(1.5e6, func(rate float64) (bool, error) { asked++; return rate <= limit, nil })
		if err != nil || got > limit || got < limit*(1-2*Resolution) || asked > 20 {
			t.Errorf("limit %v: found %v (%v) in %d trials", limit, got, err, asked)
		}
	}
	if got, err := highest(1e6, func(float64) (bool, error) { return false, nil }); !errors.Is(err, ErrLossy) {
		t.Errorf("who passes nothing has %v (%v)", got, err)
	}
	broken := errors.New("broken")
	if got, err := highest(1e6, func(float64) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("found %v (%v), want the trial's error", got, err)
	}
}

func TestTrialPasses(t *testing.T) {
	for _, c := range []struct {
		what string
		got  trial
		want bool
	}{
		{"all arrived", trial{1000, 1000, 1}, true},
		{"one in a thousand is lost", trial{1000, 999, 1}, true},
		{"two are", trial{1000, 998, 1}, false},
	} {
		if c.got.passes() != c.want {
			t.Errorf("%s: passes %v, want %v", c.what, !c.want, c.want)
		}
	}
}

// A delay is in its bucket, buckets follow each other, and the last one holds the
// longest of 32 bits.
func TestBuckets(t *testing.T) {
	for i := range buckets {
		end := bucketEnd(i)
		if got := bucketOf(uint32(end - 1)); got != i {
			t.Errorf("%d ns is in bucket %d, want %d", end-1, got, i)
		}
		if i+1 < buckets {
			if got := bucketOf(uint32(end)); got != i+1 {
				t.Errorf("%d ns is in bucket %d, want %d", end, got, i+1)
			}
		} else if end != math.MaxUint32+1 {
			t.Errorf("the last bucket ends at %d", end)
		}
	}
}

func TestDelays(t *testing.T) {
	var d delays
	if got := d.percentile(50); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
	for ns := uint32(1); ns <= 1000; ns++ {
		d.counts[bucketOf(ns*1000)]++
	}
	d.longest = 1_000_000
	for p, want := range map[float64]float64{0.1: 1000, 50: 500_000, 99: 990_000, 99.9: 999_000, 100: 1_000_000} {
		if got := d.percentile(p); got < want || got > want*(1+1.0/perOctave) {
			t.Errorf("p%v is %v ns, want %v to a part in %d", p, got, want, perOctave)
		}
	}
	samples := d.samples("one way")
	if last := samples[len(samples)-1]; len(samples) != 5 || last.Metric != "one way max" || last.Unit != "µs" || last.Value != 1000 {
		t.Errorf("%+v", samples)
	}
	before := d
	d.counts[5]++
	if d.minusCounts(&before); d.counts[5] != 1 || d.percentile(100) != 5 {
		t.Errorf("since then %v in bucket 5, the longest %v", d.counts[5], d.percentile(100))
	}
}
