package xdpprog

import (
	"net/netip"
	"testing"
)

// flowFrom is a flow of the host's that looks like a reply of natRIP's.
func flowFrom(port uint16) (Flow, []byte) {
	return Flow{tcp, addr(natRIP), addr(another), 8080, port}, eth4(ip4(tcp, natRIP, another, ports(8080, port)))
}

func TestLearn(t *testing.T) {
	s, a := load(t, Options{Queues: 1}, steered())
	giveSocket(t, a, 0)
	p := probe{a: a}
	want := func(stake string, port uint16, want Reason) {
		t.Helper()
		_, frame := flowFrom(port)
		if redirected, r, err := p.run(frame); err != nil || r != want || redirected != want.Redirects() {
			t.Errorf("%s: redirected %v as %v, %v; want %v", stake, redirected, r, err, want)
		}
	}
	forget := func() {
		t.Helper()
		before := s.Generation().Load()
		if err := s.Forget(); err != nil {
			t.Fatal(err)
		}
		if now := s.Generation().Load(); now == before || now == 0 {
			t.Errorf("generation %d after %d", now, before)
		}
	}
	learn := func(port uint16, generation uint32) {
		t.Helper()
		f, _ := flowFrom(port)
		if err := s.Learn(f, generation); err != nil {
			t.Fatal(err)
		}
	}
	forget() // what load has learnt
	want("nothing is learnt", 1000, NATReply)
	first := s.Generation().Load()
	learn(1000, first)
	want("learnt", 1000, Learnt)
	want("another flow", 1001, NATReply)
	forget()
	want("forgotten", 1000, NATReply)
	learn(1000, first)
	want("found out before it was forgotten, learnt after", 1000, NATReply)
	learn(1001, s.Generation().Load())
	want("learnt anew", 1001, Learnt)
	want("an old flow does not come back with new ones", 1000, NATReply)

	s.memory.generation.Store(1<<32 - 1)
	forget()
	if now := s.Generation().Load(); now != 1 {
		t.Errorf("the number after the last is %d, want 1: 0 means that nothing is learnt", now)
	}
}

// What is learnt is bounded: when there is no room all is forgotten at once.
func TestLearnIsBounded(t *testing.T) {
	s, _ := load(t, Options{Queues: 1}, steered())
	if err := s.Forget(); err != nil {
		t.Fatal(err)
	}
	generation := s.Generation().Load()
	for port := range MaxLearnt {
		f, _ := flowFrom(uint16(port))
		if err := s.Learn(f, generation); err != nil {
			t.Fatal(err)
		}
	}
	if now := s.Generation().Load(); now != generation {
		t.Fatalf("forgotten with room for %d", MaxLearnt)
	}
	f, _ := flowFrom(50_000)
	if err := s.Learn(f, generation); err != nil {
		t.Fatal(err)
	}
	if now := s.Generation().Load(); now == generation {
		t.Errorf("%d flows are learnt", MaxLearnt+1)
	}
}

// BenchmarkSteer measures the program on replies of a NAT server, with nothing
// learnt, with other flows learnt, and on a learnt flow.
func BenchmarkSteer(b *testing.B) {
	s, err := Load(Options{Queues: 1})
	if err != nil {
		b.Skip(err)
	}
	defer s.Close()
	a, err := s.instance(0, Driver)
	if err != nil {
		b.Fatal(err)
	}
	defer a.release()
	if err := s.Update(steered()); err != nil {
		b.Fatal(err)
	}
	learn := func(n int) {
		if err := s.Forget(); err != nil {
			b.Fatal(err)
		}
		for i := range n {
			f := Flow{tcp, addr(natRIP), netip.AddrFrom4([4]byte{192, 0, 2, byte(i >> 8)}).As16(), 8080, uint16(i)}
			if err := s.Learn(f, s.Generation().Load()); err != nil {
				b.Fatal(err)
			}
		}
	}
	reply := eth4(ip4(tcp, natRIP, cip, ports(8080, 40000)))
	for _, row := range []struct {
		name   string
		frame  []byte
		learnt int
	}{
		{"request", eth4(ip4(tcp, cip, vip, ports(40000, 80))), 1000},
		{"reply/learnt=0", reply, 0},
		{"reply/learnt=1", reply, 1},
		{"reply/learnt=10000", reply, 10000},
		{"learnt/learnt=10000", eth4(ip4(tcp, natRIP, "192.0.2.0", ports(8080, 7))), 10000},
		{"other", eth4(ip4(tcp, cip, another, ports(40000, 80))), 1000},
	} {
		b.Run(row.name, func(b *testing.B) {
			learn(row.learnt)
			_, took, err := a.loaded.Program.Benchmark(row.frame, b.N, b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(took.Nanoseconds()), "ns/pkt")
		})
	}
}
