package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/fastpath/packet"
	"github.com/sluice-lb/sluice/fastpath/packet/packettest"
	"github.com/sluice-lb/sluice/internal/testnet"
)

//go:generate go run -modfile=../../tools.mod github.com/cilium/ebpf/cmd/bpf2go -target bpfel live live.bpf.c -- -Wall -Wextra -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

const (
	// flows is how many clients' ports the packets come from, in turn.
	flows     = 10_000
	firstPort = 10_000
	// payload makes a frame of 60 bytes, Ethernet's shortest without its checksum.
	payload = 18
	// liveBatch is how many packets the kernel makes before it sends them.
	liveBatch = 64
)

// request is the frame that the client sends from that port.
func request(sport uint16) []byte {
	return packettest.Eth(frontMAC, clientMAC).IP4(clientAddr, vip).UDP(sport, vport).Payload(make([]byte, payload)).Bytes()
}

// traffic is the two ends of the wire: generator and sink.
type traffic struct {
	network *testnet.Network
	objects liveObjects
	sink    link.Link
	frame   []byte
}

// newTraffic loads the programs; packets to want are counted as arrived.
func newTraffic(n *testnet.Network, want netip.AddrPort) (*traffic, error) {
	spec, err := loadLive()
	if err != nil {
		return nil, err
	}
	out, err := n.In(client).Netlink().LinkByName(eth0)
	if err != nil {
		return nil, fmt.Errorf("%s of the client: %w", eth0, err)
	}
	t := &traffic{network: n, frame: request(0)}
	template := [liveWords * 8]byte(t.frame)
	sumAt := packet.EthernetLen + packet.IPv4Len + 6
	binary.BigEndian.PutUint16(template[sumAt:], 0)
	for name, value := range map[string]any{
		liveVarPacket:     template,
		liveVarPacketSum:  uint32(^binary.BigEndian.Uint16(t.frame[sumAt:])),
		liveVarOutIfindex: uint32(out.Attrs().Index),
		liveVarFirstPort:  uint32(firstPort),
		liveVarFlows:      uint32(flows),
		liveVarWantAddr:   want.Addr().As4(),
		liveVarWantPort:   [2]byte(binary.BigEndian.AppendUint16(nil, want.Port())),
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
func (t *traffic) attachSink(in, dev string) error {
	ns := t.network.In(in)
	at, err := ns.Netlink().LinkByName(dev)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", dev, in, err)
	}
	return ns.Do(func() (err error) {
		t.sink, err = link.AttachXDP(link.XDPOptions{Program: t.objects.Sink, Interface: at.Attrs().Index, Flags: link.XDPDriverMode})
		if err != nil {
			err = fmt.Errorf("attach the sink to %s in %s: %w", dev, in, err)
		}
		return err
	})
}

// close detaches and unloads both programs.
func (t *traffic) close() error {
	var err error
	if t.sink != nil {
		err = t.sink.Close()
	}
	return errors.Join(err, t.objects.Close())
}

// burst sends n packets from the client.
func (t *traffic) burst(n uint32) error {
	return t.network.In(client).Do(func() error { return t.send(n) })
}

// send has the kernel make and send n packets, on the calling thread. A signal
// ends it early: unix.EINTR.
func (t *traffic) send(n uint32) error {
	if err := runLive(t.objects.Generate.FD(), t.frame, n); err != nil {
		return fmt.Errorf("send live frames by BPF_PROG_TEST_RUN (Linux 5.18 or later): %w", err)
	}
	return nil
}

// resetFlow has the next packet come from the first port.
func (t *traffic) resetFlow() error { return t.objects.Flow.Set(uint32(0)) }

// flood sends from the client, on a thread of its own on that CPU, until stop
// is called; stop returns what went wrong meanwhile. One call of the kernel's
// sends everything: between two the stream would halt for an RCU grace period.
func (t *traffic) flood(onCPU int) (stop func() error) {
	var ended atomic.Bool
	thread, result := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		result <- t.network.In(client).Do(func() error {
			restore, err := bench.Pin(onCPU)
			if err != nil {
				return err
			}
			defer restore()
			for !ended.Load() {
				if err := t.send(math.MaxUint32); err != nil && !errors.Is(err, unix.EINTR) {
					return err
				}
			}
			return nil
		})
	}()
	id := <-thread
	return func() error {
		ended.Store(true)
		for {
			// A signal that arrives before the call does not end it: send another.
			_ = unix.Tgkill(os.Getpid(), id, unix.SIGURG) // the runtime's own; it expects spurious ones
			select {
			case err := <-result:
				return err
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// counts is what the programs have counted.
type counts struct{ generated, received, unwanted uint64 }

func (t *traffic) counts() (c counts, err error) {
	return c, errors.Join(
		t.objects.Generated.Get(&c.generated),
		t.objects.Received.Get(&c.received),
		t.objects.Unwanted.Get(&c.unwanted))
}
