package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestSoak is a director under requests for SLUICE_SOAKTIME (a duration; 5 s
// without it), reloaded every half second between one server and two by
// weight: no request fails, the accounts are even, and the process does not
// grow.
func TestSoak(t *testing.T) {
	length := 5 * time.Second
	if text := os.Getenv("SLUICE_SOAKTIME"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("SLUICE_SOAKTIME: %v", err)
		}
	}
	n := web(t, 2)
	both := natService(2)
	one := strings.Replace(both, `{address: "10.0.2.12"`, `{weight: 0, address: "10.0.2.12"`, 1)
	if one == both {
		t.Fatalf("no server 10.0.2.12 in %s", both)
	}
	d := start(t, n, both)
	v := visit(t, n.In("client"), "203.0.113.10:80", 4)
	v.more(50)
	before, reloads := residentKiB(t, d.cmd.Process.Pid), 0
	for end := time.Now().Add(length); time.Now().Before(end); reloads++ {
		d.configure([]string{one, both}[reloads%2])
		if r := hangup(d); r.Error != "" || r.Edited != 1 {
			t.Fatalf("reload %d: %q, %d edited, want 1", reloads, r.Error, r.Edited)
		}
		time.Sleep(500 * time.Millisecond)
	}
	served := v.end()
	after := residentKiB(t, d.cmd.Process.Pid)
	t.Logf("%s: %d requests, %d reloads, resident %d KiB then %d", length, served, reloads, before, after)
	if after > before+64<<10 {
		t.Errorf("the director grew from %d to %d KiB resident", before, after)
	}
}

// residentKiB is how much memory a process has.
func residentKiB(t *testing.T, pid int) (kib int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("VmRSS: %v", err)
	}
	return kib
}
