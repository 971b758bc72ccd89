package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// MaxBatch is the most packets that a stage handles at once.
const MaxBatch = 256

// Packet is one frame on its way through the stages. What the usual packet needs
// is in its first cache line.
type Packet struct {
	rewrite.Frame         // the frame's memory; rewriting may move its start
	Out           uint16  // port by which it leaves, when the verdict is Forward
	Port          uint16  // port it came in by
	Iface         uint16  // index in the nexthop table of the interface it came in by
	Parts         uint16  // frames received that it stands for; more than 1: fragments
	Largest       uint32  // of a datagram that was put together: its longest fragment, in bytes of IP; 0: it came in one frame
	conn          conn.ID // its connection; 0: none
	Verdict       Verdict
	plain         bool // of its frame no more than the key was read
	express       bool // and it is done
	Reply         bool // it travels from server to client
	Handed        bool // it came from another worker: never handed on
	Own           bool // the host's own stack sent it: an answer of a server that is the director itself (K-FWD-LOCAL)
	Learn         bool // its flow is the host's, and may pass without us: the verdict is Pass
	Split         bool // it is to leave in fragments (K-FWD-MTU)

	head  *[plainLen]byte // of the frame, while the packet is plain
	Info  packet.Info     // what parse found
	Owner uint16          // worker that owns it, when the verdict is Handoff; this one: see learn.go
	MTU   uint16          // that would fit, when the verdict is DropTooBig, or DropTunnelError about that; of the way out, when it is Split
	real  uint32          // its server
	Hop   *nexthop.Hop    // next hop
	Held                  // what the slow path is told when the verdict is Hold or Split
	once  bool            // its connection is of this packet alone, in Batch.once (K-CONN-8)
}

// Held describes a packet that the slow path sends, once its next hop's MAC address
// is known.
type Held struct {
	Target      flow.Addr // what its next hop was looked up for: the real server, or the client
	Flow        uint64    // by which its next hop is chosen of several
	Virtual     flow.Addr // of a NAT or tunnelled request: the service that the client addressed
	VirtualPort uint16
	Inner       uint16 // bytes of tunnel headers in front of the client's packet; of DropTunnelError of all headers
	Direct      bool   // the next hop is Table.OnLink's, for DR
}

// Batch is up to MaxBatch packets that go through each stage together. Its
// memory is made once.
type Batch struct {
	Pkts [MaxBatch]Packet
	N    int

	look    int                 // packets that asked for a connection
	whole   int                 // of these whose key is whole
	express int                 // of these that are done
	which   [MaxBatch]uint16    // their places in Pkts
	short   [MaxBatch]flow.Key4 // what they asked for, if they are plain
	keys    [MaxBatch]flow.Key  // and if not
	hashes  [MaxBatch]uint64
	ids     [MaxBatch]conn.ID   // what they may get
	once    [MaxBatch]conn.Conn // one-packet connections, by place in Pkts
}

// Next returns the next unused packet of b, cleared but for its memory, or
// nil if the batch is full. The caller sets Frame, ID, Iface and Port, and of
// one that did not come in by a port Handed or Own.
func (b *Batch) Next() *Packet {
	if b.N == MaxBatch {
		return nil
	}
	p := &b.Pkts[b.N]
	b.N++
	p.Parts, p.Largest, p.conn = 1, 0, 0
	p.Verdict, p.plain, p.express, p.Reply = Forward, false, false, false
	p.Handed, p.Own, p.Learn, p.Split = false, false, false, false
	return p
}

// Reset empties the batch.
func (b *Batch) Reset() { b.N = 0 }
