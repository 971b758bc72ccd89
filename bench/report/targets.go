package report

import (
	"fmt"
	"strings"

	"github.com/sluice-lb/sluice/bench"
)

// Target is a figure that sluice is to reach.
type Target struct {
	What     string
	Scenario string // whose record it is; one that ends in a slash: of all that begin so, the worst
	Subject  string
	Metric   string
	AtLeast  bool // else at most
	Limit    float64
	Unit     string
}

// Targets are all of them.
func Targets() []Target {
	const (
		sluice      = "sluice"
		wire        = "wire/full/v4/10k/60B"
		nothingLost = "wire/rate/v4/10k/60B"
		percent     = "wire/latency/v4/10k/60B/50"
	)
	return []Target{
		{"engine, NAT established, batch 64, 64 k connections", "engine/nat-in/v4/64k/steady/1", sluice, "time", false, 25, "ns/packet"},
		{"same, 1 M connections, uniform", "engine/nat-in/v4/1M/steady/1", sluice, "time", false, 45, "ns/packet"},
		{"same, 16 M connections, huge pages", "engine/nat-in/v4/16M/steady/1", sluice, "time", false, 60, "ns/packet"},
		{"new connections, wlc, 100 servers, 1 M live", "engine/nat-in/v4/1M/new/1", sluice, "time", false, 250, "ns each"},
		{"new connections, mh, 100 servers, 1 M live", "engine/nat-in/v4/1M/new-mh/1", sluice, "time", false, 250, "ns each"},
		{"memory, all included, v4 and v6", "engine/", sluice, "memory", false, 128, "bytes a connection"},
		{"2 workers over 1, 64 k connections", "engine/nat-in/v4/64k/steady/2", "2 workers / 1", "rate", true, 1.95, ""},
		{"2 workers over 1, 1 M connections", "engine/nat-in/v4/1M/steady/2", "2 workers / 1", "rate", true, 1.95, ""},
		{"cost of 10 k services and 10 k servers over 1", "engine/nat-in/v4/64k/steady/1/10kx10k", "10kx10k / 1x1", "time", false, 1.1, ""},
		{"wire, NAT: packets a second over the C AF_XDP forwarder's", wire, "sluice-nat / l2fwd", "received", true, 0.97, ""},
		{"wire, NAT: CPU time a packet over nftables DNAT with conntrack", nothingLost, "sluice-nat / nft-dnat", "CPU time", false, 0.45, ""},
		{"wire, p99.9 latency at 50 % load over ip_forward's", percent, "sluice-nat / kernel-forward", "one way p99.9", false, 1, ""},
		{"allocations on the packet's way", "engine/", sluice, "allocations", false, 0, "a packet"},
		{"GC pause seen by a packet", "engine/soak/", sluice, "longest batch beside a GC cycle", false, 100, "µs"},
	}
}

// found returns the record that tells; ok: there is one.
func (t *Target) found(records []bench.Record) (worst bench.Record, ok bool) {
	for _, r := range records {
		of := r.Scenario == t.Scenario || strings.HasSuffix(t.Scenario, "/") && strings.HasPrefix(r.Scenario, t.Scenario)
		if !of || r.Subject != t.Subject || r.Metric != t.Metric {
			continue
		}
		if !ok || t.ratio(&r) > t.ratio(&worst) != t.AtLeast {
			worst, ok = r, true
		}
	}
	return worst, ok
}

// ratio is what was measured over what was wanted; of 0, what was measured.
func (t *Target) ratio(r *bench.Record) float64 {
	if t.Limit == 0 {
		return r.Median
	}
	return r.Median / t.Limit
}

// met says whether a record reaches the target.
func (t *Target) met(r *bench.Record) bool {
	if t.AtLeast {
		return r.Median >= t.Limit
	}
	return r.Median <= t.Limit
}

// targetTable is all targets beside what was measured.
func targetTable(records []bench.Record) string {
	rows := [][]string{{"what", "target", "measured", "measured / target", "met"}}
	for _, t := range Targets() {
		sign := "≤"
		if t.AtLeast {
			sign = "≥"
		}
		row := []string{t.What, strings.TrimSpace(fmt.Sprintf("%s %g %s", sign, t.Limit, t.Unit)), "–", "–", "not measured"}
		if r, ok := t.found(records); ok {
			row[2], row[4] = spread(&r), "no"
			if t.Limit != 0 {
				row[3] = bench.Number(t.ratio(&r))
			}
			if t.met(&r) {
				row[4] = "yes"
			}
		}
		rows = append(rows, row)
	}
	return markdown(rows)
}
