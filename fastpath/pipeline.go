// Package fastpath is what a worker does with a batch of packets: parse,
// look up, schedule, rewrite.
//
// A Pipeline belongs to one worker and is used by its goroutine alone. It
// knows neither AF_XDP nor the clock nor randomness: frames, time and seed
// come from outside, so that the same code runs on NIC queues, on captures
// and in tests, and the same input gives the same bytes.
package fastpath

import (
	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/lb/sched"
)

// Role says which side of connections an interface serves. It only tells
// where to look first: a packet finds its connection by either interface.
type Role uint8

// Roles of interfaces, as in the configuration.
const (
	RoleBoth   Role = iota // both: the destination decides, a VIP or not
	RoleClient             // requests enter here
	RoleServer             // real servers answer here
)

// Config is what a Pipeline needs for its life.
type Config struct {
	Worker int         // its number; its rows of the snapshot
	Conns  *conn.Table // the worker's own
	// Templates are the node's persistence templates, shared by all workers.
	Templates *conn.Templates
	Steering  *flow.Steering            // which worker owns a connection
	Roles     []Role                    // by port
	ICMP      Budget                    // of ICMP errors about connections
	MaxLearnt int                       // flows of the host's that are learnt at once; 0: none
	Helper    Helper                    // nil: none
	Room      func() (free, frames int) // of packet memory, asked once a second; nil: there is plenty
	Random    uint64                    // a secret: where the random numbers of twos begin, and the key of GUE's source ports
}

// Pipeline carries packets of one worker from parse to rewrite.
type Pipeline struct {
	Counters Counters

	worker    int
	conns     *conn.Table
	templates *conn.Templates
	steering  *flow.Steering
	roles     []Role

	snap              *lb.Snapshot
	rows              *lb.Rows
	loads             lb.Loads
	scheds            []sched.Scheduler // by service slot
	v4, v6            bool              // any service of the family (K-PATH-1)
	hops              *nexthop.Table
	realHops          []realHop       // by real ID
	lanes             []lane          // by real ID
	ways              []header        // to clients, as connections note them; the first is none
	wayOf             []uint16        // by hop ID: its place in ways
	version           uint32          // of services and routes: lanes of others are made anew
	rerouted          clock.Ticks     // when routes changed: ways noted until then are void
	macs              []uint64        // by interface: its MAC, and two bytes of 0 before it, as a little-endian word
	timeouts          [16]clock.Ticks // by TCP's states
	kept              *[4][16]uint32  // of stays, as secure_tcp is now
	timeoutUDP        clock.Ticks
	now               clock.Ticks
	tunnelID          uint16    // the last IPv4 ident of an outer header
	tunnelSeed        flow.Seed // of the source ports of GUE
	added             bool      // this batch added connections
	replaced          bool      // and some in the place of others, which are still there
	expireOne         func(conn.ID) clock.Ticks
	expireOneTemplate func(*conn.Stripe, conn.ID) clock.Ticks
	random            uint64 // for twos
	defence           defence
	room              func() (free, frames int)
	icmp              Budget
	helper            Helper
	learnt            map[flow.Key]struct{} // flows of the host's that the XDP program may pass, by their packets' key as replies
	maxLearnt         int
	sweep             conn.ID     // where to go on looking for connections of removed servers; 0: nowhere
	sweepAt           clock.Ticks // when to begin
	query             sched.Query // scratch, so that it is not allocated
	replyKey          flow.Key    // scratch
}

// realHop is the way to a real server: the next hop, valid for one version of
// the next-hop table, and the tunnel, if it is reached by one.
type realHop struct {
	version uint64
	hop     *nexthop.Hop
	encap   rewrite.Encap
}

