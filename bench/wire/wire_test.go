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
	"github.com/sluice-lb/sluice/workers/cpu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cpus are those of a benchmark, or one for all if there is no other.
func cpus(t *testing.T) bench.CPUs {
	t.Helper()
	topology, err := cpu.Read(os.DirFS("/sys"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := bench.Assign(topology)
	if err != nil {
		only := topology[0].ID
		c = bench.CPUs{Worker: only, Generator: only, Rest: []int{only}}
	}
	return c
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

// idle forwards nothing.
func idle(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
	return startProcess(ctx, n, &c.CPUs, dir, "ready", "sh", "-c", "echo ready; exec sleep 60")
}

// small is what tests send.
var small = Shape{Flows: 300, Size: 60}

// named returns the subject of that name.
func named(t *testing.T, name string) *subject {
	t.Helper()
	for _, s := range subjects() {
		if s.name == name {
			if s.lacks != nil {
				if err := s.lacks(&Config{}); err != nil {
					t.Skipf("%s: %v", name, err)
				}
			}
			return &s
		}
	}
	t.Fatalf("no subject %s", name)
	return nil
}

// The whole of a run: packets are made, checked, counted, timed there and back, and
// none is counted that was not made. Who forwards is the kernel, as every machine has it.
func TestMeasure(t *testing.T) {
	needLive(t)
	c := &Config{CPUs: cpus(t), Duration: 50 * time.Millisecond}
	scenario := func(k Kind, load int) Scenario { return Scenario{Kind: k, Shape: small, Load: load} }
	loads := []Scenario{scenario(Full, 0), scenario(Fixed, 1000), scenario(Latency, 10)}
	for _, s := range []struct {
		name     string
		want     []Scenario
		measured []Scenario
	}{
		{Forward, loads, loads},
		{ForwardThreaded, loads[1:2], loads[1:2]},
		{NftDNAT, loads[2:], loads[2:]},
		{NftDR, loads[2:], loads[2:]},
		{Generator, loads, loads[:1]},
	} {
		t.Run(s.name, func(t *testing.T) {
			samples, err := named(t, s.name).measure(t.Context(), c, s.want)
			if err != nil {
				t.Fatal(err)
			}
			value := map[string]map[string]float64{}
			for _, m := range samples {
				if value[m.Scenario] == nil {
					value[m.Scenario] = map[string]float64{}
				}
				value[m.Scenario][m.Metric] = m.Value
			}
			for _, want := range s.measured {
				got := value[want.String()]
				if want.Kind == Latency {
					for _, way := range []string{"one way", "and back"} {
						if p50, most := got[way+" p50"], got[way+" max"]; p50 <= 0 || most < p50 {
							t.Errorf("%v, %s: p50 %v µs, longest %v", want, way, p50, most)
						}
					}
				} else if got["received"] <= 0 || got["generated"] <= 0 || got["loss"] < 0 || got["loss"] > 100 {
					t.Errorf("%v: %v", want, got)
				}
			}
			if len(value) != len(s.measured) {
				t.Errorf("measured %v, want %v", value, s.measured)
			}
		})
	}
}

// A forwarder that does not do its work is an error that says so, not a figure.
func TestWrongForwardersAreFound(t *testing.T) {
	needLive(t)
	c := &Config{CPUs: cpus(t), Duration: time.Millisecond}
	toVIP := netip.MustParseAddrPort("10.0.1.100:53")
	kernel := startForward(inline)
	for _, s := range []struct {
		subject
		want string
	}{
		{subject{name: "forwards nothing", start: idle, want: toVIP, forwarded: forwardedL3}, "256 of 256 packets did not arrive"},
		{subject{name: "forwards another packet", start: kernel, want: toVIP, forwarded: forwardedL2}, "forwards wrongly: "},
		{subject{name: "forwards in no tunnel", start: kernel, want: toVIP, forwarded: forwardedIPIP}, "forwards wrongly: "},
		{subject{name: "forwards to another place", start: kernel, want: netip.MustParseAddrPort("10.0.2.10:53"), forwarded: forwardedL3}, "with another destination"},
		{subject{name: "is not there", want: toVIP, start: func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error) {
			return startProcess(ctx, n, &c.CPUs, dir, "ready", "sh", "-c", "echo no such NIC; exit 1")
		}}, "it ended; its last lines:\nno such NIC"},
	} {
		t.Run(s.name, func(t *testing.T) {
			samples, err := s.measure(t.Context(), c, []Scenario{{Kind: Full, Shape: small}})
			if err == nil || !strings.Contains(err.Error(), s.want) {
				t.Errorf("measured %v, error %v; want an error with %q", samples, err, s.want)
			}
		})
	}
}

// Of an outer header of IPIP nothing is overlooked but what is the forwarder's choice.
func TestJudged(t *testing.T) {
	frame := func(id uint16, ttl uint8, sport uint16) []byte {
		inner := packettest.Eth(serverMAC, backMAC).IP4(clientAddr, vip).UDP(sport, vport)
		return packettest.Eth(serverMAC, backMAC).IP4("10.0.2.1", serverAddr).ID(id).TTL(ttl).Encap(inner).Bytes()
	}
	right := frame(1, 63, 5)
	if judged(right) != judged(frame(2, 63, 5)) {
		t.Error("another identification is another packet")
	}
	spoilt := frame(1, 63, 5)
	spoilt[24] ^= 1
	for what, other := range map[string][]byte{"TTL": frame(1, 62, 5), "inner port": frame(1, 63, 6), "outer checksum": spoilt} {
		if judged(right) == judged(other) {
			t.Errorf("another %s is the same packet", what)
		}
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
	if _, err := readWaiting(os.Getpid(), 0); err != nil {
		t.Errorf("this process: %v", err)
	}
	if _, err := readWaiting(1<<30, 0); err == nil {
		t.Error("a process that is not there has waited")
	}
	if _, err := readStolen(0); err != nil {
		t.Errorf("CPU 0: %v", err)
	}
	if _, err := readStolen(1 << 20); err == nil {
		t.Error("time was stolen from a CPU that is not there")
	}
	if got := allowedCPUs("Cpus_allowed:\tf\nCpus_allowed_list:\t0-3\nMems_allowed:\t1\n"); got != "0-3" {
		t.Errorf("allowed %q, want 0-3", got)
	}
}

// What is reported follows from two readings.
func TestSince(t *testing.T) {
	began := time.Now()
	before := reading{began, counts{1000, 100, 3, 0}, cpuTimes{0, 0, time.Second}, time.Hour}
	after := reading{
		began.Add(2 * time.Second),
		counts{5000, 3100, 3, 0},
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

// Ratios are by run, of what both were measured in.
func TestRatios(t *testing.T) {
	var all []bench.Series
	add := func(scenario, subject, metric string, values ...float64) {
		all = append(all, bench.Series{Scenario: scenario, Subject: subject, Metric: metric, Values: values})
	}
	add("wire/rate/v4/1k/60B", SluiceNAT, "CPU time", 1, 3)
	add("wire/rate/v4/1k/60B", NftDNAT, "CPU time", 2, 4)
	add("wire/latency/v4/1k/60B/50", SluiceDR, "one way p99.9", 6)
	add("wire/latency/v4/1k/60B/50", NftDR, "one way p99.9", 3)
	add("wire/latency/v4/1k/60B/50", SluiceNAT, "one way p50", 3)
	got := Ratios(all)
	if len(got) != 2 || !slices.Equal(got[0].Values, []float64{0.5, 0.75}) || got[0].Subject != "sluice-nat / nft-dnat" || !slices.Equal(got[1].Values, []float64{2}) {
		t.Errorf("%+v", got)
	}
}
