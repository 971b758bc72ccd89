package rings_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/rings/ringstest"
)

// base is a small clean kernel of two ports; a test changes what it is about.
func base(change func(*ringstest.Config)) ringstest.Config {
	c := ringstest.Config{Seed: 1, Ports: 2, RingSize: 64, Frames: 512, FrameSize: 2048}
	if change != nil {
		change(&c)
	}
	return c
}

func newKernel(t testing.TB, c ringstest.Config) *ringstest.Kernel {
	t.Helper()
	k, err := ringstest.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// numbered is a packet of size bytes that carries a number.
func numbered(n uint32, size int) []byte {
	p := make([]byte, size)
	binary.BigEndian.PutUint32(p, n)
	return p
}

// noLeak checks that each frame is somewhere: free, with the kernel, or among
// the worker's own.
func noLeak(t testing.TB, k *ringstest.Kernel, frames, own int) {
	t.Helper()
	sum := k.UMEM().Free() + own
	for i, q := range k.Ports() {
		s := q.Stats()
		if s.InFill < 0 || s.InTx < 0 || s.RxInvalid+s.TxInvalid > 0 {
			t.Fatalf("port %d: %+v", i, s)
		}
		sum += s.InFill + s.InTx
	}
	if sum != frames {
		t.Fatalf("%d frames are accounted for, want %d: %d free, %d own", sum, frames, k.UMEM().Free(), own)
	}
	if err := k.Err(); err != nil {
		t.Fatal(err)
	}
}

// settle lets all that is under way end, with the links up: then every frame
// is free or waits to be filled.
func settle(t testing.TB, k *ringstest.Kernel, frames int) {
	t.Helper()
	for i := range k.Ports() {
		k.SetLink(i, true)
	}
	b := make([]rings.Frame, 64)
	for range 800 {
		k.Step()
		for _, q := range k.Ports() {
			q.Release(b[:q.Receive(b)])
			q.Reclaim()
		}
	}
	noLeak(t, k, frames, 0)
	filled := 0
	for i, q := range k.Ports() {
		if s := q.Stats(); s.InTx != 0 {
			t.Fatalf("port %d: %d frames were never sent", i, s.InTx)
		}
		filled += k.Filled(i)
	}
	if have := k.UMEM().Free() + filled + k.Held(); have != frames {
		t.Fatalf("the far side sees %d frames free, to fill or its own, want %d", have, frames)
	}
}

// TestForward sends numbered packets in by port 0 and out by port 1.
func TestForward(t *testing.T) {
	for _, row := range []struct {
		name   string
		stake  string
		change func(*ringstest.Config)
	}{
		{"clean", "each packet passes once, in order", nil},
		{"wrap", "counters that pass 2^32 lose nothing", func(c *ringstest.Config) { c.Start = ^uint32(0) - 40 }},
		{"delay", "frames that the kernel keeps for long come back", func(c *ringstest.Config) { c.Delay = 30 }},
		{"short", "completions in small lots are all taken", func(c *ringstest.Config) { c.Short = true; c.Delay = 3 }},
		{"wakeup", "a kernel that sleeps is woken for fill and tx", func(c *ringstest.Config) { c.NeedWakeup = true }},
		{"copy", "sendto that stops at its budget is called again", func(c *ringstest.Config) { c.NeedWakeup = true; c.Copy = true }},
		{"busy", "wake-ups that were not heeded are repeated", func(c *ringstest.Config) { c.NeedWakeup = true; c.Copy = true; c.Busy = 0.7 }},
		{"4096", "frames of two chunks' size", func(c *ringstest.Config) { c.FrameSize = 4096 }},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := base(row.change)
			k := newKernel(t, c)
			in, out := k.Ports()[0], k.Ports()[1]
			var want []uint32 // arrived, not on the wire yet
			sent := 0
			k.Wire = func(port int, p []byte) {
				if port != 1 || len(want) == 0 || binary.BigEndian.Uint32(p) != want[0] || len(p) != 60+int(want[0]%1400) {
					t.Fatalf("%s: port %d sent packet %d of %d bytes, want one of %d", row.stake, port, binary.BigEndian.Uint32(p), len(p), want)
				}
				want = want[1:]
				sent++
			}
			drop := func(p []byte) { // arrived, but does not go on
				if i := slices.Index(want, binary.BigEndian.Uint32(p)); i >= 0 {
					want = slices.Delete(want, i, i+1)
				}
			}
			k.Lost = func(_ int, p []byte) { drop(p) }
			b := make([]rings.Frame, 48)
			n := uint32(0)
			for range 1000 {
				for range 20 {
					if k.Arrive(0, numbered(n, 60+int(n%1400))) {
						want = append(want, n)
					}
					n++
				}
				k.Step()
				got := in.Receive(b)
				for i := range b[:got] {
					if b[i].Off != rings.Headroom || len(b[i].Chunk) != c.FrameSize || cap(b[i].Chunk) != c.FrameSize {
						t.Fatalf("received at %d of a chunk of %d bytes, want at %d of %d", b[i].Off, len(b[i].Chunk), rings.Headroom, c.FrameSize)
					}
				}
				done := out.Transmit(b[:got])
				for _, f := range b[done:got] {
					drop(f.Data())
				}
				out.Release(b[done:got])
				in.Reclaim()
				out.Reclaim()
				noLeak(t, k, c.Frames, 0)
			}
			settle(t, k, c.Frames)
			if in := in.Stats(); uint64(sent) != out.Stats().TxPackets || sent < 1000 || in.RxPackets < uint64(sent) {
				t.Errorf("%s: %d on the wire, in %+v, out %+v", row.stake, sent, in, out.Stats())
			}
		})
	}
}

