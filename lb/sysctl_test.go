package lb

import (
	"slices"
	"testing"
)

// Tunables without a meaning here are named, those with one are not.
func TestIgnored(t *testing.T) {
	zeros := []string{"snat_reroute", "sync_version", "sync_threshold", "sync_ports", "run_estimation"}
	if got := (&Sysctl{}).Ignored(); !slices.Equal(got, zeros) {
		t.Errorf("of all zeros %v are ignored, want %v", got, zeros)
	}
	s := DefaultSysctl()
	if got := s.Ignored(); got != nil {
		t.Errorf("of the defaults %v are ignored, want none", got)
	}
	s.ScheduleICMP, s.CacheBypass, s.PMTUDisc, s.AMemThresh = 1, 1, 0, 1
	s.Conntrack, s.IgnoreTunneled = 1, 1
	if got := s.Ignored(); !slices.Equal(got, []string{"conntrack", "ignore_tunneled"}) {
		t.Errorf("%v are ignored, want conntrack and ignore_tunneled", got)
	}
}
