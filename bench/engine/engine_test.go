package engine

import (
	"encoding/binary"
	"errors"
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
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// small is a lap for tests: some batches and a bit.
const small = 5*Batch + 7

// minFrame6 is the length of an IPv6 frame without payload, in bytes.
const minFrame6 = packet.EthernetLen + packet.IPv6Len + packet.TCPLen

func memory(t testing.TB, frames int) *Memory {
	t.Helper()
	m, err := NewMemory(frames)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// node returns a Node of the scenario whose laps are as long as m's.
func node(t testing.TB, s Scenario, m ...*Memory) *Node {
	t.Helper()
	n, err := New(s, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// kinds returns scenarios of few connections that together have every method,
// family and mix.
func kinds() (all []Scenario) {
	for _, method := range Methods() {
		all = append(all, Scenario{method, V4, 1, Steady, 1, Scale{}}, Scenario{method, V6, 1000, Steady, 1, Scale{}})
	}
	for _, mix := range Mixes() {
		all = append(all, Scenario{NATIn, Mixed, 1000, mix, 1, Scale{}})
	}
	return append(all, Scenario{NATOut, Mixed, 1000, Zipf, 2, Scale{}}, Scenario{DR, Mixed, 1000, OneNew, 2, Scale{}},
		Scenario{NATIn, Mixed, 1000, NewWRR, 1, Scale{10, 300}}, Scenario{NATOut, Mixed, 1000, Steady, 1, Scale{300, 10}})
}

// memories are one for each worker of a scenario.
func memories(s Scenario, of []*Memory) []*Memory { return of[:s.Workers] }

// What is measured is the forwarding of real packets: each of a lap leaves as
// its scenario says, right in every checksum, and so does each of the next.
func TestEveryPacketIsForwarded(t *testing.T) {
	two := []*Memory{memory(t, small), memory(t, small)}
	for _, s := range kinds() {
		t.Run(s.Name(), func(t *testing.T) {
			for _, r := range node(t, s, memories(s, two)...).Rigs {
				for range 2 {
					if _, err := r.Lap(); err != nil {
						t.Fatal(err)
					}
					for i := range r.Len() {
						checkSent(t, r, r.lap.memory.chunk(r.lap.order[i]), int(r.lap.memory.frames[i].Len))
					}
					if err := r.Refill(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// checkSent holds what became of the frame of length bytes in a chunk against
// the scenario.
func checkSent(t *testing.T, r *Rig, chunk []byte, length int) {
	t.Helper()
	s, n := r.scenario, r.network
	frame := chunk[rings.Headroom:][:length]
	if s.Method == IPIP || s.Method == GUE {
		frame = inner(t, r, chunk, length)
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
	f := int(in.Family-4) / 2
	right := slices.Contains(n.vips[f], dst) && slices.Contains(n.families, f)
	switch s.Method {
	case NATIn:
		right = slices.Contains(n.servers[f], dst)
	case NATOut:
		right = slices.Contains(n.vips[f], src)
	}
	if !right {
		t.Errorf("sent %s", packettest.Describe(frame))
	}
}

// inner checks the outer headers of what left by a tunnel, which stand in the
// chunk's headroom, and returns the inner packet, which had length bytes, with
// an Ethernet header.
func inner(t *testing.T, r *Rig, chunk []byte, length int) []byte {
	t.Helper()
	v6 := length == minFrame6
	overhead, etherType, result := packet.IPv4Len, uint16(packet.EtherIPv4), packet.OtherProto
	if v6 {
		overhead, etherType = packet.IPv6Len, packet.EtherIPv6
	}
	if r.scenario.Method == GUE {
		overhead, result = overhead+packet.UDPLen+4, packet.Parsed
	}
	sent := chunk[rings.Headroom-overhead:][:overhead+length]
	var in packet.Info
	if got := packet.Parse(sent, &in); got != result {
		t.Fatalf("sent a frame that is %v: %s", got, packettest.Describe(sent))
	}
	f := int(in.Family-4) / 2
	if !slices.ContainsFunc(r.network.servers[f], func(e pktgen.Endpoint) bool { return e.Addr == in.Dst }) || result == packet.Parsed && in.DstPort != guePort {
		t.Errorf("tunnel to %v, port %d: not a server", in.Dst, in.DstPort)
	}
	frame := slices.Clone(sent[overhead:])
	binary.BigEndian.PutUint16(frame[12:], etherType)
	return frame
}

// Forwarding allocates nothing, whatever the scenario.
func TestNoAllocations(t *testing.T) {
	two := []*Memory{memory(t, 40*Batch), memory(t, 40*Batch)}
	for _, s := range kinds() {
		t.Run(s.Name(), func(t *testing.T) {
			r := node(t, s, memories(s, two)...).Rigs[0]
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

// Each worker has the flows that it owns, about half of two; together they
// have all.
func TestWorkersShareFlows(t *testing.T) {
	n := node(t, Scenario{NATIn, Mixed, 1000, Steady, 2, Scale{}}, memory(t, small), memory(t, small))
	a, b := len(n.Rigs[0].flows), len(n.Rigs[1].flows)
	if a+b != 1000 || a < 400 || b < 400 {
		t.Errorf("the workers have %d and %d of 1000 flows", a, b)
	}
}

// Services have the servers that a scale says, all together as many.
func TestScales(t *testing.T) {
	for _, c := range []struct {
		scale       Scale
		first, last []int // host numbers of the first and last service's servers
	}{
		{Scale{}, nil, nil},
		{Scale{1, 2}, []int{10, 11}, []int{10, 11}},
		{Scale{2, 5}, []int{10, 12, 14}, []int{11, 13}},
		{Scale{300, 300}, []int{10}, []int{309}},
		{Scale{300, 7}, []int{10}, []int{15}},
	} {
		all := newNetwork(Scenario{NATIn, V4, 1, Steady, 1, c.scale}).services()
		nServices, _ := c.scale.Sizes()
		if len(all) != nServices {
			t.Errorf("%v: %d services", c.scale, len(all))
		}
		if c.first == nil {
			if len(all[0].Servers) != servers {
				t.Errorf("the zero scale has %d servers", len(all[0].Servers))
			}
			continue
		}
		for s, want := range map[*lb.ServiceSpec][]int{&all[0]: c.first, &all[len(all)-1]: c.last} {
			var got []int
			for i := range s.Servers {
				a := s.Servers[i].Key.Addr.As4()
				got = append(got, int(a[2])<<8|int(a[3]))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%v: service %v has servers %v, want %v", c.scale, s.Key, got, want)
			}
		}
	}
}

// A case gives every metric, of the right size.
func TestMeasure(t *testing.T) {
	two := []*Memory{memory(t, small), memory(t, small)}
	cpus := usable(t)
	for _, c := range []struct {
		scenario Scenario
		want     []string
	}{
		{Scenario{NATOut, V6, 100, Steady, 1, Scale{}}, []string{"time", "rate", "allocations", "memory"}},
		{Scenario{NATIn, V4, 100, NewWRR, 1, Scale{}}, []string{"time", "rate", "allocations", "memory", "expiry"}},
		{Scenario{NATIn, Mixed, 100, OneNew, 2, Scale{}}, []string{"time", "rate", "allocations", "memory", "expiry"}},
	} {
		// Two workers may share a CPU here: nobody looks at their time.
		cases := Cases([]Scenario{c.scenario}, two, time.Microsecond, []int{cpus[0], cpus[len(cpus)-1]})
		series, err := bench.Run(t.Context(), cases, 2, func(int, *bench.Case, error) {})
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
	cases := Cases([]Scenario{{NATIn, V4, 1, Steady, 2, Scale{}}}, two, time.Microsecond, cpus[:1])
	if _, err := bench.Run(t.Context(), cases, 1, func(int, *bench.Case, error) {}); err == nil {
		t.Error("two workers were measured on one CPU")
	}
}

// usable are the CPUs that the test may run on.
func usable(t testing.TB) []int {
	t.Helper()
	topology, err := cpu.Read(os.DirFS("/sys"))
	if err != nil {
		t.Fatal(err)
	}
	order, err := topology.Choose(len(topology), -1)
	if err != nil {
		t.Fatal(err)
	}
	return order
}

// Names are what records and patterns are found by; what they say is what is
// measured.
func TestNames(t *testing.T) {
	for _, s := range append(kinds(), Scenario{GUE, Mixed, 16_000_000, Zipf, 2, Scale{}}, Scenario{DR, V6, 1001, AllNew, 1, Scale{}}) {
		if got, err := Parse(s.String()); err != nil || got != s {
			t.Errorf("Parse(%q) = %v, %v", s, got, err)
		}
	}
	if got, want := (Scenario{NATIn, V4, 1_000_000, Steady, 1, Scale{}}).String(), "engine/nat-in/v4/1M/steady/1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := (Scenario{NATIn, V4, 1_000_000, Steady, 1, Scale{10_000, 1}}).String(), "engine/nat-in/v4/1M/steady/1/10kx1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if s, err := Parse("engine/dr/v4/1/steady/1/1x100"); err != nil || s != (Scenario{DR, V4, 1, Steady, 1, Scale{}}) {
		t.Errorf("1 service with 100 servers is %+v (%v), want the zero scale", s, err)
	}
	for _, name := range []string{
		"engine/nat-in/v4/1M/steady", "engine/nat/v4/1M/steady/1", "engine/dr/v5/1M/steady/1", "engine/dr/v4/0/steady/1", "engine/dr/v4/-1k/steady/1",
		"engine/dr/v4/17M/steady/1", "engine/dr/v4/16777216/steady/1", "engine/dr/v4/99999999999999999999/steady/1", "engine/dr/v4/1M/often/1",
		"engine/dr/v4/1k/steady/1/", "engine/dr/v4/1k/steady/1/10", "engine/dr/v4/1k/steady/1/0x1", "engine/dr/v4/1k/steady/1/11kx1", "engine/dr/v4/1k/steady/1/1x1/1",
		"engine/dr/v4/1M/steady/0", "engine/dr/v4/1M/steady/x", "engine/dr/v4/1M/steady/65",
	} {
		if s, err := Parse(name); !errors.Is(err, ErrScenario) {
			t.Errorf("Parse(%q) = %v, %v", name, s, err)
		}
	}
}

// Of Zipf's flows the second comes half as often as the first.
func TestZipf(t *testing.T) {
	n := map[uint32]int{}
	for _, f := range pktgen.Zipf([]uint32{7, 8, 9}, 110_000, 1) {
		n[f]++
	}
	for f, want := range map[uint32]int{7: 60_000, 8: 30_000, 9: 20_000} {
		if got := n[f]; got < want*95/100 || got > want*105/100 {
			t.Errorf("flow %d came %d times, want about %d", f, got, want)
		}
	}
}

// BenchmarkEngine measures one turn of the worker, a batch of 64 packets.
// ns/pkt is of the thread's CPU time. `sluice bench engine` has more scenarios.
func BenchmarkEngine(b *testing.B) {
	m := memory(b, Frames)
	onCPU := usable(b)[0]
	for _, method := range Methods() {
		for _, family := range []Family{V4, V6} {
			for _, conns := range []int{1000, 1_000_000} {
				s := Scenario{method, family, conns, Steady, 1, Scale{}}
				if testing.Short() && (conns > 1000 || family == V6) {
					continue
				}
				b.Run(s.Name(), func(b *testing.B) { benchmark(b, s, m, onCPU) })
			}
		}
	}
}

func benchmark(b *testing.B, s Scenario, m *Memory, onCPU int) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := bench.Pin(onCPU)
	if err != nil {
		b.Fatal(err)
	}
	defer restore()
	n := node(b, s, m)
	r := n.Rigs[0]
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
	b.ReportMetric(float64(n.BytesPerConn()), "B/conn")
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
	p := &port{lap: &lap{memory: m, order: m.order}}
	frames := make([]rings.Frame, Batch)
	for b.Loop() {
		p.Transmit(frames[:p.Receive(frames)])
		if p.next == len(m.order) {
			p.next = 0
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*Batch), "ns/pkt")
}