// TestHour runs an hour of the far side's time, in steps of 50 ms, with
// everything that can go wrong, and leaks no frame.
func TestHour(t *testing.T) {
	const steps = 3600 * 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 99))
	c := base(func(c *ringstest.Config) {
		*c = ringstest.Config{
			Seed: seed, Ports: 3, RingSize: 128, Frames: 1024, FrameSize: 2048, Start: uint32(seed),
			Loss: 0.02, Delay: 4, Short: true, Busy: 0.1, NeedWakeup: true, Copy: true,
		}
	})
	k := newKernel(t, c)
	ports := k.Ports()
	var held []rings.Frame // as a slow path holds them
	b := make([]rings.Frame, 64)
	packet := make([]byte, 60)
	for step := range steps {
		if step%500 == 0 {
			k.SetLink(r.IntN(3), r.IntN(3) > 0)
		}
		for range r.IntN(12) {
			k.Arrive(r.IntN(3), packet)
		}
		k.Step()
		for _, q := range ports {
			n := q.Receive(b[:1+r.IntN(64)])
			batch := b[:n]
			if n > 0 && len(held) < 50 && r.IntN(4) == 0 {
				held = append(held, batch[n-1])
				batch = batch[:n-1]
			}
			out := ports[r.IntN(3)]
			done := out.Transmit(batch)
			out.Release(batch[done:])
			if r.IntN(8) == 0 { // packets that start here
				n := q.Alloc(b[:r.IntN(4)])
				for i := range b[:n] {
					b[i].Len = uint32(r.IntN(80)) // 0 is refused, and freed
				}
				done := q.Transmit(b[:n])
				q.Release(b[done:n])
			}
			q.Reclaim()
		}
		if len(held) > 0 && r.IntN(20) == 0 {
			ports[r.IntN(3)].Release(held)
			held = held[:0]
		}
		if step%1000 == 0 {
			noLeak(t, k, c.Frames, len(held))
		}
	}
	ports[0].Release(held)
	settle(t, k, c.Frames)
	for i, q := range ports {
		if s := q.Stats(); s.RxPackets < steps/10 || s.TxPackets < steps/10 || s.KickBusy == 0 || s.KickErrors == 0 || s.TxRefused == 0 {
			t.Errorf("port %d saw too little: %+v", i, s)
		}
	}
}

