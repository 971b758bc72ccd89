package sched

const shBits = 8

// sh hashes the client's address, with sh-port its port too, to 256 buckets
// (K-SCH-SH, ip_vs_sh.c). The servers take turns in list order at as many buckets as they
// have weight, at least one. With sh-fallback a server that is not available
// is replaced by that of another bucket.
func newSH(f Flags) Scheduler {
	s := &hashed{table: &table{}, fallback: f&Flag1 != 0, key: clientKey, slot: shSlot}
	if f&Flag2 != 0 {
		s.key = clientPortKey
	}
	return s
}

func shSlot(key, offset uint32) uint32 { return (offset + hash32(key, shBits)) % (1 << shBits) }

func shTable(dests []Dest) []uint16 {
	if len(dests) == 0 {
		return nil
	}
	slots := make([]uint16, 1<<shBits)
	i, taken := 0, int32(0)
	for slot := range slots {
		slots[slot] = uint16(i)
		if taken++; taken >= dests[i].Weight {
			i, taken = (i+1)%len(dests), 0
		}
	}
	return slots
}

func planSH(_ Flags, dests []Dest, _ []Edit, _ any) any { return &table{dests, shTable(dests)} }
