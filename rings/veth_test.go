package rings_test

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/sluice-lb/sluice/internal/testnet"
	"github.com/sluice-lb/sluice/rings"
	"golang.org/x/sys/unix"
)

// director is a namespace with two interfaces, a0 and b0 of some queues each,
// whose peers a1 and b1 are in another.
type director struct {
	*testnet.Namespace
	far  *testnet.Namespace
	a, b int // ifindexes
}

func newDirector(t *testing.T, queues int) director {
	t.Helper()
	testnet.NeedRoot(t)
	pair := func(name string) testnet.Link {
		return testnet.Link{
			A: testnet.End{In: "director", Name: name + "0", RxQueues: queues, TxQueues: queues},
			B: testnet.End{In: "far", Name: name + "1", RxQueues: queues, TxQueues: queues},
		}
	}
	n := testnet.New(t, testnet.Plan{Links: []testnet.Link{pair("a"), pair("b")}})
	d := director{Namespace: n.In("director"), far: n.In("far")}
	for name, index := range map[string]*int{"a0": &d.a, "b0": &d.b} {
		l, err := d.Netlink().LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		*index = l.Attrs().Index
	}
	return d
}

func (d *director) config(queue int, log *slog.Logger) rings.OpenConfig {
	return rings.OpenConfig{
		Interfaces: []rings.Interface{
			{Name: "a0", Index: d.a, Queue: queue, RingSize: 256},
			{Name: "b0", Index: d.b, Queue: queue, RingSize: 128},
		},
		Frames: 1024, FrameSize: 2048, Log: log,
	}
}

// open opens a set in the director's namespace.
func (d *director) open(t *testing.T, c rings.OpenConfig) (*rings.Set, error) {
	t.Helper()
	var s *rings.Set
	err := d.Do(func() (err error) { s, err = rings.Open(c); return err })
	if err == nil {
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return s, err
}

// redirect attaches a program to an interface that gives every frame to the
// socket of its queue, and returns its table of sockets.
func (d *director) redirect(t *testing.T, ifindex int, queues ...*rings.Queue) *ebpf.Map {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 2})
	check(err)
	t.Cleanup(func() { _ = m.Close() })
	for _, q := range queues {
		check(m.Put(uint32(q.Binding().Queue), uint32(q.FD())))
	}
	const rxQueueIndex, xdpPass = 16, 2 // of struct xdp_md; of enum xdp_action
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, rxQueueIndex, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Imm(asm.R3, xdpPass),
		asm.FnRedirectMap.Call(),
		asm.Return(),
	}})
	check(err)
	t.Cleanup(func() { _ = p.Close() })
	check(d.Do(func() error {
		l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: link.XDPDriverMode})
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	}))
	return m
}

