package rings_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/internal/testnet"
	"github.com/sluice-lb/sluice/rings"
)

// pair is a bond of a0 and b0 in the kernel's sockets, one worker's.
type pair struct {
	director
	set  *rings.Set
	bond *rings.Bond
	wire map[string]*testnet.Raw // of the other ends
	xsks map[int]*ebpf.Map       // by kernel index
}

func newPair(t *testing.T, change func(*rings.OpenConfig)) *pair {
	t.Helper()
	d := newDirector(t, 1)
	c := d.config(0, slog.New(slog.DiscardHandler))
	for i := range c.Interfaces {
		c.Interfaces[i].Bond = "bond0"
	}
	if change != nil {
		change(&c)
	}
	s, err := d.open(t, c)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{director: d, set: s, bond: s.Bond("bond0"), wire: map[string]*testnet.Raw{}, xsks: map[int]*ebpf.Map{}}
	for _, q := range s.Queues {
		p.xsks[q.Binding().Index] = d.redirect(t, q.Binding().Index, q)
	}
	for near, dev := range map[string]string{"a0": "a1", "b0": "b1"} {
		r, err := d.far.OpenRaw(dev)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		p.wire[near] = r
	}
	return p
}

func (p *pair) queue(t *testing.T, name string) *rings.Queue {
	t.Helper()
	i := slices.IndexFunc(p.set.Queues, func(q *rings.Queue) bool { return q.Binding().Interface == name })
	if i < 0 {
		t.Fatalf("%s is no member", name)
	}
	return p.set.Queues[i]
}

// brings sends a frame to a member and wants it to come in by the bond.
func (p *pair) brings(t *testing.T, member string, fill byte) {
	t.Helper()
	want := frame(fill, 100)
	if err := p.wire[member].Send(want); err != nil {
		t.Fatal(err)
	}
	b := make([]rings.Frame, 8)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		n := p.bond.Receive(b)
		for _, f := range b[:n] {
			if bytes.Equal(f.Data(), want) {
				p.bond.Release(b[:n])
				return
			}
		}
		p.bond.Release(b[:n])
		p.bond.Reclaim()
		fds := []unix.PollFd{{Fd: int32(p.bond.FD()), Events: unix.POLLIN}} // the epoll descriptor is readable with a member
		if _, err := unix.Poll(fds, 100); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	t.Fatalf("nothing came in by %s: %+v", member, p.bond.Stats())
}

// leaves sends a frame by the bond and wants it to come out at a member's other end.
func (p *pair) leaves(t *testing.T, member string, fill byte) {
	t.Helper()
	var b [1]rings.Frame
	if p.bond.Alloc(b[:]) != 1 {
		t.Fatal("no free frame")
	}
	want := frame(fill, 100)
	b[0].Len = uint32(copy(b[0].Chunk[b[0].Off:], want))
	if p.bond.Transmit(b[:]) != 1 {
		t.Fatalf("not taken: %+v", p.bond.Stats())
	}
	for {
		f, err := p.wire[member].Receive(5 * time.Second)
		if err != nil {
			t.Fatalf("nothing came out of %s: %v", member, err)
		}
		if bytes.Equal(f.Bytes, want) {
			return
		}
		p.bond.Reclaim()
	}
}

