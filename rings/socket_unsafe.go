package rings

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// x/sys has no typed call for these three options of SOL_XDP; each passes the
// address of a struct that lives until the call returns.

// mmapOffsets tells where words and entries are in each mapped ring.
func mmapOffsets(fd int) (off unix.XDPMmapOffsets, err error) {
	return off, getsockopt(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&off), unsafe.Sizeof(off))
}

// xdpStatistics returns the kernel's counters of a socket.
func xdpStatistics(fd int) (s unix.XDPStatistics, err error) {
	return s, getsockopt(fd, unix.XDP_STATISTICS, unsafe.Pointer(&s), unsafe.Sizeof(s))
}

func getsockopt(fd, opt int, p unsafe.Pointer, size uintptr) error {
	n := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt), uintptr(p), uintptr(unsafe.Pointer(&n)), 0)
	return errnoError(errno)
}

// registerUMEM makes mem, mapped memory that does not move, the UMEM of fd.
func registerUMEM(fd int, mem []byte, frameSize int) error {
	r := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&mem[0]))), Len: uint64(len(mem)), Size: uint32(frameSize)}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG, uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r), 0)
	return errnoError(errno)
}
