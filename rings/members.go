package rings

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A member joins a bond by Set.Join and Bond.Add, and leaves by Bond.Remove, Set.Leave
// and UMEM.Reclaim, in this order. Set's part is the kernel's work: it may take long,
// and is done beside the worker, by one goroutine. Bond's and UMEM's part is the
// worker's, and short.

// laneFrames is the room of a lane: the largest batch.
const laneFrames = 256

// newBond returns the port of a bond without members.
func newBond(name string, u *UMEM) (*Bond, error) {
	waits, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll of %s: %w", name, err)
	}
	return &Bond{UMEM: u, name: name, waits: waits}, nil
}

// Bond returns the port of this bond; nil: it has none.
func (s *Set) Bond(name string) *Bond {
	for _, p := range s.Ports {
		if b, ok := p.(*Bond); ok && b.name == name {
			return b
		}
	}
	return nil
}

// Join opens a queue for a bond's new member. An error says what to do.
func (s *Set) Join(i Interface) (*Queue, error) {
	entries := i.RingSize
	for _, q := range s.Queues {
		entries += len(q.fill.entries)
	}
	if s.UMEM.Frames() < 2*entries {
		return nil, fmt.Errorf("workers.umem_frames is %d: want %d or more with %s, twice the ring_size of all interfaces and members together",
			s.UMEM.Frames(), 2*entries, i.Name)
	}
	opening.Lock()
	defer opening.Unlock()
	var k *socket
	err := retryBusy(func() (err error) { k, err = s.next(&i); return err })
	if err != nil {
		return nil, bindError(&i, s.zeroCopy, err)
	}
	return s.queue(&i, k)
}

// Leave closes a queue that its bond has removed.
func (s *Set) Leave(q *Queue) error {
	s.Queues = slices.DeleteFunc(s.Queues, func(o *Queue) bool { return o == q })
	return q.Close()
}

// adopt gives q a number, by which Reclaim knows its frames, and fills its fill ring.
func (u *UMEM) adopt(q *Queue) error {
	n := slices.Index(u.queues, nil)
	if n < 0 {
		n, u.queues = len(u.queues), append(u.queues, nil)
	}
	if n > math.MaxUint8 {
		return fmt.Errorf("a UMEM has at most %d queues", math.MaxUint8+1)
	}
	u.queues[n], q.number = q, uint8(n)
	q.refill()
	return nil
}

// Add makes q a member's. Nothing leaves by it before Use says so.
func (p *Bond) Add(q *Queue) error {
	if err := unix.EpollCtl(p.waits, unix.EPOLL_CTL_ADD, q.FD(), &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return fmt.Errorf("epoll of %s: %w", p.name, err)
	}
	p.members = append(p.members, q)
	return p.adopt(q)
}

// Use has frames leave by the members of these kernel indexes alone.
func (p *Bond) Use(ifindexes []int) {
	p.send, p.lanes = nil, nil
	for _, q := range p.members {
		if slices.Contains(ifindexes, q.bound.Index) {
			p.send, p.lanes = append(p.send, q), append(p.lanes, make([]Frame, 0, laneFrames))
		}
	}
}

// Remove ends the use of a member's queue, which has to be given up next. What it
// received and nobody took is dropped, and counted as rx_dropped.
func (p *Bond) Remove(q *Queue) {
	_ = unix.EpollCtl(p.waits, unix.EPOLL_CTL_DEL, q.FD(), nil) // or the kernel does, at its end
	var indexes []int
	for _, m := range p.send {
		if m != q {
			indexes = append(indexes, m.bound.Index)
		}
	}
	p.members = slices.DeleteFunc(p.members, func(o *Queue) bool { return o == q })
	p.Use(indexes)

	last, frames := q.Stats(), make([]Frame, laneFrames)
	for n := q.Receive(frames); n > 0; n = q.Receive(frames) {
		p.Release(frames[:n])
		last.RxDropped += uint64(n)
	}
	last.InFill, last.InTx, last.Free = 0, 0, 0
	p.gone.add(&last)
}

// Reclaim frees what a closed queue had, in its rings or in the kernel, and returns
// how many frames that were. Between two batches all others are free, or given to
// another queue.
func (u *UMEM) Reclaim(q *Queue) (n int) {
	if u.queues[q.number] != q {
		return 0 // it was never used
	}
	free := make([]bool, u.Frames())
	for _, id := range u.free {
		free[id] = true
	}
	u.queues[q.number] = nil
	for id, to := range u.given {
		if to == q.number && !free[id] {
			u.owners.move(uint32(id), ownFill|ownTx, ownFree)
			u.push(uint32(id))
			n++
		}
	}
	return n
}

// Stats returns the sum of the members' counters, with those of members that left:
// see Port.
func (p *Bond) Stats() PortStats {
	sum := p.gone
	for _, q := range p.members {
		s := q.Stats()
		sum.add(&s)
	}
	sum.Free = p.UMEM.Free()
	return sum
}

// add adds all counters of o.
func (s *PortStats) add(o *PortStats) {
	sum, more := reflect.ValueOf(s).Elem(), reflect.ValueOf(o).Elem()
	for i := range sum.NumField() {
		if f := sum.Field(i); f.CanUint() {
			f.SetUint(f.Uint() + more.Field(i).Uint())
		} else {
			f.SetInt(f.Int() + more.Field(i).Int())
		}
	}
}

// Close closes the members' queues: see Port.
func (p *Bond) Close() error {
	var errs []error
	for _, q := range p.members {
		errs = append(errs, q.Close())
	}
	p.members, p.send = nil, nil
	return errors.Join(append(errs, unix.Close(p.waits))...)
}

// retryBusy tries again for up to a second while a queue is busy: the kernel frees
// that of a socket that was just closed, or of a process that was just killed, in the
// background.
func retryBusy(try func() error) error {
	for tries := 0; ; tries++ {
		err := try()
		if !errors.Is(err, unix.EBUSY) || tries == 50 {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
