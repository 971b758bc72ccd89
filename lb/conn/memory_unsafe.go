package conn

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/lb/flow"
)

// What Table.Pages may say.
const (
	PagesNormal      = "normal"      // the kernel's base pages
	PagesTransparent = "transparent" // huge pages where the kernel finds some (madvise)
	PagesHuge        = "huge"        // reserved huge pages (hugetlb)
)

const hugePageBytes = 2 << 20

// memory is a table's mapping. Slices carved from it are good until unmap.
type memory struct {
	mapped    []byte
	usedBytes int // without the address space that alignment left over
	pages     string
}

// mapMemory maps all of a table's arrays in one piece, zeroed, larger elements
// first so that each array is aligned to its elements.
func (t *Table) mapMemory(conns int, huge bool) error {
	entries := conns + 1
	buckets := max(2, (2*conns+keysPerBucket-1)/keysPerBucket)
	size := buckets*int(unsafe.Sizeof(bucket{})) +
		entries*int(unsafe.Sizeof(Conn{})+unsafe.Sizeof(flow.Addr{})+unsafe.Sizeof(timer{})+unsafe.Sizeof([2]ID{}))
	m, rest, err := mapPages(size, huge)
	if err != nil {
		return fmt.Errorf("map %d bytes for %d connections: %w", size, conns, err)
	}
	t.memory = m
	t.conns = carve[Conn](&rest, entries)
	t.index = carve[bucket](&rest, buckets)
	t.reals = carve[flow.Addr](&rest, entries)
	t.timers = carve[timer](&rest, entries)
	t.older = carve[[2]ID](&rest, entries)
	return nil
}

// carve cuts n elements off the front of mem. E holds no Go pointer, and the
// memory is not the garbage collector's; mem is long enough and aligned by the
// order in which mapMemory cuts.
func carve[E any](mem *[]byte, n int) []E {
	size := n * int(unsafe.Sizeof(*new(E)))
	cut := (*mem)[:size]
	*mem = (*mem)[size:]
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(cut))), n)
}

// mapPages maps at least size bytes and touches them. With huge it tries
// reserved huge pages, then asks for transparent ones.
func mapPages(size int, huge bool) (memory, []byte, error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANON
	slack := 0
	if huge {
		whole := roundUp(size, hugePageBytes)
		if mem, err := unix.Mmap(-1, 0, whole, prot, flags|unix.MAP_HUGETLB); err == nil {
			return touched(memory{mem, whole, PagesHuge}, mem)
		}
		slack = hugePageBytes
	}
	size = roundUp(size, os.Getpagesize())
	mem, err := unix.Mmap(-1, 0, size+slack, prot, flags)
	if err != nil {
		return memory{}, nil, err
	}
	m, used := memory{mem, size, PagesNormal}, mem
	if huge {
		// Base pages that become huge ones must start at a huge page's
		// boundary, which mmap does not promise; the address is only looked
		// at for that.
		skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) & (hugePageBytes - 1)
		used = mem[skip : skip+size]
		if unix.Madvise(used, unix.MADV_HUGEPAGE) == nil && transparentEnabled() {
			m.pages = PagesTransparent
		}
	}
	return touched(m, used)
}

// roundUp returns the multiple of to, a power of two, that n reaches into.
func roundUp(n, to int) int { return (n + to - 1) &^ (to - 1) }

// transparentEnabled reports whether the kernel heeds MADV_HUGEPAGE, which it
// accepts in any case.
func transparentEnabled() bool {
	mode, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	return err == nil && !bytes.Contains(mode, []byte("[never]"))
}

// touched makes the kernel give all pages of used now. A kernel before 5.14
// cannot, and gives them as they are used.
func touched(m memory, used []byte) (memory, []byte, error) {
	if err := unix.Madvise(used, unix.MADV_POPULATE_WRITE); err != nil && !errors.Is(err, unix.EINVAL) {
		return memory{}, nil, errors.Join(err, m.unmap())
	}
	return m, used, nil
}

func (m *memory) unmap() error {
	if m.mapped == nil {
		return nil
	}
	err := unix.Munmap(m.mapped)
	*m = memory{}
	return err
}

// Pages says which pages the table's memory got: PagesNormal, PagesTransparent
// or PagesHuge.
func (t *Table) Pages() string { return t.memory.pages }

// BytesPerConn returns what the table takes for each connection it has room
// for, all included: what is mapped and the Table itself, rounded up.
func (t *Table) BytesPerConn() int {
	return (t.memory.usedBytes + int(unsafe.Sizeof(*t)) + t.Max() - 1) / t.Max()
}
