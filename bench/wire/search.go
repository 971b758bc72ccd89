package wire

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// Loss is the part of the packets that may be lost at the highest rate.
	Loss = 0.001
	// Resolution is the part of a rate to which the highest one is searched for.
	Resolution = 0.02

	trials   = 3                      // that must all fail for a rate to be too high: a moment of others on the machine is no limit
	settleAt = 50 * time.Millisecond  // at a new rate
	drain    = 100 * time.Millisecond // for what is on its way, at most
	most     = 20e6                   // packets/s, more than can be made
	step     = 0.97                   // to what part the rate goes down while a longer window loses too many
	steps    = 3                      // so often at most
)

// Metrics by which a rate is judged.
const (
	generatedMetric = "generated"
	lossMetric      = "loss"
)

// ErrLossy reports a forwarder that loses packets at every rate.
var ErrLossy = errors.New("loses packets at every rate")

// highest returns the highest rate, in packets/s, at which trial loses less than Loss
// of the packets, between 0 and a rate at which it does not.
func highest(below float64, passes func(rate float64) (bool, error)) (float64, error) {
	low, high := 0.0, below
	for high-low > Resolution*high || high == 0 {
		if high < leastRate {
			return 0, ErrLossy
		}
		rate := (low + high) / 2
		ok, err := passes(rate)
		if err != nil {
			return 0, err
		}
		if ok {
			low = rate
		} else {
			high = rate
		}
	}
	return low, nil
}

// search finds the highest rate of the forwarder that t's packets cross, which is
// being sent to by paced, in trials of d.
func (t *traffic) search(ctx context.Context, d time.Duration) (float64, error) {
	flood, err := t.trial(ctx, most, d)
	if err != nil {
		return 0, err
	}
	// Who is given more than it can take may do less than it could.
	below := min(1.5*flood.received, flood.generated) / flood.seconds
	return highest(below, func(rate float64) (bool, error) {
		for range trials {
			got, err := t.trial(ctx, rate, d)
			if err != nil || got.passes() {
				return err == nil, err
			}
		}
		return false, nil
	})
}

// trial is what came of a rate.
type trial struct{ generated, received, seconds float64 }

// passes says whether enough of the packets arrived.
func (t *trial) passes() bool { return t.received >= t.generated*(1-Loss) }

// trial sends at a rate for d and waits for what is on its way.
func (t *traffic) trial(ctx context.Context, rate float64, d time.Duration) (got trial, err error) {
	before, err := t.counts()
	if err != nil {
		return got, err
	}
	began := time.Now()
	err = t.pace(rate)
	if err == nil {
		err = sleep(ctx, d)
	}
	if err = errors.Join(err, t.pace(0)); err != nil {
		return got, err
	}
	for ended := time.Now(); ; {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return got, err
		}
		after, err := t.counts()
		if err != nil {
			return got, err
		}
		if n := after.unwanted - before.unwanted; n > 0 {
			return got, fmt.Errorf("%d packets arrived with another destination", n)
		}
		got = trial{float64(after.generated - before.generated), float64(after.received - before.received), ended.Sub(began).Seconds()}
		if got.received >= got.generated || time.Since(ended) > drain {
			return got, nil
		}
	}
}
