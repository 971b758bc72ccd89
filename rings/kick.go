package rings

import (
	"errors"

	"golang.org/x/sys/unix"
)

const (
	// skbBudget is how many frames one sendto sends in copy mode on kernels
	// that have no XDP_MAX_TX_SKB_BUDGET, before it answers EAGAIN.
	skbBudget = 32
	// pauseTurns is for how many turns a queue leaves the kernel alone after
	// it said that the link is down.
	pauseTurns = 256
)

// kickFill wakes the kernel if it sleeps for want of frames to fill.
func (q *Queue) kickFill() {
	if q.pause == 0 && q.fill.needWakeup() {
		q.wakeRx()
	}
}

func (q *Queue) wakeRx() {
	q.stats.RxKicks++
	q.kicked(q.kernel.WakeRx())
}

// kickTx wakes the kernel if it sleeps with frames to send. EAGAIN after it
// took some of them means that it stopped at its budget: it is asked again, at
// most until a full ring is through.
func (q *Queue) kickTx() {
	if q.pause > 0 || !q.tx.needWakeup() {
		return
	}
	left := q.tx.pending()
	for range len(q.tx.entries)/skbBudget + 1 {
		q.stats.TxKicks++
		err := q.kernel.WakeTx()
		q.kicked(err)
		was := left
		if left = q.tx.pending(); left == 0 || left == was || !errors.Is(err, unix.EAGAIN) {
			return
		}
	}
}

// kicked counts what the kernel answered. No answer is fatal: a link that is
// down comes back, and an interface that is gone is for control to handle.
func (q *Queue) kicked(err error) {
	switch {
	case err == nil:
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR):
		q.stats.KickBusy++
	default:
		q.stats.KickErrors++
		q.pause = pauseTurns
	}
}