// TestBothSides runs kernel and worker on two goroutines, so that the race
// detector sees the memory order of ring words, entries and packets.
func TestBothSides(t *testing.T) {
	const packets = 20000
	for _, wakeup := range []bool{false, true} {
		t.Run(fmt.Sprintf("wakeup=%v", wakeup), func(t *testing.T) {
			c := base(func(c *ringstest.Config) { c.NeedWakeup, c.Delay, c.Busy = wakeup, 2, 0.1 })
			k := newKernel(t, c)
			last, wired, lost := uint32(0), 0, 0
			k.Wire = func(_ int, p []byte) {
				n := binary.BigEndian.Uint32(p)
				if n <= last || n > packets {
					t.Errorf("packet %d was sent after %d", n, last)
				}
				last = n
				wired++
			}
			k.Lost = func(int, []byte) { lost++ }
			done := make(chan bool)
			go func() { // the kernel; it ends when all that arrived was sent
				for n := uint32(1); wired+lost < packets; {
					if n <= packets && k.Arrive(0, numbered(n, 60)) {
						n++
					}
					k.Step()
				}
				close(done)
			}()
			in, out := k.Ports()[0], k.Ports()[1]
			b := make([]rings.Frame, 32)
			for {
				n := in.Receive(b)
				for sent := 0; sent < n; {
					sent += out.Transmit(b[sent:n])
					out.Reclaim()
				}
				in.Reclaim()
				out.Reclaim()
				select {
				case <-done:
					if wired < packets/20 {
						t.Errorf("only %d of %d packets were sent", wired, packets)
					}
					settle(t, k, c.Frames)
					return
				default:
				}
			}
		})
	}
}

func TestTransmitFull(t *testing.T) {
	c := base(nil)
	k := newKernel(t, c)
	q := k.Ports()[0]
	b := make([]rings.Frame, 100)
	if n := q.Alloc(b); n != 100 {
		t.Fatalf("Alloc gave %d frames of 384 free ones, want 100", n)
	}
	for i := range b {
		if b[i].Off != rings.Headroom || b[i].Len != 0 {
			t.Fatalf("Alloc gave a packet of %d bytes at %d, want 0 at %d", b[i].Len, b[i].Off, rings.Headroom)
		}
		b[i].Len = 60
	}
	if n := q.Transmit(b); n != c.RingSize {
		t.Fatalf("Transmit took %d frames, want the ring's %d", n, c.RingSize)
	}
	if s := q.Stats(); s.TxFull != 36 || s.TxPackets != 64 || s.TxBytes != 64*60 || q.Pending() != 64 {
		t.Errorf("after a full ring: %+v, %d pending", s, q.Pending())
	}
	noLeak(t, k, c.Frames, 36)
	q.Release(b[64:])
	settle(t, k, c.Frames)
	if q.Pending() != 0 {
		t.Errorf("%d pending after all was sent", q.Pending())
	}
}

// TestReceiveAll: what arrived since the last look is received together with
// what was left then.
func TestReceiveAll(t *testing.T) {
	k := newKernel(t, base(nil))
	q := k.Ports()[0]
	b := make([]rings.Frame, 64)
	for _, row := range []struct{ arrive, batch, want int }{{0, 8, 0}, {3, 2, 2}, {5, 8, 6}, {20, 0, 0}, {20, 64, 40}, {0, 64, 0}} {
		for range row.arrive {
			k.Arrive(0, numbered(1, 60))
		}
		k.Step()
		n := q.Receive(b[:row.batch])
		if n != row.want {
			t.Errorf("%d more arrived: a batch of %d received %d, want %d", row.arrive, row.batch, n, row.want)
		}
		q.Release(b[:n])
		q.Reclaim()
	}
}

// TestTransmitRefuses: a descriptor that the kernel refuses never comes back,
// so such a frame must not get there.
func TestTransmitRefuses(t *testing.T) {
	for _, row := range []struct {
		stake    string
		off, len uint32
		refused  uint64
	}{
		{"a frame as large as its chunk is sent", 0, 2048, 0},
		{"an empty packet is refused by the kernel", rings.Headroom, 0, 1},
		{"a packet must not reach into the next chunk", 2000, 49, 1},
		{"an offset outside the chunk is another's frame", 2048, 1, 1},
		{"a sum that wraps is not small", 4096, ^uint32(0) - 4000, 1},
	} {
		c := base(nil)
		k := newKernel(t, c)
		q := k.Ports()[1]
		b := make([]rings.Frame, 3)
		q.Alloc(b)
		for i := range b {
			b[i].Len = 60
		}
		b[1].Off, b[1].Len = row.off, row.len
		wired := 0
		k.Wire = func(int, []byte) { wired++ }
		if n := q.Transmit(b); n != 3 {
			t.Errorf("%s: Transmit took %d frames, want all 3", row.stake, n)
		}
		settle(t, k, c.Frames)
		if s := q.Stats(); s.TxRefused != row.refused || wired != 3-int(row.refused) {
			t.Errorf("%s: refused %d and sent %d, want %d refused", row.stake, s.TxRefused, wired, row.refused)
		}
	}
}

