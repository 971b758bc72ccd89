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

// ping sends echo requests from the client to an address and returns what it
// printed; an error unless each was answered.
func ping(n *testnet.Network, address string, more ...string) (string, error) {
	const count = 5
	args := append([]string{"-n", "-i", "0.01", "-W", "5", "-c", fmt.Sprint(count)}, more...)
	out, err := n.In("client").Run("ping", append(args, address)...)
	if want := fmt.Sprintf("%d packets transmitted, %d received, 0%% packet loss", count, count); err == nil && !strings.Contains(out, want) {
		err = fmt.Errorf("not %q in:\n%s", want, out)
	}
	return out, err
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
			before := d.stats()
			out, err := ping(n, vip, "-Q", "0xb8", "-s", "1400", "-p", "c0ffee")
			if err != nil {
				t.Fatalf("%s %s: %v", vip, what, err)
			}
			if strings.Contains(out, "wrong data") || strings.Count(out, "ttl=64") != 5 {
				t.Errorf("%s %s: want 5 answers with TTL 64 and what was sent:\n%s", vip, what, out)
			}
			now := d.quiet()
			want := uint64(0)
			if bySluice {
				want = 5
			}
			if got := now.Totals.Dropped["echo"] - before.Totals.Dropped["echo"]; got != want {
				t.Errorf("%s %s: %d were answered by sluice, want %d", vip, what, got, want)
			}
			if got := now.SlowPath.Packets["echo"]["answered"] - before.SlowPath.Packets["echo"]["answered"]; got != want {
				t.Errorf("%s %s: the slow path answered %d, want %d", vip, what, got, want)
			}
		}
		// switched waits until the programs have followed the host's address.
		switched := func(redirect bool) {
			t.Helper()
			if err := d.await(patience, "who answers "+vip, func() bool {
				before := d.stats().Totals.Received
				if _, err := ping(n, vip); err != nil {
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
