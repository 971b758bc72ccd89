// Package sched chooses the real server of a new connection, by the same rules
// as the kernel's schedulers and in the same order: Linux's
// net/netfilter/ipvs/ip_vs_NAME.c, whose facts are rows K-SCH-* of docs/IPVS.md.
// Each scheduler is a file that says its algorithm and, where there is one, the
// paper behind it.
//
// A Scheduler is one worker's state of one service and belongs to that worker.
// What is costly to work out (hash tables) is made once by Plan, off the
// workers, and shared by them read-only; what a node must agree on (the caches
// of lblc and lblcr) lives in the plan too, behind short striped locks.
package sched

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-lb/sluice/internal/clock"
	"github.com/sluice-lb/sluice/lb/flow"
)

// Dest is what a scheduler knows of a real server. The order of a slice is
// the kernel's list order, newest first (K-DST-2): servers are added at its
// head, and those that stay keep their order.
type Dest struct {
	ID         uint32 // the server's node-wide number, its key in Loads
	Addr       flow.Addr
	Port       uint16
	Weight     int32 // 0: no new connections (K-DST-6)
	LastWeight int32 // last weight that was not 0 (K-DST-5)
}

// Loads tells a worker how busy servers are, over all workers of the node.
type Loads interface {
	// Load returns the active and inactive connections of a server (K-CONN-7).
	Load(id uint32) (active, inactive int32)
	// Overloaded says whether a server has reached its upper threshold (K-DST-7).
	Overloaded(id uint32) bool
	// Changes returns what the worker itself has changed of that. What others
	// have changed is known by the batch: another number than before, and it may
	// be anything.
	Changes() (own Changes, batch uint64)
}

// Query is the packet that wants a server. Of an ICMP error that is scheduled
// by the packet it quotes (K-ICMP-4), Client is the quoted destination.
type Query struct {
	Client, Dest         flow.Addr
	ClientPort, DestPort uint16 // host order, 0 if the protocol has none
	Proto                uint8
	Now                  clock.Ticks
	Random               uint64 // uniform bits, read by twos alone
}

// Scheduler is one worker's state of one service.
type Scheduler interface {
	// Pick returns the index of the chosen server in the adopted slice, or -1
	// if no server is available.
	Pick(q *Query, l Loads) int
	// Adopt takes over the servers of a service after some were added, edited
	// or removed, and what Plan made of them. The slice stays as it is.
	Adopt(dests []Dest, plan any)
}

// Flags are a service's scheduler flags (K-SVC-4).
type Flags uint8

// The three flags that an operator may set, and those that the service implies.
const (
	Flag1     Flags = 1 << iota // sh-fallback, mh-fallback: not available, try another
	Flag2                       // sh-port, mh-port: the client's port enters the hash
	Flag3                       // without meaning to any scheduler
	ManyDests                   // the service takes any destination address (firewall mark): caches are made for many
	IPv4                        // the service is of IPv4: so are its servers' addresses, to mh
)

// ErrUnknown reports a scheduler name that is not in Names.
var ErrUnknown = errors.New("unknown scheduler")

// ErrFlag reports a flag name that a scheduler does not have.
var ErrFlag = errors.New("invalid scheduler flag")

// algorithm is one entry of the registry.
type algorithm struct {
	name string
	init func(Flags) Scheduler
	plan func(f Flags, dests []Dest, edits []Edit, previous any) any // nil: nothing to plan
}

// algorithms lists every scheduler of K-SVC-5.
var algorithms = []algorithm{
	{"rr", newRR, planRR},
	{"wrr", newWRR, planWRR},
	{"lc", newLC, planLeast},
	{"wlc", newWLC, planLeast},
	{"lblc", newLBLC, planCache},
	{"lblcr", newLBLCR, planCache},
	{"dh", newDH, planDH},
	{"sh", newSH, planSH},
	{"sed", newSED, planLeast},
	{"nq", newNQ, planLeast},
	{"fo", newFO, nil},
	{"ovf", newOVF, nil},
	{"mh", newMH, planMH},
	{"twos", newTwos, nil},
	{"none", newNone, nil},
}

func find(name string) *algorithm {
	i := slices.IndexFunc(algorithms, func(a algorithm) bool { return a.name == name })
	if i < 0 {
		return nil
	}
	return &algorithms[i]
}

// Names returns the names of all schedulers.
func Names() []string {
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = a.name
	}
	return names
}

// Heeds returns the flags that make a difference to a scheduler.
func Heeds(name string) Flags {
	if name == "sh" || name == "mh" {
		return Flag1 | Flag2
	}
	return 0
}

// New returns a scheduler without servers, or ErrUnknown. Flags that it does
// not heed may change under it.
func New(name string, flags Flags) (Scheduler, error) {
	a := find(name)
	if a == nil {
		return nil, fmt.Errorf("%w %q", ErrUnknown, name)
	}
	return a.init(flags), nil
}

// Plan works out what the workers' schedulers of a service share. It is called
// when the scheduler is bound to the service (previous nil) and each time
// servers were added, edited or removed: edits says how, one by one, since the
// previous plan. The result goes to Adopt with the same dests; it is nil for
// schedulers that need none and for unknown names.
func Plan(name string, flags Flags, dests []Dest, edits []Edit, previous any) any {
	a := find(name)
	if a == nil || a.plan == nil {
		return nil
	}
	return a.plan(flags, dests, edits, previous)
}

// flagWords are the flags' names of one scheduler, by bit.
func flagWords(scheduler string) [3]string {
	words := [3]string{"flag-1", "flag-2", "flag-3"}
	if scheduler == "sh" || scheduler == "mh" {
		words[0], words[1] = scheduler+"-fallback", scheduler+"-port"
	}
	return words
}

// ParseFlags returns the flags with the given names: flag-1 to flag-3, or
// sh-fallback and sh-port of sh and mh-fallback and mh-port of mh for the
// first two. Others give ErrFlag.
func ParseFlags(scheduler string, names []string) (Flags, error) {
	var f Flags
	own, plain := flagWords(scheduler), flagWords("")
	for _, name := range names {
		bit := max(slices.Index(own[:], name), slices.Index(plain[:], name))
		if bit < 0 {
			return 0, fmt.Errorf("%w `%s'", ErrFlag, name)
		}
		f |= 1 << bit
	}
	return f, nil
}

// Names returns the names of the flags, by bit, as the scheduler calls them.
func (f Flags) Names(scheduler string) []string {
	var names []string
	for bit, word := range flagWords(scheduler) {
		if f&(1<<bit) != 0 {
			names = append(names, word)
		}
	}
	return names
}

// available is the rule by which most schedulers skip servers.
func available(d *Dest, l Loads) bool { return d.Weight > 0 && !l.Overloaded(d.ID) }
