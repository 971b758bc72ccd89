package wire

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"time"

	"github.com/sluice-lb/sluice/bench"
)

// Of live.bpf.c.
const (
	perOctave = 32
	buckets   = 896
)

// delays is a histogram of them, as live.bpf.c counts them.
type delays struct {
	counts  [buckets]uint64
	longest uint32 // ns
}

// bucketEnd returns the first delay beyond a bucket's, in ns.
func bucketEnd(i int) uint64 {
	shift := max(0, i/perOctave-1)
	return uint64(i-shift*perOctave+1) << shift
}

// bucketOf returns the bucket of a delay: what the BPF program computes.
func bucketOf(ns uint32) int {
	shift := max(0, bits.Len32(ns)-bits.Len32(2*perOctave-1))
	return shift*perOctave + int(ns>>shift)
}

// percentile returns the delay, in ns, that p percent of the packets do not exceed:
// the end of its bucket, at most the longest. Of no packets it is NaN.
func (d *delays) percentile(p float64) float64 {
	all := uint64(0)
	for _, n := range d.counts {
		all += n
	}
	if all == 0 {
		return math.NaN()
	}
	wanted := uint64(math.Ceil(p / 100 * float64(all)))
	seen := uint64(0)
	for i, n := range d.counts {
		if seen += n; seen >= wanted {
			return float64(min(bucketEnd(i)-1, uint64(d.longest)))
		}
	}
	return float64(d.longest)
}

// samples returns what is reported of delays, called what, in µs.
func (d *delays) samples(what string) []bench.Sample {
	const unit = "µs"
	us := func(ns float64) float64 { return ns / 1000 }
	return []bench.Sample{
		{Metric: what + " p50", Unit: unit, Value: us(d.percentile(50))},
		{Metric: what + " p90", Unit: unit, Value: us(d.percentile(90))},
		{Metric: what + " p99", Unit: unit, Value: us(d.percentile(99))},
		{Metric: what + " p99.9", Unit: unit, Value: us(d.percentile(99.9))},
		{Metric: what + " max", Unit: unit, Value: us(float64(d.longest))},
	}
}

// readDelays returns all that was counted.
func (t *traffic) readDelays() (d delays, err error) {
	return d, errors.Join(t.objects.Delays.Get(&d.counts), t.objects.Longest.Get(&d.longest))
}

// minusCounts takes what had been counted before away.
func (d *delays) minusCounts(before *delays) {
	for i := range d.counts {
		d.counts[i] -= before.counts[i]
	}
}

// delaysAt sends at a rate and counts how long packets take. Where others took the
// forwarder's CPU from it, it counts again: of its windows it returns that with the
// least of it, and what part of the time that was.
func (r *run) delaysAt(ctx context.Context, rate float64) (best delays, waited float64, err error) {
	defer func() { err = errors.Join(err, r.pace(0)) }()
	if err := r.pace(rate); err != nil {
		return best, 0, err
	}
	if err := sleep(ctx, settleAt); err != nil {
		return best, 0, err
	}
	waited = math.Inf(1)
	none := func(d *delays) bool { return math.IsNaN(d.percentile(50)) }
	for i := 0; i < windows && waited > undisturbed || i < emptyWindows && none(&best); i++ {
		d, part, err := r.delaysWindow(ctx, r.config.Duration/delaysPart)
		if err != nil {
			return best, 0, err
		}
		if part < waited && !none(&d) {
			best, waited = d, part
		}
	}
	return best, waited, nil
}

// delaysWindow counts for d how long packets take, and what part of the time the
// forwarder waited for its CPU.
func (r *run) delaysWindow(ctx context.Context, d time.Duration) (got delays, waited float64, err error) {
	var before delays
	began := time.Now()
	stood, err := r.process.waiting(&r.config.CPUs)
	if err != nil {
		return got, 0, err
	}
	if before, err = r.readDelays(); err != nil {
		return got, 0, err
	}
	if err := errors.Join(r.objects.Longest.Set(uint32(0)), r.objects.Timed.Set(uint32(1))); err != nil {
		return got, 0, err
	}
	if err := errors.Join(sleep(ctx, d), r.objects.Timed.Set(uint32(0))); err != nil {
		return got, 0, err
	}
	if got, err = r.readDelays(); err != nil {
		return got, 0, err
	}
	got.minusCounts(&before)
	now, err := r.process.waiting(&r.config.CPUs)
	return got, float64(now-stood) / float64(time.Since(began)), err
}
