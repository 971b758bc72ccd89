package workers

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/clock"
)

// Idle says what a worker does without packets.
type Idle struct {
	Adaptive bool          // sleep in poll(2) after Spin without a packet; else busy-poll for ever
	Spin     time.Duration // how long to spin before sleeping
}

// longestSleep bounds a sleep, so that a missed wake-up costs a moment only.
const longestSleep = 100 * time.Millisecond

// wakeup lets others end a worker's sleep: an event descriptor, written only
// while the worker sleeps.
type wakeup struct {
	fd       int
	sleeping atomic.Bool
}

func (u *wakeup) open() (err error) {
	if u.fd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	return nil
}

func (u *wakeup) close() { unix.Close(u.fd) }

// Wake ends the worker's sleep, if it sleeps. Any goroutine may call it.
func (w *Worker) Wake() {
	if w.wake.sleeping.Load() {
		one := [8]byte{1}
		_, _ = unix.Write(w.wake.fd, one[:]) // a full counter wakes as well
	}
}

// sleep waits until a packet comes, somebody calls Wake or a timer is due.
func (w *Worker) sleep() {
	w.wake.sleeping.Store(true)
	defer w.wake.sleeping.Store(false)
	if w.pendingWork() {
		return
	}
	limit := longestSleep
	if due, ok := w.Conns.NextDue(); ok {
		wait := (due - clock.TicksAt(w.Clock.Now())).Duration()
		limit = min(limit, max(wait, clock.TickNanos))
	}
	for _, p := range w.Ports {
		// What the kernel has not taken from a tx ring yet needs more wake-ups.
		if p.Pending() > 0 {
			limit = time.Millisecond
		}
	}
	if n, err := unix.Poll(w.pollFDs, int(limit.Milliseconds())); err == nil && n > 0 && w.pollFDs[0].Revents != 0 {
		var buf [8]byte
		_, _ = unix.Read(w.wake.fd, buf[:])
	}
	w.counters.Sleeps++
}

// pendingWork says whether something came since the last turn looked.
func (w *Worker) pendingWork() bool {
	if w.asked.Load() != 0 || w.behind || w.Services.Load() != w.snap || w.Routes.Load() != w.hops {
		return true
	}
	for _, in := range w.inboxes {
		if in.ring.Len() > 0 {
			return true
		}
	}
	return w.Slow.Lent() > 0
}
