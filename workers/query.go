package workers

import (
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// ConnRow is a copy of one connection.
type ConnRow struct {
	conn.Conn
	Server             flow.Addr     // the real server's address; 0.0.0.0 or :: of a connection without one
	Expires            time.Duration // until its timer fires
	Engine, EngineData string        // of a template by a persistence engine: "sip" and the Call-ID
}

// row copies a connection to a server of s.
func (w *Worker) row(s *lb.Snapshot, c *conn.Conn) ConnRow {
	r := ConnRow{Conn: *c}
	if c.Flags&conn.V6 == 0 {
		r.Server = flow.From4([4]byte{})
	}
	if c.Real != lb.NoReal && int(c.Real) < len(s.Reals) {
		r.Server = s.Reals[c.Real].Addr
	}
	left := int32(c.Stamp + c.Timeout - clock.TicksAt(w.Clock.Now()))
	r.Expires = clock.Ticks(max(left, 0)).Duration()
	return r
}

// Answered counts an ICMP error that the slow path made, an IP datagram (fastpath.Pipeline.Answered).
// It runs on w's goroutine.
func (w *Worker) Answered(message []byte) { w.pipe.Answered(message) }

// ConnRows appends copies of at most n connections, from entry from of the
// table on, and returns where to go on; 0: that was all. It runs on the
// worker's goroutine.
func (w *Worker) ConnRows(rows []ConnRow, from conn.ID, n int) ([]ConnRow, conn.ID) {
	next := w.Config.Conns.Scan(from, n, func(_ conn.ID, c *conn.Conn) {
		rows = append(rows, w.row(w.snap, c))
	})
	return rows, next
}
