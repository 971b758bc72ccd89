package rings

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"
)

// openAsavie has asavie/xdp make a UMEM, for a Set, and bind the socket that has
// it. The caller holds opening. What asavie/xdp 0.3.3 leaves to us:
//
//   - its bind flags are a global;
//   - its errors are text, from which errnoOf gets the number back;
//   - its own mappings of the rings outlive Close, and with them, in the
//     kernel, the socket and its queue: unmapSockets ends them;
//   - its UMEM is of ordinary pages, seen whole as one frame of at most 4 GiB.
func openAsavie(i *Interface, frames, frameSize int, flags uint16) (*socket, error) {
	before := mappedSockets()
	xdp.DefaultSocketFlags = flags
	s, err := xdp.NewSocket(i.Index, i.Queue, &xdp.SocketOptions{
		NumFrames: frames, FrameSize: frameSize,
		FillRingNumDescs: i.RingSize, CompletionRingNumDescs: i.RingSize,
		RxRingNumDescs: i.RingSize, TxRingNumDescs: i.RingSize,
	})
	if err != nil {
		return nil, errors.Join(errnoOf(err), unmapSockets(func(name string) bool { return before[name] == nil }))
	}
	fd := s.FD()
	unix.CloseOnExec(fd)
	r := &region{mem: s.GetFrame(xdp.Desc{Len: uint32(frames * frameSize)}), users: 2, free: s.Close}
	return &socket{fd: fd, region: r, unmap: func() error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("stat AF_XDP socket: %w", err)
		}
		own := fmt.Sprintf("socket:[%d]", st.Ino)
		return unmapSockets(func(name string) bool { return name == own })
	}}, nil
}

// errnoOf returns asavie's error with the errno that its text ends with.
func errnoOf(err error) error {
	for _, errno := range []unix.Errno{
		unix.EBUSY, unix.EOPNOTSUPP, unix.EPERM, unix.ENOBUFS, unix.ENOMEM, unix.EINVAL, unix.ENODEV, unix.EAFNOSUPPORT, unix.ENETDOWN,
	} {
		if what, ok := strings.CutSuffix(err.Error(), errno.Error()); ok {
			return fmt.Errorf("%s%w", what, errno)
		}
	}
	return err
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// mappedSockets returns what the process has mapped of sockets, by their names
// in /proc/self/maps ("socket:[inode]").
func mappedSockets() map[string][]mapping {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil
	}
	defer f.Close()
	return parseMaps(f)
}

// parseMaps reads lines "start-end perms offset device inode name".
func parseMaps(r io.Reader) map[string][]mapping {
	m := map[string][]mapping{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		field := strings.Fields(lines.Text())
		if len(field) < 6 || !strings.HasPrefix(field[5], "socket:[") {
			continue
		}
		from, to, _ := strings.Cut(field[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil {
			m[field[5]] = append(m[field[5]], mapping{uintptr(start), uintptr(end)})
		}
	}
	return m
}

// unmapSockets ends the mappings of the sockets that which says.
func unmapSockets(which func(name string) bool) error {
	for name, maps := range mappedSockets() {
		if !which(name) {
			continue
		}
		for _, m := range maps {
			if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, m.start, m.end-m.start, 0); errno != 0 {
				return fmt.Errorf("unmap rings of %s: %w", name, errno)
			}
		}
	}
	return nil
}
