// Package punt gives packets back to the host's stack, by a TAP device, and
// takes those of servers on the host itself.
//
// A packet that reached an AF_XDP socket and turned out not to be ours is
// written to the device. A tc program there (enter.bpf.c) has it come in by the NIC that
// it came in by before, so that the stack takes it as if nothing had happened:
// sockets of the host receive it, or the host forwards it; filters that name the
// NIC match, and so does the route back to where it came from. The other
// way come frames that the host was about to send by a NIC and that
// rings/xdpprog's Answers turned round; what the stack sends out of the device of
// its own accord is counted and dropped.
//
// Inject belongs to one goroutine, Run to another; Close and Counters may be
// called from any. The device is not persistent: it ends with the process.
package punt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultName is the device's name where the configuration gives none.
const DefaultName = "sluice0"

// MaxNICs is how many NICs a tag can tell from each other.
const MaxNICs = 4095

const (
	etherHeader  = 14 // bytes: destination, source, EtherType
	macs         = 12 // of these the addresses
	vlanTag      = 4  // bytes
	etherVLAN    = 0x8100
	maxFrameSize = etherHeader + 2*vlanTag + 65535
)

// ErrNotFrame reports a frame too short for its Ethernet header, longer than any, or
// of a NIC that is not there.
var ErrNotFrame = errors.New("not an Ethernet frame")

// Config says how the device is made.
type Config struct {
	Name string // at most 15 bytes; empty: DefaultName
	NICs []int  // the kernel's indexes of the interfaces that frames come in by, in the order of their numbers
}

// Tap is an open TAP device.
type Tap struct {
	name  string
	index int
	mac   [6]byte
	marks []bool // by NIC
	file  *os.File
	raw   syscall.RawConn
	frame []byte // under construction

	injected, refused, taken, lost, dropped atomic.Uint64
}

// Counters are a Tap's counts since it was opened.
type Counters struct {
	Injected uint64 `json:"injected"` // frames given to the stack
	Refused  uint64 `json:"refused"`  // frames that the device did not take
	Taken    uint64 `json:"taken"`    // frames that the host was about to send by a NIC
	Lost     uint64 `json:"lost"`     // of these: nobody had room for them
	Dropped  uint64 `json:"dropped"`  // frames that the stack sent out of the device
}

// Open makes the device in the calling thread's network namespace and sets it
// up. It needs CAP_NET_ADMIN, CAP_BPF, /dev/net/tun, and of the kernel
// CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF.
func Open(c Config) (*Tap, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	file, err := create(c.Name)
	if err != nil {
		return nil, fmt.Errorf("make tap device %s: %w", c.Name, err)
	}
	t := &Tap{name: c.Name, file: file, marks: make([]bool, len(c.NICs)), frame: make([]byte, maxFrameSize+vlanTag)}
	if err := t.setUp(c.NICs); err != nil {
		return nil, errors.Join(fmt.Errorf("set up tap device %s: %w", c.Name, err), file.Close())
	}
	return t, nil
}

// create makes the device, without a packet information header in front of
// frames. The descriptor is given to the runtime's poller only after the device
// is attached to it: before, it cannot be polled.
func create(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun (is the tun module loaded?): %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		// TUN_EXCL: never take over a device that somebody else made.
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Name returns the device's name.
func (t *Tap) Name() string { return t.name }

// Index returns the device's kernel index.
func (t *Tap) Index() int { return t.index }

// Counters returns the counts so far.
func (t *Tap) Counters() Counters {
	return Counters{
		Injected: t.injected.Load(), Refused: t.refused.Load(),
		Taken: t.taken.Load(), Lost: t.lost.Load(), Dropped: t.dropped.Load(),
	}
}

// Mark has the frames of a NIC come in from the device's own address: its XDP
// program knows them by that, and does not redirect them again. A program of generic mode
// needs it, which runs where the stack takes frames; one in the driver has run
// before. It is called before Inject.
func (t *Tap) Mark(nic int) { t.marks[nic] = true }

// MAC returns the device's address.
func (t *Tap) MAC() [6]byte { return t.mac }

// Inject gives an Ethernet frame, as it came in by a NIC, to the stack. It is
// not modified. It does not wait: a device that takes nothing now refuses the frame.
func (t *Tap) Inject(nic int, frame []byte) error {
	b, err := t.label(nic, frame)
	if err == nil {
		err = t.write(b)
	}
	if err != nil {
		t.refused.Add(1)
		return err
	}
	t.injected.Add(1)
	return nil
}

// label returns the frame as the device is to receive it: with the number of
// its NIC in front of its own tags, and marked if the NIC wants that.
func (t *Tap) label(nic int, frame []byte) ([]byte, error) {
	if len(frame) < etherHeader || len(frame) > maxFrameSize || nic < 0 || nic >= len(t.marks) {
		return nil, fmt.Errorf("%w: %d bytes by NIC %d", ErrNotFrame, len(frame), nic)
	}
	b := t.frame
	copy(b, frame[:macs])
	if t.marks[nic] {
		copy(b[6:macs], t.mac[:])
	}
	binary.BigEndian.PutUint16(b[macs:], etherVLAN)
	binary.BigEndian.PutUint16(b[macs+2:], uint16(nic))
	return b[:macs+vlanTag+copy(b[macs+vlanTag:], frame[macs:])], nil
}

func (t *Tap) write(b []byte) error {
	var failed error
	err := t.raw.Write(func(fd uintptr) bool {
		_, failed = unix.Write(int(fd), b)
		return true // never wait until it is writable
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("write to %s: %w", t.name, err)
	}
	return nil
}

// Run reads what comes out of the device until ctx is done: frames that the host
// was about to send by a NIC are given to take, which does not keep them and says
// whether it had room. Some multicast of the stack's own, and what somebody
// routed here by mistake, comes from the device's own address.
func (t *Tap) Run(ctx context.Context, take func(frame []byte) bool) error {
	stop := context.AfterFunc(ctx, func() { _ = t.file.SetReadDeadline(time.Now()) })
	defer stop()
	b := make([]byte, maxFrameSize)
	for {
		n, err := t.file.Read(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read from %s: %w", t.name, err)
		case n < etherHeader || [6]byte(b[6:]) == t.mac:
			t.dropped.Add(1)
			continue
		}
		t.taken.Add(1)
		if !take(b[:n]) {
			t.lost.Add(1)
		}
	}
}

// Close removes the device.
func (t *Tap) Close() error { return t.file.Close() }
