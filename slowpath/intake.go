package slowpath

import "github.com/sluice-lb/sluice/internal/spsc"

// Class is a part of the slow path's work with room and a rate of its own, so
// that a flood of one leaves the others theirs.
type Class uint8

// Classes.
const (
	HandBack   Class = iota // packets for the host's stack
	Unresolved              // packets that wait for a neighbour
	ICMP                    // packets to answer
	Fragments               // fragments, and packets to be fragmented
	Classes                 // how many there are
)

var classNames = [Classes]string{HandBack: "hand_back", Unresolved: "unresolved", ICMP: "icmp", Fragments: "fragments"}

// String returns the class's name, as in the configuration and in counters.
func (c Class) String() string {
	if c < Classes {
		return classNames[c]
	}
	return "unknown"
}

// Class returns whose budget a packet of this kind is on.
func (k Kind) Class() Class {
	switch k {
	case Host, Elsewhere:
		return HandBack
	case NoNeighbour:
		return Unresolved
	case Fragment, Oversize:
		return Fragments
	}
	return ICMP
}

// Budget bounds what one worker gives the slow path of a class.
type Budget struct {
	Ring  int // packets that wait, a power of two
	Rate  int // packets a second in the long run; 0: no limit
	Burst int // packets at once
}

// Budgets are those of all classes.
type Budgets [Classes]Budget

// DefaultBudgets are those of a live node whose configuration says nothing.
func DefaultBudgets() Budgets {
	return Budgets{
		HandBack:   {Ring: 1024, Rate: 100_000, Burst: 4000},
		Unresolved: {Ring: 256, Rate: 10_000, Burst: 1000},
		ICMP:       {Ring: 256, Rate: 10_000, Burst: 1000},
		Fragments:  {Ring: 1024, Rate: 200_000, Burst: 8000},
	}
}

// Refusal is why a packet did not get into the slow path.
type Refusal uint8

// Refusals.
const (
	OverBudget Refusal = iota // the class's rate
	RingFull                  // the slow path did not keep up
	TooLong                   // the frame is longer than the ring's slots
	Refusals                  // how many there are
)

var refusalNames = [Refusals]string{OverBudget: "over_budget", RingFull: "ring_full", TooLong: "too_long"}

// String returns the refusal's name, as in counters.
func (r Refusal) String() string {
	if r < Refusals {
		return refusalNames[r]
	}
	return "unknown"
}

// Refused counts the packets that did not get in.
type Refused [Classes][Refusals]uint64

// Intake is one worker's way into the slow path: of each class a ring of copies,
// and tokens. The worker's goroutine fills it, the slow path's empties it. Datagrams that
// the slow path put together go by it to the worker and back.
// What is refused is refused before it is copied, so that a flood costs the
// worker next to nothing.
type Intake struct {
	Refused Refused // the worker's

	lanes [Classes]lane
	lent  *spsc.Ring[*Datagram] // to the worker; both have room for all that there are
	back  *spsc.Ring[*Datagram]
}

// lane is an Intake's part for one class.
type lane struct {
	ring *spsc.Ring[Meta]
	pace pace
	left bucket
}

// NewIntake returns an empty Intake for frames of at most frameBytes. It
// panics if a ring's size is not a power of two.
func NewIntake(b Budgets, frameBytes int) *Intake {
	in := &Intake{lent: spsc.New[*Datagram](datagrams, 0), back: spsc.New[*Datagram](datagrams, 0)}
	for c := range in.lanes {
		in.lanes[c] = lane{ring: spsc.New[Meta](b[c].Ring, frameBytes), pace: newPace(b[c].Rate, b[c].Burst)}
	}
	return in
}

// Reserve returns a place for a packet of n bytes, what goes with it and its
// buffer, for the worker to fill; nil: it is refused, which is counted. now is
// clock.Clock's, in nanoseconds; a token is taken even if nothing is committed.
func (in *Intake) Reserve(k Kind, n int, now int64) (*Meta, []byte) {
	c := k.Class()
	l := &in.lanes[c]
	if !l.left.has(l.pace, now) {
		in.Refused[c][OverBudget]++
		return nil, nil
	}
	m, buf, ok := l.ring.Reserve()
	switch {
	case !ok:
		in.Refused[c][RingFull]++
		return nil, nil
	case n > len(buf):
		in.Refused[c][TooLong]++
		return nil, nil
	}
	l.left.take(l.pace, now)
	return m, buf
}

// Commit hands over the packet of n bytes for which Reserve gave a place.
func (in *Intake) Commit(k Kind, n int) { in.lanes[k.Class()].ring.Commit(n) }

// Lend gives the worker a datagram; it has to be woken then. It is the slow path's to
// call.
func (in *Intake) Lend(d *Datagram) { put(in.lent, d) }

// Borrow returns the next datagram that the slow path put together, for the worker to send
// through its pipeline and to give back; nil: there is none.
func (in *Intake) Borrow() *Datagram { return take(in.lent) }

// Lent returns how many datagrams wait for the worker.
func (in *Intake) Lent() int { return in.lent.Len() }

// GiveBack returns a datagram to the slow path, which has to be woken then.
func (in *Intake) GiveBack(d *Datagram) { put(in.back, d) }

func put(r *spsc.Ring[*Datagram], d *Datagram) {
	slot, _, ok := r.Reserve()
	if !ok {
		panic("slowpath: more datagrams in a ring than there are")
	}
	*slot = d
	r.Commit(0)
}

func take(r *spsc.Ring[*Datagram]) *Datagram {
	slot, _, ok := r.Front()
	if !ok {
		return nil
	}
	d := *slot
	r.Release()
	return d
}

// blocked says whether packets of a class have to wait: fragments, while all
// memory for datagrams is lent. It comes back by rings that are looked at first.
func (p *Path) blocked(c Class) bool { return c == Fragments && len(p.frags.free) == 0 }

// Idle says whether there is nothing in an Intake that can be handled now.
func (p *Path) Idle(in *Intake) bool {
	for c := range in.lanes {
		if _, _, ok := in.lanes[c].ring.Front(); ok && !p.blocked(Class(c)) {
			return false
		}
	}
	return in.back.Len() == 0
}

// Take handles the datagrams that came back by an Intake and at most most packets of
// each class, and says whether there was anything.
func (p *Path) Take(in *Intake, most int) (busy bool) {
	for d := take(in.back); d != nil; d = take(in.back) {
		p.takeBack(d)
		busy = true
	}
	for c := range in.lanes {
		ring := in.lanes[c].ring
		for range most {
			m, frame, ok := ring.Front()
			if !ok || p.blocked(Class(c)) {
				break
			}
			p.Handle(m, frame)
			ring.Release()
			busy = true
		}
	}
	return busy
}
