package conn

import (
	"math"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
)

// armed returns a table with connections of those timeouts, re-armed at now;
// they have the IDs 1, 2, ...
func armed(t *testing.T, now clock.Ticks, timeouts ...clock.Ticks) *Table {
	t.Helper()
	table := newTable(t, Config{Max: max(len(timeouts), 1) + 1})
	for i, timeout := range timeouts {
		insertAt(t, table, i, now, timeout)
	}
	return table
}

func insertAt(t *testing.T, table *Table, i int, now, timeout clock.Ticks) ID {
	t.Helper()
	c := drConn6(i)
	c.Stamp, c.Timeout = now, timeout
	id, ok := table.Insert(&c, nil)
	if !ok {
		t.Fatalf("connection %d refused", i)
	}
	return id
}

// expired advances the table and returns what expired, in order, deleted.
func expired(table *Table, now clock.Ticks) (ids []ID) {
	table.Advance(now, 0, func(id ID) clock.Ticks {
		ids = append(ids, id)
		table.Delete(id)
		return 0
	})
	return ids
}

// TestExactTick: nothing expires a tick early or late, for timeouts around
// every level's edge and starts around the wrap of the counter.
func TestExactTick(t *testing.T) {
	for _, start := range []clock.Ticks{0, 1, 63, 1<<30 - 1, 1 << 31, math.MaxUint32 - 64, math.MaxUint32} {
		for _, timeout := range []clock.Ticks{1, 2, 62, 63, 64, 65, 4095, 4096, 4097, 1 << 18, 1<<24 + 1, 1 << 30, MaxTimeout} {
			table := armed(t, start, timeout)
			if got := expired(table, start+timeout-1); got != nil {
				t.Errorf("start %d, timeout %d: expired a tick early", start, timeout)
			}
			if got := expired(table, start+timeout); len(got) != 1 {
				t.Errorf("start %d, timeout %d: not expired at its tick", start, timeout)
			}
		}
	}
}

// TestOddTimeouts: what no state has, but a caller may ask for.
func TestOddTimeouts(t *testing.T) {
	const now = 1000
	t.Run("0 expires at the next tick, so that Advance ends", func(t *testing.T) {
		table := armed(t, now, 0)
		if got := expired(table, now); got != nil {
			t.Errorf("%v expired in the tick it was made in", got)
		}
		if got := expired(table, now+1); len(got) != 1 {
			t.Error("not expired at the next tick")
		}
	})
	t.Run("due before it was inserted", func(t *testing.T) {
		table := armed(t, now, 5000)
		table.Advance(now+100, 0, nil)
		insertAt(t, table, 1, now, 10)
		if got := expired(table, now+101); len(got) != 1 || got[0] != 2 {
			t.Errorf("%v expired, want 2 at the next tick", got)
		}
	})
	t.Run("longer than the wheel can tell", func(t *testing.T) {
		table := armed(t, now, math.MaxUint32)
		if got := table.At(1).Timeout; got != MaxTimeout {
			t.Errorf("timeout %d, want MaxTimeout", got)
		}
		if got := expired(table, now+MaxTimeout-1); got != nil {
			t.Error("expired early")
		}
	})
	t.Run("two that together are longer than that", func(t *testing.T) {
		table := armed(t, now, MaxTimeout)
		table.Advance(now+MaxTimeout-1, 0, nil)
		insertAt(t, table, 1, now+MaxTimeout-1, MaxTimeout)
		if got := expired(table, now+MaxTimeout); len(got) != 1 || got[0] != 1 {
			t.Errorf("%v expired, want 1 alone", got)
		}
	})
	t.Run("neither deleted nor re-armed on expiry", func(t *testing.T) {
		table := armed(t, now, 10)
		n := 0
		table.Advance(now+15, 0, func(ID) clock.Ticks { n++; return 0 })
		if n != 6 {
			t.Errorf("expired %d times in ticks 10 to 15, want 6", n)
		}
	})
}

// TestTouchIsAStore: re-arming does not look at the wheel; the connection is
// moved when its slot comes up, a few times in its life at most.
func TestTouchIsAStore(t *testing.T) {
	const timeout = 90_000 // 900 s
	table := armed(t, 0, timeout)
	before := table.timers[1]
	for now := clock.Ticks(0); now < 60; now++ {
		table.Touch(1, now)
	}
	if table.timers[1] != before {
		t.Errorf("Touch moved the timer from %v to %v", before, table.timers[1])
	}
	looks := 0
	for table.Advance(59+timeout-1, 1, func(ID) clock.Ticks { t.Error("expired early"); return 1 }) {
		looks++
	}
	if looks > levels {
		t.Errorf("looked at %d times before it expires, want at most %d", looks, levels)
	}
	if got := expired(table, 59+timeout); len(got) != 1 {
		t.Error("not expired 900 s after the last Touch")
	}
}