// TestKicks counts system calls: none unless the kernel asks.
func TestKicks(t *testing.T) {
	send := func(q *rings.Queue, n int) {
		b := make([]rings.Frame, n)
		for i := range b[:q.Alloc(b)] {
			b[i].Len = 60
		}
		q.Transmit(b)
	}
	t.Run("awake", func(t *testing.T) {
		k := newKernel(t, base(nil))
		q := k.Ports()[0]
		send(q, 10)
		k.Step()
		q.Reclaim()
		b := make([]rings.Frame, 4)
		q.Receive(b)
		if s := q.Stats(); s.TxKicks+s.RxKicks != 0 {
			t.Errorf("a kernel that does not ask was woken: %+v", s)
		}
		q.PollRx() // then a receiver that finds nothing fetches it
		q.Receive(b)
		q.Receive(b[:0])
		k.Arrive(0, numbered(1, 60))
		k.Step()
		q.Receive(b)
		if s := q.Stats(); s.RxKicks != 1 || s.RxPackets != 1 {
			t.Errorf("busy polling: %+v, want one wake-up, for the empty ring", s)
		}
	})
	t.Run("budget", func(t *testing.T) {
		k := newKernel(t, base(func(c *ringstest.Config) { c.NeedWakeup, c.Copy = true, true }))
		q := k.Ports()[0]
		send(q, 64)
		if s := q.Stats(); s.TxKicks != 2 || q.Pending() != 0 {
			t.Errorf("64 frames at 32 a call: %d calls, %d pending; want 2 and none", s.TxKicks, q.Pending())
		}
		q.Reclaim()
		if s := q.Stats(); s.TxKicks != 2 {
			t.Errorf("Reclaim with an empty tx ring called the kernel")
		}
	})
	t.Run("fill", func(t *testing.T) {
		c := base(func(c *ringstest.Config) { c.NeedWakeup = true })
		k := newKernel(t, c)
		q := k.Ports()[0]
		for n := range 70 {
			if got := k.Arrive(0, numbered(1, 60)); got != (n < 64) {
				t.Fatalf("packet %d with 64 frames filled: received %v", n, got)
			}
		}
		q.Reclaim() // fills, and wakes the kernel that found the ring empty
		k.Step()
		if !k.Arrive(0, numbered(1, 60)) || q.Stats().RxKicks != 1 {
			t.Errorf("after a refill: %+v", q.Stats())
		}
		q.Reclaim()
		if s := q.Stats(); s.RxKicks != 1 || s.FillEmpty != 6 {
			t.Errorf("%d wake-ups for the fill ring, %d packets without a frame; want 1 and 6", s.RxKicks, s.FillEmpty)
		}
	})
	t.Run("down", func(t *testing.T) {
		c := base(func(c *ringstest.Config) { c.NeedWakeup, c.Copy = true, true })
		k := newKernel(t, c)
		q := k.Ports()[0]
		k.SetLink(0, false)
		send(q, 10)
		for range 100 {
			q.Reclaim()
		}
		if s := q.Stats(); s.KickErrors != 1 || s.TxKicks != 1 || q.Pending() != 10 {
			t.Errorf("a link that is down is asked once in a while: %+v", s)
		}
		k.SetLink(0, true)
		for range 1000 {
			q.Reclaim()
		}
		if q.Pending() != 0 {
			t.Errorf("%d frames wait after the link came back", q.Pending())
		}
		settle(t, k, c.Frames)
	})
}

// TestFillStaysFull: also a queue that receives nothing keeps frames to fill,
// and does so when another port has taken most of them.
func TestFillStaysFull(t *testing.T) {
	c := base(nil)
	k := newKernel(t, c)
	q := k.Ports()[1]
	b := make([]rings.Frame, 60)
	for range 200 {
		for i := range b[:q.Alloc(b)] {
			b[i].Len = 60
		}
		done := q.Transmit(b)
		q.Release(b[done:])
		k.Step()
		k.Ports()[0].Reclaim()
		q.Reclaim()
		for i := range k.Ports() {
			if n := k.Filled(i); n != c.RingSize {
				t.Fatalf("fill ring of port %d has %d of %d entries", i, n, c.RingSize)
			}
		}
	}
}

