package workers

import (
	"context"
	"errors"

	"github.com/sluice-lb/sluice/internal/clock"
)

// Bounds of the work between two batches, so that no batch waits long.
const (
	expireBudget  = 256 // timers a turn
	requestBudget = 1   // questions a turn
)

// ErrStopped reports a question to a worker that no longer runs.
var ErrStopped = errors.New("worker stopped")

// request is a question, answered on the worker's goroutine.
type request struct {
	fn   func(*Worker)
	done chan struct{}
}

// tick is the bounded work between batches: timers that are due, and a
// question. now is in ticks.
func (w *Worker) tick(now clock.Ticks) {
	if now != w.lastTick || w.behind {
		w.behind = w.pipe.Expire(now, expireBudget)
		w.lastTick = now
	}
	if w.asked.Load() == 0 {
		return
	}
	for range requestBudget {
		select {
		case r := <-w.requests:
			w.asked.Add(-1)
			r.fn(w)
			close(r.done)
		default:
			return
		}
	}
}

// Do runs fn on the worker's goroutine, between two batches, and returns when
// it has run. fn has to be short: packets wait meanwhile.
func (w *Worker) Do(ctx context.Context, fn func(*Worker)) error {
	r := request{fn: fn, done: make(chan struct{})}
	select {
	case w.requests <- r:
	case <-w.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	w.asked.Add(1)
	w.Wake()
	select {
	case <-r.done:
		return nil
	case <-w.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}
