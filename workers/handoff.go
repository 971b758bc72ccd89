package workers

import (
	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/internal/spsc"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/slowpath"
)

// inboxBudget is how many packets of an inbox a turn takes at most.
const inboxBudget = fastpath.MaxBatch

// letter is what a packet in an inbox is.
type letter struct {
	port   uint16 // it came in by, or is to leave by
	send   bool   // a finished frame to send; else a packet to process
	handed bool   // by another worker
	own    bool   // what the host's own stack sent
	answer bool   // an ICMP error that was made, to be counted
}

// Inbox is where one producer leaves packets for one worker: a ring of copies.
type Inbox struct{ ring *spsc.Ring[letter] }

// NewInbox returns an inbox of slots packets of at most bytes each.
func NewInbox(slots, bytes int) *Inbox { return &Inbox{ring: spsc.New[letter](slots, bytes)} }

// peer is a worker, and the inbox that somebody else fills for it.
type peer struct {
	worker *Worker
	inbox  *Inbox
}

// post leaves a packet for the worker. Only the inbox's one producer may call it.
// false: the inbox is full, or the frame too long.
func (p *peer) post(l letter, frame []byte) bool {
	ok := p.inbox.put(l, frame)
	p.worker.Wake()
	return ok
}

// put copies frame into the inbox; false: it is full, or the frame larger
// than its slots.
func (in *Inbox) put(l letter, frame []byte) bool {
	meta, buf, ok := in.ring.Reserve()
	if !ok || len(frame) > len(buf) {
		return false
	}
	*meta = l
	in.ring.Commit(copy(buf, frame))
	return true
}

// handOff gives k to the worker that owns its connection. To this one it comes back
// by the slow path, which has what was learnt forgotten.
func (w *Worker) handOff(k *fastpath.Packet) bool {
	if int(k.Owner) == w.ID {
		return w.toSlowPath(k)
	}
	return w.peers[k.Owner].post(letter{port: k.Port, handed: true, own: k.Own}, k.Chunk[k.Off:k.Off+k.Len])
}

// readInboxes takes what others left: packets of this worker's connections,
// and finished frames to send.
func (w *Worker) readInboxes(now clock.Ticks) (busy bool) {
	for _, in := range w.inboxes {
		if in.ring.Len() > 0 {
			busy = w.readInbox(in, now) || busy
		}
	}
	return busy
}

// readInbox takes at most inboxBudget packets of one inbox. A packet for which
// no frame is free waits there: its producer sees a full inbox.
func (w *Worker) readInbox(in *Inbox, now clock.Ticks) (busy bool) {
	w.batch.Reset()
	for range inboxBudget {
		l, data, ok := in.ring.Front()
		if !ok {
			break
		}
		if l.answer {
			w.Answered(data)
			in.ring.Release()
			continue
		}
		var f [1]rings.Frame
		if w.Ports[0].Alloc(f[:]) == 0 {
			w.counters.NoFrame++
			break
		}
		f[0].Len = uint32(copy(f[0].Chunk[f[0].Off:], data))
		if l.send {
			*w.tx[l.port].next() = f[0]
			w.counters.Originated++
		} else {
			k := w.take(&f[0], int(l.port))
			if k.Handed, k.Own = l.handed, l.own; k.Handed {
				w.counters.HandedIn++
			} else {
				w.counters.FromHost++
			}
		}
		in.ring.Release()
		busy = true
	}
	w.counters.OriginatedLost += uint64(w.transmit())
	w.process(now)
	return busy
}

// readDatagrams sends the datagrams that the slow path put together through the
// pipeline. There are never more than a batch holds.
func (w *Worker) readDatagrams(now clock.Ticks) bool {
	w.batch.Reset()
	w.lent = w.lent[:0]
	for d := w.Slow.Borrow(); d != nil; d = w.Slow.Borrow() {
		k := w.take(&rings.Frame{Chunk: d.Chunk, Off: d.Off, Len: d.Len}, int(d.Iface))
		k.Parts, k.Largest, k.Handed, k.Own = d.Parts, d.Largest, d.Handed, d.Own
		w.lent = append(w.lent, d)
		count := &w.counters.Gathered
		if d.Handed {
			count = &w.counters.HandedIn
		}
		*count += uint64(d.Parts)
	}
	if len(w.lent) > 0 {
		w.process(now)
		w.WakeSlow()
	}
	return len(w.lent) > 0
}

// giveBack returns the datagram that is k to the slow path.
func (w *Worker) giveBack(k *fastpath.Packet, d *slowpath.Datagram) {
	d.Frame = k.Frame
	w.describe(k, &d.Meta)
	w.Slow.GiveBack(d)
}

// toSlowPath gives the slow path a copy of k; false: it was refused.
func (w *Worker) toSlowPath(k *fastpath.Packet) bool {
	kind := kinds[k.Verdict]
	meta, buf := w.Slow.Reserve(kind, int(k.Len), w.now)
	if meta == nil {
		return false
	}
	w.describe(k, meta)
	w.Slow.Commit(kind, copy(buf, k.Chunk[k.Off:k.Off+k.Len]))
	w.WakeSlow()
	return true
}

// kinds are what the slow path is asked to do with a packet, by its verdict.
var kinds = [fastpath.Verdicts]slowpath.Kind{
	fastpath.Pass: slowpath.Host, fastpath.Hold: slowpath.NoNeighbour,
	fastpath.DropTTL: slowpath.TimeExceeded, fastpath.DropTooBig: slowpath.TooBig,
	fastpath.DropNoServer: slowpath.PortUnreachable, fastpath.DropNATReply: slowpath.PortUnreachable,
	fastpath.DropNoRoute: slowpath.HostUnreachable, fastpath.DropTunnelError: slowpath.TunnelError, fastpath.DropEcho: slowpath.Echo,
	fastpath.Handoff: slowpath.Elsewhere, fastpath.Gather: slowpath.Fragment, fastpath.Split: slowpath.Oversize,
}

// describe tells the slow path what k is. An error to a client comes from the
// service that it addressed, one to a server from the director.
func (w *Worker) describe(k *fastpath.Packet, m *slowpath.Meta) {
	*m = slowpath.Meta{Worker: uint16(w.ID), Iface: k.Iface, MTU: k.MTU, Inner: k.Inner, Kind: kinds[k.Verdict], Owner: k.Owner, Own: k.Own}
	if !k.Reply {
		m.Virtual, m.VirtualPort = k.Info.Dst, k.Info.DstPort
	}
	if k.Learn {
		m.Learn = w.learning
	}
	if k.Verdict == fastpath.Hold || k.Verdict == fastpath.Split {
		h := &k.Held
		m.Target, m.Flow, m.Virtual, m.VirtualPort = h.Target, h.Flow, h.Virtual, h.VirtualPort
		m.Direct, m.Silent = h.Direct, k.Reply
	}
}