// Process gives each packet of b a verdict and, to those that are to be
// forwarded, their new headers and way out. now is read once a batch.
func (p *Pipeline) Process(b *Batch, now clock.Ticks) {
	p.now, p.added, p.replaced, b.whole = now, false, false, 0
	p.loads.Begin()
	p.parse(b)    // frame → flow key, or a verdict
	p.lookup(b)   // key → connection, in this worker's table only
	p.schedule(b) // state and counts of the hits; the misses: service → real server → connection
	p.Counters[Forward] += uint64(b.express)
	if b.express == b.N {
		return // the rest is for others
	}
	p.rewrite(b) // NAT, DR or TUN, checksums adjusted in place, next hop's MAC
	p.related(b) // ICMP errors about connections
	for i := range b.Pkts[:b.N] {
		k := &b.Pkts[i]
		if k.express {
			continue
		}
		if k.Verdict == Pass && k.Own {
			k.Verdict = p.onward(k)
		}
		p.Counters[k.Verdict] += uint64(k.Parts)
	}
}

// wanted says whether a well-formed packet is one that IPVS looks at, and
// gives it its verdict if not.
func (p *Pipeline) wanted(frame []byte, k *Packet) bool {
	if !p.isOurs(frame, k) {
		return false
	}
	if k.Info.Family == 4 && !p.v4 || k.Info.Family == 6 && !p.v6 {
		k.Verdict = Pass // no service of the family, no hooks (K-PATH-1)
		return false
	}
	return true
}

// isOurs is the kernel's PACKET_HOST (K-PATH-3): the frame is addressed to
// the interface, or to the one of its VLAN. Frames to a group go to the host,
// frames to another station (a hub, a promiscuous port), or of a VLAN that nobody
// knows, to nobody.
func (p *Pipeline) isOurs(frame []byte, k *Packet) bool {
	to := [6]byte(frame[:6])
	if k.Info.VLANs == 0 && to == p.hops.Interfaces[k.Iface].MAC || k.Own || p.hops.Owns(k.Port, k.Info.VLAN, to) {
		return true
	}
	k.Verdict = DropOtherHost
	if frame[0]&1 != 0 {
		k.Verdict = Pass
	}
	return false
}

// unparsed is the verdict of a packet that is none of a connection's.
func (p *Pipeline) unparsed(r packet.Result, frame []byte, k *Packet) Verdict {
	switch r {
	case packet.Truncated:
		return DropTruncated
	case packet.BadHeader:
		return DropMalformed
	case packet.BadChecksum:
		return DropIPChecksum
	}
	if !p.isOurs(frame, k) || r == packet.Fragment && !p.wanted(frame, k) {
		return k.Verdict
	}
	switch r {
	case packet.Fragment:
		return p.gather(k)
	case packet.ICMP:
		if p.echo(&k.Info) {
			return DropEcho
		}
	case packet.ICMPError:
		if !k.Handed && !p.icmp.take(p.now) {
			return DropICMPBudget
		}
		return Related
	}
	return Pass
}

// echo says whether a packet is an echo request to a virtual service's address
// that is not the host's own, whose stack would answer it.
func (p *Pipeline) echo(in *packet.Info) bool {
	asks := in.Family == 4 && in.Event == packet.ICMPEcho || in.Family == 6 && in.Event == packet.ICMPv6Echo
	return asks && p.snap.IsVIP(&in.Dst) && !p.hops.IsLocal(&in.Dst)
}

// gather is the verdict of a fragment, which shows no ports if it is not the first
// (K-PATH-7). What is not for a service is routed in IPv4 before it is put together.
func (p *Pipeline) gather(k *Packet) Verdict {
	in := &k.Info
	k.Reply = !p.snap.IsVIP(&in.Dst) && !p.hops.IsLocal(&in.Dst) && p.service(k, in) == nil
	if k.Reply && in.Family == 4 && in.TTL <= 1 {
		return DropTTL
	}
	return Gather
}

// fromClient guesses the side that a packet comes from: where a packet's
// connection is looked for first.
func (p *Pipeline) fromClient(k *Packet) bool {
	switch p.roles[k.Port] {
	case RoleClient:
		return true
	case RoleServer:
		return false
	}
	return p.snap.IsVIP(&k.Info.Dst)
}

