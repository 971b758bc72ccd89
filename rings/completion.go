package rings

// complete takes all frames that were sent back to the free stack, at once.
func (q *Queue) complete() int {
	n := q.completion.peek(uint32(len(q.completion.entries)))
	if n == 0 {
		return 0
	}
	u := q.umem
	for i := range n {
		id := u.id(*q.completion.slot(i))
		u.owners.move(id, ownTx, ownCompletion)
		u.owners.move(id, ownCompletion, ownFree)
		u.push(id)
	}
	q.completion.release(n)
	q.stats.InTx -= int(n)
	return int(n)
}
