package conn

import (
	"math"
	"math/bits"

	"github.com/sluice-lb/sluice/internal/clock"
)

// The wheel has six levels of 64 slots. A slot of level l spans 64^l ticks and
// starts at a multiple of that; all of a slot's connections are looked at when
// the wheel reaches its start. Each then expires, or is linked again by the
// time at which it does by now expire. So an entry's slot never starts after
// its expiry, and until then re-arming need not touch the wheel.
const (
	levels    = 6
	levelBits = 6
	levelMask = 1<<levelBits - 1
)

// timer is a connection's place in the wheel, 16 bytes: a doubly linked list
// by ID.
type timer struct {
	next, prev ID          // 0: none; prev is the entry's own ID while expire has it, free when it is deleted
	due        clock.Ticks // start of its slot, which also says which slot that is
	holds      uint32      // connections it controls (n_control)
}

// free as timer.prev marks an entry that is not in use.
const free = ^ID(0)

type wheel struct {
	now   clock.Ticks // all slots that start earlier are empty
	heads [levels][levelMask + 1]ID
	full  [levels]uint64 // a bit for each slot that is not empty
}

// before reports whether a is earlier than b.
func before(a, b clock.Ticks) bool { return int32(a-b) < 0 }

// start returns the start of the slot for an entry that expires at tick e: the
// coarsest one between now and e that is not beyond e. What is due already
// goes to the next tick.
func (w *wheel) start(e clock.Ticks) clock.Ticks {
	if !before(w.now, e) {
		e = w.now + 1
	}
	level := (bits.Len32(uint32(e^w.now)) - 1) / levelBits
	return e &^ (1<<(level*levelBits) - 1)
}

// at returns level and slot that start at tick s. Above the level in question
// s agrees with now, below it is zero, so s alone tells.
func at(s clock.Ticks) (level int, slot clock.Ticks) {
	level = bits.TrailingZeros32(uint32(s)) / levelBits
	return level, s >> (level * levelBits) & levelMask
}

// following returns the start of the next slot after now that is not empty;
// false if there is none. The slots of a level all start before those of the
// next level do, up to the wrap of the last.
func (w *wheel) following() (clock.Ticks, bool) {
	for level, full := range w.full {
		shift := level * levelBits
		slot := w.now >> shift & levelMask
		if rest := full >> slot >> 1; rest != 0 {
			slot += 1 + clock.Ticks(bits.TrailingZeros64(rest))
			return w.now>>shift&^levelMask<<shift | slot<<shift, true
		}
	}
	if top := w.full[levels-1]; top != 0 {
		return clock.Ticks(bits.TrailingZeros64(top)) << ((levels - 1) * levelBits), true
	}
	return 0, false
}

// current returns the first entry of the slot that starts now.
func (w *wheel) current() ID {
	level, slot := at(w.now)
	return w.heads[level][slot]
}

// arm links connection id by its Stamp and Timeout.
func (t *Table) arm(id ID) {
	c, n := &t.conns[id], &t.timers[id]
	n.due = t.wheel.start(c.Stamp + c.Timeout)
	level, slot := at(n.due)
	head := &t.wheel.heads[level][slot]
	n.next, n.prev = *head, 0
	if *head != 0 {
		t.timers[*head].prev = id
	}
	*head = id
	t.wheel.full[level] |= 1 << slot
}

// disarm takes connection id off the wheel, if it is on it.
func (t *Table) disarm(id ID) {
	n := &t.timers[id]
	if n.prev == id {
		return
	}
	if n.next != 0 {
		t.timers[n.next].prev = n.prev
	}
	if n.prev != 0 {
		t.timers[n.prev].next = n.next
		return
	}
	level, slot := at(n.due)
	t.wheel.heads[level][slot] = n.next
	if n.next == 0 {
		t.wheel.full[level] &^= 1 << slot
	}
}

// Touch re-arms a connection with the timeout it has. now must not be before the
// last Stamp.
func (t *Table) Touch(id ID, now clock.Ticks) { t.conns[id].stamp(now) }

// stamp re-arms c. What the fast path noted is void: by the Stamp it tells from when
// a Note is, and so it alone stamps connections that keep theirs.
func (c *Conn) stamp(now clock.Ticks) {
	c.Stamp = now
	if c.Flags&Followed == 0 {
		c.Note = 0
	}
}

// SetTimeout re-arms a connection with another timeout, which counts as
// MaxTimeout if it is longer. The wheel is touched only if the connection now
// expires before its slot would be looked at.
func (t *Table) SetTimeout(id ID, timeout, now clock.Ticks) {
	c := &t.conns[id]
	c.stamp(now)
	c.Timeout = min(timeout, MaxTimeout)
	if before(now+c.Timeout, t.timers[id].due) {
		t.disarm(id)
		t.arm(id)
	}
}

// Advance runs the wheel to now. Each connection that is due is handed to
// expire, tick by tick in order. expire returns the ticks by which to re-arm it
// from that tick on (K-CONN-6: HeldTicks while it controls others), or 0 after
// it called Delete on it; one that is neither deleted nor re-armed is due again
// at the next tick. expire may insert, delete and re-arm other connections too.
// At most budget entries are looked at in a call (0: no limit); more is true if
// it stopped for that, and the next call goes on from there. A now before the
// last one changes nothing.
func (t *Table) Advance(now clock.Ticks, budget int, expire func(id ID) clock.Ticks) (more bool) {
	w := &t.wheel
	if budget <= 0 {
		budget = math.MaxInt
	}
	t.reminded = t.reminded && before(now, t.reminder)
	for t.len > 0 && !before(now, w.now) {
		for id := w.current(); id != 0; id = w.current() {
			if budget == 0 {
				return true
			}
			budget--
			t.look(id, expire)
		}
		next, ok := w.following()
		if !ok || before(now, next) {
			break
		}
		w.now = next
	}
	if t.len == 0 || before(w.now, now) {
		w.now = now
	}
	return false
}

// look takes an entry off the slot that starts now and expires it or links it
// again.
func (t *Table) look(id ID, expire func(id ID) clock.Ticks) {
	t.disarm(id)
	c, tick := &t.conns[id], t.wheel.now
	if before(tick, c.Stamp+c.Timeout) {
		t.arm(id)
		return
	}
	t.timers[id].prev = id
	again := expire(id)
	if t.timers[id].prev == id {
		c.stamp(tick)
		c.Timeout = min(max(again, 1), MaxTimeout)
		t.arm(id)
	}
}

// Remind has NextDue name at too, until Advance has run to it: the table's owner
// has work of its own then. The last one counts.
func (t *Table) Remind(at clock.Ticks) { t.reminder, t.reminded = at, true }

// NextDue returns the tick at which Advance next has work, which may turn out
// to be nothing but re-armed timers; false if the table is empty and no reminder
// was left.
func (t *Table) NextDue() (clock.Ticks, bool) {
	if t.wheel.current() != 0 {
		return t.wheel.now, true
	}
	due, ok := t.wheel.following()
	if t.reminded && (!ok || before(t.reminder, due)) {
		return t.reminder, true
	}
	return due, ok
}
