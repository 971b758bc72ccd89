package engine

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-lb/sluice/lb/conn"
)

// Method is the way that packets are forwarded.
type Method string

// Methods.
const (
	NATIn  Method = "nat-in"  // requests to a NAT server
	NATOut Method = "nat-out" // replies of a NAT server
	DR     Method = "dr"
	IPIP   Method = "ipip" // TUN: 4-in-4, or 6-in-6
	GUE    Method = "gue"  // TUN in UDP, without checksum
)

// Methods returns all of them.
func Methods() []Method { return []Method{NATIn, NATOut, DR, IPIP, GUE} }

// Family is which packets there are.
type Family string

// Families.
const (
	V4    Family = "v4"
	V6    Family = "v6"
	Mixed Family = "mixed" // every other flow of either
)

// Families returns all of them.
func Families() []Family { return []Family{V4, V6, Mixed} }

// Mix is what the packets are to the connection table.
type Mix string

// Mixes.
const (
	Steady Mix = "steady"  // each packet is one of an established connection, all alike often
	Zipf   Mix = "zipf"    // the same, but the n-th most frequent connection has one part in n of the first one's packets
	OneNew Mix = "new1"    // steady, but one in a hundred opens a connection, scheduled by wlc
	AllNew Mix = "new"     // each opens a connection, beside the established ones, scheduled by wlc
	NewMH  Mix = "new-mh"  // the same by mh
	NewRR  Mix = "new-rr"  // the same by rr
	NewWRR Mix = "new-wrr" // the same by wrr
)

// Mixes returns all of them.
func Mixes() []Mix { return []Mix{Steady, Zipf, OneNew, AllNew, NewMH, NewRR, NewWRR} }

// Opens says how many of a hundred packets open a connection.
func (m Mix) Opens() int {
	switch {
	case m == OneNew:
		return 1
	case strings.HasPrefix(string(m), string(AllNew)):
		return 100
	}
	return 0
}

// scheduler returns the scheduler's name.
func (m Mix) scheduler() string {
	if _, named, ok := strings.Cut(string(m), "-"); ok {
		return named
	}
	return "wlc"
}

// Scenario is what is measured.
type Scenario struct {
	Method  Method
	Family  Family
	Conns   int // established connections
	Mix     Mix
	Workers int
	Scale   Scale
}

// Scale is how many virtual services there are and how many real servers all
// of them together have. Service i has every server j with j = i modulo the
// number of services; where there are fewer servers than services, the one
// server that i modulo their number gives. The zero Scale is 1 service with
// 100 servers.
type Scale struct{ Services, Servers int }

// Sizes of the zero Scale, and the most of either.
const (
	services = 1
	servers  = 100
	maxScale = 10_000
)

// Sizes returns how many services and servers there are.
func (s Scale) Sizes() (nServices, nServers int) {
	if s == (Scale{}) {
		return services, servers
	}
	return s.Services, s.Servers
}

// String writes SERVICESxSERVERS.
func (s Scale) String() string {
	nServices, nServers := s.Sizes()
	return Short(nServices) + "x" + Short(nServers)
}

// ParseScale reads SERVICESxSERVERS; 1x100 is the zero Scale.
func ParseScale(text string) (Scale, error) {
	first, second, _ := strings.Cut(text, "x")
	nServices, err := Connections(first)
	nServers, err2 := Connections(second)
	if err != nil || err2 != nil || max(nServices, nServers) > maxScale {
		return Scale{}, fmt.Errorf("%w: %q, want SERVICESxSERVERS such as 1x100, 10kx10k, at most 10k of either", ErrScenario, text)
	}
	if nServices == services && nServers == servers {
		return Scale{}, nil
	}
	return Scale{nServices, nServers}, nil
}

// ErrScenario reports a scenario that there is not.
var ErrScenario = errors.New("no such engine scenario")

// Check says what is wrong with a scenario.
func (s Scenario) Check() error {
	switch {
	case !slices.Contains(Methods(), s.Method):
		return fmt.Errorf("%w: method %q, want one of %q", ErrScenario, s.Method, Methods())
	case !slices.Contains(Families(), s.Family):
		return fmt.Errorf("%w: family %q, want one of %q", ErrScenario, s.Family, Families())
	case !slices.Contains(Mixes(), s.Mix):
		return fmt.Errorf("%w: mix %q, want one of %q", ErrScenario, s.Mix, Mixes())
	case s.Conns < 1 || s.Conns+s.openedInALap() > conn.MaxConns:
		return fmt.Errorf("%w: %d connections, want 1 to %d", ErrScenario, s.Conns, conn.MaxConns-s.openedInALap())
	case s.Workers < 1 || s.Workers > 64:
		return fmt.Errorf("%w: %d workers, want 1 to 64", ErrScenario, s.Workers)
	case s.Scale != (Scale{}) && (min(s.Scale.Services, s.Scale.Servers) < 1 || max(s.Scale.Services, s.Scale.Servers) > maxScale):
		return fmt.Errorf("%w: %d services and %d servers, want 1 to %d", ErrScenario, s.Scale.Services, s.Scale.Servers, maxScale)
	}
	return nil
}

// openedInALap is how many connections come to the established ones at once.
func (s Scenario) openedInALap() int { return (Frames*s.Mix.Opens() + 99) / 100 }

// Name returns METHOD/FAMILY/CONNECTIONS/MIX/WORKERS, and behind it /SCALE if
// that is not the zero one.
func (s Scenario) Name() string {
	name := fmt.Sprintf("%s/%s/%s/%s/%d", s.Method, s.Family, Short(s.Conns), s.Mix, s.Workers)
	if s.Scale != (Scale{}) {
		name += "/" + s.Scale.String()
	}
	return name
}

// String returns the name that records have, engine/NAME.
func (s Scenario) String() string { return "engine/" + s.Name() }

// Parse returns the scenario of such a name.
func Parse(name string) (Scenario, error) {
	f := strings.Split(strings.TrimPrefix(name, "engine/"), "/")
	if len(f) != 5 && len(f) != 6 {
		return Scenario{}, fmt.Errorf("%w: %q, want engine/METHOD/FAMILY/CONNECTIONS/MIX/WORKERS or that and /SERVICESxSERVERS", ErrScenario, name)
	}
	var scale Scale
	if len(f) == 6 {
		var err error
		if scale, err = ParseScale(f[5]); err != nil {
			return Scenario{}, err
		}
	}
	conns, err := Connections(f[2])
	if err != nil {
		return Scenario{}, err
	}
	workers, err := strconv.Atoi(f[4])
	if err != nil {
		return Scenario{}, fmt.Errorf("%w: %q workers", ErrScenario, f[4])
	}
	s := Scenario{Method(f[0]), Family(f[1]), conns, Mix(f[3]), workers, scale}
	return s, s.Check()
}

// Connections reads a number, of connections most often, as names have it: 1,
// 64k, 16M.
func Connections(text string) (int, error) {
	digits, unit := text, 1
	switch {
	case strings.HasSuffix(text, "k"):
		digits, unit = text[:len(text)-1], 1_000
	case strings.HasSuffix(text, "M"):
		digits, unit = text[:len(text)-1], 1_000_000
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > conn.MaxConns/unit {
		return 0, fmt.Errorf("%w: %q connections, want such as 1, 64k, 16M", ErrScenario, text)
	}
	return n * unit, nil
}

// Short writes a number as 10k or 1M where that is exact.
func Short(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1_000 && n%1_000 == 0:
		return fmt.Sprintf("%dk", n/1_000)
	}
	return fmt.Sprint(n)
}
