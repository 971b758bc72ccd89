package rings

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NIC is what an interface tells of itself. 0: unknown.
type NIC struct {
	Name, Driver   string
	Index, MTU     int
	Queues         int // with an rx ring, in use: AF_XDP sockets bind to these
	MaxQueues      int // as many as the driver can have
	RxRing, TxRing int // descriptors in each of the NIC's own rings
	Up             bool
}

// Inspect returns what is known of an interface of the calling thread's
// network namespace. What its driver cannot tell is left 0.
func Inspect(name string) (*NIC, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	n := &NIC{Name: name, Index: i.Index, MTU: i.MTU, Up: i.Flags&net.FlagUp != 0}
	drv := newCommand(unix.ETHTOOL_GDRVINFO, 196)
	if ethtool(name, drv) == nil {
		n.Driver = unix.ByteSliceToString(drv[4:36])
	}
	// struct ethtool_channels: cmd, max rx, tx, other, combined, then the counts.
	ch := newCommand(unix.ETHTOOL_GCHANNELS, 36)
	if ethtool(name, ch) == nil {
		n.Queues, n.MaxQueues = ch.word(5)+ch.word(8), ch.word(1)+ch.word(4)
	} else if rx, err := filepath.Glob("/sys/class/net/" + name + "/queues/rx-*"); err == nil {
		n.Queues = len(rx)
	}
	// struct ethtool_ringparam: cmd, four maxima, then rx, mini, jumbo, tx.
	ring := newCommand(unix.ETHTOOL_GRINGPARAM, 36)
	if ethtool(name, ring) == nil {
		n.RxRing, n.TxRing = ring.word(5), ring.word(8)
	}
	return n, nil
}

// RSS is a NIC's receive-side scaling: the hash key, and for each value of the
// hash's low bits the queue.
type RSS struct {
	Key         []byte
	Indirection []uint32
}

// rssHeader is struct ethtool_rxfh in bytes; indirection table and key follow.
const rssHeader = 24

// A tool runs ethtool commands on an interface: the kernel's, or a test's.
type tool func(name string, c command) error

// ReadRSS returns the interface's key and table.
func ReadRSS(name string) (RSS, error) { return tool(ethtool).readRSS(name) }

func (run tool) readRSS(name string) (RSS, error) {
	c := newCommand(unix.ETHTOOL_GRSSH, rssHeader)
	if err := run(name, c); err != nil {
		return RSS{}, fmt.Errorf("read RSS of %s: %w", name, err)
	}
	entries, key := c.word(2), c.word(3)
	const most = 1 << 16 // far above any NIC's
	if entries > most || key > most {
		return RSS{}, fmt.Errorf("read RSS of %s: table of %d entries and key of %d bytes", name, entries, key)
	}
	c = newCommand(unix.ETHTOOL_GRSSH, rssHeader+4*entries+key)
	c.setWord(2, entries)
	c.setWord(3, key)
	if err := run(name, c); err != nil {
		return RSS{}, fmt.Errorf("read RSS of %s: %w", name, err)
	}
	r := RSS{Indirection: make([]uint32, entries), Key: append([]byte(nil), c[rssHeader+4*entries:]...)}
	for i := range r.Indirection {
		r.Indirection[i] = uint32(c.word(rssHeader/4 + i))
	}
	return r, nil
}

// writeRSS sets the interface's key and table, of the sizes that readRSS gave.
func (run tool) writeRSS(name string, r RSS) error {
	c := newCommand(unix.ETHTOOL_SRSSH, rssHeader+4*len(r.Indirection)+len(r.Key))
	c.setWord(2, len(r.Indirection))
	c.setWord(3, len(r.Key))
	for i, q := range r.Indirection {
		c.setWord(rssHeader/4+i, int(q))
	}
	copy(c[rssHeader+4*len(r.Indirection):], r.Key)
	if err := run(name, c); err != nil {
		return fmt.Errorf("write RSS of %s: %w", name, err)
	}
	return nil
}

// Side is the end of a packet that is the client's, on an interface.
type Side uint8

