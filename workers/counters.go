package workers

import (
	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/slowpath"
)

// Counters are a worker's counts of frames since its start. Over all workers
// and the slow path, every packet received is transmitted, passed, held or
// dropped under one reason; see Report.
type Counters struct {
	Received       uint64 // from the ports
	HandedIn       uint64 // from other workers
	Gathered       uint64 // fragments that the slow path put together, counted again
	FromHost       uint64 // from the host's own stack
	Originated     uint64 // frames of the slow path's, given to a port
	OriginatedLost uint64 // of these: the tx ring stayed full
	NoFrame        uint64 // turns in which an inbox waited for a free frame
	Sleeps         uint64 // times that an idle worker slept
	Turns          uint64
}

// Report is what a worker says about itself.
type Report struct {
	Counters
	Verdicts fastpath.Counters
	Conns    int // live connections
	Inbox    int // packets waiting in its inboxes
	Ports    []rings.PortStats
	Refused  slowpath.Refused // packets that the slow path did not take
}

// Report returns w's counts. It runs on the worker's goroutine, by Do.
func (w *Worker) Report() Report {
	r := Report{Counters: w.counters, Verdicts: w.pipe.Counters, Conns: w.Conns.Len(), Refused: w.Slow.Refused}
	for _, in := range w.inboxes {
		r.Inbox += in.ring.Len()
	}
	for _, p := range w.Ports {
		r.Ports = append(r.Ports, p.Stats())
	}
	return r
}

// Transmitted returns the packets that left.
func (r *Report) Transmitted() uint64 { return r.Verdicts[fastpath.Forward] }

// HandedOver returns the packets given to other workers.
func (r *Report) HandedOver() uint64 { return r.Verdicts[fastpath.Handoff] }
