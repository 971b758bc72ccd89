package xdpprog

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// BenchmarkMarks is what the program costs for a packet that no rule wants, by
// the number of rules and what they differ in, measured by BPF_PROG_TEST_RUN.
func BenchmarkMarks(b *testing.B) {
	testnet.NeedRoot(b)
	frame := eth4(ip4(tcp, cip, another, ports(40000, 80)))
	for _, differ := range []string{"destination", "source", "ports"} {
		for _, n := range []int{0, 1, 16, 64, 256, MaxMarks} {
			b.Run(fmt.Sprintf("%s/rules=%d", differ, n), func(b *testing.B) {
				s, err := Load(Options{Queues: 1})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				a, err := s.instance(0, Generic)
				if err != nil {
					b.Fatal(err)
				}
				defer a.release()
				if err := s.Update(Want{Marks: manyMarks(n, differ)}); err != nil {
					b.Fatal(err)
				}
				best := time.Hour // the machine may do something else meanwhile
				for b.Loop() {
					_, took, err := a.loaded.Program.Benchmark(frame, 100_000, func() {})
					if err != nil {
						b.Fatal(err)
					}
					best = min(best, took)
				}
				b.ReportMetric(float64(best.Nanoseconds()), "ns/pkt")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// manyMarks are n rules that differ in one thing.
func manyMarks(n int, differ string) (rules []MarkRule) {
	for i := range n {
		r := MarkRule{Proto: tcp}
		net := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
		switch differ {
		case "destination":
			r.Destination = net
		case "source":
			r.Source = net
		case "ports":
			r.PortLow, r.PortHigh = uint16(1000+3*i), uint16(1001+3*i)
		}
		rules = append(rules, r)
	}
	return rules
}
