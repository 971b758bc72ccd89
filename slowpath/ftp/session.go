package ftp

import (
	"strconv"

	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
)

// session is what is known of a command connection that has announced
// something, in 52 bytes. It belongs to the connection's worker.
type session struct {
	conn conn.ID // in that worker's table; 0: nobody's
	next uint16  // the next one that is free
	mode mode
	shift
	edit
}

// edit is what a server's last announcement got in place of its own text. It is
// put into each segment that holds all of that, so that one sent again looks
// like the first, though nobody asked for it again.
type edit struct {
	seq  uint32 // of the first byte that is replaced, as the server counts
	was  uint16 // how many are; 0: there was no announcement yet
	now  uint8  // bytes of text
	text [23]byte
}

// set makes e the announcement of port at addr in a mode, in place of was bytes
// from sequence number seq on.
func (e *edit) set(m mode, addr *flow.Addr, port uint16, seq uint32, was int) {
	t := e.text[:0]
	if m == passive {
		for _, b := range addr.As4() {
			t = append(strconv.AppendUint(t, uint64(b), 10), ',')
		}
		t = append(strconv.AppendUint(t, uint64(port>>8), 10), ',')
		t = strconv.AppendUint(t, uint64(port&0xff), 10)
	} else { // the client knows the address
		t = append(strconv.AppendUint(append(t, "|||"...), uint64(port), 10), '|')
	}
	e.seq, e.was, e.now = seq, uint16(was), uint8(len(t))
}

// shift says by how much the client's sequence numbers of what the server sends
// are ahead of the server's: as of the last announcement whose length changed,
// and as of those before it. Like the kernel it remembers no more, so that only
// what was sent since the last but one can be acknowledged or sent again.
type shift struct {
	last          uint32 // where the last change was, as the server counts
	before, after int32  // bytes, for sequence numbers up to last, and above it
}

// change takes note that the segment which begins at seq grew by so many bytes,
// unless it has grown before.
func (s *shift) change(seq uint32, by int) {
	if by != 0 && (s.before == s.after || later(seq, s.last)) {
		s.last, s.before, s.after = seq, s.after, s.after+int32(by)
	}
}

// none says whether nothing is shifted.
func (s *shift) none() bool { return s.before == 0 && s.after == 0 }

// toClient returns what the client knows the server's sequence number seq as.
func (s *shift) toClient(seq uint32) uint32 {
	if later(seq, s.last) {
		return seq + uint32(s.after)
	}
	return seq + uint32(s.before)
}

// toServer takes toClient back, of what the client acknowledges.
func (s *shift) toServer(ack uint32) uint32 {
	if later(ack-uint32(s.before), s.last) {
		return ack - uint32(s.after)
	}
	return ack - uint32(s.before)
}

// later says whether sequence number a is after b (RFC 9293 section 3.4).
func later(a, b uint32) bool { return int32(a-b) > 0 }

// session returns a command connection's, which it is given if it has none; nil:
// there is none left.
func (h *Helper) session(id conn.ID) *session {
	c := h.conns.At(id)
	if c.Note == 0 {
		switch {
		case h.freed != 0:
			c.Note = h.freed
			h.freed = h.sessions[c.Note].next
		case h.fresh < MaxSessions:
			h.fresh++
			c.Note = h.fresh
		default:
			return nil
		}
		h.sessions[c.Note] = session{conn: id}
		h.node.counts.sessions.Add(1)
	}
	return &h.sessions[c.Note]
}

// forget gives a session back.
func (h *Helper) forget(number uint16) {
	h.sessions[number] = session{next: h.freed}
	h.freed = number
	h.node.counts.sessions.Add(-1)
}
