package lb

import (
	"sync/atomic"

	"github.com/sluice-lb/sluice/lb/sched"
)

// Counters are a service's or a real server's (K-STAT-1). Bytes are those of
// IP packets. They are plain: the worker that owns them writes them, and
// others get copies through that worker.
type Counters struct{ Conns, InPackets, OutPackets, InBytes, OutBytes uint64 }

// Add adds o to c.
func (c *Counters) Add(o *Counters) {
	c.Conns += o.Conns
	c.InPackets += o.InPackets
	c.OutPackets += o.OutPackets
	c.InBytes += o.InBytes
	c.OutBytes += o.OutBytes
}

// RealRow is what one worker counts of one real server, in two cache lines:
// the first for each packet, the second for each connection, which other
// workers read too. Only its worker writes it.
type RealRow struct {
	Counters
	_          [24]byte
	Active     atomic.Int32 // connections by K-CONN-7
	Inactive   atomic.Int32
	Persistent atomic.Int32 // persistence templates
	Refs       atomic.Int32 // whatever still points at the server (K-DST-8)
	_          [48]byte
}

// ServiceRow is what one worker counts of one virtual service, in a cache
// line.
type ServiceRow struct {
	Counters
	_ [24]byte
}

// chunkRows is how many rows lie together. A chunk never moves, so that it can
// be shared by every snapshot.
const chunkRows = 256

// Rows is one worker's running counts, by service slot and real ID. The rows
// are the worker's; the chunks that hold them are made by the director before
// it publishes a snapshot that needs them.
type Rows struct {
	services []*[chunkRows]ServiceRow
	reals    []*[chunkRows]RealRow
	changes  sched.Changes // of loads, by real ID
}

// Real returns the row of a real server of the snapshot.
func (r *Rows) Real(id uint32) *RealRow { return &r.reals[id/chunkRows][id%chunkRows] }

// Service returns the row of a service of the snapshot.
func (r *Rows) Service(slot uint32) *ServiceRow { return &r.services[slot/chunkRows][slot%chunkRows] }

// AddServices adds the counters of the slots from, from+1, … to into, as far
// as both go. It runs on the goroutine of the worker that owns r.
func (r *Rows) AddServices(from uint32, into []Counters) {
	end := uint32(len(r.services) * chunkRows)
	for i := range into {
		if slot := from + uint32(i); slot < end {
			into[i].Add(&r.Service(slot).Counters)
		}
	}
}

// AddReals is AddServices for real servers.
func (r *Rows) AddReals(from uint32, into []Counters) {
	end := uint32(len(r.reals) * chunkRows)
	for i := range into {
		if id := from + uint32(i); id < end {
			into[i].Add(&r.Real(id).Counters)
		}
	}
}

// grow returns chunks that have room for n rows: those there are, and new ones.
func grow[T any](chunks []*T, n int) []*T {
	need := (n + chunkRows - 1) / chunkRows
	if need <= len(chunks) {
		return chunks
	}
	more := append(make([]*T, 0, need), chunks...)
	for len(more) < need {
		more = append(more, new(T))
	}
	return more
}
