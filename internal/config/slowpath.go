package config

import (
	"math"
	"time"

	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/slowpath/frag"
)

// SlowPath bounds what the fast path gives away.
type SlowPath struct {
	HandBack   slowpath.Budget
	Unresolved slowpath.Budget
	ICMP       slowpath.Budget
	Fragments  slowpath.Budget
	Reassembly Reassembly
	Helpers    slowpath.Budget // its packets wait nowhere: Ring is 0
	Errors     slowpath.ICMPLimits
}

// Reassembly bounds the datagrams that wait for fragments.
type Reassembly struct {
	Memory   int           // bytes
	Share    int           // percent of it for each source
	Timeout  time.Duration // IPv4
	Timeout6 time.Duration
}

// Limits are r as the Reassembler takes them.
func (r *Reassembly) Limits() frag.Limits {
	return frag.Limits{Memory: r.Memory, Share: r.Share, Timeout4: r.Timeout, Timeout6: r.Timeout6}
}

// Budgets are those of all classes, by class.
func (s *SlowPath) Budgets() slowpath.Budgets {
	return slowpath.Budgets{
		slowpath.HandBack: s.HandBack, slowpath.Unresolved: s.Unresolved, slowpath.ICMP: s.ICMP, slowpath.Fragments: s.Fragments,
	}
}

// Bounds of a class's budget: a worker's ring of 65,536 frames is 128 MiB.
const (
	maxRing = 1 << 16
	maxRate = 10_000_000

	minReassembly = 256 << 10 // bytes: some datagrams of 64 KiB
	maxReassembly = 1 << 30
)

// slowPath is the section slowpath: a budget for each class, the bounds of
// reassembly, and the kernel's limits of ICMP errors by its names, its unit being the
// millisecond.
func slowPath(classes slowpath.Budgets, errors slowpath.ICMPLimits, r frag.Limits) shape {
	var keys []key
	for class, def := range classes {
		keys = append(keys, key{name: slowpath.Class(class).String(), shape: section(
			key{name: "ring", shape: powerOfTwo(16, maxRing), def: def.Ring},
			key{name: "rate", shape: integer(1, maxRate), def: def.Rate},
			key{name: "burst", shape: integer(1, maxRate), def: def.Burst},
		)})
	}
	keys = append(keys, key{name: "reassembly", shape: section(
		key{name: "memory", shape: integer(minReassembly, maxReassembly), def: r.Memory},
		key{name: "share", shape: integer(1, 100), def: r.Share},
		key{name: "timeout", shape: duration(time.Second, 10*time.Minute, time.Second, r.Timeout4), def: r.Timeout4},
		key{name: "timeout6", shape: duration(time.Second, 10*time.Minute, time.Second, r.Timeout6), def: r.Timeout6},
	)})
	keys = append(keys, key{name: "helpers", shape: section(
		key{name: "rate", shape: integer(1, maxRate), def: 10_000},
		key{name: "burst", shape: integer(1, maxRate), def: 1000},
	)})
	return section(append(keys, key{name: "errors", shape: section(
		key{name: "ratelimit", shape: duration(0, time.Minute, time.Millisecond, time.Second), def: errors.Ratelimit},
		key{name: "ratemask", shape: integer(0, math.MaxUint32), def: int(errors.Ratemask)},
		key{name: "msgs_per_sec", shape: integer(0, maxRate), def: errors.MsgsPerSec},
		key{name: "msgs_burst", shape: integer(1, maxRate), def: errors.MsgsBurst},
		key{name: "ratelimit6", shape: duration(0, time.Minute, time.Millisecond, time.Second), def: errors.Ratelimit6},
		key{name: "ratemask6", shape: icmpTypes(), def: errors.Ratemask6},
	)})...)
}

// icmpTypes is a set of ICMPv6 types, written as the kernel does.
func icmpTypes() shape {
	return shape{want: `ICMPv6 types like "0-1,3-127"`, scalar: func(tag, text string) (any, error) {
		if tag != tagText && tag != tagInt {
			return nil, errOther
		}
		return slowpath.ParseTypeSet(text)
	}}
}
