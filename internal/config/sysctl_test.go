package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/lb"
)

func TestSetSysctl(t *testing.T) {
	const whole = "a number -2147483648..2147483647"
	for _, row := range []struct {
		name, value string
		want        string // of the error
		set         func(s *lb.Sysctl)
	}{
		{"drop_packet", "3", "", func(s *lb.Sysctl) { s.DropPacket = 3 }},
		{"conn_reuse_mode", "-1", "", func(s *lb.Sysctl) { s.ConnReuseMode = -1 }},
		{"am_droprate", " 0x10 ", "", func(s *lb.Sysctl) { s.AMDropRate = 16 }},
		{"sync_threshold", "7 9", "", func(s *lb.Sysctl) { s.SyncThreshold = [2]int{7, 9} }},
		{"sync_threshold", "7\t0", "", func(s *lb.Sysctl) { s.SyncThreshold = [2]int{7, 0} }},
		{"sync_threshold", "4", "", func(s *lb.Sysctl) { s.SyncThreshold = [2]int{4, 50} }},
		{"sync_threshold", "50", "[50, 50]: the threshold reaches the period, want a smaller one (or period 0)", nil},
		{"sync_threshold", "", "0 elements, want 2", nil},
		{"drop_packet", "4", "4 is out of range, want 0..3", nil},
		{"sloppy_tcp", "many", `text "many", want ` + whole, nil},
		{"sloppy_tcp", "", "no value, want " + whole, nil},
		{"sloppy_tcp", "1 2", `text "1 2", want ` + whole, nil},
		{"no_such_thing", "1", "no such tunable", nil},
		{"a: {b", "1", "no such tunable", nil},
		{"sloppy_tcp", "1}\nnode: {x", `"1}" is no number`, nil},
		{"sloppy_tcp", "1, drop_entry: 3", `"1," is no number`, nil},
	} {
		s := lb.DefaultSysctl()
		s.SloppyTCP = 1
		want := s
		if row.set != nil {
			row.set(&want)
		}
		err := SetSysctl(&s, row.name, row.value)
		if s != want || (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s=%q: %v, and the tunables are %+v; want the error %q and %+v", row.name, row.value, err, s, row.want, want)
		}
	}
}

// Tunables are all there, and each can be set to what it is.
func TestTunables(t *testing.T) {
	s := lb.DefaultSysctl()
	all := Tunables(&s)
	if len(all) != reflect.TypeFor[lb.Sysctl]().NumField() || !slices.Contains(all, Tunable{"sync_threshold", "3\t50"}) {
		t.Errorf("tunables %v", all)
	}
	for i, x := range all {
		if i > 0 && all[i-1].Name >= x.Name {
			t.Errorf("%s comes after %s", x.Name, all[i-1].Name)
		}
		var other lb.Sysctl
		if err := SetSysctl(&other, x.Name, x.Value); err != nil || !slices.Contains(Tunables(&other), x) {
			t.Errorf("set %s to %q: %v", x.Name, x.Value, err)
		}
	}
}

func TestTunableName(t *testing.T) {
	for _, name := range []string{"net.ipv4.vs.drop_entry", "net/ipv4/vs/drop_entry", "/proc/sys/net/ipv4/vs/drop_entry", "drop_entry"} {
		if got := TunableName(name); got != "drop_entry" {
			t.Errorf("%s is %s", name, got)
		}
	}
}
