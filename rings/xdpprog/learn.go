package xdpprog

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
)

// MaxLearnt is how many flows are learnt before all are forgotten.
const MaxLearnt = 16384

// Flow is what the packets of one direction of a flow have in common.
type Flow struct {
	Proto            uint8 // TCP, UDP or SCTP
	Src, Dst         Addr
	SrcPort, DstPort uint16 // host order
}

// memory is of the flows that look like replies and are the host's.
type memory struct {
	mu         sync.Mutex
	generation atomic.Uint32 // never 0; written under mu
	learnt     int           // flows of this generation
}

// Learn has the program pass a flow that it takes for replies (NATReply, Direct),
// on every interface, until the next Forget. generation is what Generation was
// when the flow was found to be nobody's: if it is another by now, nothing is
// learnt. After MaxLearnt flows all are forgotten.
func (s *Steer) Learn(f Flow, generation uint32) error {
	m := &s.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if generation != m.generation.Load() {
		return nil
	}
	if m.learnt == MaxLearnt {
		return s.forget()
	}
	key := steerFlow{Src: words(f.Src), Dst: words(f.Dst), Sport: wire(f.SrcPort), Dport: wire(f.DstPort), Proto: f.Proto}
	if !netip.AddrFrom16(f.Src).Is4In6() {
		key.V6 = 1
	}
	err := s.shared.Learnt.Put(&key, &generation)
	if err == nil && m.learnt == 0 {
		err = s.shared.Learning.Put(uint32(0), generation)
	}
	if err != nil {
		return fmt.Errorf("learn a flow of the host's: %w", err)
	}
	m.learnt++
	return nil
}

// Forget makes void what was learnt. When it returns, no packet is passed on
// account of that any more but those that the program has before it, and
// Generation is another. After an error what was learnt still holds.
func (s *Steer) Forget() error {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	return s.forget()
}

func (s *Steer) forget() error {
	m := &s.memory
	if m.learnt > 0 {
		if err := s.shared.Learning.Put(uint32(0), uint32(0)); err != nil {
			return fmt.Errorf("forget flows of the host's: %w", err)
		}
	}
	m.learnt = 0
	if m.generation.Add(1) == 0 {
		m.generation.Add(1)
	}
	return nil
}

// Generation is where the number of the present generation stands, which is
// never 0. What is found out under one generation can be learnt in that one only.
func (s *Steer) Generation() *atomic.Uint32 { return &s.memory.generation }

// wire is a port as the program reads it.
func wire(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}
