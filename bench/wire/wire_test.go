package wire

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cpus makes worker, generator and rest share the first CPU that there is.
func cpus(t *testing.T) bench.CPUs {
	t.Helper()
	restore, err := bench.Pin(0)
	if err != nil {
		t.Skipf("CPU 0 is not this process's: %v", err)
	}
	restore()
	return bench.CPUs{Rest: []int{0}}
}

// needLive skips where the generator cannot work: without root, or on a kernel
// without live frames.
func needLive(t *testing.T) {
	t.Helper()
	testnet.NeedRoot(t)
	var u unix.Utsname
	var major, minor int
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil || major < 5 || major == 5 && minor < 18 {
		t.Skipf("BPF_PROG_TEST_RUN sends frames from Linux 5.18 on; this is %s", u.Release)
	}
}

// kernel is a forwarder that every machine has: the kernel's own, with a
// process that only waits.
func kernel(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
	d := n.In(director)
	if err := d.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		return nil, err
	}
	if err := d.AddRoute(vip+"/32", serverAddr, back); err != nil {
		return nil, err
	}
	// A veth takes XDP frames from its peer only if it has NAPI.
	if _, err := d.Run("ethtool", "-K", front, "gro", "on"); err != nil {
		return nil, err
	}
	return startProcess(ctx, n, &c.CPUs, dir, "ready in "+dir, "sh", "-c", "echo ready in $RUNTIME_DIRECTORY; exec sleep 60")
}

// idle forwards nothing.
func idle(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
	return startProcess(ctx, n, &c.CPUs, dir, "ready", "sh", "-c", "echo ready; exec sleep 60")
}

// forwarded returns what the kernel makes of a request: a TTL less.
func forwarded(ttl uint8) func(uint16) []byte {
	return func(sport uint16) []byte {
		return packettest.Eth(serverMAC, backMAC).IP4(clientAddr, vip).TTL(ttl).UDP(sport, vport).Payload(make([]byte, payload)).Bytes()
	}
}

// The whole of a run, with the kernel as the forwarder: packets are made,
// checked, counted, and none is counted that was not made.
func TestMeasure(t *testing.T) {
	needLive(t)
	c := &Config{CPUs: cpus(t), Duration: 100 * time.Millisecond}
	toVIP := netip.MustParseAddrPort("10.0.1.100:53")
	for _, s := range []struct {
		subject
		metrics int
	}{
		{subject{name: "kernel", start: kernel, want: toVIP, forwarded: forwarded(63)}, 8},
		{subject{name: "generator", want: toVIP}, 2},
	} {
		t.Run(s.name, func(t *testing.T) {
			samples, err := s.measure(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			value := map[string]float64{}
			for _, m := range samples {
				value[m.Metric] = m.Value
			}
			if value["received"] <= 0 || value["generated"] <= 0 || value["loss"] < 0 || value["loss"] > 100 || len(value) != s.metrics {
				t.Errorf("samples %v", value)
			}
		})
	}
}

// A forwarder that does not do its work is an error that says so, not a figure.
func TestWrongForwardersAreFound(t *testing.T) {
	needLive(t)
	c := &Config{CPUs: cpus(t), Duration: time.Millisecond}
	toVIP := netip.MustParseAddrPort("10.0.1.100:53")
	for _, s := range []struct {
		subject
		want string
	}{
		{subject{name: "forwards nothing", start: idle, want: toVIP, forwarded: forwarded(63)}, "256 of 256 packets did not arrive"},
		{subject{name: "forwards another packet", start: kernel, want: toVIP, forwarded: forwarded(64)}, "forwards wrongly: "},
		{subject{name: "forwards to another place", start: kernel, want: netip.MustParseAddrPort("10.0.2.10:53"), forwarded: forwarded(63)}, "with another destination"},
		{subject{name: "is not there", want: toVIP, start: func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
			return startProcess(ctx, n, &c.CPUs, dir, "ready", "sh", "-c", "echo no such NIC; exit 1")
		}}, "it ended; its last lines:\nno such NIC"},
	} {
		t.Run(s.name, func(t *testing.T) {
			samples, err := s.measure(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), s.want) {
				t.Errorf("measured %v, error %v; want an error with %q", samples, err, s.want)
			}
		})
	}
}

