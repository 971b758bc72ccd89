// Package workers runs the fast path on pinned threads.
//
// A Worker is one thread on one CPU. It owns queue i of every interface, the
// frames of one UMEM and the connections whose client hashes to it. Others
// reach it by rings of their own (inboxes), by snapshots that it adopts
// between batches, and by asking (Do).
package workers

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/slowpath"
)

// outbox is what is to be sent by a port, MaxBatch frames at most between two
// calls of transmit.
type outbox struct {
	n      uint
	frames [fastpath.MaxBatch]rings.Frame
}

// next returns the place of the next frame.
func (o *outbox) next() *rings.Frame {
	o.n++
	return &o.frames[(o.n-1)%fastpath.MaxBatch]
}

func (o *outbox) all() []rings.Frame { return o.frames[:o.n] }

// Config is what a Worker needs for its life.
type Config struct {
	ID        int
	CPU       int          // to pin to; -1: not pinned
	Ports     []rings.Port // one an interface, all of one UMEM
	Roles     []fastpath.Role
	Batch     int // packets a stage handles at once, 1..fastpath.MaxBatch
	Idle      Idle
	Conns     *conn.Table
	Templates *conn.Templates // the node's
	Random    uint64          // where its random numbers begin
	Steering  *flow.Steering
	ICMP      fastpath.Budget // of ICMP errors about connections
	Helper    fastpath.Helper // nil: none
	Expected  *conn.Templates // connections that it knows will come, the node's; nil: none
	Clock     clock.Clock

	Services *atomic.Pointer[lb.Snapshot]
	Routes   *atomic.Pointer[nexthop.Table]

	// Slow is the worker's way into the slow path, and WakeSlow tells the slow
	// path that there is something in it.
	Slow     *slowpath.Intake
	WakeSlow func()

	// Learning is the number under which flows of the host's are learnt; another
	// number forgets them. MaxLearnt is how many; 0: none, and Learning may be nil.
	Learning  *atomic.Uint32
	MaxLearnt int
}

// Worker carries packets between the queues that it owns.
type Worker struct {
	Config
	pipe     *fastpath.Pipeline
	snap     *lb.Snapshot
	hops     *nexthop.Table
	batch    fastpath.Batch
	frames   []rings.Frame        // received
	spare    []rings.Frame        // to be given back
	tx       []outbox             // by port
	inboxes  []*Inbox             // from the other workers and from the slow path
	peers    []peer               // the other workers' ends, by worker
	lent     []*slowpath.Datagram // the batch's, if the slow path put its packets together
	requests chan request
	asked    atomic.Int32 // requests that wait
	wake     wakeup
	counters Counters
	now      int64 // of this turn, nanoseconds of the clock
	lastTick clock.Ticks
	behind   bool // timers are left over from the last turn
	learning uint32
	pollFDs  []unix.PollFd
	stopped  chan struct{} // closed when Run has returned
}

// Turn does one round: what was published, each queue, the inboxes, timers
// and questions. It says whether there was a packet,
// or more is left to do.
func (w *Worker) Turn() (busy bool) {
	w.now = w.Clock.Now() // the clock is read once a turn
	now := clock.TicksAt(w.now)
	w.adopt(now)
	for i, port := range w.Ports {
		n := port.Receive(w.frames)
		if n > 0 {
			busy = true
			w.received(i, w.frames[:n], now)
		}
		port.Reclaim()
	}
	busy = w.readInboxes(now) || busy
	busy = w.readDatagrams(now) || busy
	w.tick(now)
	return busy || w.behind
}

// adopt takes over the services and routes that were published since. What was
// learnt goes first: what is learnt from here on is by services as new as its number.
func (w *Worker) adopt(now clock.Ticks) {
	if w.Learning != nil && w.Learning.Load() != w.learning {
		w.learning = w.Learning.Load()
		w.pipe.Forget()
	}
	if hops := w.Routes.Load(); hops != w.hops {
		w.hops = hops
		w.pipe.Routes(hops)
	}
	if snap := w.Services.Load(); snap != w.snap {
		w.snap = snap
		w.pipe.Adopt(snap, now)
	}
}

// received sends a batch that came in by port through the pipeline.
func (w *Worker) received(port int, frames []rings.Frame, now clock.Ticks) {
	w.counters.Received += uint64(len(frames))
	w.batch.Reset()
	for i := range frames {
		w.take(&frames[i], port)
	}
	w.process(now)
}

// take makes f the next packet of the batch.
func (w *Worker) take(f *rings.Frame, port int) *fastpath.Packet {
	k := w.batch.Next()
	k.Frame = rewrite.Frame(*f)
	k.Port, k.Iface = uint16(port), uint16(port)
	return k
}

// process gives the batch its verdicts and carries them out.
func (w *Worker) process(now clock.Ticks) {
	w.pipe.Process(&w.batch, now)
	for i := range w.batch.Pkts[:w.batch.N] {
		k := &w.batch.Pkts[i]
		if k.Verdict == fastpath.Forward {
			*w.tx[k.Out].next() = rings.Frame(k.Frame)
			continue
		}
		if k.Largest != 0 {
			w.giveBack(k, w.lent[i])
			continue
		}
		w.exception(k)
		w.spare = append(w.spare, rings.Frame(k.Frame))
	}
	if len(w.spare) > 0 {
		w.Ports[0].Release(w.spare)
		w.spare = w.spare[:0]
	}
	if lost := w.transmit(); lost > 0 {
		w.recount(fastpath.Forward, fastpath.DropTxFull, lost)
	}
}

// transmit hands what is to be sent to the ports, and says how many frames a
// full ring did not take, even after what was sent had been reclaimed: they
// are dropped.
func (w *Worker) transmit() (lost int) {
	for i := range w.tx {
		frames := w.tx[i].all()
		if len(frames) == 0 {
			continue
		}
		port := w.Ports[i]
		sent := port.Transmit(frames)
		if sent < len(frames) {
			port.Reclaim()
			sent += port.Transmit(frames[sent:])
		}
		if rest := frames[sent:]; len(rest) > 0 {
			lost += len(rest)
			port.Release(rest)
		}
		w.tx[i].n = 0
	}
	return lost
}

// recount moves n packets from one verdict to another, when what was decided
// could not be carried out.
func (w *Worker) recount(from, to fastpath.Verdict, n int) {
	w.pipe.Counters[from] -= uint64(n)
	w.pipe.Counters[to] += uint64(n)
}

// exception carries out a verdict other than Forward: the frame itself is
// released by the caller, others get a copy.
func (w *Worker) exception(k *fastpath.Packet) {
	switch {
	case k.Verdict == fastpath.Handoff:
		if !w.handOff(k) {
			w.recount(fastpath.Handoff, fastpath.DropInboxFull, 1)
		}
	case !k.Verdict.Drops():
		if !w.toSlowPath(k) {
			w.recount(k.Verdict, fastpath.DropSlowPath, 1)
		}
	case k.Verdict.Answered():
		w.toSlowPath(k) // or dropped without an answer
	}
}
