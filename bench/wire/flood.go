package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// A flood is what comes beside a live TCP stream, by the same queue of the
// director. What the stream then has is compared with what it has beside an
// equal flood that the fast path drops at once: the same frames with a wrong
// checksum in the IPv4 header.
type flood struct {
	name string
	// frames returns a maker of its frames, numbered from 0, beside the stream
	// from that port of the client's. It may use the memory of one again for
	// the next.
	frames func(port uint16) func(i int) []byte
}

// floods are what is measured.
var floods = []flood{
	{"icmp-errors", icmpErrors},
	{"fragments", fragments},
	{"datagrams", datagrams},
}

const (
	// FloodScenario is where the names of the floods' scenarios begin.
	FloodScenario = "wire/flood/"

	// floodRate is packets a second: a part of what a worker can take on any
	// machine, so that it is their treatment that matters and not the queue.
	floodRate = 100_000
	settle    = 150 * time.Millisecond
	// recovered is the part of its rate before that a stream has to reach.
	recovered = 0.8
	patient   = 10 * time.Second
	alike     = 0.1 // by how much two floods' rates may differ
)

// icmpErrors are errors from a router about packets of the service's: those to
// the stream's client, and in turn those to clients that there are not. Each
// quotes as much as an error may.
func icmpErrors(port uint16) func(i int) []byte {
	const quoted = 576 - packet.IPv4Len - packet.ICMPLen
	frames := make([][]byte, 1024)
	for i := range frames {
		to := port
		if i%2 == 1 {
			to = uint16(1024 + i)
		}
		answer := packettest.Eth(clientMAC, frontMAC).IP4(vip, clientAddr).TCP(vport, to, packettest.ACK).Payload(make([]byte, 1000))
		frames[i] = packettest.Eth(frontMAC, clientMAC).IP4("10.0.1.254", vip).ICMP4(packet.ICMPTimeExceeded, 0, 0).Quote(answer, quoted).Bytes()
	}
	return func(i int) []byte { return frames[i%len(frames)] }
}

// flooders is how many clients send fragments: what the first of a datagram of each takes is
// more than there is memory for.
const flooders = 1 << 13

// flooder returns a datagram of a client's to the service without servers, in two
// fragments.
func flooder(i int) [][]byte {
	from := fmt.Sprintf("198.18.%d.%d", i>>8, i&0xff)
	datagram := packettest.Eth(frontMAC, clientMAC).IP4(from, vip).UDP(1000, emptyPort).Payload(make([]byte, 1000))
	parts := datagram.Parts(uint32(i), 512)
	return [][]byte{parts[0].Bytes(), parts[1].Bytes()}
}

// fragments are the first of datagrams that are never complete.
func fragments(uint16) func(i int) []byte {
	frames := make([][]byte, flooders)
	for i := range frames {
		frames[i] = flooder(i)[0]
	}
	return func(i int) []byte { return frames[i%len(frames)] }
}

// datagrams are complete, each in two fragments.
func datagrams(uint16) func(i int) []byte {
	frames := make([][]byte, 0, 2*flooders)
	for i := range flooders {
		frames = append(frames, flooder(i)...)
	}
	return func(i int) []byte { return frames[i%len(frames)] }
}

// spoilt makes frames the fast path drops at once, which else are next's.
func spoilt(next func(i int) []byte) func(i int) []byte {
	const sumAt = packet.EthernetLen + 10
	var buf []byte
	return func(i int) []byte {
		buf = append(buf[:0], next(i)...)
		buf[sumAt] ^= 0xff
		return buf
	}
}

// floodCases returns a Case for each flood.
func floodCases(c Config) (cases []bench.Case) {
	for _, f := range floods {
		cases = append(cases, bench.Case{Scenario: FloodScenario + f.name, Subject: Sluice, Measure: func(ctx context.Context) ([]bench.Sample, error) {
			return f.measure(ctx, &c)
		}})
	}
	return cases
}

