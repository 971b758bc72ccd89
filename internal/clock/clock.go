// Package clock is the time of the data plane: ticks of 10 ms that wrap, and
// the clocks they are read from.
//
// Whoever runs a batch reads its clock once and hands the time down, so
// nothing below a worker's loop reads a clock by itself, and a test or a
// replay can bring its own. A Fake may be shared by goroutines.
package clock

import (
	"math"
	"sync/atomic"
	"time"
)

// Ticks counts steps of 10 ms and wraps in 497 days. Two points in time are
// compared by the sign of their difference: a is before b if int32(a-b) < 0,
// which is right while they lie less than 248 days apart.
type Ticks uint32

// TickNanos is the length of a tick in nanoseconds.
const TickNanos = 10_000_000

// MaxTicks is the longest span that Ticks can compare, 248 days.
const MaxTicks = Ticks(math.MaxInt32)

// FromDuration returns d in ticks, rounded up so that a timer is never early;
// 0 if d is negative, MaxTicks if it is longer than that.
func FromDuration(d time.Duration) Ticks {
	if d <= 0 {
		return 0
	}
	n := (int64(d)-1)/TickNanos + 1
	return Ticks(min(n, int64(MaxTicks)))
}

// Duration returns t, taken as a span, as a time.Duration.
func (t Ticks) Duration() time.Duration { return time.Duration(t) * TickNanos }

// TicksAt returns the tick that the time nanos (of a Clock) falls into.
func TicksAt(nanos int64) Ticks { return Ticks(nanos / TickNanos) }

// Clock tells monotonic time in nanoseconds since a start of its own.
type Clock interface {
	Now() int64
}

// System is the machine's monotonic clock, counted from the start of the
// process.
type System struct{}

var start = time.Now()

// Now returns the nanoseconds since the process started.
func (System) Now() int64 { return int64(time.Since(start)) }

// Fake is a clock that stands still unless it is moved. Its zero value shows
// 0. It is safe for use by several goroutines.
type Fake struct{ nanos atomic.Int64 }

// Now returns the time that was last set.
func (f *Fake) Now() int64 { return f.nanos.Load() }

// Set moves the clock to nanos, backwards too.
func (f *Fake) Set(nanos int64) { f.nanos.Store(nanos) }

// Advance moves the clock by d and returns the new time in nanoseconds.
func (f *Fake) Advance(d time.Duration) int64 { return f.nanos.Add(int64(d)) }
