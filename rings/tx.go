package rings

import "golang.org/x/sys/unix"

// Transmit queues frames: see Port. A frame that the kernel would refuse never
// comes back by the completion ring, so it is freed here, and counted.
func (q *Queue) Transmit(b []Frame) int {
	n := q.tx.reserve(uint32(len(b)))
	u := q.umem
	sent, bytes := uint32(0), uint64(0)
	for i := range b[:n] {
		f := &b[i]
		if f.Len == 0 || uint64(f.Off)+uint64(f.Len) > 1<<u.shift {
			u.Release(b[i : i+1])
			continue
		}
		u.owners.move(f.ID, ownBatch|ownSlow, ownTx)
		u.given[f.ID] = q.number
		*q.tx.slot(sent) = unix.XDPDesc{Addr: uint64(f.ID)<<u.shift + uint64(f.Off), Len: f.Len}
		sent++
		bytes += uint64(f.Len)
	}
	q.stats.TxFull += uint64(len(b)) - uint64(n)
	q.stats.TxRefused += uint64(n - sent)
	if sent == 0 {
		return int(n)
	}
	q.stats.InTx += int(sent)
	q.stats.TxPackets += uint64(sent)
	q.stats.TxBytes += bytes
	q.tx.submit(sent)
	q.kickTx()
	return int(n)
}
