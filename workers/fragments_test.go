package workers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/fastpath/pathtest"
	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/slowpath/frag"
)

// fragBench is a bench with a slow path, and what leaves it.
type fragBench struct {
	*bench
	path   *slowpath.Path
	far    [2]*frag.Reassembler // behind each port
	whole  [2][]string          // datagrams that arrived there, in words and payload
	frames int                  // that left
	host   int                  // frames that the host got
}

func (b *fragBench) Inject(int, []byte) error { b.host++; return nil }

func newFragBench(t *testing.T, services ...string) *fragBench {
	t.Helper()
	b := &fragBench{bench: newBench(t, 2, true, pathtest.Service(services[0], services[1:]...))}
	b.path = slowpath.New(slowpath.Config{
		Tables: b.pool.Workers[0].Routes.Load, Host: b, Now: b.clock.Now,
		Emit:    func(m *slowpath.Out, frame []byte) bool { return b.pool.Send(int(m.Worker), int(m.Iface), frame) },
		Deliver: func(worker uint16, d *slowpath.Datagram) { b.pool.Workers[worker].Slow.Lend(d) },
	})
	for i := range b.far {
		b.far[i] = frag.New(frag.Limits{Memory: 64 << 20, Share: 100}, func(why frag.Reason, n int) { t.Errorf("beyond port %d: %d fragments lost: %d", i, n, why) })
	}
	for _, k := range b.kernels {
		k.Wire = b.arrive
	}
	b.run(2)
	return b
}

// arrive is the far side of a port's cable.
func (b *fragBench) arrive(port int, frame []byte) {
	b.frames++
	var in packet.Info
	if packet.Parse(frame, &in) == packet.Fragment {
		id, ok := b.far[port].Add(frame, &in, frag.Origin{}, 0)
		if !ok {
			return
		}
		frame = make([]byte, packet.MaxFrame)
		frame = frame[:b.far[port].Assemble(id, frame)]
		b.far[port].Release(id)
		packet.Parse(frame, &in)
	}
	b.whole[port] = append(b.whole[port], packettest.Describe(frame)+" "+string(frame[in.End-min(in.End-uint32(in.L4), 8):in.End]))
}

// run lets everybody do something, n times.
func (b *fragBench) run(n int) {
	for range n {
		b.turn(1)
		for _, w := range b.pool.Workers {
			b.path.Take(w.Slow, 32)
		}
	}
}

// sum checks that the fates add up.
func (b *fragBench) sum() Totals {
	b.t.Helper()
	var reports []Report
	for _, w := range b.pool.Workers {
		reports = append(reports, w.Report())
	}
	slow := b.path.Counters()
	totals := Sum(reports, &slow)
	if err := totals.adds(); err != nil {
		b.t.Error(err)
	}
	return totals
}

// payload is n bytes that end with a name.
func payload(n int, name string) []byte {
	return append(bytes.Repeat([]byte{byte(n)}, n-8), fmt.Sprintf("%8s", name)...)
}

// TestFragmentsByAnyQueue: datagrams of many clients in fragments of any size, in any
// order, by any queue, some of them twice, through NAT and back: each that is complete arrives,
// once, and every fragment's fate is counted.
func TestFragmentsByAnyQueue(t *testing.T) {
	b := newFragBench(t, "udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1")
	rng := rand.New(rand.NewPCG(7, 7))
	const clients = 150
	var twice, left uint64
	sent := [2]map[string]bool{{}, {}} // names of complete datagrams, by the port by which they leave
	for direction := range 2 {
		for c := range clients {
			name := fmt.Sprintf("%d-%d", direction, c)
			p := pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).UDP(uint16(1000+c), 53)
			if direction == 1 {
				p = pathtest.FromServer().IP4("10.0.2.11", pathtest.Client).UDP(5353, uint16(1000+c))
			}
			size := 200 + rng.IntN(6000)
			var at []int
			for off := 8 * (1 + rng.IntN(180)); off < size && len(at) < 40; off += 8 * (1 + rng.IntN(180)) {
				at = append(at, off)
			}
			parts := p.Payload(payload(size-8, name)).Parts(uint32(c), at...)
			rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			switch {
			case len(parts) == 1:
				parts[0] = p.Payload(payload(size-8, name)) // it is no fragment
				sent[1-direction][name] = true
			case direction == 1 && c%10 == 0:
				parts = parts[1:]
				left += uint64(len(parts))
			default:
				sent[1-direction][name] = true
				if c%7 == 0 { // before it is complete
					parts = slices.Insert(parts, 1, parts[0])
					twice++
				}
			}
			for _, part := range parts {
				b.kernels[rng.IntN(2)].Arrive(direction, part.Bytes())
				b.run(1)
			}
		}
		b.run(20)
	}
	for port, names := range sent {
		for _, got := range b.whole[port] {
			name := strings.TrimSpace(got[len(got)-8:])
			if !names[name] {
				t.Errorf("port %d: %q, which was not complete or came twice", port, name)
			}
			delete(names, name)
			c := name[strings.Index(name, "-")+1:]
			if strings.Contains(got, "BAD") || port == 1 && !strings.Contains(got, "> 10.0.2.11:5353 UDP") || port == 0 && !strings.Contains(got, "10.0.1.100:53 > 10.0.1.10:") {
				t.Errorf("port %d, %s: %s", port, c, got[:min(len(got), 200)])
			}
		}
		if len(names) > 0 {
			t.Errorf("port %d: %d datagrams did not arrive: %v", port, len(names), names)
		}
	}
	totals := b.sum()
	if totals.Held != left || totals.Dropped["fragment_duplicate"] != twice {
		t.Errorf("%d fragments wait and %d came twice, want %d and %d", totals.Held, totals.Dropped["fragment_duplicate"], left, twice)
	}
	handed := uint64(0)
	for _, w := range b.pool.Workers {
		r := w.Report()
		handed += r.HandedOver()
	}
	if handed == 0 {
		t.Error("no datagram came by the wrong worker's queue: the test does not test")
	}
	b.clock.Advance(31 * time.Second)
	b.path.Tick(b.clock.Now())
	if totals = b.sum(); totals.Held != 0 || totals.Dropped["fragment_expired"] != left {
		t.Errorf("after 31 s %d fragments wait, %d are given up, want %d", totals.Held, totals.Dropped["fragment_expired"], left)
	}
}

