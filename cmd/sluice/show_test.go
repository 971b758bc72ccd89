package main

import (
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/internal/control"
)

// stats shows what the slow path did, by what, how and how often, and nothing
// where it did nothing.
func TestSlowPathTable(t *testing.T) {
	var out strings.Builder
	slowPathTable(&out, &control.SlowPath{Held: 3})
	if out.Len() > 0 {
		t.Errorf("of nothing it says %q", out.String())
	}
	slowPathTable(&out, &control.SlowPath{
		FTP:     &control.FTP{Announced: 4, Begun: 3, Expired: 1, Rewritten: 2, Refused: map[string]uint64{"no_room": 6}},
		Packets: map[string]map[string]uint64{"host": {"passed": 7, "host_refused": 1}, "echo": {"answered": 2}},
		Refused: map[string]map[string]uint64{"icmp": {"over_budget": 5}},
		Errors:  map[string]uint64{"sent": 2},
	})
	want := "\nSLOW PATH\t\tPACKETS\necho\tanswered\t2\nhost\thost_refused\t1\nhost\tpassed\t7\nrefused icmp\tover_budget\t5\nICMP of its own\tsent\t2\n" +
		"ftp\tannounced\t4\nftp\tbegun\t3\nftp\texpired\t1\nftp\trewritten\t2\nrefused ftp\tno_room\t6\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
