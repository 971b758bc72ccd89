// Package ringstest plays the kernel's side of AF_XDP rings, in memory: the
// same words and entries that rings.Queue maps from a socket, with packets
// lost, delayed and completed in small lots, as a seed decides.
//
// A Kernel's methods are called by one goroutine, the kernel's. That may be
// the worker's too (a test in virtual time, with Config.Copy) or another one
// (a test of the memory order of both sides, without it).
package ringstest

import (
	"fmt"
	"math/rand/v2"

	"github.com/sluice-lb/sluice/rings"
	"golang.org/x/sys/unix"
)

// Config is what a Kernel is like. Shares are from 0 to 1.
type Config struct {
	Seed              uint64
	Ports             int
	RingSize          int     // entries of each ring, a power of two
	Frames, FrameSize int     // of the UMEM
	Start             uint32  // where the rings' counters begin, near 2^32 to see them wrap
	Loss              float64 // share of arriving packets that are lost in the driver
	Delay             int     // most steps that a packet takes to arrive, or to be completed
	Short             bool    // completions come in small lots
	Busy              float64 // share of wake-ups that the kernel answers with EAGAIN, EBUSY or ENOBUFS, doing nothing
	NeedWakeup        bool    // rings ask for wake-ups, and wait for them
	Copy              bool    // as in copy mode, the wake-up itself sends, 32 frames at most
}

// A Kernel is the far side of a worker's rings.
type Kernel struct {
	// Wire is called with each packet that is sent; nil: nobody listens. The
	// packet is valid during the call.
	Wire func(port int, packet []byte)
	// Lost is called likewise with each packet that was to be received, but
	// found the rx ring full.
	Lost func(port int, packet []byte)

	config  Config
	mem     []byte
	umem    *rings.UMEM
	queues  []*rings.Queue
	sockets []*socket
	held    []bool // frames that the kernel has: from fill or tx ring to rx or completion ring
	random  *rand.Rand
	now     uint64 // steps
	fault   error
}

// skbBudget is what one wake-up sends in copy mode.
const skbBudget = 32

// New returns a Kernel and, by Ports, the queues on its rings.
func New(c Config) (*Kernel, error) {
	k := &Kernel{config: c, mem: make([]byte, c.Frames*c.FrameSize), held: make([]bool, c.Frames), random: rand.New(rand.NewPCG(c.Seed, 0))}
	var err error
	if k.umem, err = rings.NewUMEM(k.mem, c.FrameSize); err != nil {
		return nil, err
	}
	for i := range c.Ports {
		s := &socket{kernel: k, port: i, wakes: rand.New(rand.NewPCG(c.Seed, uint64(i)+1))}
		m := s.memory(c.RingSize, c.Start)
		s.tx.needWakeup(c.NeedWakeup)
		k.sockets = append(k.sockets, s)
		k.queues = append(k.queues, rings.NewQueue(k.umem, m, s))
	}
	return k, nil
}

// Ports returns the worker's side.
func (k *Kernel) Ports() []*rings.Queue { return k.queues }

// UMEM returns the memory that the ports share.
func (k *Kernel) UMEM() *rings.UMEM { return k.umem }

// Err returns the first rule that the worker's side broke: a frame given to
// the kernel that it has already, a bad descriptor.
func (k *Kernel) Err() error { return k.fault }

// Held is the number of frames that the kernel has, of all ports: taken from
// fill and tx rings, and not yet in rx and completion rings.
func (k *Kernel) Held() int {
	n := 0
	for _, h := range k.held {
		if h {
			n++
		}
	}
	return n
}

// Filled is the number of frames in a port's fill ring.
func (k *Kernel) Filled(port int) int { return k.sockets[port].fill.filled() }

// SetLink takes a port's link down or up. Down, it takes nothing to send and
// answers wake-ups with ENETDOWN.
func (k *Kernel) SetLink(port int, up bool) { k.sockets[port].down.Store(!up) }

// Arrive lets a packet come in by a port, and returns whether it will be
// received, if the rx ring has room then.
func (k *Kernel) Arrive(port int, packet []byte) bool {
	s := k.sockets[port]
	if s.closed || s.down.Load() || len(packet) > k.config.FrameSize-rings.Headroom || k.random.Float64() < k.config.Loss {
		s.stats[rxDropped].Add(1)
		return false
	}
	addr, ok := s.frame()
	if !ok {
		s.stats[fillEmpty].Add(1)
		return false
	}
	// As the kernel: whole chunks are taken, whatever address within them the
	// fill ring gives, and the packet starts behind the headroom.
	addr = addr&^uint64(k.config.FrameSize-1) + rings.Headroom
	copy(k.mem[addr:], packet)
	s.arriving.push(item{addr, uint32(len(packet)), k.due()})
	return true
}

// frame returns a frame to fill.
func (s *socket) frame() (uint64, bool) {
	if n := len(s.spare); n > 0 {
		addr := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return addr, true
	}
	if s.asleep {
		return 0, false
	}
	addr, ok := s.fill.take()
	if !ok {
		if s.asleep = s.kernel.config.NeedWakeup; s.asleep {
			s.fill.needWakeup(true)
		}
		return 0, false
	}
	return addr, s.kernel.hold(addr, "fill")
}