// TestFatesOfDatagrams: whatever becomes of a datagram becomes of its fragments.
func TestFatesOfDatagrams(t *testing.T) {
	udp := func(dst string, port uint16) packettest.Packet {
		return pathtest.FromClient().IP4(pathtest.Client, dst).UDP(1000, port).Payload(payload(2000, "x"))
	}
	tcp := pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).TCP(1000, 80, packettest.ACK).Payload(payload(2000, "x"))
	for _, row := range []struct {
		stake   string
		service []string
		p       packettest.Packet
		want    string
		frames  int // that leave
	}{
		{"sent on", []string{"udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1"}, udp(pathtest.VIP, 53), "transmitted 3", 3},
		{"no service: the host's", []string{"udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1"}, udp(pathtest.VIP, 54), "passed 3", 0},
		{"TCP without a connection: the host's", []string{"tcp 10.0.1.100:80 rr", "nat 10.0.2.11:8080 1"}, tcp, "passed 3", 0},
		{"no server", []string{"udp 10.0.1.100:53 rr"}, udp(pathtest.VIP, 53), "no_server 3", 1},
		{"TTL over", []string{"udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1"}, udp(pathtest.VIP, 53).TTL(1), "ttl_exceeded 3", 1},
		{"a loopback server", []string{"udp 10.0.1.100:53 rr", "nat 127.0.0.1:5353 1"}, udp(pathtest.VIP, 53), "local_server 3", 0},
		{"its next hop is not known", []string{"udp 10.0.1.100:53 rr", "nat 10.0.2.99:5353 1"}, udp(pathtest.VIP, 53), "held 3", 0},
		{"another worker's", []string{"udp 10.0.1.100:53 rr", "dr 10.0.2.11:53 1"}, udp(pathtest.VIP, 53), "transmitted 3", 3},
	} {
		for _, w := range []int{0, 1} { // one of them owns it
			b := newFragBench(t, row.service...)
			for _, part := range row.p.Parts(7, 800, 1600) {
				b.kernels[w].Arrive(0, part.Bytes())
				b.run(2)
			}
			b.run(10)
			totals := b.sum()
			got := fmt.Sprintf("transmitted %d", totals.Transmitted)
			switch {
			case totals.Passed > 0:
				got = fmt.Sprintf("passed %d", totals.Passed)
			case totals.Held > 0:
				got = fmt.Sprintf("held %d", totals.Held)
			}
			for reason, n := range totals.Dropped {
				got = fmt.Sprintf("%s %d", reason, n)
			}
			if got != row.want || b.frames != row.frames || totals.Received != 3 {
				t.Errorf("%s, by worker %d: %s and %d frames leave, want %s and %d; %+v", row.stake, w, got, b.frames, row.want, row.frames, totals)
			}
			if row.want == "passed 3" && b.host != 3 {
				t.Errorf("%s: the host got %d frames", row.stake, b.host)
			}
		}
	}
}

// TestOversize: a packet without DF that is larger than its way's MTU is fragmented.
func TestOversize(t *testing.T) {
	b := newFragBench(t, "udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1")
	p := pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).UDP(1000, 53).Payload(payload(1600, "big"))
	b.kernels[0].Arrive(0, p.Bytes())
	b.run(10)
	if len(b.whole[1]) != 1 || b.frames != 2 || !strings.Contains(b.whole[1][0], "> 10.0.2.11:5353 UDP len=1600 csum=ok") {
		t.Errorf("%d frames left: %.200q", b.frames, b.whole[1])
	}
	if totals := b.sum(); totals.Transmitted != 1 {
		t.Errorf("%+v, want one packet transmitted", totals)
	}
}

// TestFragmentsRefused: more than the budget are dropped before they are copied, and counted.
func TestFragmentsRefused(t *testing.T) {
	b := newFragBench(t, "udp 10.0.1.100:53 rr", "nat 10.0.2.11:5353 1")
	part := pathtest.FromClient().IP4(pathtest.Client, pathtest.VIP).UDP(1000, 53).Payload(payload(1600, "big")).Parts(7, 800)[0].Bytes()
	for range 100 { // into a ring of 64
		b.kernels[0].Arrive(0, part)
		b.turn(1)
	}
	b.turn(2)
	r := b.pool.Workers[0].Report()
	if refused := r.Refused[slowpath.Fragments][slowpath.RingFull]; refused != 36 || r.Verdicts[fastpath.DropSlowPath] != 36 {
		t.Errorf("%d fragments refused, %d dropped for it, want 36", refused, r.Verdicts[fastpath.DropSlowPath])
	}
	b.run(10)
	b.sum()
}