// receive returns the next frame of a port, or fails after two seconds.
func receive(t *testing.T, q *rings.Queue) rings.Frame {
	t.Helper()
	b := make([]rings.Frame, 1)
	for range 20 {
		if q.Receive(b) == 1 {
			return b[0]
		}
		q.Reclaim()
		fds := []unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	t.Fatalf("nothing received: %+v", q.Stats())
	return rings.Frame{}
}

// idle waits until the kernel has sent all that it was given.
func idle(t *testing.T, s *rings.Set) {
	t.Helper()
	for range 400 {
		left := 0
		for _, q := range s.Queues {
			q.Reclaim()
			left += q.Stats().InTx
		}
		if left == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("frames are not sent: %+v, %+v", s.Queues[0].Stats(), s.Queues[1].Stats())
}

// account checks that each frame is free or with the kernel.
func account(t *testing.T, s *rings.Set) {
	t.Helper()
	sum := s.UMEM.Free()
	for _, q := range s.Queues {
		st := q.Stats()
		sum += st.InFill + st.InTx
		if st.RxInvalid+st.TxInvalid > 0 {
			t.Errorf("%s: the kernel refused descriptors: %+v", q.Binding().Interface, st)
		}
	}
	if sum != s.UMEM.Frames() {
		t.Errorf("%d of %d frames are accounted for", sum, s.UMEM.Frames())
	}
}

// TestVethForward receives on one interface and sends the same frame, grown at
// its front, by the other: two sockets on one UMEM, in the kernel's rings.
func TestVethForward(t *testing.T) {
	d := newDirector(t, 1)
	var text strings.Builder
	s, err := d.open(t, d.config(0, slog.New(slog.NewTextHandler(&text, nil))))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"AF_XDP bind failed", "zerocopy=true", "no zero-copy", "AF_XDP bound", "interface=b0", "zerocopy=false"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("log of mode auto lacks %q:\n%s", want, &text)
		}
	}
	in, out := s.Queues[0], s.Queues[1]
	if b := in.Binding(); b.ZeroCopy || len(b.Attach) != 2 || b.Index != d.a {
		t.Errorf("bound as %+v, want copy mode with both ways to attach", b)
	}
	d.redirect(t, d.a, in)
	from, err := d.far.OpenRaw("a1")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := d.far.OpenRaw("b1")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	const packets = 1000 // more than any ring and the UMEM hold
	for n := range packets {
		packet := frame(byte(n), 60+n%1400)
		if err := from.Send(packet); err != nil {
			t.Fatal(err)
		}
		f := receive(t, in)
		for !bytes.Equal(f.Data(), packet) { // the host's own IPv6 chatter
			in.Release([]rings.Frame{f})
			f = receive(t, in)
		}
		if f.Off != rings.Headroom || len(f.Chunk) != 2048 {
			t.Fatalf("packet at %d of a chunk of %d bytes, want at %d of 2048", f.Off, len(f.Chunk), rings.Headroom)
		}
		f.Off -= 20
		f.Len += 20
		copy(f.Data(), frame(byte(n), 34))
		if out.Transmit([]rings.Frame{f}) != 1 {
			t.Fatalf("packet %d was not taken: %+v", n, out.Stats())
		}
		in.Reclaim()
		out.Reclaim()
	}
	idle(t, s)
	if st := out.Stats(); st.TxPackets != packets || st.TxKicks == 0 {
		t.Errorf("sent %+v, want %d packets", st, packets)
	}
	seen := 0
	for seen < packets {
		f, err := to.Receive(2 * time.Second)
		if err != nil {
			t.Fatalf("%d of %d packets came out: %v", seen, packets, err)
		}
		if !isOurs(f.Bytes) {
			continue
		}
		want := append(frame(byte(seen), 34)[:20], frame(byte(seen), 60+seen%1400)...)
		copy(want, frame(byte(seen), 34))
		if !bytes.Equal(f.Bytes, want) {
			t.Fatalf("packet %d came out as\n%x, want\n%x", seen, f.Bytes, want)
		}
		seen++
	}
	account(t, s)
}

// etherType marks the tests' frames: IEEE 802 local experimental 1.
const etherType = 0x88b5

// frame is an Ethernet frame of the given size, filled with a byte.
func frame(fill byte, size int) []byte {
	p := bytes.Repeat([]byte{fill}, size)
	copy(p, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, etherType >> 8, etherType & 0xff})
	return p
}

func isOurs(p []byte) bool { return len(p) > 13 && p[12] == etherType>>8 && p[13] == etherType&0xff }

