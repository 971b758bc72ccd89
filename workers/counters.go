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

// Totals are the fates of all packets that a node has received, from the
// network and from servers on the host itself:
// Received = Transmitted + Passed + Held + the sum of Dropped.
type Totals struct {
	Received    uint64            `json:"received"`
	Transmitted uint64            `json:"transmitted"`
	Passed      uint64            `json:"passed"`
	Held        uint64            `json:"held"`
	Dropped     map[string]uint64 `json:"dropped"`
}

// Sum returns the fates of all packets of the workers that gave reports, and of
// a slow path whose counters were read before theirs. While packets move
// between them, those on the way count as held.
func Sum(reports []Report, slow *slowpath.Counters) Totals {
	t := Totals{Dropped: map[string]uint64{}}
	for i := range reports {
		t.add(&reports[i])
	}
	t.settle(slow)
	if int64(t.Held) < 0 { // a packet was handed over between two reports
		t.Held = 0
	}
	return t
}

// add puts one worker's report into t. A packet handed over is counted by
// the worker that it was handed to; on its way there it is held.
func (t *Totals) add(r *Report) {
	t.Received += r.Received + r.FromHost
	t.Transmitted += r.Verdicts[fastpath.Forward]
	t.Passed += r.Verdicts[fastpath.Pass]
	t.Held += r.Verdicts[fastpath.Hold] + r.Verdicts[fastpath.Handoff] - r.HandedIn
	for v := fastpath.Verdict(0); v < fastpath.Verdicts; v++ {
		if n := r.Verdicts[v]; v.Drops() && n > 0 {
			t.Dropped[v.String()] += n
		}
	}
}

// settle corrects t by what the slow path made of the packets that it was
// given: it refuses some of those to pass, and sends or drops some of those
// that it held.
func (t *Totals) settle(c *slowpath.Counters) {
	for f := slowpath.Fate(0); f < slowpath.Fates; f++ {
		if n := c.Packets[slowpath.Host][f]; f != slowpath.Passed && n > 0 {
			t.Passed -= n
			t.Dropped[f.String()] += n
		}
		n := c.Packets[slowpath.NoNeighbour][f]
		if n == 0 {
			continue
		}
		t.Held -= n
		if f == slowpath.Released {
			t.Transmitted += n
		} else {
			t.Dropped[f.String()] += n
		}
	}
}

// Transmitted returns the packets that left.
func (r *Report) Transmitted() uint64 { return r.Verdicts[fastpath.Forward] }

// HandedOver returns the packets given to other workers.
func (r *Report) HandedOver() uint64 { return r.Verdicts[fastpath.Handoff] }
