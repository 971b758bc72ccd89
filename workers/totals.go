package workers

import (
	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/slowpath"
)

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
	t.Held += r.Verdicts[fastpath.Hold] + r.Verdicts[fastpath.Handoff] + r.Verdicts[fastpath.Gather] + r.Verdicts[fastpath.Split] - r.HandedIn - r.Gathered
	for v := fastpath.Verdict(0); v < fastpath.Verdicts; v++ {
		if n := r.Verdicts[v]; v.Drops() && n > 0 {
			t.Dropped[v.String()] += n
		}
	}
}

// settle corrects t by what the slow path made of the packets that it was
// given: it refuses some of those to pass, and sends or drops some of those
// that it held. Fragments of a complete datagram are counted by the worker that gets that.
func (t *Totals) settle(c *slowpath.Counters) {
	for f := slowpath.Fate(0); f < slowpath.Fates; f++ {
		if n := c.Packets[slowpath.Host][f]; f != slowpath.Passed && n > 0 {
			t.Passed -= n
			t.Dropped[f.String()] += n
		}
		n := c.Packets[slowpath.NoNeighbour][f] + c.Packets[slowpath.Oversize][f] + c.Packets[slowpath.Elsewhere][f]
		if f != slowpath.Gathered {
			n += c.Packets[slowpath.Fragment][f]
		}
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
