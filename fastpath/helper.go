package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

// Helper follows NAT connections whose payload announces others (FTP, K-FTP-1):
// it puts the service's address into the announcements and keeps what they
// announce until that begins. Its methods run on the worker's goroutine.
type Helper interface {
	// Follows says whether TCP connections to that port of a service are followed.
	Follows(port uint16) bool
	// Look reads a packet of connection id, which is followed, before it is
	// translated; it may change it, its length too. false: drop it.
	Look(f *rewrite.Frame, in *packet.Info, id conn.ID, reply bool, s *lb.Snapshot, now clock.Ticks) bool
	// Begin finds the announced connection that a packet without one begins:
	// owner is its worker, -1: there is none. If that is this one, or the packet
	// was handed here, the connection is now id in the worker's table; 0: its
	// server is gone, and it waits for that to return (K-CONN-10).
	Begin(in *packet.Info, handed bool, s *lb.Snapshot) (id conn.ID, reply bool, owner int)
	// Awaits says whether a packet of no connection may come from a server whose
	// announced connections look like its own (see learn.go).
	Awaits(in *packet.Info, s *lb.Snapshot) bool
	// End is told of each connection that is over, dropped if its Timeout is 0.
	End(c *conn.Conn, now clock.Ticks)
	// Expire ends announced connections that nobody began, at most budget of
	// them; more: others are due.
	Expire(s *lb.Snapshot, now clock.Ticks, budget int) (more bool)
}

// begin gives k, which has no connection, the announced one that it begins, or
// its verdict if that cannot begin here.
func (p *Pipeline) begin(k *Packet) {
	switch id, reply, owner := p.helper.Begin(&k.Info, k.Handed, p.snap); {
	case id != 0:
		k.conn, k.Reply, p.added = id, reply, true
	case owner == p.worker:
		k.Verdict = DropServerGone
	case owner >= 0:
		k.Verdict, k.Owner = Handoff, uint16(owner)
	}
}