// TestSetTimeoutRelinks only if the slot would come too late.
func TestSetTimeoutRelinks(t *testing.T) {
	table := armed(t, 0, 90_000)
	slot := table.timers[1].due
	table.SetTimeout(1, slot, 0)
	if got := table.timers[1].due; got != slot {
		t.Errorf("timeout %d moved the slot from %d to %d without need", slot, slot, got)
	}
	table.SetTimeout(1, 1000, 0)
	if got := expired(table, 1000); len(got) != 1 {
		t.Error("not expired after a shorter timeout was set")
	}
}

// TestHeld is K-CONN-6 and K-CONN-13: while it controls others a connection
// outlives its timeout by 60 s again and again, counted from the tick it was
// due at however late Advance comes.
func TestHeld(t *testing.T) {
	table := armed(t, 0, 300)
	table.Hold(1)
	table.Hold(1)
	asked := 0
	hold := func(id ID) clock.Ticks {
		asked++
		if table.Held(id) > 0 {
			return HeldTicks
		}
		table.Delete(id)
		return 0
	}
	table.Advance(300+2*HeldTicks, 0, hold)
	if c := table.At(1); asked != 3 || c.Stamp != 300+2*HeldTicks || c.Timeout != HeldTicks {
		t.Errorf("asked %d times, now re-armed at %d by %d; want 3, %d, %d", asked, c.Stamp, c.Timeout, 300+2*HeldTicks, HeldTicks)
	}
	table.Unhold(1)
	table.Unhold(1)
	table.Advance(300+3*HeldTicks-1, 0, hold)
	if table.Len() != 1 {
		t.Error("gone before its 60 s were over")
	}
	if table.Advance(300+3*HeldTicks, 0, hold); table.Len() != 0 {
		t.Error("still there though nothing holds it")
	}
}

// TestBudget: a burst of expiries is spread over calls and stays in order.
func TestBudget(t *testing.T) {
	timeouts := make([]clock.Ticks, 1000)
	for i := range timeouts {
		timeouts[i] = clock.Ticks(1 + (i*37)%500)
	}
	table := armed(t, 0, timeouts...)
	last, calls := clock.Ticks(0), 0
	for more := true; more; calls++ {
		n := 0
		more = table.Advance(500, 7, func(id ID) clock.Ticks {
			if due := table.At(id).Timeout; due < last {
				t.Fatalf("connection due at %d after one due at %d", due, last)
			} else {
				last = due
			}
			n++
			table.Delete(id)
			return 0
		})
		if n > 7 {
			t.Fatalf("%d expired in a call, want at most 7", n)
		}
		if calls > 3*len(timeouts) {
			t.Fatal("does not come to an end")
		}
	}
	if table.Len() != 0 {
		t.Errorf("%d left", table.Len())
	}
}

// TestNextDue: who sleeps until NextDue misses nothing and wakes for nothing
// but a few moves between levels.
func TestNextDue(t *testing.T) {
	table := armed(t, 5, 10, 10, 700, 90_000, 1<<29)
	if _, some := armed(t, 0).NextDue(); some {
		t.Error("an empty table has something due")
	}
	var at []clock.Ticks
	wakes := 0
	for {
		now, some := table.NextDue()
		if !some {
			break
		}
		wakes++
		for range expired(table, now) {
			at = append(at, now)
		}
	}
	want := []clock.Ticks{15, 15, 705, 90_005, 1<<29 + 5}
	if len(at) != len(want) {
		t.Fatalf("expired at %v, want %v", at, want)
	}
	for i := range want {
		if at[i] != want[i] {
			t.Errorf("expired at %v, want %v", at, want)
		}
	}
	if limit := levels * len(want); wakes > limit {
		t.Errorf("woke up %d times for %d connections, want at most %d", wakes, len(want), limit)
	}
}

// TestIdleHours: empty time is skipped, not walked: a tick-by-tick walk of
// 248 days a thousand times over would not end.
func TestIdleHours(t *testing.T) {
	table := armed(t, 0, MaxTimeout)
	now := clock.Ticks(0)
	for range 1000 {
		now += clock.FromDuration(200 * 24 * time.Hour)
		table.Advance(now, 0, func(id ID) clock.Ticks { return MaxTimeout })
	}
	if table.Len() != 1 {
		t.Errorf("%d connections left, want 1", table.Len())
	}
}
