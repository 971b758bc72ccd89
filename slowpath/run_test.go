package slowpath

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/fastpath/nexthop"
	"github.com/sluice-lb/sluice/internal/clock"
)

// counted is a host that counts.
type counted struct{ got [4]atomic.Int64 }

func (h *counted) Inject(iface int, _ []byte) error {
	h.got[iface].Add(1)
	return nil
}

// until waits for a condition that other goroutines bring about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for: %s", what)
		}
	}
}

func TestRun(t *testing.T) {
	const perRing = 20_000
	host := &counted{}
	var current atomic.Pointer[nexthop.Table]
	current.Store(table(t, 1))
	var sent atomic.Int64
	p := New(Config{
		Tables: current.Load, Now: clock.System{}.Now, Host: host,
		Emit: func(*Out, []byte) bool { sent.Add(1); return true },
	})
	intakes := []*Intake{NewIntake(roomy(), 256), NewIntake(roomy(), 256)}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Run(ctx, intakes)
	}()
	frame := fromClient().UDP(1, 2).Bytes()
	put := func(in *Intake, m Meta, f []byte) {
		for !give(in, m, f, 0) {
			time.Sleep(time.Microsecond)
		}
		p.Wake()
	}
	for i, in := range intakes {
		go func() {
			for range perRing {
				put(in, Meta{Kind: Host, Iface: uint16(i)}, frame)
			}
		}()
	}
	until(t, "every packet of both workers", func() bool {
		return host.got[0].Load() == perRing && host.got[1].Load() == perRing
	})

	// A packet that waits leaves when the table changes, without further packets.
	put(intakes[0], Meta{Kind: NoNeighbour, Target: addr(server)}, held(server, 1).Bytes())
	until(t, "the packet to be held", func() bool { return p.Counters().Held == 1 })
	current.Store(table(t, 2, server+" 1"))
	p.Wake()
	until(t, "the held packet to leave", func() bool { return sent.Load() == 1 })

	stop()
	<-ended
	p.Wake() // after the end it must not hang
}

func TestRunTimesOut(t *testing.T) {
	var current atomic.Pointer[nexthop.Table]
	current.Store(table(t, 1, client+" 0"))
	var sent atomic.Int64
	p := New(Config{
		Tables: current.Load, Now: clock.System{}.Now, Host: &counted{},
		Emit:   func(*Out, []byte) bool { sent.Add(1); return true },
		Limits: Limits{HoldTime: time.Millisecond},
	})
	in := NewIntake(roomy(), 256)
	give(in, Meta{Kind: NoNeighbour, Target: addr(server)}, held(server, 1).Bytes(), 0)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Run(ctx, []*Intake{in})
	}()
	until(t, "host unreachable, although nothing wakes the goroutine", func() bool { return sent.Load() == 1 })
	stop()
	<-ended
}