// keyOf writes the key by which a packet's connection is found if its client
// sent it, or its server.
func keyOf(in *packet.Info, fromClient bool, key *flow.Key) {
	key.Proto = in.FlowProto()
	if fromClient {
		key.Client, key.Local, key.ClientPort, key.LocalPort = in.Src, in.Dst, in.SrcPort, in.DstPort
		key.Side = flow.ClientSide
		return
	}
	key.Client, key.Local, key.ClientPort, key.LocalPort = in.Dst, in.Src, in.DstPort, in.SrcPort
	key.Side = flow.ServerSide
}

// manyLanes is how many real servers' lanes and counters stay in the cache by
// themselves.
const manyLanes = 1000

// lookup asks the table for the whole batch at once, so that its memory
// reads overlap.
func (p *Pipeline) lookup(b *Batch) {
	p.conns.Candidates(b.hashes[:b.look], b.ids[:b.look])
	if len(p.lanes) > manyLanes {
		fetchServers(p.conns.At(0), b.ids[:b.look], p.lanes)
	}
	for i := 0; i < b.look && b.whole > 0; i++ {
		if k := &b.Pkts[b.which[i]]; !k.plain && k.Reply {
			p.conns.FetchReal(b.ids[i])
		}
	}
}

// schedule goes through the packets in their order, as the kernel would:
// what one does to its connection or to a server's load, the next one sees. Those
// that express does not send on are left in b.which.
func (p *Pipeline) schedule(b *Batch) {
	rest := 0
	b.express = 0
	for i := range b.look {
		at := b.which[i]
		k := &b.Pkts[at]
		if k.plain {
			if b.ids[i] != 0 && !p.replaced && p.express(k, b.short[i], b.hashes[i], b.ids[i]) {
				k.express = true
				b.express++
				continue
			}
			if !p.whole(k, &b.keys[i]) {
				continue // it cannot be: plain knows better
			}
		}
		b.which[rest] = at
		rest++
		if p.replaced || p.added {
			k.conn = p.conns.LookupHash(&b.keys[i], b.hashes[i]) // an earlier packet of the batch changed the table
		} else {
			k.conn = p.conns.Confirm(&b.keys[i], b.hashes[i], b.ids[i])
		}
		if k.conn == 0 {
			p.otherSide(k)
		}
		if k.conn == 0 && p.helper != nil && !k.Own {
			p.begin(k)
		}
		switch {
		case k.Verdict != Forward: // it is not this worker's, or cannot begin
		case k.conn == 0:
			p.miss(b, int(at))
		case k.Reply:
			p.response(k, p.conns.At(k.conn))
		default:
			p.request(b, int(at))
		}
	}
	b.look = rest
}

// otherSide looks for the connection of a packet that was not found where it
// was looked for first. A reply of a connection that is not NAT shows the
// virtual service as its source (K-CONN-4).
func (p *Pipeline) otherSide(k *Packet) {
	toVIP := p.snap.IsVIP(&k.Info.Dst)
	if toVIP && !k.Reply {
		return // nobody's reply
	}
	var key flow.Key
	keyOf(&k.Info, k.Reply, &key)
	k.Reply = !k.Reply
	if k.conn = p.conns.Lookup(&key); k.conn != 0 || toVIP {
		return
	}
	keyOf(&k.Info, false, &key)
	k.Reply, key.Side = true, flow.ClientSide
	if id := p.conns.Lookup(&key); id != 0 && !isNAT(p.conns.At(id)) {
		k.conn = id
		return
	}
	k.Reply = false
}

// method is how a connection's packets go to its server: as the server had it
// when the connection was made, whatever was edited since (K-SVC-7).
func method(c *conn.Conn) lb.Forward { return lb.Forward(c.Flags & conn.FwdMask) }

// isNAT says whether a connection's replies are translated back.
func isNAT(c *conn.Conn) bool { return method(c) == lb.NAT }

// connOf returns the connection of the packet at place at of b.
func (p *Pipeline) connOf(b *Batch, at int) *conn.Conn {
	if b.Pkts[at].once {
		return &b.once[at]
	}
	return p.conns.At(b.Pkts[at].conn)
}
