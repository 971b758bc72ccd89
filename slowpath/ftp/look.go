package ftp

import (
	"encoding/binary"

	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
)

var be = binary.BigEndian

// Places in a TCP header (RFC 9293 section 3.1).
const (
	tcpSeq      = 4
	tcpAck      = 8
	tcpOffset   = 12
	tcpFlags    = 13
	tcpChecksum = 16
)

// Look reads a packet of followed connection id before it is translated: what
// it announces is expected from now on, and if it is a server's it gets the
// service's address. Sequence numbers behind such a change are shifted, in both
// directions. false: it is to be dropped.
func (h *Helper) Look(f *rewrite.Frame, in *packet.Info, id conn.ID, reply bool, s *lb.Snapshot, now clock.Ticks) bool {
	if !h.affords(now) {
		return h.node.refuse(OverBudget)
	}
	if sum(segmentOf(f, in), in) != 0 {
		return h.node.refuse(BadChecksum)
	}
	segment := segmentOf(f, in)
	header := int(segment[tcpOffset]>>4) * 4
	if header < packet.TCPLen || header > len(segment) {
		return true // nothing that anybody could read
	}
	c := h.conns.At(id)
	if text := segment[header:]; len(text) > 0 && c.State == conn.TCPEstablished {
		if reply && !h.answer(text, be.Uint32(segment[tcpSeq:]), id, s, now) || !reply && !h.command(text, id, s, now) {
			return false
		}
	}
	if c.Note == 0 {
		return true
	}
	if reply {
		return h.toClient(f, in, header, &h.sessions[c.Note])
	}
	return h.toServer(segment, in, header, &h.sessions[c.Note])
}

// affords takes a token, if there is one now.
func (h *Helper) affords(now clock.Ticks) bool {
	if h.node.Rate == 0 {
		return true
	}
	if d := now - h.filled; d != 0 {
		h.tokens, h.filled = min(h.tokens+int(d)*h.node.Rate, 100*h.node.Burst), now
	}
	if h.tokens < 100 {
		return false
	}
	h.tokens -= 100
	return true
}

// segmentOf is the TCP segment of a packet.
func segmentOf(f *rewrite.Frame, in *packet.Info) []byte { return f.Chunk[f.Off:][in.L4:in.End] }

// sum is the checksum of a segment, its own field included: 0 if that is right.
func sum(segment []byte, in *packet.Info) uint16 {
	return csum.Fold(csum.Sum(segment, csum.Pseudo(&in.Src, &in.Dst, packet.ProtoTCP, len(segment))))
}

// command reads what a client sends (K-FTP-2, K-FTP-4). false: it is to be
// dropped.
func (h *Helper) command(text []byte, id conn.ID, snap *lb.Snapshot, now clock.Ticks) bool {
	c := h.conns.At(id)
	v6 := c.Flags&conn.V6 != 0
	m, settled := asked(text, v6)
	if settled && m == active {
		return true
	}
	var e endpoint
	if !settled {
		var ok bool
		if e, ok = port(text); !ok || v6 {
			if e, ok = eprt(text, v6); !ok {
				return true
			}
		}
	}
	s := h.session(id)
	if s == nil {
		return h.node.refuse(SessionsFull)
	}
	if s.mode = m; settled {
		return true
	}
	_, ok := h.announce(snap, &announcement{by: id, client: e.addr, clientPort: e.port, virtualPort: c.VirtualPort - 1, realPort: c.RealPort - 1}, now)
	return ok
}

// answer reads what a server sends, from sequence number seq on, to a client that
// asked for passive mode (K-FTP-3). false: it is to be dropped.
func (h *Helper) answer(text []byte, seq uint32, id conn.ID, snap *lb.Snapshot, now clock.Ticks) bool {
	c := h.conns.At(id)
	if c.Note == 0 {
		return true
	}
	s := &h.sessions[c.Note]
	e, ok := s.mode.reply(text, c.Flags&conn.V6 != 0)
	if !ok || s.edit.was > 0 && !later(seq+uint32(e.start), s.edit.seq) {
		return true // or it answered what was asked before, and is sent again
	}
	expected, ok := h.announce(snap, &announcement{by: id, client: c.Client, virtualPort: e.port, realPort: e.port}, now)
	if !ok {
		return false
	}
	s.edit.set(s.mode, &expected.Virtual, expected.VirtualPort, seq+uint32(e.start), e.end-e.start)
	s.shift.change(seq, int(s.edit.now)-int(s.edit.was))
	s.mode = active
	return true
}

