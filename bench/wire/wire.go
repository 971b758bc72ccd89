// Package wire measures whole directors: client, director and server in
// network namespaces, joined by veth, the director on AF_XDP.
//
// The kernel itself sends, by BPF_PROG_TEST_RUN with live frames, and an XDP
// program at the server counts and drops: neither end costs what a socket
// would. Every run builds a network of its own, starts the forwarder, checks
// byte by byte that it forwards, measures, and takes everything down.
package wire

import (
	"context"
	"time"

	"github.com/sluice-lb/sluice/bench"
)

// Scenario is the name of what is measured: UDP packets of 60 bytes, in IPv4,
// of 10 000 clients' ports, as many as the generator can send.
const Scenario = "wire/nat/v4/10k/60B/flood"

// Scenarios are the names of all that is measured.
func Scenarios() []string {
	all := []string{Scenario}
	for _, f := range floods {
		all = append(all, FloodScenario+f.name)
	}
	for _, how := range allConns {
		all = append(all, ConnsScenario+how.name)
	}
	return all
}

// Config is what a measurement needs to know.
type Config struct {
	CPUs     bench.CPUs
	Duration time.Duration // of counting, a run
	Sluice   string        // path of the binary
	Testpmd  string        // path or name of DPDK's
}

// Cases returns a Case for each subject: sluice, DPDK's testpmd, and the
// generator alone, which is what the others can at most receive; and of sluice
// one for each flood.
func Cases(c Config) (cases []bench.Case) {
	for _, s := range subjects() {
		cases = append(cases, bench.Case{Scenario: Scenario, Subject: s.name, Measure: func(ctx context.Context) ([]bench.Sample, error) {
			return s.measure(ctx, &c)
		}})
	}
	return append(append(cases, floodCases(c)...), connsCases(c)...)
}

// Ratios compares sluice with testpmd, run by run.
func Ratios(all []bench.Series) []bench.Series {
	return append(connsRatios(all),
		bench.Ratio(all, Scenario, "received", Sluice, Testpmd),
		bench.Ratio(all, Scenario, "CPU time", Sluice, Testpmd),
	)
}

// Names of subjects.
const (
	Sluice    = "sluice"
	Conntrack = "nftables-dnat" // the kernel's, with conntrack
	IPVS      = "ipvs"          // the kernel's
	Testpmd   = "dpdk-testpmd"
	Generator = "generator" // alone: what the others can at most receive
)
