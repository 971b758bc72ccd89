package config

import (
	"testing"

	"github.com/sluice-lb/sluice/lb"
)

func TestSetSysctl(t *testing.T) {
	for _, row := range []struct {
		name, value string
		want        string // of the error
		is          func(s *lb.Sysctl) bool
	}{
		{"drop_packet", "3", "", func(s *lb.Sysctl) bool { return s.DropPacket == 3 && s.SloppyTCP == 1 }},
		{"conn_reuse_mode", "0", "", func(s *lb.Sysctl) bool { return s.ConnReuseMode == 0 }},
		{"drop_packet", "4", "4 is out of range, want 0..3", nil},
		{"drop_packet", "many", `text "many", want an integer`, nil},
		{"no_such_thing", "1", "unknown key", nil},
		{"a: {b", "1", "unknown key", nil},
		{"sloppy_tcp", "1}\nnode: {x", "", nil},
	} {
		s := lb.DefaultSysctl()
		s.SloppyTCP = 1
		err := SetSysctl(&s, row.name, row.value)
		if row.is == nil {
			if err == nil || s != func() lb.Sysctl { d := lb.DefaultSysctl(); d.SloppyTCP = 1; return d }() {
				t.Errorf("%s=%q: %v, and the tunables are %+v; want an error and no change", row.name, row.value, err, s)
			}
			continue
		}
		if err != nil || !row.is(&s) {
			t.Errorf("%s=%q: %v, and the tunables are %+v", row.name, row.value, err, s)
		}
	}
}