// toClient puts a server's announcement into a segment that holds it, and
// shifts the segment's sequence number. false: it has no room for that.
func (h *Helper) toClient(f *rewrite.Frame, in *packet.Info, header int, s *session) bool {
	segment := segmentOf(f, in)
	seq := be.Uint32(segment[tcpSeq:])
	at := int(int32(s.edit.seq - seq))
	edits := s.edit.was > 0 && at >= 0 && at+int(s.edit.was) <= len(segment)-header
	if !edits && s.shift.none() {
		return true
	}
	if edits {
		if !replace(f, in, int(in.L4)+header+at, int(s.edit.was), s.edit.text[:s.edit.now]) {
			return h.node.refuse(NoRoom)
		}
		h.node.counts.rewritten.Add(1)
	}
	segment = segmentOf(f, in)
	be.PutUint32(segment[tcpSeq:], s.shift.toClient(seq))
	resum(segment, in)
	return true
}

// toServer shifts what a client acknowledges, also selectively (RFC 2018).
// false: its TCP options cannot be read.
func (h *Helper) toServer(segment []byte, in *packet.Info, header int, s *session) bool {
	if s.shift.none() || segment[tcpFlags]&packet.ACK == 0 {
		return true
	}
	s.shift.acknowledge(segment[tcpAck:])
	if !s.shift.options(segment[packet.TCPLen:header]) {
		return h.node.refuse(Malformed)
	}
	resum(segment, in)
	return true
}

// acknowledge shifts the number that b begins with.
func (s *shift) acknowledge(b []byte) { be.PutUint32(b, s.toServer(be.Uint32(b))) }

// TCP options.
const (
	optionEnd  = 0
	optionNop  = 1
	optionSACK = 5
)

// options shifts the SACK blocks among TCP options; false: they contradict
// themselves.
func (s *shift) options(b []byte) bool {
	for len(b) > 0 {
		switch b[0] {
		case optionEnd:
			return true
		case optionNop:
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return false
		}
		option := b[:b[1]]
		b = b[len(option):]
		if option[0] != optionSACK || len(option)%8 != 2 {
			continue
		}
		for edge := option[2:]; len(edge) > 0; edge = edge[4:] {
			s.acknowledge(edge)
		}
	}
	return true
}

// replace puts text in place of n bytes at at of a packet, and adjusts the
// lengths that say so. false: there is no room behind it.
func replace(f *rewrite.Frame, in *packet.Info, at, n int, text []byte) bool {
	b := f.Chunk[f.Off:]
	end, longest := int(in.End)+len(text)-n, int(in.L3)+packet.MaxPayload
	if end > min(len(b), longest) {
		return false
	}
	copy(b[at+len(text):end], b[at+n:in.End])
	copy(b[at:], text)
	in.End, f.Len = uint32(end), uint32(end)
	if in.Family == 4 {
		h := packet.IPv4(b[in.L3:])
		was, now := uint16(h.TotalLen()), uint16(end-int(in.L3))
		be.PutUint16(h[2:], now)
		h.SetChecksum(csum.Apply(h.Checksum(), csum.Change16(was, now)))
	} else {
		be.PutUint16(b[in.L3+4:], uint16(end-int(in.L3)-packet.IPv6Len))
	}
	return true
}

// resum makes the checksum of a segment right.
func resum(segment []byte, in *packet.Info) {
	be.PutUint16(segment[tcpChecksum:], 0)
	be.PutUint16(segment[tcpChecksum:], sum(segment, in))
}
