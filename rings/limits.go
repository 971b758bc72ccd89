package rings

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Sizes of a ring, in entries, and the largest UMEM, in bytes: asavie/xdp shows
// it as one frame, whose length has 32 bits.
const (
	minRing, maxRing = 64, 32768
	maxUMEM          = 1<<32 - 4096
)

// validate checks what needs no look at the machine. Errors name the keys.
func (c *OpenConfig) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Interfaces) == 0 {
		bad("interfaces: a worker needs at least one")
	}
	entries := 0
	seen := map[string]bool{}
	for _, i := range c.Interfaces {
		if i.Name == "" || seen[i.Name] {
			bad("interfaces.name %q: want a name, and each once", i.Name)
		}
		seen[i.Name] = true
		if i.RingSize < minRing || i.RingSize > maxRing || !powerOfTwo(i.RingSize) {
			bad("interfaces.ring_size of %s is %d: want a power of two from %d to %d", i.Name, i.RingSize, minRing, maxRing)
		}
		if i.Queue < 0 {
			bad("interfaces.queues of %s: %d is negative", i.Name, i.Queue)
		}
		entries += i.RingSize
	}
	if c.FrameSize != 2048 && c.FrameSize != 4096 {
		bad("workers.frame_size is %d: want 2048 or 4096", c.FrameSize)
	}
	if c.FrameSize > os.Getpagesize() {
		bad("workers.frame_size is %d: larger than a page of this machine, %d bytes", c.FrameSize, os.Getpagesize())
	}
	switch {
	case !powerOfTwo(c.Frames):
		bad("workers.umem_frames is %d: want a power of two", c.Frames)
	case c.Frames*c.FrameSize > maxUMEM:
		bad("workers.umem_frames is %d of %d bytes each: a worker's UMEM must be below 4 GiB", c.Frames, c.FrameSize)
	case c.Frames < 2*entries:
		// Half of them fills the fill rings; the rest is received and sent meanwhile.
		bad("workers.umem_frames is %d: want %d or more, twice the interfaces' ring_size together", c.Frames, 1<<bits.Len(uint(2*entries-1)))
	}
	return errors.Join(errs...)
}

func powerOfTwo(n int) bool { return n > 0 && n&(n-1) == 0 }

// Check reports whether the machine can hold what the workers are about to
// open: queues, rings and MTU of each NIC, and memory. It is to be called
// before anything is attached. Errors name the configuration key to change;
// warnings say what will work, but not well.
func Check(workers []OpenConfig) (warnings []string, err error) {
	var errs []error
	nics := map[string]*NIC{}
	for w := range workers {
		c := &workers[w]
		if err := c.validate(); err != nil {
			return nil, err // the same for all workers
		}
		if _, err := c.ladder(); err != nil {
			return nil, err
		}
		for n := range c.Interfaces {
			i := &c.Interfaces[n]
			nic, known := nics[i.Name]
			if !known {
				var err error
				if nic, err = Inspect(i.Name); err != nil {
					errs = append(errs, err)
				} else {
					warn, err := nic.Check(i, c.FrameSize)
					warnings = append(warnings, warn...)
					errs = append(errs, err)
				}
				nics[i.Name] = nic
			}
			if nic != nil && nic.Queues > 0 && i.Queue >= nic.Queues {
				errs = append(errs, fmt.Errorf("interfaces.queues: %s has %d queues, worker %d wants queue %d: give it more (ethtool -L), or use fewer workers.cpus",
					i.Name, nic.Queues, c.Worker, i.Queue))
			}
		}
	}
	if len(workers) > 0 {
		c := &workers[0]
		errs = append(errs, readMemory().check(len(workers), uint64(c.Frames)*uint64(c.FrameSize), c.HugePages))
	}
	return warnings, errors.Join(errs...)
}

// Check compares what one interface wants, of a UMEM with frames of frameSize bytes,
// with what its NIC is. Warnings and errors are as Check's.
func (n *NIC) Check(i *Interface, frameSize int) (warnings []string, err error) {
	if !n.Up {
		warnings = append(warnings, fmt.Sprintf("interface %s is down: no packets until it is up", n.Name))
	}
	if n.RxRing > i.RingSize && (i.Mode == Auto || i.Mode == ZeroCopy) {
		warnings = append(warnings, fmt.Sprintf("interfaces.ring_size of %s is %d, less than the NIC's own %d (ethtool -g): a zero-copy NIC may stall for want of frames",
			n.Name, i.RingSize, n.RxRing))
	}
	if room := frameSize - Headroom; n.MTU+linkHeader > room {
		err = fmt.Errorf("workers.frame_size is %d, which holds frames of %d bytes, but the MTU of %s is %d: raise frame_size to 4096, or lower the MTU to at most %d",
			frameSize, room, n.Name, n.MTU, 4096-Headroom-linkHeader)
	}
	return warnings, err
}

// linkHeader is an Ethernet header with two VLAN tags, in bytes.
const linkHeader = 14 + 2*4

// memory is what the machine lets us have, in bytes.
type memory struct {
	locked    uint64 // RLIMIT_MEMLOCK
	exempt    bool   // from it, by CAP_IPC_LOCK
	available uint64 // MemAvailable; 0: unknown
	hugeFree  uint64 // in reserved huge pages
}

// readMemory asks the kernel.
func readMemory() memory {
	var m memory
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err == nil {
		m.locked = limit.Cur
	}
	const capIPCLock = 14
	caps, _ := strconv.ParseUint(procValue("/proc/self/status", "CapEff:"), 16, 64)
	m.exempt = caps&(1<<capIPCLock) != 0
	number := func(key string) uint64 {
		n, _ := strconv.ParseUint(procValue("/proc/meminfo", key), 10, 64)
		return n
	}
	m.available = number("MemAvailable:") << 10
	m.hugeFree = number("HugePages_Free:") * number("Hugepagesize:") << 10
	return m
}

// procValue returns the first word behind key in a file of lines "key value".
func procValue(file, key string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			return f[1]
		}
	}
	return ""
}

// check compares workers UMEMs of umem bytes each with what there is.
func (m memory) check(workers int, umem uint64, huge HugePages) error {
	all := uint64(workers) * umem
	need := fmt.Sprintf("workers.umem_frames: %d workers need %d MiB of packet memory", workers, all>>20)
	if !m.exempt && all > m.locked {
		return fmt.Errorf("%s, but RLIMIT_MEMLOCK is %d KiB: raise it (LimitMEMLOCK=infinity), give CAP_IPC_LOCK, or lower umem_frames", need, m.locked>>10)
	}
	if huge == HugeRequire && all > m.hugeFree {
		return fmt.Errorf("%s in huge pages, but %d MiB of them are free: raise vm.nr_hugepages, or set workers.huge_pages to auto", need, m.hugeFree>>20)
	}
	inHuge := huge != HugeOff && all <= m.hugeFree
	if !inHuge && m.available > 0 && all > m.available {
		return fmt.Errorf("%s, but %d MiB are available: lower umem_frames or the number of workers", need, m.available>>20)
	}
	return nil
}
