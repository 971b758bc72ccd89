package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// subject is who forwards in a measurement.
type subject struct {
	name string
	// start starts the forwarder in the director's namespace and returns when
	// it forwards; nil: there is none, and the sink is at the director itself.
	// It may use the folder dir until the process has ended.
	start func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error)
	// want is where the packets are to arrive.
	want netip.AddrPort
	// forwarded is the frame that is to arrive for the one from that port.
	forwarded func(sport uint16) []byte
}

// subjects are those of the scenario nat.
func subjects() []subject {
	toVIP := netip.MustParseAddrPort(fmt.Sprintf("%s:%d", vip, vport))
	return []subject{
		{
			name: Sluice, start: startSluice("udp"), want: netip.MustParseAddrPort(fmt.Sprintf("%s:%d", serverAddr, rport)),
			forwarded: func(sport uint16) []byte {
				return packettest.Eth(serverMAC, backMAC).IP4(clientAddr, serverAddr).TTL(63).UDP(sport, rport).Payload(make([]byte, payload)).Bytes()
			},
		},
		{
			name: Testpmd, start: startTestpmd, want: toVIP,
			forwarded: func(sport uint16) []byte {
				return packettest.Eth(serverMAC, backMAC).IP4(clientAddr, vip).UDP(sport, vport).Payload(make([]byte, payload)).Bytes()
			},
		},
		{name: Generator, want: toVIP},
	}
}

const (
	checked  = 256                    // packets by which forwarding is checked
	attempts = 3                      // how often, if some are lost
	patience = 300 * time.Millisecond // how long for the last of them
	warmUp   = 300 * time.Millisecond

	windows   = 4  // of counting, at most, in a run
	disturbed = 20 // a window is, if the forwarder waited for its CPU this part of it
)

// check sends packets and compares what arrives at the server, every byte.
func (s *subject) check(n *testnet.Network, t *traffic) error {
	raw, err := n.In(server).OpenRaw(eth0)
	if err != nil {
		return err
	}
	defer raw.Close()
	waiting := map[string]bool{}
	for i := range checked {
		waiting[string(s.forwarded(uint16(firstPort+i)))] = true
	}
	for range attempts {
		if err := t.resetFlow(); err != nil {
			return err
		}
		if err := t.burst(checked); err != nil {
			return err
		}
		for len(waiting) > 0 {
			f, err := raw.Receive(patience)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			if bytes.Equal(f.Bytes[12:14], []byte{0x08, 0}) && f.Bytes[23] == 17 && !s.expects(f.Bytes) {
				return fmt.Errorf("forwards wrongly: %s, want such as %s", packettest.Describe(f.Bytes), packettest.Describe(s.forwarded(firstPort)))
			}
			delete(waiting, string(f.Bytes))
		}
		if len(waiting) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%d of %d packets did not arrive at the server", len(waiting), checked)
}

// expects says whether a frame is one of those that check sends.
func (s *subject) expects(frame []byte) bool {
	for i := range checked {
		if bytes.Equal(frame, s.forwarded(uint16(firstPort+i))) {
			return true
		}
	}
	return false
}

// measure is one run: a network, the forwarder, the check, and as much traffic
// as the generator can make.
func (s *subject) measure(ctx context.Context, c *Config) (samples []bench.Sample, err error) {
	n, err := testnet.Build(plan())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	t, err := newTraffic(n, s.want)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	if s.start == nil {
		if err := t.attachSink(director, front); err != nil {
			return nil, err
		}
		return t.measure(ctx, c, nil)
	}
	dir, err := os.MkdirTemp("", "sluice-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	p, err := s.start(ctx, n, c, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := s.check(n, t); err != nil {
		return nil, p.blame(err)
	}
	if err := t.attachSink(server, eth0); err != nil {
		return nil, err
	}
	return t.measure(ctx, c, p)
}

// measure floods, lets it settle, and counts for the configured time what
// arrives and what CPU time that took. p is the forwarder's process, nil: none.
func (t *traffic) measure(ctx context.Context, c *Config, p *process) ([]bench.Sample, error) {
	stop := t.flood(c.CPUs.Generator)
	samples, err := t.window(ctx, c, p)
	return samples, errors.Join(err, stop())
}

// window lets the traffic settle and counts. Where others took the forwarder's
// CPU from it, it counts again: the window with the least of that is the run's.
func (t *traffic) window(ctx context.Context, c *Config, p *process) (best []bench.Sample, err error) {
	if err := sleep(ctx, warmUp); err != nil {
		return nil, err
	}
	least := time.Duration(math.MaxInt64)
	for range windows {
		before, err := t.reading(p, c.CPUs.Worker)
		if err != nil {
			return nil, err
		}
		if err := sleep(ctx, c.Duration); err != nil {
			return nil, err
		}
		after, err := t.reading(p, c.CPUs.Worker)
		if err != nil {
			return nil, p.blame(err)
		}
		samples, err := after.since(&before, p != nil)
		if err != nil {
			return nil, err
		}
		waited := after.waiting - before.waiting
		if waited < least {
			least, best = waited, samples
		}
		if waited < c.Duration/disturbed {
			break
		}
	}
	return best, nil
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reading is all counters at one moment.
type reading struct {
	at      time.Time
	counts  counts
	used    cpuTimes
	waiting time.Duration // of the forwarder, for its CPU
}

func (t *traffic) reading(p *process, worker int) (r reading, err error) {
	if r.counts, err = t.counts(); err != nil {
		return r, err
	}
	r.at = time.Now()
	if r.used, err = readCPUTimes(worker); err != nil || p == nil {
		return r, err
	}
	r.waiting, err = readWaiting(p.pid)
	return r, err
}

// since returns what happened between two readings; forwarded says whether
// there was a forwarder between generator and sink.
func (r *reading) since(before *reading, forwarded bool) ([]bench.Sample, error) {
	took := r.at.Sub(before.at).Seconds()
	generated, received := float64(r.counts.generated-before.counts.generated), float64(r.counts.received-before.counts.received)
	if unwanted := r.counts.unwanted - before.counts.unwanted; received == 0 || unwanted > 0 {
		return nil, fmt.Errorf("%.0f packets arrived, and %d with another destination", received, unwanted)
	}
	samples := []bench.Sample{
		{Metric: "generated", Unit: "packets/s", Value: generated / took},
		{Metric: "received", Unit: "packets/s", Value: received / took},
	}
	if !forwarded {
		return samples, nil
	}
	user, system, softirq := r.used.user-before.used.user, r.used.system-before.used.system, r.used.softirq-before.used.softirq
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / received }
	return append(samples,
		bench.Sample{Metric: "loss", Unit: "%", Value: 100 * max(0, 1-received/generated)},
		bench.Sample{Metric: "CPU time", Unit: "ns/packet", Value: each(user + system + softirq)},
		bench.Sample{Metric: "CPU time, user", Unit: "ns/packet", Value: each(user)},
		bench.Sample{Metric: "CPU time, system", Unit: "ns/packet", Value: each(system)},
		bench.Sample{Metric: "CPU time, softirq", Unit: "ns/packet", Value: each(softirq)},
		bench.Sample{Metric: "waited for its CPU", Unit: "%", Value: 100 * (r.waiting - before.waiting).Seconds() / took},
	), nil
}
