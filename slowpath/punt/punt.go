// Package punt gives packets back to the host's stack, by a TAP device, and
// takes those of servers on the host itself.
//
// A packet that reached an AF_XDP socket and turned out not to be ours is
// written to the device as a frame addressed to it, and the stack takes it as
// if it had come in there: sockets of the host receive it, or the host
// forwards it. The other way come frames that the host was about to send by a
// NIC and that rings/xdpprog's Answers turned round; what the stack sends out of
// the device of its own accord is counted and dropped.
//
// Limits, all because the stack sees the device and not the NIC:
//   - A socket bound to the NIC (SO_BINDTODEVICE) and a firewall rule that names
//     it do not match; IPv6 link-local destinations are not those of the NIC.
//   - A reverse path filter set to strict for all interfaces cannot be turned
//     off for one. The device then asks for the loose one, which wins over
//     strict: a source that the host has no route to at all is refused.
//   - Forwarding needs net.ipv4.ip_forward (net.ipv6.conf.all.forwarding), not
//     only the per-interface switch of the NIC.
//   - VLAN tags are taken off.
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

// MTU of the device in bytes, the largest that the stack allows it: what comes in is as
// large as it was on the wire.
const mtuBytes = 65521

const (
	etherHeader  = 14 // bytes: destination, source, EtherType
	vlanTag      = 4  // bytes
	etherVLAN    = 0x8100
	etherQinQ    = 0x88a8
	maxFrameSize = etherHeader + mtuBytes
)

// ErrNotFrame reports a frame too short for its Ethernet header and tags, or
// longer than the device takes.
var ErrNotFrame = errors.New("not an Ethernet frame")

// Config says how the device is made.
type Config struct {
	Name string // at most 15 bytes; empty: DefaultName
}

// Tap is an open TAP device.
type Tap struct {
	name   string
	index  int
	mac    [6]byte
	limits []string
	file   *os.File
	raw    syscall.RawConn
	frame  []byte // under construction

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
// up. It needs CAP_NET_ADMIN and /dev/net/tun.
func Open(c Config) (*Tap, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	file, err := create(c.Name)
	if err != nil {
		return nil, fmt.Errorf("make tap device %s: %w", c.Name, err)
	}
	t := &Tap{name: c.Name, file: file, frame: make([]byte, maxFrameSize)}
	if err := t.setUp(); err != nil {
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

// Limits lists what could not be set up as wanted, one sentence each, for the log.
func (t *Tap) Limits() []string { return t.limits }

// Counters returns the counts so far.
func (t *Tap) Counters() Counters {
	return Counters{
		Injected: t.injected.Load(), Refused: t.refused.Load(),
		Taken: t.taken.Load(), Lost: t.lost.Load(), Dropped: t.dropped.Load(),
	}
}

// Inject gives an Ethernet frame to the stack as if it had arrived at the
// device. It is not modified. The interface that it came in by is not used: the
// stack sees the device's own. It does not wait: a device that takes nothing
// now refuses the frame.
func (t *Tap) Inject(_ int, frame []byte) error {
	b, err := t.address(frame)
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

// address returns the frame as the device is to receive it: without VLAN tags
// and, unless it is to a group, addressed to the device.
func (t *Tap) address(frame []byte) ([]byte, error) {
	if len(frame) < etherHeader || len(frame) > maxFrameSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrNotFrame, len(frame))
	}
	at := etherHeader
	kind := binary.BigEndian.Uint16(frame[at-2:])
	for kind == etherVLAN || kind == etherQinQ {
		if at += vlanTag; at > len(frame) {
			return nil, fmt.Errorf("%w: it ends in a VLAN tag", ErrNotFrame)
		}
		kind = binary.BigEndian.Uint16(frame[at-2:])
	}
	b := t.frame
	copy(b, t.mac[:])
	if frame[0]&1 != 0 {
		copy(b, frame[:6]) // broadcast and multicast are recognised by their address
	}
	copy(b[6:12], frame[6:12])
	binary.BigEndian.PutUint16(b[12:], kind)
	return b[:etherHeader+copy(b[etherHeader:], frame[at:])], nil
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
