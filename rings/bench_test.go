package rings

import (
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// silent is a kernel that never has to be woken.
type silent struct{}

func (silent) WakeRx() error                           { return nil }
func (silent) WakeTx() error                           { return nil }
func (silent) Statistics() (unix.XDPStatistics, error) { return unix.XDPStatistics{}, nil }
func (silent) FD() int                                 { return -1 }
func (silent) Close() error                            { return nil }

// BenchmarkQueue is what the four rings cost a packet that is received and sent, with
// the kernel's side of them on another processor: a goroutine that hands what is to be
// filled to rx, and what is to be sent to completion.
func BenchmarkQueue(b *testing.B) {
	const (
		size, frames = 2048, 8192
		producer     = 0
		consumer     = 64
		flags        = 128
		desc         = 192
		batch        = 64
	)
	off := unix.XDPRingOffset{Producer: producer, Consumer: consumer, Flags: flags, Desc: desc}
	m := Memory{RingSize: size, Offsets: unix.XDPMmapOffsets{Rx: off, Tx: off, Fr: off, Cr: off}}
	m.Fill, m.Completion = make([]byte, desc+size*8), make([]byte, desc+size*8)
	m.Rx, m.Tx = make([]byte, desc+size*16), make([]byte, desc+size*16)
	mem, err := unix.Mmap(-1, 0, frames*2048, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	u, err := NewUMEM(mem, 2048)
	if err != nil {
		b.Fatal(err)
	}
	q := NewQueue(u, m, silent{})
	var ended atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		farSide(&m, &ended)
	}()
	var f [batch]Frame
	b.ResetTimer()
	for n := 0; n < b.N; {
		got := q.Receive(f[:])
		if got > 0 {
			if sent := q.Transmit(f[:got]); sent < got {
				q.Release(f[sent:got])
			}
			n += got
		}
		q.Reclaim()
	}
	b.StopTimer()
	ended.Store(true)
	<-done
}

// farSide is the kernel's.
func farSide(m *Memory, ended *atomic.Bool) {
	fill, tx := inRing[uint64]{ring: mapRing[uint64](m.Fill, m.Offsets.Fr, m.RingSize)}, inRing[unix.XDPDesc]{ring: mapRing[unix.XDPDesc](m.Tx, m.Offsets.Tx, m.RingSize)}
	rx, completion := outRing[unix.XDPDesc]{ring: mapRing[unix.XDPDesc](m.Rx, m.Offsets.Rx, m.RingSize)}, outRing[uint64]{ring: mapRing[uint64](m.Completion, m.Offsets.Cr, m.RingSize)}
	for !ended.Load() {
		n := rx.reserve(fill.peek(64))
		for i := range n {
			*rx.slot(i) = unix.XDPDesc{Addr: *fill.slot(i) + Headroom, Len: 60}
		}
		fill.release(n)
		rx.submit(n)
		n = completion.reserve(tx.peek(64))
		for i := range n {
			*completion.slot(i) = tx.slot(i).Addr
		}
		tx.release(n)
		completion.submit(n)
	}
}
