package testnet

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// tunnelDevice is the interface by which decapsulated packets enter a server.
const tunnelDevice = "decap"

// Decapsulator is the far end of IPIP, 6in4, 4in6 and IP6IP6 tunnels in a
// server's namespace, for kernels without tunnel devices. Raw sockets get what
// the kernel has reassembled; the inner packets enter the stack by a TUN device.
type Decapsulator struct {
	tun       *os.File
	sockets   []rawSocket
	readers   sync.WaitGroup
	delivered atomic.Uint64
}

// rawSocket is a raw socket; what it reads begins with the outer header in
// IPv4, and with the inner one in IPv6 (RFC 3542 section 3).
type rawSocket struct {
	*os.File
	withHeader bool
}

// Decapsulate starts a Decapsulator in the namespace, which ends with the Network.
func (n *Network) Decapsulate(in string) (*Decapsulator, error) {
	s := n.In(in)
	d := &Decapsulator{}
	if err := d.open(s); err != nil {
		return nil, errors.Join(fmt.Errorf("decapsulator in %s: %w", in, err), d.close())
	}
	for _, socket := range d.sockets {
		d.readers.Go(func() { d.run(socket) })
	}
	n.onClose(d.close)
	return d, nil
}

// Delivered is the number of inner packets handed to the server's stack so far.
func (d *Decapsulator) Delivered() uint64 { return d.delivered.Load() }

func (d *Decapsulator) open(s *Namespace) error {
	if err := s.Do(d.openFiles); err != nil {
		return err
	}
	// The clients' addresses are not this way: without the filter's leave
	// nothing gets in. prepare has turned it off for "all" and "default".
	link, err := s.links.LinkByName(tunnelDevice)
	if err != nil {
		return err
	}
	if err := s.links.LinkSetMTU(link, 1<<16-1); err != nil {
		return fmt.Errorf("MTU of %s: %w", tunnelDevice, err)
	}
	return s.SetUp(tunnelDevice, true)
}

// openFiles opens the TUN device and a raw socket for each inner protocol in
// each outer family.
func (d *Decapsulator) openFiles() error {
	tun, err := openTUN(tunnelDevice)
	if err != nil {
		return err
	}
	d.tun = tun
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, proto := range []int{unix.IPPROTO_IPIP, unix.IPPROTO_IPV6} {
			fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
			if err != nil {
				return fmt.Errorf("raw socket for protocol %d: %w", proto, err)
			}
			d.sockets = append(d.sockets, rawSocket{os.NewFile(uintptr(fd), "raw socket"), family == unix.AF_INET})
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
				return fmt.Errorf("receive buffer: %w", err)
			}
		}
	}
	return nil
}

// openTUN makes a TUN device in the thread's namespace, without packet information.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make TUN device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// run hands each inner packet from a raw socket to the stack.
func (d *Decapsulator) run(socket rawSocket) {
	buf := make([]byte, 1<<16)
	for {
		n, err := socket.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error reported by the socket: the next packet is unharmed
		}
		inner := buf[:n]
		if socket.withHeader {
			inner = inner[4*(inner[0]&15):]
		}
		// A packet that the stack refuses, being broken, is lost as on any wire.
		if _, err := d.tun.Write(inner); err == nil {
			d.delivered.Add(1)
		}
	}
}

func (d *Decapsulator) close() error {
	var errs []error
	for _, socket := range d.sockets {
		errs = append(errs, socket.Close())
	}
	d.readers.Wait()
	if d.tun != nil {
		errs = append(errs, d.tun.Close())
	}
	return errors.Join(errs...)
}
