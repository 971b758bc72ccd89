package wire

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpfProgTestRun is the bpf(2) command BPF_PROG_TEST_RUN.
const bpfProgTestRun = 10

// testRun is its attributes, union bpf_attr's test (linux/bpf.h).
type testRun struct {
	progFD, result                  uint32
	dataSizeIn, dataSizeOut         uint32
	dataIn, dataOut                 uint64
	repeat, duration                uint32
	contextSizeIn, contextSizeOut   uint32
	contextIn, contextOut           uint64
	flags, cpu, batchSize, reserved uint32
}

// runLive runs an XDP program so often on copies of frame, as live frames, atOnce
// of them at a time, in one call. A signal to the thread ends it early: EINTR.
// That is why it is made here and not by cilium/ebpf, which then begins anew.
func runLive(progFD int, frame []byte, repeat, atOnce uint32) error {
	attr := testRun{
		progFD: uint32(progFD), dataSizeIn: uint32(len(frame)),
		// The kernel reads the frame while the call begins; KeepAlive holds it
		// until it ends, and memory of the heap does not move.
		dataIn: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(frame)))),
		repeat: repeat, flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES, batchSize: atOnce,
	}
	// The attributes are on the stack, whose address the call itself keeps valid.
	_, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgTestRun, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(frame)
	if errno != 0 {
		return errno
	}
	return nil
}