// A forwarder that ignores SIGTERM does not stay.
func TestStop(t *testing.T) {
	n := testnet.New(t, testnet.Plan{Namespaces: []string{director}})
	c := cpus(t)
	p, err := startProcess(t.Context(), n, &c, t.TempDir(), "ready", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stopWithin(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("stop: %v", err)
	}
}

func TestParseCPUTimes(t *testing.T) {
	const stat = "cpu  458158 0 81687 813312 2592 0 1216 19625 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 10 20 30 4 5 60 9 8 9 10\nintr 1 2 3\n"
	got, err := parseCPUTimes(stat, 1)
	if want := (cpuTimes{300 * time.Millisecond, 900 * time.Millisecond, 12160 * time.Millisecond}); err != nil || got != want {
		t.Errorf("%v (%v), want %v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3\ncpu1 1 2 3", "intr 1 2 3 4 5 6 7 8", strings.ReplaceAll(stat, "1216", "x")} {
		if got, err := parseCPUTimes(bad, 1); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
	if got, err := parseCPUTimes(stat, 2); err == nil {
		t.Errorf("a CPU that is not there: %v", got)
	}
}

func TestParseWaiting(t *testing.T) {
	if got, err := parseWaiting("5000000 123 42\n"); err != nil || got != 123 {
		t.Errorf("%v (%v), want 123 ns", got, err)
	}
	for _, bad := range []string{"", "1 2", "1 x 3"} {
		if got, err := parseWaiting(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
	if _, err := readWaiting(os.Getpid()); err != nil {
		t.Errorf("this process: %v", err)
	}
	if _, err := readWaiting(1 << 30); err == nil {
		t.Error("a process that is not there has waited")
	}
}

// What is reported follows from two readings.
func TestSince(t *testing.T) {
	began := time.Now()
	before := reading{began, counts{1000, 100, 3}, cpuTimes{0, 0, time.Second}, time.Hour}
	after := reading{
		began.Add(2 * time.Second),
		counts{5000, 3100, 3},
		cpuTimes{300 * time.Millisecond, 600 * time.Millisecond, 1900 * time.Millisecond},
		time.Hour + time.Second,
	}
	want := []bench.Sample{
		{Metric: "generated", Unit: "packets/s", Value: 2000},
		{Metric: "received", Unit: "packets/s", Value: 1500},
		{Metric: "loss", Unit: "%", Value: 25},
		{Metric: "CPU time", Unit: "ns/packet", Value: 600_000},
		{Metric: "CPU time, user", Unit: "ns/packet", Value: 100_000},
		{Metric: "CPU time, system", Unit: "ns/packet", Value: 200_000},
		{Metric: "CPU time, softirq", Unit: "ns/packet", Value: 300_000},
		{Metric: "waited for its CPU", Unit: "%", Value: 50},
	}
	if samples, err := after.since(&before, true); err != nil || !slices.Equal(samples, want) {
		t.Errorf("%v (%v), want %v", samples, err, want)
	}
	if samples, err := after.since(&before, false); err != nil || !slices.Equal(samples, want[:2]) {
		t.Errorf("without a forwarder %v (%v), want %v", samples, err, want[:2])
	}
	after.counts.unwanted++
	if _, err := after.since(&before, true); err == nil {
		t.Error("a packet for another destination passes")
	}
}

// The ratio is of received packets and of CPU time, by run.
func TestRatios(t *testing.T) {
	var all []bench.Series
	for subject, by := range map[string]float64{Sluice: 1, Testpmd: 2} {
		for _, metric := range []string{"received", "CPU time"} {
			all = append(all, bench.Series{Scenario: Scenario, Subject: subject, Metric: metric, Values: []float64{by, 3 * by}})
		}
	}
	ratios := Ratios(all)
	if len(ratios) != 2 || !slices.Equal(ratios[0].Values, []float64{0.5, 0.5}) || !slices.Equal(ratios[1].Values, []float64{0.5, 0.5}) {
		t.Errorf("%+v", ratios)
	}
}
