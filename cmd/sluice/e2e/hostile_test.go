package e2e

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// A flood of broken frames, from the clients' side and from the servers',
// harms no request beside it. Each frame of it has a named end.
func TestGarbageBesideTraffic(t *testing.T) {
	const seed, perSecond, lasts = 20, 10_000, 3 * time.Second
	n := web(t, 2)
	d := startBuild(t, n, natService(2), raced)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed of the garbage: %d", seed)
		}
	})
	v := visit(t, n.In("client"), "203.0.113.10:80", 2)
	v.more(5)
	ctx, stop := context.WithTimeout(t.Context(), lasts)
	defer stop()
	const attacker = "02:00:00:00:06:66"
	syn := func(to, src, dst string, v6 bool, sport, dport uint16) []byte {
		p := packettest.Eth(to, attacker)
		if v6 {
			p = p.IP6(src, dst)
		} else {
			p = p.IP4(src, dst)
		}
		return p.TCP(sport, dport, packettest.SYN).Payload(noise(1, 100)).Bytes()
	}
	var floods errgroup.Group
	var sent [3]int
	for i, f := range []struct {
		from, to string
		good     []byte // what the garbage is made of
	}{
		{"client", directorMAC0, syn(directorMAC0, "192.0.2.66", "203.0.113.10", false, 666, 80)},
		{"client", directorMAC0, syn(directorMAC0, "2001:db8:6::6", "2001:db8::10", true, 666, 80)},
		{server(0), directorMAC1, syn(directorMAC1, server4(0), "192.0.2.66", false, 8080, 666)},
	} {
		raw := openRaw(t, n.In(f.from), "eth0")
		to, err := net.ParseMAC(f.to)
		if err != nil {
			t.Fatal(err)
		}
		floods.Go(func() (err error) {
			sent[i], err = raw.Flood(ctx, perSecond, testnet.Garbage(seed+uint64(i), to, f.good))
			return err
		})
	}
	if err := floods.Wait(); err != nil {
		t.Fatal(err)
	}
	v.more(5)
	served := v.end()
	totals := d.quiet().Totals
	t.Logf("%v broken frames, %d requests; %s", sent, served, d.counters())
	for i, k := range sent {
		if k < perSecond/2 {
			t.Errorf("flood %d was of %d frames only", i, k)
		}
	}
	for _, reason := range []string{"truncated", "ip_checksum"} {
		if totals.Dropped[reason] == 0 {
			t.Errorf("no frame was dropped as %s", reason)
		}
	}
	if totals.Passed == 0 {
		t.Error("no frame was passed to the host: some of the garbage is none of ours, but well-formed")
	}
}
