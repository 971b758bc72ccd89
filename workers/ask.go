package workers

import (
	"context"

	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

// perTurn is how many rows a question copies between two batches.
const perTurn = 256

// Shared visits all persistence templates of the worker's node, then the
// announced connections that wait, with a stripe locked for perTurn of them at a
// time. Any goroutine may call it; visit ends the walk by returning false.
func (w *Worker) Shared(visit func(*ConnRow) bool) {
	var rows []ConnRow
	snap := w.Services.Load()
	for i := range 2 * conn.Stripes {
		from, stripe := w.Config.Templates, i%conn.Stripes
		if i >= conn.Stripes {
			if from = w.Expected; from == nil {
				return
			}
		}
		for next, more := conn.ID(0), true; more; more = next != 0 {
			rows = rows[:0]
			next = from.ScanStripe(stripe, next, perTurn, func(s *conn.Stripe, id conn.ID, c *conn.Conn) {
				r := w.row(snap, c)
				if call := s.Call(id); len(call) > 0 {
					r.Engine, r.EngineData, r.ClientPort = "sip", string(call), 0 // the port is the Call-ID's tag
				}
				rows = append(rows, r)
			})
			for i := range rows {
				if !visit(&rows[i]) {
					return
				}
			}
		}
	}
}

// Conns visits all connections of the node, worker by worker, then what its
// workers share, as worker 0's. visit gets copies, runs on the caller's goroutine and ends the walk by returning false.
func (p *Pool) Conns(ctx context.Context, visit func(worker int, r *ConnRow) bool) error {
	var rows []ConnRow
	for _, w := range p.Workers {
		for next, more := conn.ID(0), true; more; more = next != 0 {
			if err := w.Do(ctx, func(w *Worker) { rows, next = w.ConnRows(rows[:0], next, perTurn) }); err != nil {
				return err
			}
			for i := range rows {
				if !visit(w.ID, &rows[i]) {
					return nil
				}
			}
		}
	}
	p.Workers[0].Shared(func(r *ConnRow) bool { return visit(0, r) })
	return nil
}

// Stats are the counters of a snapshot's services and real servers, summed
// over the workers.
type Stats struct {
	Services []lb.Counters // by slot
	Reals    []lb.Counters // by real ID
}

// NewStats returns counters of 0 for s.
func NewStats(s *lb.Snapshot) *Stats {
	return &Stats{Services: make([]lb.Counters, len(s.Services)), Reals: make([]lb.Counters, len(s.Reals))}
}

// Stats asks the workers for the counters of s's services and servers, a
// bounded number between two batches.
func (p *Pool) Stats(ctx context.Context, s *lb.Snapshot) (*Stats, error) {
	sum := NewStats(s)
	for _, w := range p.Workers {
		rows := s.Rows(w.ID)
		for from := 0; from < max(len(sum.Services), len(sum.Reals)); from += perTurn {
			err := w.Do(ctx, func(*Worker) {
				rows.AddServices(uint32(from), part(sum.Services, from))
				rows.AddReals(uint32(from), part(sum.Reals, from))
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return sum, nil
}

// part returns the perTurn elements of all from place from on, or fewer.
func part(all []lb.Counters, from int) []lb.Counters {
	return all[min(from, len(all)):min(from+perTurn, len(all))]
}

// Reports asks each worker for its report.
func (p *Pool) Reports(ctx context.Context) ([]Report, error) {
	out := make([]Report, len(p.Workers))
	for i, w := range p.Workers {
		if err := w.Do(ctx, func(w *Worker) { out[i] = w.Report() }); err != nil {
			return nil, err
		}
	}
	return out, nil
}
