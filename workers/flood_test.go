package workers

import (
	"fmt"
	"testing"

	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/slowpath"
)

// again is a port by which the same frames arrive again and again.
type again struct {
	rings.Port
	frames []rings.Frame
	next   int
}

func (p *again) Receive(b []rings.Frame) int {
	n := copy(b, p.frames[p.next:])
	p.next = (p.next + n) % len(p.frames)
	return n
}

func (p *again) Release([]rings.Frame) {}
func (p *again) Reclaim() int          { return 0 }

// floods are packets that cost more than others and are not changed by it, each
// with the counters of what is beyond its budget. The first is the measure: it is
// dropped at once.
var floods = []struct {
	name    string
	frame   func(i int) packettest.Packet
	dropped string                           // as a verdict
	refused func(r *slowpath.Refused) uint64 // by the slow path
}{
	{
		"dropped-at-once", func(i int) packettest.Packet { return stray(i).BadIPChecksum() },
		"ip_checksum", func(*slowpath.Refused) uint64 { return 0 },
	},
	{
		"icmp-errors", func(i int) packettest.Packet {
			answer := packettest.Eth(pathtest.ClientMAC, pathtest.FrontMAC).IP4(pathtest.VIP, pathtest.Client).TCP(80, uint16(i), packettest.ACK)
			return pathtest.FromClient().IP4("10.0.1.254", pathtest.VIP).ICMP4(3, 1, 0).Quote(answer, 28)
		},
		"icmp_over_budget", func(*slowpath.Refused) uint64 { return 0 },
	},
	{
		"fragments", func(i int) packettest.Packet {
			return pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).UDP(uint16(i), 55).Payload(make([]byte, 600)).Parts(uint32(i), 400)[0]
		},
		"slow_path_refused", of(slowpath.Fragments),
	},
	{"hand-back", stray, "slow_path_refused", of(slowpath.HandBack)},
	{
		"echo", func(i int) packettest.Packet {
			return pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).ICMP4(8, 0, uint32(i))
		},
		"echo", of(slowpath.ICMP),
	},
	{
		"no-server", func(i int) packettest.Packet {
			return pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).UDP(uint16(i), 55)
		},
		"no_server", of(slowpath.ICMP),
	},
}

// stray is a segment of a connection that there is not.
func stray(i int) packettest.Packet {
	return pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(uint16(i), 80, packettest.ACK)
}

func of(c slowpath.Class) func(r *slowpath.Refused) uint64 {
	return func(r *slowpath.Refused) uint64 { return r[c][slowpath.OverBudget] }
}

// flooded is a worker by whose first port frames of a flood arrive for ever,
// with a budget of few packets for each class and a clock that stands still.
func flooded(t testing.TB, frame func(i int) packettest.Packet) *Worker {
	t.Helper()
	b := newBench(t, 1, false,
		pathtest.Service("tcp 10.0.1.100:80 rr", "nat 10.0.2.11:80 1"),
		pathtest.Service("udp 10.0.1.100:55 rr"))
	w := b.pool.Workers[0]
	one := slowpath.Budget{Ring: 16, Rate: 1, Burst: 1}
	w.Slow = slowpath.NewIntake(slowpath.Budgets{slowpath.HandBack: one, slowpath.Unresolved: one, slowpath.ICMP: one, slowpath.Fragments: one}, 2048)
	port := &again{Port: w.Ports[0]}
	memory := make([]byte, 1024*2048)
	for i := range 1024 {
		f := rings.Frame{Chunk: memory[i*2048 : (i+1)*2048], Off: rings.Headroom}
		f.Len = uint32(copy(f.Chunk[f.Off:], frame(i).Bytes()))
		port.frames = append(port.frames, f)
	}
	w.Ports[0] = port
	return w
}

// Each flood ends where it should, under its own name, and nothing is allocated.
func TestFloods(t *testing.T) {
	for _, f := range floods {
		w := flooded(t, f.frame)
		w.Turn() // with what the budget lets through
		before := w.Report()
		const turns = 20
		if n := testing.AllocsPerRun(turns-1, func() { w.Turn() }); n != 0 {
			t.Errorf("%s: a turn allocates %v times, want 0", f.name, n)
		}
		r := w.Report()
		received := r.Received - before.Received
		totals := Sum([]Report{r}, &slowpath.Counters{})
		if got := totals.Dropped[f.dropped]; received != 32*turns || got < received {
			t.Errorf("%s: %d of %d were dropped as %s: %v", f.name, got, received, f.dropped, totals.Dropped)
		}
		if got, want := f.refused(&r.Refused), f.refused(&before.Refused); f.dropped != "ip_checksum" && f.dropped != "icmp_over_budget" && got-want != received {
			t.Errorf("%s: the slow path refused %d of %d: %v", f.name, got-want, received, r.Refused)
		}
	}
}

// BenchmarkFlood is what a packet beyond its budget costs a worker, all of Turn
// included, beside one that is dropped at once.
func BenchmarkFlood(b *testing.B) {
	for _, f := range floods {
		b.Run(fmt.Sprintf("packet=%s", f.name), func(b *testing.B) {
			w := flooded(b, f.frame)
			for b.Loop() {
				w.Turn()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*32), "ns/packet")
		})
	}
}
