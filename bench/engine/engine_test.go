package engine

import (
	"encoding/binary"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/bench/pktgen"
	"github.com/sluice-lb/sluice/fastpath/csum"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// small is a lap for tests: some batches and a bit.
const small = 5*Batch + 7

func memory(t testing.TB, frames int) *Memory {
	t.Helper()
	m, err := NewMemory(frames)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func rig(t testing.TB, s Scenario, m *Memory) *Rig {
	t.Helper()
	r, err := New(s, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// scaled returns every scenario with at most so many connections.
func scaled(conns int) (out []Scenario) {
	for _, s := range All() {
		if s.Conns = min(s.Conns, conns); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// What is measured is the forwarding of real packets: each of a lap leaves as
// its scenario says, right in every checksum, and so does each of the next.
func TestEveryPacketIsForwarded(t *testing.T) {
	m := memory(t, small)
	for _, s := range scaled(1000) {
		t.Run(s.Name(), func(t *testing.T) {
			r := rig(t, s, m)
			for range 2 {
				if _, err := r.Lap(); err != nil {
					t.Fatal(err)
				}
				for i := range r.Len() {
					checkSent(t, r, m.chunk(r.lap.order[i]))
				}
				if err := r.Refill(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// checkSent holds what became of the frame in a chunk against the scenario.
func checkSent(t *testing.T, r *Rig, chunk []byte) {
	t.Helper()
	s, n := r.scenario, r.network
	frame := chunk[rings.Headroom:][:r.template.Len()]
	if s.Method == IPIP {
		frame = inner(t, r, chunk)
	}
	var in packet.Info
	if result := packet.Parse(frame, &in); result != packet.Parsed {
		t.Fatalf("sent a frame that is %v: %s", result, packettest.Describe(frame))
	}
	segment := frame[in.L4:in.End]
	if csum.Fold(csum.Sum(segment, csum.Pseudo(&in.Src, &in.Dst, in.Proto, len(segment)))) != 0 {
		t.Errorf("TCP checksum of %s is wrong", packettest.Describe(frame))
	}
	if in.TTL != 63 {
		t.Errorf("TTL %d, want 63", in.TTL)
	}
	src, dst := pktgen.Endpoint{Addr: in.Src, Port: in.SrcPort}, pktgen.Endpoint{Addr: in.Dst, Port: in.DstPort}
	right := dst == n.vip
	switch s.Method {
	case NATIn:
		right = slices.Contains(n.servers, dst)
	case NATOut:
		right = src == n.vip
	}
	if !right {
		t.Errorf("sent %s", packettest.Describe(frame))
	}
}

// inner checks the outer header of what left by a tunnel, which stands in the
// chunk's headroom, and returns the inner packet with an Ethernet header.
func inner(t *testing.T, r *Rig, chunk []byte) []byte {
	t.Helper()
	outerLen, etherType := packet.IPv4Len, uint16(packet.EtherIPv4)
	if r.scenario.V6 {
		outerLen, etherType = packet.IPv6Len, packet.EtherIPv6
	}
	sent := chunk[rings.Headroom-outerLen:][:outerLen+r.template.Len()]
	var in packet.Info
	if result := packet.Parse(sent, &in); result != packet.OtherProto {
		t.Fatalf("sent a frame that is %v: %s", result, packettest.Describe(sent))
	}
	if !slices.ContainsFunc(r.network.servers, func(e pktgen.Endpoint) bool { return e.Addr == in.Dst }) {
		t.Errorf("tunnel to %v: not a server", in.Dst)
	}
	frame := slices.Clone(sent[outerLen:])
	binary.BigEndian.PutUint16(frame[12:], etherType)
	return frame
}

// Forwarding allocates nothing, whatever the scenario.
func TestNoAllocations(t *testing.T) {
	m := memory(t, 40*Batch)
	for _, s := range scaled(1000) {
		t.Run(s.Name(), func(t *testing.T) {
			r := rig(t, s, m)
			if n := testing.AllocsPerRun(30, func() {
				if !r.Turn() {
					t.Fatal("the lap is over")
				}
			}); n != 0 {
				t.Errorf("a batch allocates %v times, want 0", n)
			}
		})
	}
}

// A case gives every metric, of the right size.
func TestMeasure(t *testing.T) {
	m := memory(t, small)
	for _, c := range []struct {
		scenario Scenario
		want     []string
	}{
		{Scenario{NATOut, true, 100, Steady}, []string{"time", "rate", "allocations", "memory"}},
		{Scenario{NATIn, false, 100, NewWRR}, []string{"time", "rate", "allocations", "memory", "expiry"}},
	} {
		cases := Cases([]Scenario{c.scenario}, m, time.Microsecond, -1)
		series, err := bench.Run(t.Context(), cases, 2, func(int, *bench.Case) {})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range series {
			got = append(got, s.Metric)
			if s.Scenario != c.scenario.String() || len(s.Values) != 2 || s.Values[0] <= 0 && s.Metric != "allocations" {
				t.Errorf("series %+v", s)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v gives %q, want %q", c.scenario, got, c.want)
		}
	}
}

// Names are what records and patterns are found by.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range All() {
		if seen[s.String()] {
			t.Errorf("%v stands there twice", s)
		}
		seen[s.String()] = true
	}
	for _, want := range []string{"engine/nat-in/v4/1M/steady/1", "engine/nat-out/v6/10k/steady/1", "engine/dr/v4/1/steady/1", "engine/ipip/v6/1M/steady/1", "engine/nat-in/v4/1M/new-wrr/1"} {
		if !seen[want] {
			t.Errorf("no scenario is named %s", want)
		}
	}
}

// BenchmarkEngine measures one turn of the worker, a batch of 64 packets, by
// METHOD/FAMILY/CONNECTIONS/MIX. ns/pkt is of the thread's CPU time. With -short
// it runs a few scenarios.
func BenchmarkEngine(b *testing.B) {
	m := memory(b, Frames)
	onCPU := -1
	if topology, err := cpu.Read(os.DirFS("/sys")); err == nil {
		if cpus, err := bench.Assign(topology); err == nil {
			onCPU = cpus.Worker
		}
	}
	scenarios := All()
	if testing.Short() {
		scenarios = Few()
	}
	for _, s := range scenarios {
		b.Run(s.Name(), func(b *testing.B) { benchmark(b, s, m, onCPU) })
	}
}

func benchmark(b *testing.B, s Scenario, m *Memory, onCPU int) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if onCPU >= 0 {
		restore, err := bench.Pin(onCPU)
		if err != nil {
			b.Fatal(err)
		}
		defer restore()
	}
	r := rig(b, s, m)
	if _, err := r.Lap(); err != nil { // warm up
		b.Fatal(err)
	}
	if err := r.Refill(); err != nil {
		b.Fatal(err)
	}
	var busy time.Duration
	packets := 0
	began := now(b)
	for b.Loop() {
		r.Turn()
		if packets += Batch; packets%r.Len() == 0 {
			busy += now(b) - began
			b.StopTimer()
			if err := r.Done(); err != nil {
				b.Fatal(err)
			}
			if err := r.Refill(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			began = now(b)
		}
	}
	busy += now(b) - began
	b.ReportMetric(float64(busy.Nanoseconds())/float64(packets), "ns/pkt")
	b.ReportMetric(float64(packets)/busy.Seconds()/1e6, "Mpps")
	b.ReportMetric(float64(r.BytesPerConn()), "B/conn")
	b.ReportAllocs()
}

func now(b *testing.B) time.Duration {
	b.Helper()
	t, err := threadTime()
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// BenchmarkPort is what of BenchmarkEngine's time is the port's in memory: a
// batch received and sent.
func BenchmarkPort(b *testing.B) {
	m := memory(b, Frames)
	p := &port{lap: &lap{memory: m, order: m.order, frameLen: minFrame}}
	frames := make([]rings.Frame, Batch)
	for b.Loop() {
		p.Transmit(frames[:p.Receive(frames)])
		if p.next == len(m.order) {
			p.next = 0
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*Batch), "ns/pkt")
}
