package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

//go:generate go run -modfile=../../tools.mod github.com/cilium/ebpf/cmd/bpf2go -target bpfel live live.bpf.c -- -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

const (
	firstPort = 10_000 // of the clients'
	// headers is what of a frame is not UDP's payload, in bytes.
	headers = packet.EthernetLen + packet.IPv4Len + packet.UDPLen
	// How many packets the kernel makes before it sends them: many cost less each,
	// and when it sends at a rate few are sent at their time.
	manyAtOnce, fewAtOnce = 64, 8
)

// traffic is the ends of the wire: generator and sink.
type traffic struct {
	network *testnet.Network
	objects liveObjects
	shape   Shape
	sink    link.Link
	others  []link.Link
	frame   []byte
}

// request is the frame that the client sends from that port.
func (s Shape) request(sport uint16) []byte {
	return packettest.Eth(frontMAC, clientMAC).IP4(clientAddr, vip).UDP(sport, vport).Payload(s.payload()).Bytes()
}

func (s Shape) payload() []byte { return make([]byte, s.Size-headers) }

// newTraffic loads the programs; packets to want are counted as arrived. Answers
// leave the server by the interface of that name.
func newTraffic(n *testnet.Network, s Shape, want netip.AddrPort, answers string) (*traffic, error) {
	spec, err := loadLive()
	if err != nil {
		return nil, err
	}
	out, err := n.In(client).Netlink().LinkByName(eth0)
	if err != nil {
		return nil, fmt.Errorf("%s of the client: %w", eth0, err)
	}
	back, err := n.In(server).Netlink().LinkByName(answers)
	if err != nil {
		return nil, fmt.Errorf("%s of the server: %w", answers, err)
	}
	t := &traffic{network: n, shape: s, frame: s.request(0)}
	template := [liveWords * 8]byte(t.frame)
	sumAt := packet.EthernetLen + packet.IPv4Len + 6
	binary.BigEndian.PutUint16(template[sumAt:], 0)
	bigEndian := func(port uint16) [2]byte { return [2]byte(binary.BigEndian.AppendUint16(nil, port)) }
	for name, value := range map[string]any{
		liveVarPacket:        template,
		liveVarPacketSum:     uint32(^binary.BigEndian.Uint16(t.frame[sumAt:])),
		liveVarOutIfindex:    uint32(out.Attrs().Index),
		liveVarFirstPort:     uint32(firstPort),
		liveVarFlows:         uint32(s.Flows),
		liveVarWantAddr:      want.Addr().As4(),
		liveVarWantPort:      bigEndian(want.Port()),
		liveVarServiceAddr:   netip.MustParseAddr(vip).As4(),
		liveVarServicePort:   bigEndian(vport),
		liveVarAnswerIfindex: uint32(back.Attrs().Index),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := spec.LoadAndAssign(&t.objects, nil); err != nil {
		return nil, fmt.Errorf("load the programs of generator and sink: %w", err)
	}
	return t, nil
}

// liveWords is WORDS of live.bpf.c.
const liveWords = 6

// attachSink has packets counted and dropped where they enter that interface.
func (t *traffic) attachSink(in, dev string) (err error) {
	t.sink, err = t.attach(t.objects.Sink, in, dev)
	return err
}

// reflect has the server answer what it had counted and dropped, and the client
// count the answers at its interface dev.
func (t *traffic) reflect(dev string) error {
	l, err := t.attach(t.objects.Answers, client, dev)
	if err != nil {
		return err
	}
	t.others = append(t.others, l)
	return t.sink.Update(t.objects.Reflect)
}

func (t *traffic) attach(p *ebpf.Program, in, dev string) (l link.Link, err error) {
	ns := t.network.In(in)
	at, err := ns.Netlink().LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", dev, in, err)
	}
	err = ns.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: at.Attrs().Index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attach %v to %s in %s: %w", p, dev, in, err)
	}
	return l, nil
}

// close detaches and unloads all programs.
func (t *traffic) close() error {
	var err error
	for _, l := range append(t.others, t.sink) {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
	}
	return errors.Join(err, t.objects.Close())
}

// burst sends n packets from the client.
func (t *traffic) burst(n uint32) error {
	return t.network.In(client).Do(func() error { return t.sender(manyAtOnce)(n) })
}

// sender returns a function that has the kernel make and send n packets, on the calling
// thread. A signal ends it early: unix.EINTR.
func (t *traffic) sender(atOnce uint32) func(n uint32) error {
	return func(n uint32) error {
		if err := runLive(t.objects.Generate.FD(), t.frame, n, atOnce); err != nil {
			return fmt.Errorf("send live frames by BPF_PROG_TEST_RUN (Linux 5.18 or later): %w", err)
		}
		return nil
	}
}

// resetFlow has the next packet come from the first port.
func (t *traffic) resetFlow() error { return t.objects.Flow.Set(uint32(0)) }

// Intervals of live.bpf.c.
const (
	noInterval     = 0              // as many as can be made, and they bear no time
	paused         = math.MaxUint64 // none
	ticksPerSecond = 1e9 * 1024
	leastRate      = 1000 // packets/s
)

// pace has packets leave at a rate, in packets/s; 0: none.
func (t *traffic) pace(rate float64) error {
	interval := uint64(paused)
	if rate > 0 {
		interval = uint64(ticksPerSecond / rate)
	}
	return t.objects.Interval.Set(interval)
}

// flood sends from the client as many packets as can be made: see repeat.
func (t *traffic) flood(onCPU int) (stop func() error, err error) {
	if err := t.objects.Interval.Set(uint64(noInterval)); err != nil {
		return nil, err
	}
	return repeat(t.network, onCPU, t.sender(manyAtOnce)), nil
}

// paced sends from the client when and as pace says, once it has begun: see repeat.
func (t *traffic) paced(onCPU int) (stop func() error, err error) {
	before, err := t.counts()
	if err != nil {
		return nil, err
	}
	if err := t.pace(leastRate); err != nil {
		return nil, err
	}
	end := repeat(t.network, onCPU, t.sender(fewAtOnce))
	stop = func() error { return errors.Join(end(), t.objects.Interval.Set(uint64(noInterval))) }
	if err := errors.Join(begun(t.objects.Generated, before.generated), t.pace(0)); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// counts is what the programs have counted.
type counts struct{ generated, received, unwanted, answered uint64 }

func (t *traffic) counts() (c counts, err error) {
	return c, errors.Join(
		t.objects.Generated.Get(&c.generated),
		t.objects.Received.Get(&c.received),
		t.objects.Unwanted.Get(&c.unwanted),
		t.objects.Answered.Get(&c.answered))
}
