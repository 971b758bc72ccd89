package slowpath

import (
	"bytes"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/rewrite"
)

// datagrams is how many datagrams that were put together may be on their way
// through the workers at once. While all are, fragments wait in the rings.
const datagrams = 64

// room is what is left free in front of a datagram, in bytes, for a tunnel's headers.
const room = 256

// Datagram is a datagram put together from fragments, in memory of the slow path's. A
// worker sends it through its pipeline as one packet, writes into Meta what is to
// become of it, and gives it back. Who has it from a ring owns it.
type Datagram struct {
	rewrite.Frame        // it, as one frame; a worker may move its beginning
	Meta                 // Kind: what is asked for it. Iface and Own are the slow path's
	Parts         uint16 // its fragments
	Largest       uint32 // the longest of them, in bytes of IP
	Handed        bool   // another worker has had it

	id    int // the Reassembler's
	df    bool
	v6    bool
	began [64]byte // its IP header and what follows, as put together
}

// newDatagrams makes the memory.
func newDatagrams() []*Datagram {
	free := make([]*Datagram, datagrams)
	for i := range free {
		free[i] = &Datagram{Frame: rewrite.Frame{Chunk: make([]byte, room+packet.MaxFrame)}}
	}
	return free
}

// frame returns the datagram as it is now.
func (d *Datagram) frame() []byte { return d.Chunk[d.Off:][:d.Len] }

// head returns its IP header and what follows, as far as they are remembered.
func (d *Datagram) head() []byte {
	frame := d.frame()
	var in packet.Info
	packet.Parse(frame, &in)
	return frame[in.L3:min(int(in.L3)+len(d.began), len(frame))]
}

// remember keeps what rewritten compares.
func (d *Datagram) remember() { copy(d.began[:], d.head()) }

// rewritten says whether a worker changed it: it was translated, or is in a tunnel.
func (d *Datagram) rewritten() bool { return !bytes.HasPrefix(d.began[:], d.head()) }
