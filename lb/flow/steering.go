package flow

// DefaultIndirection is the length of the round-robin table that stands in
// for a NIC's own.
const DefaultIndirection = 128

// Steering says which worker owns a client's endpoint, the way a NIC does:
// Toeplitz hash, then an indirection table. It is immutable.
type Steering struct {
	hash    *Toeplitz
	table   []uint16 // hash modulo its length → worker
	workers int
}

// NewSteering returns the ownership rule for workers ≥ 1, equal to that of a
// NIC with this RSS key (40 or 52 bytes) and indirection table (queue i is
// worker i; a queue beyond the workers counts modulo their number). With a nil
// table it is 128 entries, round robin.
func NewSteering(workers int, key []byte, indirection []uint16) *Steering {
	s := &Steering{hash: NewToeplitz(key), workers: max(workers, 1)}
	n := len(indirection)
	if n == 0 {
		n = DefaultIndirection
	}
	s.table = make([]uint16, n)
	for i := range s.table {
		queue := i
		if len(indirection) > 0 {
			queue = int(indirection[i])
		}
		s.table[i] = uint16(queue % s.workers)
	}
	return s
}

// Owner returns the worker, 0 to Workers()-1, that owns the client's endpoint,
// whichever way the packet goes. The protocol does not enter: a NIC's hash of
// one endpoint does not see it.
func (s *Steering) Owner(_ uint8, client *Addr, port uint16) int {
	if s.workers == 1 {
		return 0
	}
	return int(s.table[s.hash.Hash(client, port)%uint32(len(s.table))])
}

// Workers returns the number of workers.
func (s *Steering) Workers() int { return s.workers }
