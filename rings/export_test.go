package rings

// PollRx makes a queue drive the NIC itself, as one bound in zero-copy mode
// with busy polling does.
func (q *Queue) PollRx() { q.pollRx = true }