// whole checks that each frame is free or a member's.
func (p *pair) whole(t *testing.T) {
	t.Helper()
	for range 400 {
		p.bond.Reclaim()
		if p.bond.Stats().InTx == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	s := p.bond.Stats()
	if sum := s.Free + s.InFill + s.InTx; sum != p.set.UMEM.Frames() || s.InTx != 0 || s.RxInvalid+s.TxInvalid > 0 {
		t.Errorf("%d of %d frames are accounted for: %+v", sum, p.set.UMEM.Frames(), s)
	}
}

// leave and join are what the node does with a member.
func (p *pair) leave(t *testing.T, name string) {
	t.Helper()
	q := p.queue(t, name)
	p.bond.Remove(q)
	if err := p.set.Leave(q); err != nil {
		t.Fatal(err)
	}
	p.set.UMEM.Reclaim(q)
}

func (p *pair) join(t *testing.T, name string, index int) {
	t.Helper()
	err := p.Do(func() error {
		q, err := p.set.Join(rings.Interface{Name: name, Bond: "bond0", Index: index, RingSize: 128})
		if err != nil {
			return err
		}
		return errors.Join(p.xsks[index].Put(uint32(0), uint32(q.FD())), p.bond.Add(q))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Members leave and come back while the other carries on, also the one with whose
// socket the UMEM was made, and also all of them.
func TestVethBond(t *testing.T) {
	for _, huge := range []rings.HugePages{rings.HugeOff, rings.HugeRequire} {
		t.Run(fmt.Sprintf("huge_pages %v", huge), func(t *testing.T) {
			testnet.NeedRoot(t)
			if huge == rings.HugeRequire && !hugePages(t) {
				t.Skip("needs a huge page of 2 MiB (sysctl vm.nr_hugepages=1)")
			}
			p := newPair(t, func(c *rings.OpenConfig) { c.HugePages = huge })
			a, b := p.a, p.b
			if len(p.set.Ports) != 1 || p.set.Ports[0] != rings.Port(p.bond) || len(p.set.Queues) != 2 {
				t.Fatalf("%d ports with %d queues, want the bond with 2", len(p.set.Ports), len(p.set.Queues))
			}
			p.bond.Use([]int{a, b})
			p.brings(t, "a0", 1)
			p.brings(t, "b0", 2)
			p.bond.Use([]int{b})
			p.leaves(t, "b0", 3)

			first := p.queue(t, "a0")
			p.leave(t, "a0")
			p.whole(t)
			p.brings(t, "b0", 4)
			p.leaves(t, "b0", 5)
			if err := first.Close(); err != nil {
				t.Errorf("closed again: %v", err)
			}

			p.join(t, "a0", a)
			p.brings(t, "a0", 6)
			p.bond.Use([]int{a})
			p.leaves(t, "a0", 7)
			p.whole(t)
			sum := p.bond.Stats()
			if sum.RxPackets < 4 || sum.TxPackets != 3 {
				t.Errorf("the bond received %d and sent %d packets, want those by members that left too", sum.RxPackets, sum.TxPackets)
			}

			p.leave(t, "a0")
			p.leave(t, "b0")
			if p.bond.Receive(make([]rings.Frame, 1)) != 0 || p.set.UMEM.Free() != p.set.UMEM.Frames() {
				t.Errorf("%d of %d frames are free in a bond without members", p.set.UMEM.Free(), p.set.UMEM.Frames())
			}
			p.join(t, "b0", b)
			p.bond.Use([]int{b})
			p.brings(t, "b0", 8)
			p.leaves(t, "b0", 9)
			p.whole(t)
		})
	}
}

// hugePages says whether one can be had.
func hugePages(t *testing.T) bool {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB|unix.MAP_POPULATE)
	return err == nil && unix.Munmap(mem) == nil
}

// A queue that was opened and not used, as another worker's could not be, is given up
// like one that was.
func TestJoinGivenUp(t *testing.T) {
	p := newPair(t, nil)
	p.leave(t, "b0")
	var q *rings.Queue
	if err := p.Do(func() (err error) {
		q, err = p.set.Join(rings.Interface{Name: "b0", Bond: "bond0", Index: p.b, RingSize: 128})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	p.bond.Remove(q)
	if err := p.set.Leave(q); err != nil {
		t.Error(err)
	}
	if n := p.set.UMEM.Reclaim(q); n != 0 {
		t.Errorf("%d frames were taken back from a queue that had none", n)
	}
	p.whole(t)
	p.brings(t, "a0", 1)
}

// A member whose device is gone, the kernel having ended its socket, leaves like
// another; another comes in its place.
func TestVethBondDeviceGone(t *testing.T) {
	p := newPair(t, nil)
	far := p.director.far.Netlink()
	link, err := far.LinkByName("a1")
	if err == nil {
		err = far.LinkDel(link) // takes a0 along
	}
	if err != nil {
		t.Fatal(err)
	}
	p.bond.Use([]int{p.b})
	p.leaves(t, "b0", 1)
	p.leave(t, "a0")
	p.whole(t)
	p.leave(t, "b0")
	p.join(t, "b0", p.b)
	p.brings(t, "b0", 2)
	p.whole(t)
}

func TestJoinRefused(t *testing.T) {
	p := newPair(t, nil)
	for _, row := range []struct {
		stake string
		join  rings.Interface
		want  string
	}{
		{"a queue that the device does not have", rings.Interface{Name: "a0", Index: p.a, Queue: 9, RingSize: 64}, "has the interface this queue?"},
		{"more than the UMEM holds", rings.Interface{Name: "c0", Index: p.a, RingSize: 256}, "workers.umem_frames is 1024: want 1280 or more with c0"},
		{"a device that is not there", rings.Interface{Name: "c0", Index: 9999, RingSize: 64}, "the interface is gone"},
	} {
		err := p.Do(func() error { _, err := p.set.Join(row.join); return err })
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.stake, err, row.want)
		}
	}
	p.whole(t)
}
