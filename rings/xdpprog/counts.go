package xdpprog

import "fmt"

// Reason is why a frame was redirected or passed.
type Reason uint8

// The reasons of steer.bpf.c. Those from ToService on redirect.
const (
	Other     = Reason(steerReasonPASS_OTHER)     // nobody of ours
	Group     = Reason(steerReasonPASS_GROUP)     // broadcast or multicast on the link
	Malformed = Reason(steerReasonPASS_MALFORMED) // cut short, lying lengths, more than 8 IPv6 extension headers
	NoSocket  = Reason(steerReasonPASS_NO_SOCKET) // to be redirected, but the queue has no socket
	Returned  = Reason(steerReasonPASS_RETURNED)  // handed back by the slow path
	Learnt    = Reason(steerReasonPASS_LEARNT)    // looks like a reply, but Learn said that it is the host's
	ToService = Reason(steerReasonHIT_SERVICE)    // to a service
	Marked    = Reason(steerReasonHIT_MARK)       // by a mark rule
	NATReply  = Reason(steerReasonHIT_REPLY)      // from a NAT real server
	Direct    = Reason(steerReasonHIT_DIRECT)     // from a service: a DR or TUN reply that comes through
	ICMPError = Reason(steerReasonHIT_ICMP)       // about packets of ours
	Fragment  = Reason(steerReasonHIT_FRAGMENT)   // of packets that may be ours
	IPsec     = Reason(steerReasonHIT_IPSEC)      // AH or ESP of a flagged address
	Echo      = Reason(steerReasonHIT_ECHO)       // an echo request to a flagged address
	Reasons   = Reason(steerReasonREASONS)        // their number
)

var reasonNames = [Reasons]string{"other", "group", "malformed", "no-socket", "returned", "learnt", "service", "mark", "reply", "direct", "icmp", "fragment", "ipsec", "echo"}

func (r Reason) String() string {
	if r >= Reasons {
		return fmt.Sprintf("reason %d", uint8(r))
	}
	return reasonNames[r]
}

// Redirects reports whether frames counted under r went to a socket's queue.
func (r Reason) Redirects() bool { return r >= ToService && r < Reasons }

// Count is the frames of one receive queue since Attach.
type Count struct {
	Ifindex            int
	Queue              int // -1: all queues beyond Options.Queues
	Redirected, Passed uint64
	ByReason           [Reasons]uint64
}

// Counts returns a row for each attached interface and queue that has seen a
// frame, by interface in the order of Attach, then by queue.
func (s *Steer) Counts() ([]Count, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []Count
	for _, a := range s.attachments {
		r, err := a.counts()
		if err != nil {
			return nil, err
		}
		rows = append(rows, r...)
	}
	return rows, nil
}

func (a *Attachment) counts() ([]Count, error) {
	var rows []Count
	var cpus []steerCount
	for row := range a.steer.queues + 1 {
		if err := a.loaded.Counts.Lookup(uint32(row), &cpus); err != nil {
			return nil, fmt.Errorf("XDP counts of interface %d: %w", a.ifindex, err)
		}
		c := Count{Ifindex: a.ifindex, Queue: row - 1}
		for _, cpu := range cpus {
			for r := range Reasons {
				c.ByReason[r] += cpu.Packets[r]
			}
		}
		for r, n := range c.ByReason {
			if Reason(r).Redirects() {
				c.Redirected += n
			} else {
				c.Passed += n
			}
		}
		if c.Redirected+c.Passed > 0 {
			rows = append(rows, c)
		}
	}
	return rows, nil
}
