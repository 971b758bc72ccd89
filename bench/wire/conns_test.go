package wire

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// conntracked skips where nftables are not to be had.
func conntracked(t *testing.T, n *testnet.Network, c *Config) {
	t.Helper()
	_, undo, err := startConntrack(t.Context(), n, c, t.TempDir())
	if errors.Is(err, bench.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := undo(); err != nil {
			t.Error(err)
		}
	})
}

// Connections between the programs are real ones to a director that looks:
// conntrack follows each, checksums and sequence numbers included, to its end.
func TestDialog(t *testing.T) {
	needLive(t)
	for _, row := range []struct {
		what    string
		synOnly bool
		state   string
	}{
		{"open, a byte, close", false, "TIME_WAIT"},
		{"SYN only", true, "SYN_SENT"},
	} {
		t.Run(row.what, func(t *testing.T) {
			n := testnet.New(t, connsPlan())
			conntracked(t, n, &Config{CPUs: cpus(t)})
			if err := greet(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			d, err := newDialog(n, row.synOnly)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = d.close() }()
			const some = 10
			if err := n.In(client).Do(func() error { return d.open(some) }); err != nil {
				t.Fatal(err)
			}
			var c dialogCounts
			for deadline := time.Now().Add(startTime); c.done < some && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				if c, err = d.counts(); err != nil {
					t.Fatal(err)
				}
			}
			if c != (dialogCounts{done: some}) {
				t.Fatalf("%+v, want %d done", c, some)
			}
			var tracked string
			if err := n.In(director).Do(func() error {
				text, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
				tracked = string(text)
				return err
			}); err != nil {
				t.Skipf("the kernel does not list what it tracks: %v", err)
			}
			if got := strings.Count(tracked, row.state+" src=100.64."); got != some {
				t.Errorf("%d of %d connections are in %s:\n%s", got, some, row.state, tracked)
			}
		})
	}
}

// A director that loses everything makes no connection, and one that sends
// packets to another place is found out.
func TestConnsFailures(t *testing.T) {
	needLive(t)
	c := &Config{CPUs: cpus(t), Duration: 20 * time.Millisecond}
	loses := func(context.Context, *testnet.Network, *Config, string) (*process, func() error, error) {
		return nil, func() error { return nil }, nil
	}
	gone := func(context.Context, *testnet.Network, *Config, string) (*process, func() error, error) {
		return nil, nil, skipped(errors.New("no such module"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := allConns[0].measure(ctx, c, &opener{"loses", loses}); err == nil || !strings.Contains(err.Error(), "connect through the director") {
		t.Errorf("a director that loses everything: %v", err)
	}
	if _, err := allConns[0].measure(t.Context(), c, &opener{"gone", gone}); !errors.Is(err, bench.ErrUnavailable) || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("a director that there is not: %v", err)
	}
}

// The whole of a run.
func TestConnsMeasure(t *testing.T) {
	needLive(t)
	c := &Config{CPUs: cpus(t), Duration: 50 * time.Millisecond}
	for _, how := range allConns {
		samples, err := how.measure(t.Context(), c, &opener{Conntrack, startConntrack})
		if errors.Is(err, bench.ErrUnavailable) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(samples) != 6 || samples[0].Metric != "connections" || samples[0].Value <= 0 {
			t.Errorf("%s: %v", how.name, samples)
		}
	}
}

// What is reported follows from two readings.
func TestConnsSince(t *testing.T) {
	began := time.Now()
	before := connsReading{began, dialogCounts{100, 10, 0}, cpuTimes{0, 0, time.Second}, time.Hour}
	after := connsReading{
		began.Add(2 * time.Second),
		dialogCounts{3100, 1010, 0},
		cpuTimes{300 * time.Millisecond, 600 * time.Millisecond, 1900 * time.Millisecond},
		time.Hour + time.Second,
	}
	want := []bench.Sample{
		{Metric: "connections", Unit: "1/s", Value: 1500},
		{Metric: "failed", Unit: "%", Value: 25},
		{Metric: "CPU time", Unit: "ns/connection", Value: 600_000},
		{Metric: "CPU time, user", Unit: "ns/connection", Value: 100_000},
		{Metric: "CPU time, system", Unit: "ns/connection", Value: 200_000},
		{Metric: "CPU time, softirq", Unit: "ns/connection", Value: 300_000},
		{Metric: "waited for its CPU", Unit: "%", Value: 50},
	}
	if samples, err := after.since(&before, true); err != nil || !slices.Equal(samples, want) {
		t.Errorf("%v (%v), want %v", samples, err, want)
	}
	if samples, err := after.since(&before, false); err != nil || !slices.Equal(samples, want[:6]) {
		t.Errorf("of the kernel %v (%v), want %v", samples, err, want[:6])
	}
	after.counts.wrong = 1
	if _, err := after.since(&before, false); err == nil {
		t.Error("a packet to another place passes")
	}
	if _, err := before.since(&before, false); err == nil {
		t.Error("no connection is a figure")
	}
}

// Only who was measured is compared with.
func TestConnsRatios(t *testing.T) {
	ratios := connsRatios([]bench.Series{
		{Scenario: "wire/conns/syn", Subject: Sluice, Metric: "connections", Values: []float64{6, 8}},
		{Scenario: "wire/conns/syn", Subject: Conntrack, Metric: "connections", Values: []float64{3, 2}},
	})
	if len(ratios) != 1 || ratios[0].Subject != "sluice / nftables-dnat" || !slices.Equal(ratios[0].Values, []float64{2, 4}) {
		t.Errorf("%+v", ratios)
	}
}
