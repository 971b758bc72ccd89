// Package punt gives packets back to the host's stack, by a TAP device.
//
// A packet that reached an AF_XDP socket and turned out not to be ours is
// written to the device as a frame addressed to it, and the stack takes it as
// if it had come in there: sockets of the host receive it, or the host
// forwards it. What the stack sends out of the device is read, counted and
// dropped.
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
// A Tap belongs to the goroutine that calls Inject; Close and Counters may be
// called from any. The device is not persistent: it ends with the process.
package punt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultName is the device's name where the configuration gives none.
const DefaultName = "sluice0"

// MTU of the device in bytes, the largest that the stack allows it: what comes in is as
// large as it was on the wire, and nothing leaves by the device.
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
	reader sync.WaitGroup

	injected, refused, answered atomic.Uint64
}

// Counters are a Tap's counts since it was opened.
type Counters struct {
	Injected uint64 // frames given to the stack
	Refused  uint64 // frames that the device did not take
	Dropped  uint64 // frames that the stack sent out of the device
}

// Open makes the device in the calling thread's network namespace, sets it up
// and starts its reader. It needs CAP_NET_ADMIN and /dev/net/tun.
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
	t.reader.Go(t.drain)
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
	return Counters{Injected: t.injected.Load(), Refused: t.refused.Load(), Dropped: t.answered.Load()}
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

// drain reads what the stack sends out of the device until it is closed: some
// multicast of its own, and what somebody routed here by mistake.
func (t *Tap) drain() {
	b := make([]byte, 256) // the rest of a longer frame is cut off
	for {
		if _, err := t.file.Read(b); err != nil {
			return
		}
		t.answered.Add(1)
	}
}

// Close removes the device and waits for its reader.
func (t *Tap) Close() error {
	err := t.file.Close()
	t.reader.Wait()
	return err
}
