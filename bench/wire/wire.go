// Package wire measures whole directors: client, director and server in
// network namespaces, joined by veth, the director on AF_XDP or the kernel itself.
//
// The kernel itself sends, by BPF_PROG_TEST_RUN with live frames, and an XDP
// program at the server counts and drops: neither end costs what a socket
// would. Every run builds a network of its own, starts the forwarder, checks
// byte by byte that it forwards, measures, and takes everything down.
package wire

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-lb/sluice/bench"
)

// Config is what a measurement needs to know.
type Config struct {
	CPUs     bench.CPUs
	Duration time.Duration // of counting, a run
	Short    bool          // it is only to be seen that everything works
	Sluice   string        // path of the binary
	Testpmd  string        // path or name of DPDK's
	L2fwd    string        // path or name of bench/peers'
	NICMode  func(string)  // is told how sluice drives the NICs, "driver"; may be nil
}

// others returns the Case for each subject of a scenario that is no load, nil if
// there is no such scenario.
func others(c Config, name string) (cases []bench.Case) {
	for _, of := range slices.Concat(floodCases(c), connsCases(c), reloadCases(c)) {
		if of.Scenario == name {
			cases = append(cases, of)
		}
	}
	return cases
}

// Check says what is wrong with a scenario's name.
func Check(name string) error {
	if others(Config{}, name) != nil {
		return nil
	}
	_, err := Parse(name)
	return err
}

// Cases returns what measures the scenarios of those names, of each subject. Loads of
// one shape are one Case's.
func Cases(c Config, names []string) (cases []bench.Case, err error) {
	var shapes []Shape
	loads := map[Shape][]Scenario{}
	var rest []bench.Case
	for _, name := range names {
		if of := others(c, name); of != nil {
			rest = append(rest, of...)
			continue
		}
		s, err := Parse(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(shapes, s.Shape) {
			shapes = append(shapes, s.Shape)
		}
		loads[s.Shape] = append(loads[s.Shape], s)
	}
	for _, shape := range shapes {
		for _, s := range subjects() {
			cases = append(cases, bench.Case{Scenario: "wire/*/" + shape.String(), Subject: s.name, Measure: func(ctx context.Context) ([]bench.Sample, error) {
				return s.measure(ctx, &c, loads[shape])
			}})
		}
	}
	return append(cases, rest...), nil
}

// Ratios compares sluice with the others, run by run, wherever both were measured.
func Ratios(all []bench.Series) (ratios []bench.Series) {
	seen := map[string]bool{}
	for i := range all {
		name := all[i].Scenario
		if seen[name] {
			continue
		}
		seen[name] = true
		for _, metric := range []string{"highest rate", "received", "CPU time", "one way p99.9", "and back p99.9"} {
			for _, to := range []string{L2fwd, Testpmd, NftDNAT, NftDNATThreaded, Forward, ForwardThreaded, IPVSNAT} {
				ratios = append(ratios, bench.Ratio(all, name, metric, SluiceNAT, to))
			}
			for _, to := range []string{NftDR, NftDRThreaded, IPVSDR} {
				ratios = append(ratios, bench.Ratio(all, name, metric, SluiceDR, to))
			}
			ratios = append(ratios, bench.Ratio(all, name, metric, SluiceIPIP, IPVSIPIP))
		}
	}
	return slices.DeleteFunc(append(ratios, connsRatios(all)...), func(s bench.Series) bool { return len(s.Values) == 0 })
}
