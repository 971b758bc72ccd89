package rings

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// errNoHugePages reports that not enough huge pages are reserved.
var errNoHugePages = errors.New("not enough huge pages")

// A socket is an AF_XDP socket and its mapped rings: the Kernel of a Queue.
type socket struct {
	fd     int
	memory Memory
	region *region
	unmap  func() error // of asavie/xdp's: ends its own mappings of the rings
	closed bool
}

// region is the memory of a UMEM, which its Set and the sockets on it use.
type region struct {
	mem   []byte
	users int
	free  func() error // frees it, after the last of them
}

// drop ends one use.
func (r *region) drop() error {
	if r.users--; r.users > 0 {
		return nil
	}
	return r.free()
}

// newSocket makes an AF_XDP socket with rings of size entries, unbound.
func newSocket(size int) (int, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	for _, opt := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_RX_RING, unix.XDP_TX_RING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, opt, size); err != nil {
			return -1, errors.Join(fmt.Errorf("ring of %d entries: %w", size, err), unix.Close(fd))
		}
	}
	return fd, nil
}

// openShared binds another queue to the UMEM of a socket, from which it takes the
// bind mode: the kernel allows no other flag with XDP_SHARED_UMEM. It has fill and
// completion rings of its own.
func openShared(i *Interface, other *socket) (*socket, error) {
	fd, err := newSocket(i.RingSize)
	if err != nil {
		return nil, err
	}
	sa := unix.SockaddrXDP{Flags: unix.XDP_SHARED_UMEM, Ifindex: uint32(i.Index), QueueID: uint32(i.Queue), SharedUmemFD: uint32(other.fd)}
	if err := unix.Bind(fd, &sa); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	other.region.users++
	return &socket{fd: fd, region: other.region}, nil
}

// openHuge makes a UMEM of huge pages and binds a socket with it, for a Set.
// errNoHugePages: there are not enough of them.
func openHuge(i *Interface, bytes, frameSize int, flags uint16) (*socket, error) {
	mem, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("%w: %d bytes: %w", errNoHugePages, bytes, err)
	}
	r := &region{mem: mem, users: 1, free: func() error { return unix.Munmap(mem) }}
	k, err := openOn(i, r, frameSize, flags)
	if err != nil {
		return nil, errors.Join(err, r.drop())
	}
	return k, nil
}

// openOn binds a socket for which memory becomes a UMEM, when there is none to share
// that of.
func openOn(i *Interface, r *region, frameSize int, flags uint16) (*socket, error) {
	fd, err := newSocket(i.RingSize)
	if err != nil {
		return nil, err
	}
	err = registerUMEM(fd, r.mem, frameSize)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrXDP{Flags: flags, Ifindex: uint32(i.Index), QueueID: uint32(i.Queue)})
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	r.users++
	return &socket{fd: fd, region: r}, nil
}

// mapRings maps the four rings, which all have size entries.
func (k *socket) mapRings(size int) error {
	m := &k.memory
	m.RingSize = size
	var err error
	if m.Offsets, err = mmapOffsets(k.fd); err != nil {
		return fmt.Errorf("getsockopt XDP_MMAP_OFFSETS: %w", err)
	}
	const descBytes, addrBytes = 16, 8
	for _, r := range []struct {
		mem   *[]byte
		page  int64
		bytes uint64
	}{
		{&m.Fill, unix.XDP_UMEM_PGOFF_FILL_RING, m.Offsets.Fr.Desc + uint64(size)*addrBytes},
		{&m.Completion, unix.XDP_UMEM_PGOFF_COMPLETION_RING, m.Offsets.Cr.Desc + uint64(size)*addrBytes},
		{&m.Rx, unix.XDP_PGOFF_RX_RING, m.Offsets.Rx.Desc + uint64(size)*descBytes},
		{&m.Tx, unix.XDP_PGOFF_TX_RING, m.Offsets.Tx.Desc + uint64(size)*descBytes},
	} {
		*r.mem, err = unix.Mmap(k.fd, r.page, int(r.bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return fmt.Errorf("map rings: %w", err)
		}
	}
	return nil
}

// tune sets what makes the socket faster where the kernel has it. Its error
// concerns the busy-poll options (Linux 5.11).
func (k *socket) tune(ringSize, frameSize int) error {
	// Copy mode: a call sends a whole ring instead of 32 frames (Linux 6.17), and
	// as many may be on their way. Without these it is slower, not wrong.
	_ = unix.SetsockoptInt(k.fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, ringSize)
	_ = unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, ringSize*frameSize)
	const micros, budget = 20, 64
	for _, o := range []struct {
		name       string
		opt, value int
	}{
		{"SO_PREFER_BUSY_POLL", unix.SO_PREFER_BUSY_POLL, 1},
		{"SO_BUSY_POLL", unix.SO_BUSY_POLL, micros},
		{"SO_BUSY_POLL_BUDGET", unix.SO_BUSY_POLL_BUDGET, budget},
	} {
		if err := unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, o.opt, o.value); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	return nil
}

// WakeRx and WakeTx are raw system calls: they never block, so the scheduler
// need not hand the worker's processor to another thread meanwhile.
func (k *socket) WakeRx() error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(k.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errnoError(errno)
}

// WakeTx has the kernel look at the tx ring: see WakeRx.
func (k *socket) WakeTx() error {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(k.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errnoError(errno)
}

func errnoError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// Statistics returns the kernel's counters of the socket.
func (k *socket) Statistics() (unix.XDPStatistics, error) { return xdpStatistics(k.fd) }

// FD is the descriptor.
func (k *socket) FD() int { return k.fd }

// Close is close for use after Open.
func (k *socket) Close() error {
	opening.Lock()
	defer opening.Unlock()
	return k.close()
}

// close unmaps the rings and closes the socket, which frees its queue. The UMEM
// stays while others use it.
func (k *socket) close() error {
	if k.closed {
		return nil
	}
	k.closed = true
	var errs []error
	for _, mem := range [][]byte{k.memory.Fill, k.memory.Completion, k.memory.Rx, k.memory.Tx} {
		if mem != nil {
			errs = append(errs, unix.Munmap(mem))
		}
	}
	if k.unmap != nil {
		errs = append(errs, k.unmap(), vacate(k.fd))
	} else {
		errs = append(errs, unix.Close(k.fd))
	}
	return errors.Join(append(errs, k.region.drop())...)
}

// vacate closes a socket whose number asavie/xdp is going to close with the UMEM:
// until then /dev/null has it.
func vacate(fd int) error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup3(null, fd, unix.O_CLOEXEC), unix.Close(null))
}
