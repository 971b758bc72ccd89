package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// subject is who forwards in a measurement.
type subject struct {
	name string
	// lacks says what it needs that is not here; nil: nothing.
	lacks func(c *Config) error
	// start is nil where there is no forwarder: the sink is at the director itself.
	start startFunc
	// want is where the packets are to arrive.
	want netip.AddrPort
	// forwarded is the frame that is to arrive for the one from that port.
	forwarded func(s Shape, sport uint16) []byte
	// direct says that servers answer clients themselves.
	direct bool
}

// startFunc starts a forwarder in the director's namespace and returns when it
// forwards. The process is nil where the kernel forwards. It may use the folder dir
// until the process has ended.
type startFunc func(ctx context.Context, n *testnet.Network, c *Config, dir string) (*process, error)

const (
	checked  = 256                    // packets by which forwarding is checked
	attempts = 3                      // how often, if some are lost
	patience = 300 * time.Millisecond // how long for the last of them
	warmUp   = 200 * time.Millisecond

	// Of what a run counts: a window of a load, one of delays, and a trial of the search.
	windowPart, delaysPart, trialPart = 2, 4, 10

	windows      = 2  // of a load or of delays, at most
	emptyWindows = 10 // of delays, while the machine lets no packet through
	disturbed    = 20 // a window is, if the forwarder waited for its CPU this part of it
	// undisturbed is what part it may have waited of a window of delays.
	undisturbed = 0.0002
)

// check sends packets and compares what arrives at the server, every byte.
func (s *subject) check(n *testnet.Network, t *traffic) error {
	raw, err := n.In(server).OpenRaw(eth0)
	if err != nil {
		return err
	}
	defer raw.Close()
	waiting := map[string]bool{}
	expected := func(i int) []byte { return s.forwarded(t.shape, uint16(firstPort+i%t.shape.Flows)) }
	for i := range checked {
		waiting[judged(expected(i))] = true
	}
	known := maps.Clone(waiting)
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
			got := judged(f.Bytes)
			if isTraffic(f.Bytes) && !known[got] {
				return fmt.Errorf("forwards wrongly: %s, want such as %s", packettest.Describe(f.Bytes), packettest.Describe(expected(0)))
			}
			delete(waiting, got)
		}
		if len(waiting) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%d of %d packets did not arrive at the server", len(waiting), checked)
}

// answers returns by which interfaces of server and client answers go.
func (s *subject) answers() string {
	if s.direct {
		return eth1
	}
	return eth0
}

// isTraffic tells packets of the traffic from those that hosts send by themselves.
func isTraffic(frame []byte) bool {
	return len(frame) > headers && bytes.Equal(frame[12:14], []byte{0x08, 0}) && (frame[23] == packet.ProtoUDP || frame[23] == packet.ProtoIPv4)
}

// judged returns a frame as a string, but of an outer header of IPIP whose
// checksum is right without identification, fragment bits and that checksum, which
// are the forwarder's choice.
func judged(frame []byte) string {
	if !isTraffic(frame) || frame[23] != packet.ProtoIPv4 || packettest.Checksum(frame[packet.EthernetLen:packet.EthernetLen+packet.IPv4Len]) != 0 {
		return string(frame)
	}
	masked := bytes.Clone(frame)
	clear(masked[packet.EthernetLen+4 : packet.EthernetLen+8])
	clear(masked[packet.EthernetLen+10 : packet.EthernetLen+12])
	return string(masked)
}

// measure is one run: a network, the forwarder, the check, and the loads that are
// wanted of it, which have one shape.
func (s *subject) measure(ctx context.Context, c *Config, wanted []Scenario) (samples []bench.Sample, err error) {
	if s.lacks != nil {
		if err := s.lacks(c); err != nil {
			return nil, skipped(err)
		}
	}
	n, err := testnet.Build(plan())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	t, err := newTraffic(n, wanted[0].Shape, s.want, s.answers())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	r := &run{traffic: t, subject: s, config: c}
	if s.start == nil {
		if err := t.attachSink(director, front); err != nil {
			return nil, err
		}
		return r.all(ctx, wanted)
	}
	dir, err := os.MkdirTemp("", "sluice-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if r.process, err = s.start(ctx, n, c, dir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.process.stop()) }()
	if err := s.check(n, t); err != nil {
		return nil, r.process.blame(err)
	}
	if mode := r.process.nicMode(); mode != "" && c.NICMode != nil {
		c.NICMode(mode)
	}
	if err := t.attachSink(server, eth0); err != nil {
		return nil, err
	}
	samples, err = r.all(ctx, wanted)
	return samples, r.process.blame(err)
}