// Which end of its packets is the client, on an interface.
const (
	ClientIsSource      Side = iota // interfaces towards clients: requests
	ClientIsDestination             // interfaces towards real servers: replies
)

// hashFields are RXH_IP_SRC and RXH_L4_B_0_1 (ethtool's "sf"), or RXH_IP_DST
// and RXH_L4_B_2_3 ("dn"), of linux/ethtool.h.
var hashFields = [...]struct {
	letters string
	bits    uint64
}{ClientIsSource: {"sf", 1<<4 | 1<<6}, ClientIsDestination: {"dn", 1<<5 | 1<<7}}

// flows are the flow types of linux/ethtool.h whose packets have ports.
var flows = [...]struct {
	name string
	flow int
}{{"tcp4", 1}, {"udp4", 2}, {"sctp4", 3}, {"tcp6", 5}, {"udp6", 6}, {"sctp6", 7}}

// An Attempt is something asked of a NIC, and what came of it.
type Attempt struct {
	What string
	Err  error // nil: done
}

// Steer asks the NIC to spread packets over its queues by the client's address
// and port alone, with the key and table of r, so that both directions of a
// connection reach the same worker. What it cannot do, hand-over between
// workers does; so each attempt is reported and none is fatal. restore makes the
// NIC again what it was, as far as it told.
func Steer(name string, side Side, r RSS) (attempts []Attempt, restore func() error) {
	return tool(ethtool).steer(name, side, r)
}

func (run tool) steer(name string, side Side, r RSS) (attempts []Attempt, restore func() error) {
	var undo []func() error
	was, unknown := run.readRSS(name)
	err := run.writeRSS(name, r)
	if err == nil && unknown == nil {
		undo = append(undo, func() error { return run.writeRSS(name, was) })
	}
	attempts = append(attempts, Attempt{"RSS key and table", err})
	for _, f := range flows {
		fields, unknown := run.flowHash(name, f.flow)
		err := error(nil)
		if want := hashFields[side].bits; unknown != nil || fields != want {
			if err = run.setFlowHash(name, f.flow, want); err == nil && unknown == nil {
				undo = append(undo, func() error { return run.setFlowHash(name, f.flow, fields) })
			}
		}
		attempts = append(attempts, Attempt{fmt.Sprintf("hash %s on %s", f.name, hashFields[side].letters), err})
	}
	return attempts, func() error {
		var errs []error
		for _, f := range undo {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
}

// flowHashBytes is the length of struct ethtool_rxnfc: cmd, flow type, fields, and
// what is for filters.
const flowHashBytes = 192

// flowHash returns which fields of a flow type are hashed.
func (run tool) flowHash(name string, flow int) (fields uint64, err error) {
	c := newCommand(unix.ETHTOOL_GRXFH, flowHashBytes)
	c.setWord(1, flow)
	err = run(name, c)
	return binary.NativeEndian.Uint64(c[8:]), err
}

// setFlowHash sets them.
func (run tool) setFlowHash(name string, flow int, fields uint64) error {
	c := newCommand(unix.ETHTOOL_SRXFH, flowHashBytes)
	c.setWord(1, flow)
	binary.NativeEndian.PutUint64(c[8:], fields)
	if err := run(name, c); err != nil {
		return fmt.Errorf("set flow hash of %s: %w", name, err)
	}
	return nil
}

// A command is a struct of linux/ethtool.h: 32-bit words in host order, the
// first of which says which it is.
type command []byte

func newCommand(cmd, size int) command {
	c := make(command, (size+7)&^7)
	c.setWord(0, cmd)
	return c[:size]
}

func (c command) word(i int) int       { return int(binary.NativeEndian.Uint32(c[4*i:])) }
func (c command) setWord(i, value int) { binary.NativeEndian.PutUint32(c[4*i:], uint32(value)) }

// ethtool runs a command on an interface of the thread's network namespace.
func ethtool(name string, c command) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(ioctlEthtool(fd, name, c), unix.Close(fd))
}
