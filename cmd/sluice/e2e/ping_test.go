package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// needTool skips a test for which a program of Debian's is missing.
func needTool(t *testing.T, program, of string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not here; apt-get install %s", program, of)
	}
}

// ping sends echo requests from the client to an address until five or more are
// answered, and returns how many it sent and what it printed; an error if that takes long.
func ping(n *testnet.Network, address string, more ...string) (sent uint64, out string, err error) {
	args := append([]string{"-n", "-i", "0.01", "-w", "5", "-c", "5"}, more...)
	out, err = n.In("client").Run("ping", append(args, address)...)
	if err == nil {
		_, last, _ := strings.Cut(out, "ping statistics ---\n")
		_, err = fmt.Sscanf(last, "%d packets transmitted", &sent)
	}
	return sent, out, err
}

// Ping to a VIP is answered whether the host owns it or not, also while that
// changes, and it is its stack that answers if it does: of one hop, TTL 64.
func TestPing(t *testing.T) {
	needTool(t, "ping", "iputils-ping")
	n := testnet.New(t, routed(1))
	d := start(t, n, natService(1))
	for _, vip := range []string{"203.0.113.10", "2001:db8::10"} {
		bits := map[bool]string{true: "/128", false: "/32"}[strings.Contains(vip, ":")]
		// pings has all answered, by who should.
		pings := func(what string, bySluice bool) {
			t.Helper()
			for size, frames := range map[string]uint64{"1400": 1, "4000": 3} { // the longer ones come and leave in fragments
				before := d.quiet()
				want, out, err := ping(n, vip, "-Q", "0xb8", "-s", size, "-p", "c0ffee")
				if err != nil {
					t.Fatalf("%s %s: %v; %s\n%s", vip, what, err, d.counters(), out)
				}
				if strings.Contains(out, "wrong data") || strings.Count(out, "ttl=64") < 5 {
					t.Errorf("%s %s: want 5 answers with TTL 64 and what was sent:\n%s", vip, what, out)
				}
				now := d.quiet()
				if !bySluice {
					want = 0
				}
				if got := now.Totals.Dropped["echo"] - before.Totals.Dropped["echo"]; got != want*frames {
					t.Errorf("%s %s, %s bytes: %d frames were answered by sluice, want %d", vip, what, size, got, want*frames)
				}
				if got := now.SlowPath.Packets["echo"]["answered"] - before.SlowPath.Packets["echo"]["answered"]; got != want {
					t.Errorf("%s %s, %s bytes: the slow path answered %d, want %d", vip, what, size, got, want)
				}
			}
		}
		// switched waits until the programs have followed the host's address.
		switched := func(redirect bool) {
			t.Helper()
			if err := d.await(patience, "who answers "+vip, func() bool {
				before := d.stats().Totals.Received
				if _, _, err := ping(n, vip); err != nil {
					return false
				}
				return (d.quiet().Totals.Received > before) == redirect
			}); err != nil {
				t.Fatal(err)
			}
		}
		pings("not owned", true)
		if out, err := n.In("director").Run("ip", "addr", "add", vip+bits, "dev", "lo"); err != nil {
			t.Fatal(err, out)
		}
		switched(false)
		pings("owned", false)
		if out, err := n.In("director").Run("ip", "addr", "del", vip+bits, "dev", "lo"); err != nil {
			t.Fatal(err, out)
		}
		switched(true)
		pings("not owned any more", true)
	}
}
