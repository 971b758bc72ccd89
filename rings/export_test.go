package rings

// PollRx makes a queue drive the NIC itself, as one bound in zero-copy mode
// with busy polling does.
func (q *Queue) PollRx() { q.pollRx = true }

// NewBond returns the port of a bond with these queues, by all of which frames leave.
func NewBond(u *UMEM, members ...*Queue) *Bond {
	p := &Bond{UMEM: u, name: "bond0", members: members, waits: -1}
	var indexes []int
	for i, q := range members {
		q.bound.Index = i
		indexes = append(indexes, i)
	}
	p.Use(indexes)
	return p
}

// Spread is spread.
func Spread(b []byte) uint64 { return spread(b) }
