package wire

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// Frames of a flood are what they claim to be, and those that are dropped at
// once are the same but for the checksum of the IPv4 header.
func TestFloodFrames(t *testing.T) {
	const port = 40_000
	for _, f := range floods {
		next, twin := f.frames(port), spoilt(f.frames(port))
		for i := range 3000 {
			good, bad := next(i), twin(i)
			var in packet.Info
			switch r := packet.Parse(good, &in); {
			case len(good) > packet.EthernetLen+1500 || in.Src.String() == vip || in.Dst.String() != vip:
				t.Fatalf("%s: frame %d of %d bytes goes from %v to %v", f.name, i, len(good), in.Src, in.Dst)
			case f.name == "icmp-errors" && r != packet.ICMPError:
				t.Fatalf("%s: frame %d is %v", f.name, i, r)
			case (f.name == "fragments" || f.name == "datagrams") && r != packet.Fragment:
				t.Fatalf("%s: frame %d is %v", f.name, i, r)
			}
			if r := packet.Parse(bad, &in); r != packet.BadChecksum {
				t.Fatalf("%s: spoilt frame %d is %v", f.name, i, r)
			}
			const sumAt = packet.EthernetLen + 10
			if len(good) != len(bad) || !bytes.Equal(good[:sumAt], bad[:sumAt]) || !bytes.Equal(good[sumAt+1:], bad[sumAt+1:]) {
				t.Fatalf("%s: spoilt frame %d differs in more than its checksum", f.name, i)
			}
		}
	}
	var quoted packet.Info
	next := icmpErrors(port)
	if frame := next(0); packet.ParseQuoted(frame, packet.EthernetLen+packet.IPv4Len+packet.ICMPLen, len(frame), &quoted) != packet.Parsed ||
		quoted.Src.String() != vip || quoted.SrcPort != vport || quoted.DstPort != port {
		t.Errorf("an error quotes %v:%d > %v:%d, want the service's answer to the stream", quoted.Src, quoted.SrcPort, quoted.Dst, quoted.DstPort)
	}
}

// The stream and both floods, with the kernel as the forwarder, which drops
// what is spoilt as well.
func TestBeside(t *testing.T) {
	testnet.NeedRoot(t)
	n := testnet.New(t, floodPlan())
	if err := n.In(server).AddVIP(vip); err != nil {
		t.Fatal(err)
	}
	c := &Config{CPUs: cpus(t), Duration: 50 * time.Millisecond}
	p, err := startForward(inline)(t.Context(), n, c, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	}()
	s, err := openStream(t.Context(), n, vport)
	if err != nil {
		t.Fatal(err)
	}
	f := &floods[0]
	o, err := s.beside(t.Context(), c, n, f.frames(s.port))
	if err != nil || o.alone <= 0 || o.sent <= 0 || o.recovery <= 0 {
		t.Errorf("outcome %+v (%v), want something of everything", o, err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if _, err := s.rate(t.Context(), time.Minute); err == nil {
		t.Error("a stream that has ended has a rate")
	}
	<-s.ended
}

// A run's numbers are medians, but for the longest recovery, and only of floods
// that were alike.
func TestSummary(t *testing.T) {
	dropped := []outcome{{alone: 10, rate: 8, sent: 100, recovery: 1}, {alone: 10, rate: 4, sent: 100, recovery: 9}, {alone: 10, rate: 8, sent: 99, recovery: 2}}
	flooded := []outcome{{alone: 10, rate: 8, sent: 95, recovery: 3}, {alone: 11, rate: 6, sent: 96, recovery: 2}, {alone: 12, rate: 4, sent: 95, recovery: 5}}
	want := []float64{10, 8, 6, 1, 95, 9, 5}
	samples, err := summary(dropped, flooded)
	var got []float64
	for _, s := range samples {
		got = append(got, s.Value)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v (%v), want %v", samples, err, want)
	}
	flooded[0].sent, flooded[1].sent = 80, 80
	if samples, err := summary(dropped, flooded); err == nil || !strings.Contains(err.Error(), "not alike: 100 and 80") {
		t.Errorf("%v (%v) of floods that were not alike", samples, err)
	}
}

// Without root, or without the binary, a case is an error.
func TestFloodCaseFails(t *testing.T) {
	testnet.NeedRoot(t)
	cases := floodCases(Config{CPUs: cpus(t), Sluice: "/nonexistent"})
	if len(cases) != len(floods) || cases[0].Scenario != FloodScenario+floods[0].name {
		t.Fatalf("%d cases", len(cases))
	}
	samples, err := cases[0].Measure(t.Context())
	if err == nil || errors.Is(err, testnet.ErrNotRoot) || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("%v (%v), want that the program is not there", samples, err)
	}
}
