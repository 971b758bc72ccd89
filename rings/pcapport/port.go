package pcapport

import (
	"fmt"

	"github.com/sluice-lb/sluice/rings"
)

// A Port is an interface of a replay: what is fed to it is received, and what
// is transmitted goes to a function. Ports of one replay may share a UMEM, made
// by rings.NewUMEM of ordinary memory.
type Port struct {
	umem  *rings.UMEM
	sent  func(packet []byte)
	fed   []rings.Frame
	stats rings.PortStats
}

var _ rings.Port = (*Port)(nil)

// NewPort returns a port. sent is called with each transmitted packet, which is
// valid during the call.
func NewPort(u *rings.UMEM, sent func(packet []byte)) *Port { return &Port{umem: u, sent: sent} }

// Feed lets a packet arrive: the next Receive returns it, after those fed
// before. It fails if the packet is longer than a chunk behind the headroom, or
// no frame is free.
func (p *Port) Feed(packet []byte) error {
	var b [1]rings.Frame
	if room := p.umem.FrameSize() - rings.Headroom; len(packet) > room {
		return fmt.Errorf("packet of %d bytes: frames hold %d", len(packet), room)
	}
	if p.umem.Alloc(b[:]) == 0 {
		return fmt.Errorf("no frame is free of %d", p.umem.Frames())
	}
	b[0].Len = uint32(copy(b[0].Chunk[b[0].Off:], packet))
	p.fed = append(p.fed, b[0])
	return nil
}

// Receive returns what was fed: see rings.Port.
func (p *Port) Receive(b []rings.Frame) int {
	n := copy(b, p.fed)
	p.fed = p.fed[:copy(p.fed, p.fed[n:])]
	p.stats.RxPackets += uint64(n)
	for i := range b[:n] {
		p.stats.RxBytes += uint64(b[i].Len)
	}
	return n
}

// Transmit hands over all packets, and frees them: see rings.Port. As on a
// socket, a frame that is empty or leaves its chunk is refused and counted.
func (p *Port) Transmit(b []rings.Frame) int {
	for i := range b {
		f := &b[i]
		if f.Len == 0 || uint64(f.Off)+uint64(f.Len) > uint64(len(f.Chunk)) {
			p.stats.TxRefused++
			continue
		}
		p.stats.TxPackets++
		p.stats.TxBytes += uint64(f.Len)
		p.sent(f.Data())
	}
	p.umem.Release(b)
	return len(b)
}

// Release gives frames back: see rings.Port.
func (p *Port) Release(b []rings.Frame) { p.umem.Release(b) }

// Room tells of the UMEM.
func (p *Port) Room() (free, frames int) { return p.umem.Free(), p.umem.Frames() }

// Alloc takes free frames: see rings.Port.
func (p *Port) Alloc(b []rings.Frame) int { return p.umem.Alloc(b) }

// Reclaim has nothing to do: Transmit frees at once.
func (p *Port) Reclaim() int { return 0 }

// Pending is 0: Transmit hands everything over.
func (p *Port) Pending() int { return 0 }

// FD is -1: there is nothing to wait for.
func (p *Port) FD() int { return -1 }

// Stats returns the port's counters: see rings.Port.
func (p *Port) Stats() rings.PortStats {
	s := p.stats
	s.Free = p.umem.Free()
	return s
}

// Close frees what was fed and not received.
func (p *Port) Close() error {
	p.umem.Release(p.fed)
	p.fed = nil
	return nil
}