// hold notes that the kernel has a frame now. false: it had it before, or
// there is none of that number, which is a fault.
func (k *Kernel) hold(addr uint64, ring string) bool {
	id := addr / uint64(k.config.FrameSize)
	switch {
	case id >= uint64(len(k.held)):
		k.fail("%s ring: address %#x is outside the UMEM", ring, addr)
		return false
	case k.held[id]:
		k.fail("%s ring: frame %d is the kernel's already", ring, id)
		return false
	}
	k.held[id] = true
	return true
}

func (k *Kernel) fail(format string, args ...any) {
	if k.fault == nil {
		k.fault = fmt.Errorf(format, args...)
	}
}

// due is the step at which what begins now is done.
func (k *Kernel) due() uint64 { return k.now + uint64(k.random.IntN(k.config.Delay+1)) }

// Step lets a moment pass: what is due arrives and completes, and without
// Config.Copy the tx rings are looked at.
func (k *Kernel) Step() {
	k.now++
	for _, s := range k.sockets {
		if s.closed {
			continue
		}
		if s.woken[0].Swap(false) {
			s.asleep = false
			s.fill.needWakeup(false)
		}
		k.deliver(s)
		if !k.config.Copy && (!k.config.NeedWakeup || s.woken[1].Swap(false)) {
			k.send(s, len(s.tx.entries))
		}
		k.complete(s)
	}
}

// deliver puts what has arrived into the rx ring. What finds no room is lost;
// its frame is filled again.
func (k *Kernel) deliver(s *socket) {
	for {
		it, ok := s.arriving.due(k.now)
		if !ok {
			return
		}
		s.arriving.pop()
		k.held[it.addr/uint64(k.config.FrameSize)] = false
		if !s.rx.put(unix.XDPDesc{Addr: it.addr, Len: it.len}) {
			k.held[it.addr/uint64(k.config.FrameSize)] = true
			s.spare = append(s.spare, it.addr)
			s.stats[rxRingFull].Add(1)
			if k.Lost != nil {
				k.Lost(s.port, k.mem[it.addr:it.addr+uint64(it.len)])
			}
		}
	}
}

// send takes at most budget frames from a tx ring and returns whether more are
// waiting. As the kernel, it takes none that the completion ring may have no
// room for, and forgets those with a bad descriptor.
func (k *Kernel) send(s *socket, budget int) (more bool) {
	if s.down.Load() {
		return s.tx.filled() > 0
	}
	for range budget {
		if s.completion.filled()+s.sending.len() >= len(s.completion.entries) {
			break
		}
		d, ok := s.tx.take()
		if !ok {
			s.stats[txEmpty].Add(1)
			break
		}
		if end := d.Addr%uint64(k.config.FrameSize) + uint64(d.Len); d.Len == 0 || end > uint64(k.config.FrameSize) {
			s.stats[txInvalid].Add(1)
			k.fail("tx ring: %d bytes at %#x are not within a chunk", d.Len, d.Addr)
			continue
		}
		if !k.hold(d.Addr, "tx") {
			continue
		}
		if k.Wire != nil {
			k.Wire(s.port, k.mem[d.Addr:d.Addr+uint64(d.Len)])
		}
		s.sending.push(item{d.Addr, d.Len, k.due()})
	}
	return s.tx.filled() > 0
}

// complete puts what is sent into the completion ring.
func (k *Kernel) complete(s *socket) {
	lot := len(s.completion.entries)
	if k.config.Short {
		lot = k.random.IntN(9)
	}
	for range lot {
		it, ok := s.sending.due(k.now)
		if !ok {
			return
		}
		s.sending.pop()
		k.held[it.addr/uint64(k.config.FrameSize)] = false
		if !s.completion.put(it.addr) {
			k.fail("completion ring: no room for a frame that had its place reserved")
		}
	}
}

// WakeRx and WakeTx are the worker's wake-ups: see rings.Kernel.
func (s *socket) WakeRx() error {
	if err := s.answer(); err != nil {
		return err
	}
	s.woken[0].Store(true)
	return nil
}

// WakeTx sends at once in copy mode; else the next step does.
func (s *socket) WakeTx() error {
	if err := s.answer(); err != nil {
		return err
	}
	if !s.kernel.config.Copy {
		s.woken[1].Store(true)
		return nil
	}
	if s.kernel.send(s, skbBudget) {
		return unix.EAGAIN
	}
	return nil
}

// answer is what a wake-up is told instead of being heeded; nil: it is.
func (s *socket) answer() error {
	if s.down.Load() {
		return unix.ENETDOWN
	}
	if s.wakes.Float64() < s.kernel.config.Busy {
		return []unix.Errno{unix.EAGAIN, unix.EBUSY, unix.ENOBUFS}[s.wakes.IntN(3)]
	}
	return nil
}
