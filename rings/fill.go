package rings

// refill puts as many free frames into the fill ring as it holds. It runs also
// for a queue that only transmits: drivers stop, and steering that moves
// packets there would lose them, when the fill ring of a bound queue is empty.
func (q *Queue) refill() {
	u := q.umem
	n := q.fill.reserve(uint32(len(u.free)))
	if n == 0 {
		return
	}
	for i := range n {
		id := u.pop()
		u.owners.move(id, ownFree, ownFill)
		u.given[id] = q.number
		*q.fill.slot(i) = uint64(id) << u.shift
	}
	q.stats.InFill += int(n)
	q.fill.submit(n)
}
