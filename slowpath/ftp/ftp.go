// Package ftp follows FTP's command connections through NAT (K-FTP-1): it reads
// which data connections they announce, keeps those until they begin, puts the
// virtual service's address into a server's announcement, and shifts the
// sequence numbers behind that, whose length is another.
//
// A Helper belongs to a worker and is called on its goroutine, in the midst of
// the packets (docs/decisions/020-ftp-inline.md). What workers share is in the
// Node: announced connections, in stripes behind locks, because a data
// connection may be another worker's than its command connection. They are
// looked at when a packet has no connection, and only while there are any.
package ftp

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Room, in all and for each worker.
const (
	// MaxExpected is how many announced connections wait on a node at once; of a
	// client, and of those who share its stripe, a sixteenth of that.
	MaxExpected = 16384
	// MaxSessions is how many command connections a worker follows that have
	// announced something.
	MaxSessions = 1<<16 - 1
)

// Config is what a Node needs for its life.
type Config struct {
	Ports    []uint16 // of virtual services, 1 to 8
	Seed     flow.Seed
	Steering *flow.Steering
	Rate     int // packets of command connections that a worker looks at each second; 0: no limit
	Burst    int // and at once
}

// Node is what the helpers of a node's workers share.
type Node struct {
	Config
	expected *conn.Templates // announced connections, in stripes as the node's templates are
	live     atomic.Int64    // of them
	helpers  []*Helper       // by worker
	counts   counts
}

// New returns a Node without workers. Its memory is taken here: MaxExpected times
// 117 bytes.
func New(c Config) (*Node, error) {
	expected, err := conn.NewTemplates(MaxExpected, c.Seed)
	if err != nil {
		return nil, fmt.Errorf("announced connections: %w", err)
	}
	return &Node{Config: c, expected: expected}, nil
}

// Close gives the memory back. No helper may be used any more.
func (n *Node) Close() error { return n.expected.Close() }

// Expected returns the announced connections that wait, for listings.
func (n *Node) Expected() *conn.Templates { return n.expected }

// NextDue returns the tick at which Expire next has work; false: nothing waits.
func (n *Node) NextDue() (clock.Ticks, bool) { return n.expected.NextDue(0, 1) }

// lock returns the stripe of a client's announced connections, locked.
func (n *Node) lock(client *flow.Addr) *conn.Stripe {
	return n.expected.Lock(&flow.Key{Client: *client})
}

// Helper is a worker's part. It implements fastpath.Helper.
type Helper struct {
	node   *Node
	worker int
	conns  *conn.Table

	sessions []session // by number, from 1
	freed    uint16    // the last one that ended; the others hang behind it by next
	fresh    uint16    // sessions above this one were never used
	tokens   int       // hundredths of a packet: a tick is that part of a second
	filled   clock.Ticks
	snap     *lb.Snapshot // that Expire was called with
	endOne   func(*conn.Stripe, conn.ID) clock.Ticks
	servers  map[flow.Addr]struct{} // that command connections may lead to
	served   *lb.Snapshot           // in these services

	mu       sync.Mutex
	released []uint16     // sessions whose data connections ended at other workers
	pending  atomic.Int32 // how many these are
}

// Worker returns the helper of the next worker, by number, whose connections
// are in table conns. All are made before the first is used.
func (n *Node) Worker(conns *conn.Table) *Helper {
	h := &Helper{node: n, worker: len(n.helpers), conns: conns, sessions: make([]session, MaxSessions+1), tokens: 100 * n.Burst, servers: map[flow.Addr]struct{}{}}
	h.endOne = h.expire
	n.helpers = append(n.helpers, h)
	return h
}

// Follows says whether TCP connections to that port of a service are followed.
func (h *Helper) Follows(port uint16) bool { return slices.Contains(h.node.Ports, port) }
