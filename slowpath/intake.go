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
	Classes                 // how many there are
)

var classNames = [Classes]string{HandBack: "hand_back", Unresolved: "unresolved", ICMP: "icmp"}

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
	case Host:
		return HandBack
	case NoNeighbour:
		return Unresolved
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
// and tokens. The worker's goroutine fills it, the slow path's empties it.
// What is refused is refused before it is copied, so that a flood costs the
// worker next to nothing.
type Intake struct {
	Refused Refused // the worker's

	lanes [Classes]lane
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
	in := &Intake{}
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

// Idle says whether nothing waits in it. It is the slow path's to ask.
func (in *Intake) Idle() bool {
	for c := range in.lanes {
		if _, _, ok := in.lanes[c].ring.Front(); ok {
			return false
		}
	}
	return true
}

// Take handles at most most packets of each class of an Intake, and says
// whether there was any.
func (p *Path) Take(in *Intake, most int) (busy bool) {
	for c := range in.lanes {
		ring := in.lanes[c].ring
		for range most {
			m, frame, ok := ring.Front()
			if !ok {
				break
			}
			p.Handle(m, frame)
			ring.Release()
			busy = true
		}
	}
	return busy
}
