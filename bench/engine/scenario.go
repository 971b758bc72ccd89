package engine

import (
	"fmt"
	"strings"
)

// Method is the way that packets are forwarded.
type Method string

// Methods.
const (
	NATIn  Method = "nat-in"  // requests to a NAT server
	NATOut Method = "nat-out" // replies of a NAT server
	DR     Method = "dr"
	IPIP   Method = "ipip" // TUN: 4-in-4, or 6-in-6
)

// Mix is what the packets are to the connection table.
type Mix string

// Mixes.
const (
	Steady Mix = "steady"  // each packet is one of an established connection
	NewRR  Mix = "new-rr"  // each opens a connection, beside the established ones, scheduled by rr
	NewWRR Mix = "new-wrr" // the same by wrr, weights 1 to 5
)

// Scenario is what is measured.
type Scenario struct {
	Method Method
	V6     bool
	Conns  int // established connections, the packets spread over all of them alike
	Mix    Mix
}

// Name returns METHOD/FAMILY/CONNECTIONS/MIX.
func (s Scenario) Name() string {
	family := "v4"
	if s.V6 {
		family = "v6"
	}
	return fmt.Sprintf("%s/%s/%s/%s", s.Method, family, short(s.Conns), s.Mix)
}

// String returns the name that records have, engine/NAME/WORKERS.
func (s Scenario) String() string { return "engine/" + s.Name() + "/1" }

// short writes a number as 10k or 1M where that is exact.
func short(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1_000 && n%1_000 == 0:
		return fmt.Sprintf("%dk", n/1_000)
	}
	return fmt.Sprint(n)
}

// New says whether packets of the mix open connections.
func (m Mix) New() bool { return strings.HasPrefix(string(m), "new-") }

// scheduler returns the scheduler's name.
func (m Mix) scheduler() string {
	if m.New() {
		return strings.TrimPrefix(string(m), "new-")
	}
	return "rr"
}

// All returns the scenarios.
func All() (all []Scenario) {
	for _, v6 := range []bool{false, true} {
		for _, method := range []Method{NATIn, NATOut, DR, IPIP} {
			for _, conns := range []int{1, 10_000, 1_000_000} {
				all = append(all, Scenario{method, v6, conns, Steady})
			}
		}
		for _, mix := range []Mix{NewRR, NewWRR} {
			for _, conns := range []int{10_000, 1_000_000} {
				all = append(all, Scenario{NATIn, v6, conns, mix})
			}
		}
	}
	return all
}

// Few returns some scenarios that together use every method, family and mix.
func Few() []Scenario {
	return []Scenario{
		{NATIn, false, 10_000, Steady},
		{NATOut, true, 10_000, Steady},
		{DR, false, 10_000, Steady},
		{IPIP, true, 10_000, Steady},
		{NATIn, false, 10_000, NewRR},
		{NATIn, true, 10_000, NewWRR},
	}
}