// TestNoAllocation: a turn of the worker's loop allocates nothing.
func TestNoAllocation(t *testing.T) {
	k := newKernel(t, base(func(c *ringstest.Config) { c.NeedWakeup, c.Copy, c.Busy = true, true, 0.2 }))
	in, out := k.Ports()[0], k.Ports()[1]
	b, packet := make([]rings.Frame, 32), make([]byte, 60)
	turn := func() {
		for range 20 {
			k.Arrive(0, packet)
		}
		k.Step()
		n := in.Receive(b)
		out.Release(b[out.Transmit(b[:n]):n])
		in.Release(b[:in.Alloc(b)])
		in.Reclaim()
		out.Reclaim()
	}
	for range 100 { // the far side's own memory grows to its size
		turn()
	}
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("a turn allocates %v times, want 0", n)
	}
}

func TestNewUMEM(t *testing.T) {
	for _, row := range []struct {
		bytes, frame int
		ok           bool
	}{
		{8 * 2048, 2048, true},
		{2 * 65536, 65536, true},
		{8 * 2048, 1024, false}, // less than the kernel's smallest chunk
		{9 * 3000, 3000, false},
		{3000, 2048, false},
		{0, 2048, false},
	} {
		u, err := rings.NewUMEM(make([]byte, row.bytes), row.frame)
		if (err == nil) != row.ok {
			t.Errorf("UMEM of %d bytes, frames of %d: %v", row.bytes, row.frame, err)
		}
		if row.ok && (u.Frames() != row.bytes/row.frame || u.Free() != u.Frames() || u.FrameSize() != row.frame) {
			t.Errorf("UMEM of %d bytes has %d frames of %d, %d free", row.bytes, u.Frames(), u.FrameSize(), u.Free())
		}
	}
}

// FuzzQueue plays a script of calls on both sides and compares with a plain
// twin: queues of numbers, and a set of who has which frame.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 3, 10, 1, 0, 2, 5, 3, 3, 6, 0, 1, 1, 6, 0}, uint32(0), false)
	f.Add([]byte{0, 200, 1, 0, 2, 64, 4, 64, 0, 90, 1, 0, 2, 90, 3, 90, 5, 9, 6, 0}, ^uint32(0)-5, true)
	f.Fuzz(func(t *testing.T, script []byte, start uint32, wakeup bool) {
		if len(script) > 400 {
			return
		}
		c := base(func(c *ringstest.Config) { c.Start, c.NeedWakeup, c.Short, c.Delay = start, wakeup, true, 1 })
		k := newKernel(t, c)
		q := k.Ports()[0]
		var arrived, queued []uint32 // numbers on the way in and out
		var own []rings.Frame
		k.Wire = func(_ int, p []byte) {
			if len(queued) == 0 || queued[0] != binary.BigEndian.Uint32(p) {
				t.Fatalf("sent %d, want the first of %d", binary.BigEndian.Uint32(p), queued)
			}
			queued = queued[1:]
		}
		number := uint32(0)
		for i := 0; i+1 < len(script); i += 2 {
			n := int(script[i+1])
			switch script[i] % 7 {
			case 0:
				for range n {
					number++
					if k.Arrive(0, numbered(number, 60)) {
						arrived = append(arrived, number)
					}
				}
			case 1:
				k.Step()
			case 2:
				b := make([]rings.Frame, n)
				for _, f := range b[:q.Receive(b)] {
					got := binary.BigEndian.Uint32(f.Data())
					for len(arrived) > 0 && arrived[0] != got { // lost: rx ring full
						arrived = arrived[1:]
					}
					if len(arrived) == 0 {
						t.Fatalf("received %d, which did not arrive, or twice", got)
					}
					arrived = arrived[1:]
					own = append(own, f)
				}
			case 3:
				b := own[:min(n, len(own))]
				for _, f := range b { // before: the wire may hear of them in the call
					queued = append(queued, binary.BigEndian.Uint32(f.Data()))
				}
				done := q.Transmit(b)
				queued = queued[:len(queued)-(len(b)-done)]
				own = own[done:]
			case 4:
				n = min(n, len(own))
				q.Release(own[:n])
				own = own[n:]
			case 5:
				b := make([]rings.Frame, n)
				for _, f := range b[:q.Alloc(b)] {
					number++
					f.Len = 60
					binary.BigEndian.PutUint32(f.Data(), number)
					own = append(own, f)
				}
			case 6:
				q.Reclaim()
			}
			noLeak(t, k, c.Frames, len(own))
		}
	})
}