// floodPlan is plan with the ways that a connection needs.
func floodPlan() testnet.Plan {
	p := plan()
	p.Neighbors = append(p.Neighbors, testnet.Neighbor{In: client, Dev: eth0, Addr: vip, MAC: frontMAC})
	p.Routes = append(p.Routes, testnet.Route{In: server, To: "default", Via: "10.0.2.1"})
	return p
}

// measure is one run: a network, the director, the stream, and beside it in
// turn nothing, the flood that is dropped at once, nothing, and the flood.
func (f *flood) measure(ctx context.Context, c *Config) (samples []bench.Sample, err error) {
	n, err := testnet.Build(floodPlan())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	dir, err := os.MkdirTemp("", "sluice-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	p, err := startSluice("tcp", "nat", rport)(ctx, n, c, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	s, err := openStream(ctx, n, rport)
	if err != nil {
		return nil, p.blame(err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	samples, err = f.beside(ctx, c, n, s)
	return samples, p.blame(err)
}

// rounds is how often a run compares the two floods, which take turns in
// being the first.
const rounds = 4

// beside measures the stream beside the floods.
func (f *flood) beside(ctx context.Context, c *Config, n *testnet.Network, s *stream) ([]bench.Sample, error) {
	next := f.frames(s.port)
	var all [2][]outcome // of what is dropped at once, and of the flood
	for round := range rounds {
		for i := range 2 {
			which, frames := (round+i)%2, next
			if which == 0 {
				frames = spoilt(next)
			}
			o, err := s.beside(ctx, c, n, frames)
			if err != nil {
				return nil, err
			}
			all[which] = append(all[which], o)
		}
	}
	return summary(all[0], all[1])
}

// summary is a run in numbers: medians over its rounds, of recoveries the
// longest.
func summary(dropped, flooded []outcome) ([]bench.Sample, error) {
	over := func(p float64, of []outcome, value func(i int, o *outcome) float64) float64 {
		var values []float64
		for i := range of {
			values = append(values, value(i, &of[i]))
		}
		return bench.Percentile(values, p)
	}
	alone := func(_ int, o *outcome) float64 { return o.alone }
	rate := func(_ int, o *outcome) float64 { return o.rate }
	sent := func(_ int, o *outcome) float64 { return o.sent }
	recovery := func(_ int, o *outcome) float64 { return o.recovery }
	if a, b := over(50, dropped, sent), over(50, flooded, sent); min(a, b) < max(a, b)*(1-alike) {
		return nil, fmt.Errorf("the floods were not alike: %.0f and %.0f packets/s", a, b)
	}
	return []bench.Sample{
		{Metric: "stream alone", Unit: "bit/s", Value: over(50, append(dropped[:len(dropped):len(dropped)], flooded...), alone)},
		{Metric: "stream beside packets dropped at once", Unit: "bit/s", Value: over(50, dropped, rate)},
		{Metric: "stream beside the flood", Unit: "bit/s", Value: over(50, flooded, rate)},
		{Metric: "flood / dropped at once", Unit: "ratio", Value: over(50, flooded, func(i int, o *outcome) float64 { return o.rate / dropped[i].rate })},
		{Metric: "flood", Unit: "packets/s", Value: over(50, flooded, sent)},
		{Metric: "longest recovery from packets dropped at once", Unit: "ms", Value: over(100, dropped, recovery)},
		{Metric: "longest recovery from the flood", Unit: "ms", Value: over(100, flooded, recovery)},
	}, nil
}

// startFlood sends from the client, on a thread of its own on the generator's
// CPU, until stop is called, which returns how many packets a second that were.
func startFlood(ctx context.Context, c *Config, n *testnet.Network, next func(i int) []byte) (stop func() (perSecond float64, err error), err error) {
	raw, err := n.In(client).OpenRaw(eth0)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	began, sent, result := time.Now(), 0, make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		restore, err := bench.Pin(c.CPUs.Generator)
		if err == nil {
			sent, err = raw.Flood(ctx, floodRate, next)
			restore()
		}
		result <- err
	}()
	return func() (float64, error) {
		end()
		err := <-result
		return float64(sent) / time.Since(began).Seconds(), errors.Join(err, raw.Close())
	}, nil
}
