package conn

import (
	"math"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/clock"
)

func mustSeconds(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s + "s")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDefaultTimeouts lists all of the kernel's, in seconds by state number.
func TestDefaultTimeouts(t *testing.T) {
	timeouts := DefaultTimeouts()
	for proto, want := range map[uint8][]int{
		protoTCP:  {2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120},
		protoSCTP: {2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61},
		protoUDP:  {300},
	} {
		for s, seconds := range want {
			if got := timeouts.Of(proto, State(s)).Duration(); got != time.Duration(seconds)*time.Second {
				t.Errorf("%d %s: %v, want %d s", proto, StateName(proto, false, State(s)), got, seconds)
			}
		}
	}
	for _, outside := range []clock.Ticks{timeouts.Of(protoTCP, 200), timeouts.Of(protoSCTP, 14), timeouts.Of(47, 0)} {
		if outside != timeouts.Of(protoUDP, UDPNormal) {
			t.Errorf("a state or protocol that does not exist times out after %v, want UDP's", outside.Duration())
		}
	}
	if InitialTicks.Duration() != 3*time.Second || HeldTicks.Duration() != time.Minute {
		t.Errorf("initial %v, held %v, want 3 s and 60 s (K-CONN-6)", InitialTicks.Duration(), HeldTicks.Duration())
	}
}

// TestSetTimeouts: ipvsadm --set changes three timeouts and no other, and 0
// keeps one (seen on Linux 6.1: TIME_WAIT stays 120, CLOSE_WAIT 60).
func TestSetTimeouts(t *testing.T) {
	type key struct {
		proto uint8
		state State
	}
	at := map[string]key{"tcp": {protoTCP, TCPEstablished}, "tcpfin": {protoTCP, TCPFinWait}, "udp": {protoUDP, UDPNormal}}
	for _, test := range []struct {
		stake string
		set   [3]clock.Ticks
		want  map[string]clock.Ticks
	}{
		{"all three", [3]clock.Ticks{100, 200, 300}, map[string]clock.Ticks{"tcp": 100, "tcpfin": 200, "udp": 300}},
		{"zeros keep", [3]clock.Ticks{}, nil},
		{"one alone", [3]clock.Ticks{0, 7, 0}, map[string]clock.Ticks{"tcpfin": 7}},
		{
			"the wheel cannot tell times further apart",
			[3]clock.Ticks{math.MaxUint32, MaxTimeout + 1, MaxTimeout},
			map[string]clock.Ticks{"tcp": MaxTimeout, "tcpfin": MaxTimeout, "udp": MaxTimeout},
		},
	} {
		t.Run(test.stake, func(t *testing.T) {
			defaults, changed := DefaultTimeouts(), DefaultTimeouts()
			changed.Set(test.set[0], test.set[1], test.set[2])
			want := map[key]clock.Ticks{}
			for name, ticks := range test.want {
				want[at[name]] = ticks
			}
			for _, proto := range []uint8{protoTCP, protoUDP, protoSCTP} {
				for s := State(0); StateName(proto, false, s) != "ERR!"; s++ {
					w, set := want[key{proto, s}]
					if !set {
						w = defaults.Of(proto, s)
					}
					if got := changed.Of(proto, s); got != w {
						t.Errorf("%d %s: %d ticks, want %d", proto, StateName(proto, false, s), got, w)
					}
				}
			}
		})
	}
}
