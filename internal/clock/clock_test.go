package clock

import (
	"math"
	"sync"
	"testing"
	"time"
)

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		stake string
		d     time.Duration
		want  Ticks
	}{
		{"a negative time is over", -time.Second, 0},
		{"none", 0, 0},
		{"a moment is a tick, so that a timer is not early", 1, 1},
		{"exactly one", 10 * time.Millisecond, 1},
		{"one and a moment", 10*time.Millisecond + 1, 2},
		{"900 s", 900 * time.Second, 90_000},
		{"the longest that can be compared", time.Duration(MaxTicks) * TickNanos, MaxTicks},
		{"longer", time.Duration(MaxTicks)*TickNanos + 1, MaxTicks},
		{"longest", math.MaxInt64, MaxTicks},
	} {
		if got := FromDuration(test.d); got != test.want {
			t.Errorf("%s: FromDuration(%v) = %d, want %d", test.stake, test.d, got, test.want)
		}
	}
	if got := Ticks(math.MaxUint32).Duration(); got != math.MaxUint32*10*time.Millisecond {
		t.Errorf("the largest tick is %v", got)
	}
}

func TestTicksAt(t *testing.T) {
	for nanos, want := range map[int64]Ticks{
		0: 0, TickNanos - 1: 0, TickNanos: 1,
		(1<<32 - 1) * TickNanos: math.MaxUint32,
		(1 << 32) * TickNanos:   0, // 497 days
	} {
		if got := TicksAt(nanos); got != want {
			t.Errorf("TicksAt(%d) = %d, want %d", nanos, got, want)
		}
	}
}

func TestSystem(t *testing.T) {
	var c Clock = System{}
	last := c.Now()
	if last < 0 {
		t.Errorf("%d ns since the start", last)
	}
	for range 1000 {
		now := c.Now()
		if now < last {
			t.Fatalf("%d ns after %d", now, last)
		}
		last = now
	}
}

// TestFake moves a clock from several goroutines: no step is lost.
func TestFake(t *testing.T) {
	f := new(Fake)
	var c Clock = f
	if c.Now() != 0 {
		t.Errorf("a new clock shows %d", c.Now())
	}
	f.Set(1000)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				f.Advance(time.Microsecond)
				c.Now()
			}
		})
	}
	all.Wait()
	if want := int64(1000 + 400*1000); c.Now() != want {
		t.Errorf("%d ns after 400 steps, want %d", c.Now(), want)
	}
	if got := f.Advance(-time.Nanosecond); got != c.Now() {
		t.Errorf("Advance returned %d, the clock shows %d", got, c.Now())
	}
}
