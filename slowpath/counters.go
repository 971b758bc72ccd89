package slowpath

import "sync/atomic"

// Fate is how a packet that was given to the slow path ended.
type Fate uint8

// Fates. Packets given = the sum over fates + those still held.
const (
	Passed            Fate = iota // the host's stack took it
	HostRefused                   // the host's stack did not
	Answered                      // dropped, an ICMP error sent in answer
	Unanswered                    // dropped without one; Errors says why
	Released                      // sent on, its next hop's address having become known
	NeighbourFailed               // dropped: its next hop did not answer
	HoldFull                      // dropped: too many packets wait; the oldest goes first
	HoldLost                      // dropped: its next hop became known, or what was learnt was forgotten, but nobody had room for it
	SplitLost                     // dropped: not all of its fragments could be sent
	Gathered                      // a fragment: its datagram is complete, a worker counts its end
	FragmentMalformed             // dropped: it contradicts itself or its datagram
	FragmentTiny                  // dropped: its transport header is cut (RFC 1858, RFC 8200)
	FragmentOverlap               // dropped: it covers others in part, or its datagram did (RFC 5722)
	FragmentDuplicate             // dropped: it was there already
	FragmentStale                 // dropped: too many others of its source came in between
	FragmentExpired               // dropped: its datagram was not completed in time
	FragmentCrowded               // dropped: the memory, or its source's share, was needed for newer ones
	Fates                         // how many there are
)

var fateNames = [Fates]string{
	Passed: "passed", HostRefused: "host_refused", Answered: "answered", Unanswered: "unanswered",
	Released: "transmitted", NeighbourFailed: "neighbour_failed", HoldFull: "hold_full", HoldLost: "hold_lost",
	SplitLost: "split_lost", Gathered: "gathered", FragmentMalformed: "fragment_malformed", FragmentTiny: "fragment_tiny",
	FragmentOverlap: "fragment_overlap", FragmentDuplicate: "fragment_duplicate", FragmentStale: "fragment_stale",
	FragmentExpired: "fragment_expired", FragmentCrowded: "fragment_crowded",
}

// String returns the fate's counter name.
func (f Fate) String() string {
	if f < Fates {
		return fateNames[f]
	}
	return "unknown"
}

// ErrorFate is how an ICMP error that was due ended.
type ErrorFate uint8

// Fates of ICMP errors. Errors due = the sum over them + those still held.
const (
	ErrorSent            ErrorFate = iota
	ErrorUnfit                     // not to be answered: an ICMP error itself, to or from a group, a later fragment, malformed
	ErrorLimited                   // the rate limit forbids it
	ErrorNoWay                     // no way to the packet's source, or no address to send from
	ErrorLost                      // it could not be sent
	ErrorNeighbourFailed           // its next hop did not answer
	ErrorFates                     // how many there are
)

var errorFateNames = [ErrorFates]string{
	ErrorSent: "sent", ErrorUnfit: "not_answerable", ErrorLimited: "rate_limited", ErrorNoWay: "no_way_back",
	ErrorLost: "lost", ErrorNeighbourFailed: "neighbour_failed",
}

// String returns the fate's counter name.
func (f ErrorFate) String() string {
	if f < ErrorFates {
		return errorFateNames[f]
	}
	return "unknown"
}

// Counters are a Path's counts since it was made.
type Counters struct {
	Packets    [Kinds][Fates]uint64 // packets given, by what was asked for them
	Errors     [ErrorFates]uint64   // ICMP errors that were due
	Held       int                  // packets that wait now
	HeldErrors int                  // ICMP errors of our own that wait now
}

// counts are the Counters while they move.
type counts struct {
	packets          [Kinds][Fates]atomic.Uint64
	errors           [ErrorFates]atomic.Uint64
	held, heldErrors atomic.Int64
}

func (p *Path) count(k Kind, f Fate)            { p.countMany(k, f, 1) }
func (p *Path) countMany(k Kind, f Fate, n int) { p.counts.packets[k][f].Add(uint64(n)) }
func (p *Path) countError(f ErrorFate)          { p.counts.errors[f].Add(1) }
func (p *Path) countHeld(own bool, n int64) {
	if own {
		p.counts.heldErrors.Add(n)
	} else {
		p.counts.held.Add(n)
	}
}

// Counters returns the counts so far; any goroutine may ask. While packets
// move, one that just ended may be missing.
func (p *Path) Counters() Counters {
	var c Counters
	for k := range c.Packets {
		for f := range c.Packets[k] {
			c.Packets[k][f] = p.counts.packets[k][f].Load()
		}
	}
	for f := range c.Errors {
		c.Errors[f] = p.counts.errors[f].Load()
	}
	c.Held, c.HeldErrors = int(p.counts.held.Load()), int(p.counts.heldErrors.Load())
	return c
}
