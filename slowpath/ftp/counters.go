package ftp

import "sync/atomic"

// Refusal is why a packet of a command connection is dropped.
type Refusal uint8

// Refusals.
const (
	OverBudget   Refusal = iota // the worker's rate
	BadChecksum                 // of TCP: the kernel drops it too
	Malformed                   // TCP options that contradict themselves, where sequence numbers are shifted
	NoRoom                      // what is to be put into it does not fit its frame
	SessionsFull                // MaxSessions
	ExpectedFull                // MaxExpected
	Refusals                    // how many there are
)

var refusalNames = [Refusals]string{
	OverBudget: "over_budget", BadChecksum: "bad_checksum", Malformed: "malformed",
	NoRoom: "no_room", SessionsFull: "sessions_full", ExpectedFull: "expected_full",
}

// String returns the refusal's counter name.
func (r Refusal) String() string {
	if r < Refusals {
		return refusalNames[r]
	}
	return "unknown"
}

// Counters are a Node's counts since it was made, and what there is now.
type Counters struct {
	Sessions  int64  // command connections that have announced something, now
	Expected  int64  // announced connections that wait, now
	Announced uint64 // connections
	Begun     uint64 // of these
	Expired   uint64 // of these: nobody began them for 120 s
	Rewritten uint64 // replies that got the service's address or lost the server's

	Refused [Refusals]uint64 // packets dropped, by reason
}

// counts are the Counters while they move. None moves with each packet.
type counts struct {
	sessions                             atomic.Int64
	announced, begun, expired, rewritten atomic.Uint64
	refused                              [Refusals]atomic.Uint64
}

// refuse counts a packet that is dropped; it is false.
func (n *Node) refuse(why Refusal) bool {
	n.counts.refused[why].Add(1)
	return false
}

// Counters returns the counts so far; any goroutine may ask.
func (n *Node) Counters() Counters {
	k := &n.counts
	c := Counters{
		Sessions: k.sessions.Load(), Expected: n.live.Load(), Announced: k.announced.Load(),
		Begun: k.begun.Load(), Expired: k.expired.Load(), Rewritten: k.rewritten.Load(),
	}
	for r := range c.Refused {
		c.Refused[r] = k.refused[r].Load()
	}
	return c
}
