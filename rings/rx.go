package rings

// Receive takes what has arrived: see Port.
func (q *Queue) Receive(b []Frame) int {
	n := q.rx.peek(uint32(len(b)))
	if n == 0 {
		if q.pollRx && len(b) > 0 {
			q.wakeRx()
		}
		return 0
	}
	u := q.umem
	bytes := uint64(0)
	for i := range n {
		d := q.rx.slot(i)
		id := u.id(d.Addr)
		u.owners.move(id, ownFill, ownBatch)
		f := &b[i] // field by field: a whole one goes by the stack, in pieces that stall its copying
		f.Chunk, f.Off, f.Len, f.ID = u.chunk(id), uint32(d.Addr)&(1<<u.shift-1), d.Len, id
		bytes += uint64(d.Len)
	}
	q.rx.release(n)
	q.stats.InFill -= int(n)
	q.stats.RxPackets += uint64(n)
	q.stats.RxBytes += bytes
	return int(n)
}
