package wire

import (
	"errors"
	"math"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/internal/testnet"
)

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
