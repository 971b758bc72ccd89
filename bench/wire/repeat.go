package wire

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/internal/testnet"
)

// addr4 is an IPv4 address in network order.
func addr4(text string) [4]byte { return netip.MustParseAddr(text).As4() }

// attachXDP has a program see what arrives at a host.
func attachXDP(n *testnet.Network, in string, program *ebpf.Program) (l link.Link, err error) {
	ns := n.In(in)
	at, err := ns.Netlink().LinkByName(eth0)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", eth0, in, err)
	}
	err = ns.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: at.Attrs().Index, Flags: link.XDPDriverMode})
		if err != nil {
			err = fmt.Errorf("attach to %s in %s: %w", eth0, in, err)
		}
		return err
	})
	return l, err
}

// repeat has send, one of runLive's, make packets without end from the client,
// on a thread of its own on that CPU, until stop is called; stop returns what
// went wrong meanwhile. One call of the kernel's sends everything: between two
// the stream would halt for an RCU grace period.
func repeat(n *testnet.Network, onCPU int, send func(times uint32) error) (stop func() error) {
	var ended atomic.Bool
	thread, result := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		result <- n.In(client).Do(func() error {
			restore, err := bench.Pin(onCPU)
			if err != nil {
				return err
			}
			defer restore()
			// As forwarders do, it goes before others of a shared machine.
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
				return err
			}
			defer func() { _ = unix.Setpriority(unix.PRIO_PROCESS, 0, 0) }()
			for !ended.Load() {
				if err := send(math.MaxUint32); err != nil && !errors.Is(err, unix.EINTR) {
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

// begun waits until a program counts more than it had.
func begun(count *ebpf.Variable, had uint64) error {
	for deadline := time.Now().Add(startTime); ; time.Sleep(time.Millisecond) {
		var has uint64
		switch err := count.Get(&has); {
		case err != nil:
			return err
		case has > had:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("the generator does nothing for %v", startTime)
		}
	}
}
