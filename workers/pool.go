package workers

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Sizes of the inboxes, in packets.
const (
	peerInboxSlots = 512
	slowInboxSlots = 1024
)

// Pool is all workers of a node, connected with each other.
type Pool struct {
	Workers []*Worker
	slow    []*Inbox // by worker: what the slow path sends by it
	host    *Inbox   // the first worker's: what the host's stack sends by it
}

// NewPool connects workers: each gets an inbox from every other and one from
// the slow path. frameSize is the largest packet, in bytes.
func NewPool(workers []*Worker, frameSize int) *Pool {
	p := &Pool{Workers: workers}
	for _, to := range workers {
		slow := NewInbox(slowInboxSlots, frameSize)
		p.slow = append(p.slow, slow)
		to.inboxes = append(to.inboxes, slow)
		for _, from := range workers {
			var in *Inbox
			if from != to {
				in = NewInbox(peerInboxSlots, frameSize)
				to.inboxes = append(to.inboxes, in)
			}
			from.peers = append(from.peers, peer{worker: to, inbox: in})
		}
	}
	p.host = NewInbox(peerInboxSlots, frameSize)
	workers[0].inboxes = append(workers[0].inboxes, p.host)
	return p
}

// FromHost leaves a frame that the host's own stack sent for the worker whose
// connection it belongs to: the first one hands it on. Only one goroutine may call it.
// false: the inbox is full.
func (p *Pool) FromHost(frame []byte) bool {
	ok := p.host.put(letter{own: true}, frame)
	p.Workers[0].Wake()
	return ok
}

// Send leaves a finished Ethernet frame for worker to transmit on port. Only
// the slow path's goroutine may call it. false: the inbox is full.
func (p *Pool) Send(worker, port int, frame []byte) bool {
	return p.Workers[worker].Send(p.slow[worker], port, frame)
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
