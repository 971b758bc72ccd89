package workers

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Pool is all workers of a node, connected with each other.
type Pool struct {
	Workers []*Worker
	slow    []peer // by worker: what the slow path sends by it
	host    peer   // the first worker: what the host's stack sends by it
}

// FromHost leaves a frame that the host's own stack sent for the worker whose
// connection it belongs to: the first one hands it on. Only one goroutine may call it.
// false: the inbox is full.
func (p *Pool) FromHost(frame []byte) bool {
	return p.host.post(letter{own: true}, frame)
}

// Send leaves a finished Ethernet frame for worker to transmit on port. Only
// the slow path's goroutine may call it. false: the inbox is full.
func (p *Pool) Send(worker, port int, frame []byte) bool {
	return p.slow[worker].post(letter{port: uint16(port), send: true}, frame)
}

// Answered leaves an ICMP error that the slow path made, an IP datagram, for worker to
// count. Only the slow path's goroutine may call it. It is not counted if the
// inbox is full.
func (p *Pool) Answered(worker int, message []byte) {
	p.slow[worker].post(letter{answer: true}, message)
}

// Return leaves a packet that came in by port for worker to process it again.
// Only the slow path's goroutine may call it. false: the inbox is full.
func (p *Pool) Return(worker, port int, frame []byte) bool {
	return p.slow[worker].post(letter{port: uint16(port), handed: true}, frame)
}

// Wake wakes all workers, after something was published.
func (p *Pool) Wake() {
	for _, w := range p.Workers {
		w.Wake()
	}
}

// Run runs all workers until ctx ends or one of them fails; the others then
// stop too. A worker that panics takes the process down with its reason.
func (p *Pool) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, p.Wake)
	for _, w := range p.Workers {
		g.Go(func() error { return w.Run(ctx) })
	}
	return g.Wait()
}

// Run carries packets on this goroutine's thread, pinned to the worker's CPU,
// until ctx ends.
func (w *Worker) Run(ctx context.Context) error {
	defer close(w.stopped)
	defer w.wake.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if w.CPU >= 0 {
		var set unix.CPUSet
		set.Set(w.CPU)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pin worker %d to CPU %d: %w", w.ID, w.CPU, err)
		}
	}
	idleSince := time.Now()
	for done := ctx.Done(); ; {
		busy := w.Turn()
		w.counters.Turns++
		if busy {
			idleSince = time.Time{}
			continue
		}
		select {
		case <-done:
			return nil
		default:
		}
		if !w.Idle.Adaptive {
			continue
		}
		if idleSince.IsZero() {
			idleSince = time.Now()
		} else if time.Since(idleSince) > w.Idle.Spin {
			w.sleep()
		}
	}
}
