package engine

import (
	"github.com/sluice-lb/sluice/rings"
)

// port is a rings.Port in memory: it hands out the frames of a lap, in the
// lap's order, and counts what is sent.
type port struct {
	lap      *lap // nil: nothing arrives here
	next     int  // the lap's next frame
	sent     int
	released int
	_        [64]byte // another worker's may lie behind
}

// Receive hands out the next frames. Like a queue on AF_XDP it reads no byte
// of them.
func (p *port) Receive(b []rings.Frame) int {
	if p.lap == nil {
		return 0
	}
	n := copy(b, p.lap.memory.frames[p.next:len(p.lap.order)])
	p.next += n
	return n
}

// Transmit counts frames; that they come back with the next lap is the lap's
// part.
func (p *port) Transmit(b []rings.Frame) int {
	p.sent += len(b)
	return len(b)
}

// Release counts frames that were not sent.
func (p *port) Release(b []rings.Frame) { p.released += len(b) }

// Alloc has no free frames: nothing but what arrives is sent.
func (p *port) Alloc([]rings.Frame) int { return 0 }

// Room says that all is free.
func (p *port) Room() (free, frames int) { return 1, 1 }

// Reclaim does nothing, there being no rings.
func (p *port) Reclaim() int { return 0 }

// Pending returns 0: what is sent is gone.
func (p *port) Pending() int { return 0 }

// FD returns -1: there is nothing to wait for.
func (p *port) FD() int { return -1 }

// Stats returns what was sent.
func (p *port) Stats() rings.PortStats { return rings.PortStats{TxPackets: uint64(p.sent)} }

// Close does nothing.
func (p *port) Close() error { return nil }