// TestVethBurst sends a whole ring at once, from frames that start here, on a
// queue that only transmits: all of it leaves and its fill ring stays full.
func TestVethBurst(t *testing.T) {
	d := newDirector(t, 2)
	s, err := d.open(t, d.config(1, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	out := s.Queues[1]
	to, err := d.far.OpenRaw("b1")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	b := make([]rings.Frame, 128)
	for round := range 5 {
		n := out.Alloc(b)
		for i := range b[:n] {
			p := frame(byte(round), 100+i)
			b[i].Len = uint32(copy(b[i].Chunk[b[i].Off:], p))
		}
		if sent := out.Transmit(b[:n]); sent != len(b) {
			t.Fatalf("round %d: %d of %d frames were taken: %+v", round, sent, len(b), out.Stats())
		}
		idle(t, s)
		if st := out.Stats(); st.InFill != 128 {
			t.Errorf("round %d: fill ring of a queue that only transmits has %d of 128 frames", round, st.InFill)
		}
		for seen := 0; seen < len(b); {
			f, err := to.Receive(2 * time.Second)
			if err != nil {
				t.Fatalf("round %d: %d of %d frames came out: %v", round, seen, len(b), err)
			}
			if isOurs(f.Bytes) {
				seen++
			}
		}
	}
	account(t, s)
}

// TestVethLink takes the link down and up under a socket: no error is fatal,
// what was queued is sent, no frame is lost.
func TestVethLink(t *testing.T) {
	d := newDirector(t, 2)
	s, err := d.open(t, d.config(0, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	q := s.Queues[0]
	send := func() {
		b := make([]rings.Frame, 10)
		for i := range b[:q.Alloc(b)] {
			b[i].Len = uint32(copy(b[i].Chunk[b[i].Off:], frame(1, 60)))
		}
		q.Release(b[q.Transmit(b):])
	}
	if err := d.SetUp("a0", false); err != nil {
		t.Fatal(err)
	}
	send()
	if st := q.Stats(); st.KickErrors != 1 || q.Pending() != 10 {
		t.Errorf("link down: %+v, %d pending; want an error counted and 10 frames waiting", st, q.Pending())
	}
	if err := d.SetUp("a0", true); err != nil {
		t.Fatal(err)
	}
	for range 300 { // until the pause after the error is over
		q.Reclaim()
	}
	send()
	idle(t, s)
	if st := q.Stats(); st.TxPackets != 20 {
		t.Errorf("after the link came back: %+v", st)
	}
	account(t, s)
	// The interface goes away: its port is mute, nothing panics, the other works.
	l, err := d.Netlink().LinkByName("a0")
	if err == nil {
		err = d.Netlink().LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		send()
		q.Reclaim()
	}
	if st := q.Stats(); st.KickErrors < 2 {
		t.Errorf("interface gone: %+v, want errors counted", st)
	}
}

// TestVethOpenErrors: what cannot bind says what to do.
func TestVethOpenErrors(t *testing.T) {
	d := newDirector(t, 2)
	log := slog.New(slog.DiscardHandler)
	set := func(change func(*rings.OpenConfig)) rings.OpenConfig {
		c := d.config(0, log)
		change(&c)
		return c
	}
	for _, row := range []struct {
		name   string
		c      rings.OpenConfig
		wanted []string
	}{
		{
			"zero-copy on veth", set(func(c *rings.OpenConfig) { c.Interfaces[0].Mode, c.Interfaces[1].Mode = rings.ZeroCopy, rings.ZeroCopy }),
			[]string{"a0 queue 0", "zero-copy", "mode driver or auto"},
		},
		{"no such queue", set(func(c *rings.OpenConfig) { c.Interfaces[1].Queue = 5 }), []string{"b0 queue 5", "has the interface this queue"}},
		{"no such interface", set(func(c *rings.OpenConfig) { c.Interfaces[0].Index = 9999 }), []string{"a0 queue 0", "gone"}},
		{
			"mixed modes", set(func(c *rings.OpenConfig) { c.Interfaces[0].Mode, c.Interfaces[1].Mode = rings.ZeroCopy, rings.Generic }),
			[]string{"a0 zerocopy", "b0 generic", "one UMEM"},
		},
		{"huge pages", set(func(c *rings.OpenConfig) { c.Frames, c.HugePages = 1<<20, rings.HugeRequire }), []string{"huge pages", "vm.nr_hugepages"}},
		{"ring size", set(func(c *rings.OpenConfig) { c.Interfaces[0].RingSize = 1000 }), []string{"interfaces.ring_size of a0 is 1000"}},
	} {
		_, err := d.open(t, row.c)
		if err == nil {
			t.Errorf("%s: opened", row.name)
			continue
		}
		for _, w := range row.wanted {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error lacks %q: %v", row.name, w, err)
			}
		}
	}
	// Nothing of the above is left: the same queues open, twice in a row, and
	// while they are open nobody else gets them.
	for range 2 {
		s, err := d.open(t, d.config(0, log))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal("second close:", err)
		}
		if maps, err := os.ReadFile("/proc/self/maps"); err != nil || bytes.Contains(maps, []byte("socket:[")) {
			t.Errorf("rings are mapped after Close, which keeps the queue busy: %v\n%s", err, maps)
		}
	}
	if _, err := d.open(t, d.config(0, log)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.open(t, d.config(0, log)); err == nil || !strings.Contains(err.Error(), "another AF_XDP socket has this queue") {
		t.Errorf("a queue opened twice: %v", err)
	}
}

// TestVethHugePages: a UMEM of huge pages, with a socket of our own making.
func TestVethHugePages(t *testing.T) {
	d := newDirector(t, 1)
	c := d.config(0, slog.New(slog.DiscardHandler))
	c.HugePages = rings.HugeRequire
	s, err := d.open(t, c)
	if err != nil && strings.Contains(err.Error(), "not enough huge pages") {
		t.Skipf("needs a huge page of 2 MiB (sysctl vm.nr_hugepages=1): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.redirect(t, d.b, s.Queues[1])
	from, err := d.far.OpenRaw("b1")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	want := frame(3, 500)
	if err := from.Send(want); err != nil {
		t.Fatal(err)
	}
	f := receive(t, s.Queues[1])
	for !bytes.Equal(f.Data(), want) {
		s.UMEM.Release([]rings.Frame{f})
		f = receive(t, s.Queues[1])
	}
	if s.Queues[0].Transmit([]rings.Frame{f}) != 1 || !s.Queues[0].Binding().HugePages {
		t.Errorf("not sent, or not in huge pages: %+v", s.Queues[0].Binding())
	}
	idle(t, s)
	account(t, s)
}

// TestVethTwoWorkers: each worker has a UMEM and a queue of each interface.
func TestVethTwoWorkers(t *testing.T) {
	d := newDirector(t, 2)
	log := slog.New(slog.DiscardHandler)
	workers := []rings.OpenConfig{d.config(0, log), d.config(1, log)}
	err := d.Do(func() error { _, err := rings.Check(workers); return err })
	if err != nil {
		t.Fatal(err)
	}
	var first []*rings.Queue
	for i := range workers {
		workers[i].Worker = i
		s, err := d.open(t, workers[i])
		if err != nil {
			t.Fatal(err)
		}
		first = append(first, s.Queues[0])
	}
	d.redirect(t, d.a, first...)
	// The test's frames have nothing to hash: they arrive on one of the two.
	from, err := d.far.OpenRaw("a1")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	want := frame(7, 99)
	if err := from.Send(want); err != nil {
		t.Fatal(err)
	}
	b := make([]rings.Frame, 8)
	for range 400 {
		for _, q := range first {
			n := q.Receive(b)
			for _, f := range b[:n] {
				if bytes.Equal(f.Data(), want) {
					return
				}
			}
			q.Release(b[:n])
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("no worker received the packet: %+v, %+v", first[0].Stats(), first[1].Stats())
}

// TestVethNIC asks a real interface, and checks what Check says of it.
func TestVethNIC(t *testing.T) {
	d := newDirector(t, 2)
	log := slog.New(slog.DiscardHandler)
	err := d.Do(func() error {
		n, err := rings.Inspect("a0")
		if err != nil {
			return err
		}
		if n.Driver != "veth" || n.Queues != 2 || n.Index != d.a || n.MTU != 1500 || !n.Up {
			t.Errorf("a0 is %+v, want a veth with 2 queues and MTU 1500, up", n)
		}
		// veth computes no hash of its own: attempts fail, and say so.
		attempts, restore := rings.Steer("a0", rings.ClientIsSource, rings.RSS{Key: make([]byte, 40), Indirection: make([]uint32, 128)})
		if err := restore(); err != nil {
			t.Errorf("what was not changed is restored: %v", err)
		}
		for _, a := range attempts {
			if a.What == "" || a.Err == nil {
				t.Errorf("veth cannot do %q, and said %v", a.What, a.Err)
			}
		}
		if _, err := rings.ReadRSS("a0"); err == nil {
			t.Error("veth has an RSS table?")
		}
		if _, err := rings.Inspect("nothere"); err == nil {
			t.Error("an interface that is not there was inspected")
		}
		w := d.config(0, log)
		three := d.config(2, log)
		three.Worker = 2
		if _, err := rings.Check([]rings.OpenConfig{w, three}); err == nil || !strings.Contains(err.Error(), "a0 has 2 queues, worker 2 wants queue 2") {
			t.Errorf("queue 2 of 2: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
