package rings

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlEthtool runs SIOCETHTOOL: struct ifreq carries the name and a pointer
// to the command, both alive until the call returns.
func ioctlEthtool(fd int, name string, c command) error {
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // ifreq's union is 24 bytes
	}{data: unsafe.Pointer(&c[0])}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	return errnoError(errno)
}
