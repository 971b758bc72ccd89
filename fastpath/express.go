package fastpath

import (
	"encoding/binary"
	"math/bits"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Most packets are plain ones of a NAT or DR connection that they leave in the
// state in which it is. For these express does at once what request, response and
// rewrite do for any, from what it keeps: a lane for each real server, a way for each
// next hop to clients. Whatever is unusual about a packet, it leaves to them, untouched.

// header is the Ethernet header of a next hop, and where it leads.
type header struct {
	dst      uint64 // its first eight bytes, and the next four, as little-endian words
	src      uint32
	mtu, out uint16 // mtu is 0 unless it is reachable, without tags, by a port that is up
}

// lane is what a packet to or from a real server needs of it, in a cache line.
type lane struct {
	header
	version uint32 // of p.version; 0: not made yet
	addr    uint32 // little-endian word
	row     *lb.RealRow
	svc     *lb.ServiceRow
	how     conn.Flags // the method
	_       [22]byte
}

// usual are the properties that a connection of express packets may have, besides
// its method.
const usual = conn.NoOutput | conn.Inactive | conn.Assured

// never is a lane's method if it is closed: no connection has it.
const never = ^conn.Flags(0)

// wayBack returns the way to c's client. c.Note remembers which it is until routes
// change: what a connection noted before is void, and its Stamp tells when that was.
func (p *Pipeline) wayBack(c *conn.Conn) *header {
	if int32(c.Stamp-p.rerouted) <= 0 {
		c.Note = 0
	}
	if c.Note == 0 {
		hop := p.hops.Lookup(&c.Client)
		if p.wayOf[hop.ID] == 0 && len(p.ways) < cap(p.ways) {
			p.wayOf[hop.ID] = uint16(len(p.ways))
			p.ways = append(p.ways, p.headerOf(hop))
		}
		c.Note = p.wayOf[hop.ID]
	}
	return &p.ways[c.Note] // the first is closed
}

// express sends a plain packet on, if it is as most are; id is the connection that
// it may belong to.
func (p *Pipeline) express(k *Packet, key flow.Key4, hash uint64, id conn.ID) bool {
	c := p.conns.At(id)
	if uint(c.Real) >= uint(len(p.lanes)) {
		return false
	}
	l := &p.lanes[c.Real]
	if l.version != p.version {
		p.newLane(l, c.Real)
	}
	if c.Flags&^usual != l.how {
		return false
	}
	h := k.head
	length := uint32(binary.BigEndian.Uint16(h[16:]))
	if k.Reply {
		if !isKey(key, c, l.addr, c.RealPort, flow.ServerSide) {
			return p.another(k, key, hash, id)
		}
		way := p.wayBack(c)
		if length > uint32(way.mtu) || l.how != conn.Flags(lb.NAT) || !p.stays(c, h, conn.Output) {
			return false
		}
		l.row.OutPackets++
		l.row.OutBytes += uint64(length)
		l.svc.OutPackets++
		l.svc.OutBytes += uint64(length)
		nat(h, (*[4]byte)(h[26:30]), (*[2]byte)(h[34:36]), binary.LittleEndian.Uint32(c.Virtual[12:]), c.VirtualPort)
		leave(k, h, way)
	} else {
		if !isKey(key, c, binary.LittleEndian.Uint32(c.Virtual[12:]), c.VirtualPort, flow.ClientSide) {
			return p.another(k, key, hash, id)
		}
		d := conn.Input
		if c.Flags&conn.NoOutput != 0 {
			d = conn.InputOnly
		}
		if length > uint32(l.mtu) || !p.stays(c, h, d) {
			return false
		}
		if int32(c.Stamp-p.rerouted) <= 0 {
			c.Note = 0
		}
		c.Packets++
		l.row.InPackets++
		l.row.InBytes += uint64(length)
		l.svc.InPackets++
		l.svc.InBytes += uint64(length)
		if l.how == conn.Flags(lb.NAT) {
			nat(h, (*[4]byte)(h[30:34]), (*[2]byte)(h[36:38]), l.addr, c.RealPort)
		} else {
			hop(h, 0)
		}
		leave(k, h, &l.header)
	}
	c.Stamp = p.now
	k.Len = packet.EthernetLen + length
	return true
}

// another is express with the connection whose key it is, behind one that only
// looked like it.
func (p *Pipeline) another(k *Packet, key flow.Key4, hash uint64, not conn.ID) bool {
	whole := key.Key()
	id := p.conns.Confirm(&whole, hash, not)
	return id != 0 && id != not && p.express(k, key, hash, id)
}

// isKey says whether key is that of c's packets on a side, where its local
// endpoint is addr, a little-endian word, and port.
func isKey(key flow.Key4, c *conn.Conn, addr uint32, port uint16, side flow.Side) bool {
	return key.Addrs == uint64(binary.LittleEndian.Uint32(c.Client[12:]))|uint64(addr)<<32 &&
		key.Rest == uint64(c.ClientPort)|uint64(port)<<16|uint64(c.Proto)<<32|uint64(side)<<40
}

// stays says whether the packet h leaves its connection's state and timeout as they
// are, and opens nothing.
func (p *Pipeline) stays(c *conn.Conn, h *[plainLen]byte, d conn.Direction) bool {
	if c.Proto != packet.ProtoTCP {
		return p.staysUDP(c, h, d)
	}
	return p.kept[d&3][c.State&15]>>(h[47]&31)&1 != 0 && c.Timeout == p.timeouts[c.State&15]
}

// staysUDP is stays for UDP: a checksum has to be there, and a reply not to be the one that
// assures a template.
func (p *Pipeline) staysUDP(c *conn.Conn, h *[plainLen]byte, d conn.Direction) bool {
	return binary.LittleEndian.Uint16(h[40:]) != 0 && c.Timeout == p.timeoutUDP && (d != conn.Output || c.Control == 0 || c.Flags&conn.Assured != 0)
}

// nat gives a packet another endpoint, whose address and port are at wasAddr and wasPort
// of h: rewrite.NATIn and NATOut. addr is a little-endian word.
func nat(h *[plainLen]byte, wasAddr *[4]byte, wasPort *[2]byte, addr uint32, port uint16) {
	change := csum.Change32(binary.LittleEndian.Uint32(wasAddr[:]), addr)
	binary.LittleEndian.PutUint32(wasAddr[:], addr)
	hop(h, change)
	port = bits.ReverseBytes16(port)
	change += csum.Change16(binary.LittleEndian.Uint16(wasPort[:]), port)
	binary.LittleEndian.PutUint16(wasPort[:], port)
	if h[23] == packet.ProtoTCP {
		binary.LittleEndian.PutUint16(h[50:], csum.Apply(binary.LittleEndian.Uint16(h[50:]), change))
		return
	}
	binary.LittleEndian.PutUint16(h[40:], csum.NonZero(csum.Apply(binary.LittleEndian.Uint16(h[40:]), change)))
}

// hop takes a hop off the TTL and adjusts the header's checksum by that and change.
// Sums over little-endian words are those over network order with their bytes
// swapped (RFC 1071 section 2).
func hop(h *[plainLen]byte, change csum.Change) {
	h[22]--
	binary.LittleEndian.PutUint16(h[24:], csum.Apply(binary.LittleEndian.Uint16(h[24:]), change+ttlChange))
}

// ttlChange is what a TTL less by 1 changes, the low half of its word.
const ttlChange = csum.Change(^uint16(1))

// leave writes the link header, whose EtherType stays, and the port.
func leave(k *Packet, h *[plainLen]byte, to *header) {
	binary.LittleEndian.PutUint64(h[0:], to.dst)
	binary.LittleEndian.PutUint32(h[8:], to.src)
	k.Out = to.out
}
