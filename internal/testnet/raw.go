package testnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Raw sends and receives whole Ethernet frames on one interface. One goroutine
// may send and another receive.
type Raw struct {
	file *os.File
	conn syscall.RawConn
	buf  []byte
	oob  []byte
}

// Frame is what Receive got: the frame with its VLAN tags in place. Unfinished
// means that its transport checksum has not been computed: an offload is on.
type Frame struct {
	Bytes      []byte
	Unfinished bool
}

// OpenRaw opens an AF_PACKET socket on an interface of the namespace. It sees
// what arrives there, not what is sent. Close it.
func (s *Namespace) OpenRaw(dev string) (*Raw, error) {
	link, err := s.links.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", dev, s.name, err)
	}
	var fd int
	err = s.Do(func() (err error) {
		// Protocol 0: nothing arrives before bind has named the interface.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket in %s: %w", s.name, err)
	}
	file := os.NewFile(uintptr(fd), "packet socket on "+dev)
	conn, err := file.SyscallConn()
	if err == nil {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link.Attrs().Index}))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket on %s in %s: %w", dev, s.name, err), file.Close())
	}
	return &Raw{file: file, conn: conn, buf: make([]byte, 1<<16), oob: make([]byte, 128)}, nil
}

// networkOrder returns v as it lies in memory in network byte order.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Send sends one frame. It waits while the interface's queue is full.
func (r *Raw) Send(frame []byte) error {
	for {
		_, err := r.file.Write(frame)
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// Receive returns the next frame, in memory of its own. After the timeout the
// error is os.ErrDeadlineExceeded.
func (r *Raw) Receive(timeout time.Duration) (Frame, error) {
	if err := r.file.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return Frame{}, err
	}
	var n, oobn int
	var failure error
	err := r.conn.Read(func(fd uintptr) bool {
		n, oobn, _, _, failure = unix.Recvmsg(int(fd), r.buf, r.oob, 0)
		return !errors.Is(failure, unix.EAGAIN)
	})
	if err = errors.Join(err, failure); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return Frame{}, os.ErrDeadlineExceeded
		}
		return Frame{}, fmt.Errorf("receive: %w", err)
	}
	return unpack(r.buf[:n], r.oob[:oobn])
}

// unpack copies a frame and puts the VLAN tag back that the kernel took out:
// struct tpacket_auxdata of linux/if_packet.h.
func unpack(data, oob []byte) (Frame, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return Frame{}, fmt.Errorf("receive: %w", err)
	}
	f := Frame{Bytes: slices.Clone(data)}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		f.Unfinished = status&unix.TP_STATUS_CSUMNOTREADY != 0
		if status&unix.TP_STATUS_VLAN_VALID != 0 && len(data) >= 12 {
			tag := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(m.Data[18:]))
			tag = binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(m.Data[16:]))
			f.Bytes = slices.Insert(f.Bytes, 12, tag...)
		}
	}
	return f, nil
}

// Close closes the socket; a Receive that waits returns an error.
func (r *Raw) Close() error { return r.file.Close() }

// Flood sends the frames that next makes, numbered from 0, until ctx is done:
// perSecond of them, or as many as go if that is 0. It returns how many it sent.
func (r *Raw) Flood(ctx context.Context, perSecond int, next func(i int) []byte) (int, error) {
	began := time.Now()
	sent := 0
	for ; ctx.Err() == nil; sent++ {
		if perSecond > 0 {
			due := time.Duration(sent) * time.Second / time.Duration(perSecond)
			if early := due - time.Since(began); early > time.Millisecond {
				time.Sleep(early)
			}
		}
		if err := r.Send(next(sent)); err != nil {
			return sent, fmt.Errorf("flood, frame %d: %w", sent, err)
		}
	}
	return sent, nil
}
