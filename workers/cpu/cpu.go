// Package cpu knows the machine's processors: which there are, which to pin
// workers to, and which variant of a hand-tuned piece they run.
//
// It reads /sys and the process's affinity once, at start, and holds nothing.
package cpu

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/unix"
)

// CPU is one logical processor.
type CPU struct {
	ID      int
	Core    int // physical core, unique within Package
	Package int
	Node    int // NUMA node
}

// Topology is the processors that this process may run on, by ID.
type Topology []CPU

// Read returns the processors that sysfs (the root of /sys) lists and the
// process's affinity allows.
func Read(sysfs fs.FS) (Topology, error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return nil, fmt.Errorf("read the process's CPU affinity: %w", err)
	}
	all, err := read(sysfs)
	if err != nil {
		return nil, err
	}
	var t Topology
	for _, c := range all {
		if allowed.IsSet(c.ID) {
			t = append(t, c)
		}
	}
	if len(t) == 0 {
		return nil, errors.New("no CPU that /sys lists is in the process's affinity")
	}
	return t, nil
}

// read returns all processors that are online.
func read(sysfs fs.FS) (Topology, error) {
	text, err := fs.ReadFile(sysfs, "devices/system/cpu/online")
	if err != nil {
		return nil, fmt.Errorf("read the CPUs that are online: %w", err)
	}
	ids, err := ParseList(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("CPUs that are online: %w", err)
	}
	var t Topology
	for _, id := range ids {
		dir := fmt.Sprintf("devices/system/cpu/cpu%d/", id)
		c := CPU{ID: id, Core: number(sysfs, dir+"topology/core_id", id)}
		c.Package = number(sysfs, dir+"topology/physical_package_id", 0)
		if nodes, _ := fs.Glob(sysfs, dir+"node[0-9]*"); len(nodes) > 0 {
			_, n, _ := strings.Cut(nodes[0], "/node")
			c.Node, _ = strconv.Atoi(n)
		}
		t = append(t, c)
	}
	return t, nil
}

// number reads a decimal file of sysfs; otherwise is its value where a virtual
// machine has no such file.
func number(sysfs fs.FS, name string, otherwise int) int {
	text, err := fs.ReadFile(sysfs, name)
	if err != nil {
		return otherwise
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 0 {
		return otherwise
	}
	return n
}

// ParseList reads a list of CPUs as the kernel writes it, "0-3,8".
func ParseList(text string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(low)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(high)
		}
		if err != nil || a < 0 || b < a || b-a > 1<<16 {
			return nil, fmt.Errorf("%q is not a list of CPUs", text)
		}
		for ; a <= b; a++ {
			out = append(out, a)
		}
	}
	return out, nil
}

// NodeOf returns the NUMA node of a network interface, -1 if it has none.
func NodeOf(sysfs fs.FS, iface string) int {
	return number(sysfs, "class/net/"+iface+"/device/numa_node", -1)
}

// Choose returns n CPUs to pin workers to: CPUs of NUMA node node (the NIC's;
// -1: any) before others, and a core's second thread only when every core has
// a worker. CPU 0 comes last of its kind: the kernel and the rest of the
// process like to run there.
func (t Topology) Choose(n, node int) ([]int, error) {
	if n > len(t) {
		return nil, fmt.Errorf("%d workers want a CPU each, and there are %d", n, len(t))
	}
	type core struct{ pkg, core int }
	threads := map[core]int{}
	rank := make(map[int][3]int, len(t))
	for _, c := range t {
		r := [3]int{}
		if node >= 0 && c.Node != node {
			r[0] = 1
		}
		r[1] = threads[core{c.Package, c.Core}]
		threads[core{c.Package, c.Core}]++
		if c.ID == 0 {
			r[2] = 1
		}
		rank[c.ID] = r
	}
	sorted := append(Topology(nil), t...)
	sort.SliceStable(sorted, func(i, j int) bool {
		a, b := rank[sorted[i].ID], rank[sorted[j].ID]
		for k := range a {
			if a[k] != b[k] {
				return a[k] < b[k]
			}
		}
		return false
	})
	out := make([]int, n)
	for i := range out {
		out[i] = sorted[i].ID
	}
	return out, nil
}

// Check returns an error if one of cpus is not in t or stands there twice.
func (t Topology) Check(cpus []int) error {
	known, seen := map[int]bool{}, map[int]bool{}
	for _, c := range t {
		known[c.ID] = true
	}
	for _, id := range cpus {
		if !known[id] {
			return fmt.Errorf("CPU %d is not online, or not in the process's affinity", id)
		}
		if seen[id] {
			return fmt.Errorf("CPU %d stands there twice", id)
		}
		seen[id] = true
	}
	return nil
}

// Model is the processor's name, for reports.
func Model() string { return cpuid.CPU.BrandName }

// Variant chooses among the variants of a hand-tuned piece, best first, the
// first whose instructions this processor has. "prefetch" wants PREFETCHT0;
// "plain" runs everywhere.
func Variant(variants []string) string {
	for _, v := range variants {
		if v == "plain" || v == "prefetch" && cpuid.CPU.Supports(cpuid.SSE) {
			return v
		}
	}
	return "plain"
}
