package sched

const dhBits = 8

// dh hashes the destination address to 256 buckets that the servers share
// evenly, in list order (K-SCH-DH, ip_vs_dh.c): of use where a service takes many
// addresses. A server that is not available is not replaced.
func newDH(Flags) Scheduler {
	return &hashed{
		table: &table{},
		key:   func(q *Query) uint32 { return fold(&q.Dest) },
		slot:  func(key, _ uint32) uint32 { return hash32(key, dhBits) },
	}
}

func dhTable(dests []Dest) []uint16 {
	if len(dests) == 0 {
		return nil
	}
	slots := make([]uint16, 1<<dhBits)
	for i := range slots {
		slots[i] = uint16(i % len(dests))
	}
	return slots
}

func planDH(_ Flags, dests []Dest, _ []Edit, _ any) any { return &table{dests, dhTable(dests)} }
