package bench

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// Machine is what figures depend on besides the code.
type Machine struct {
	CPU      string // model
	CPUs     int    // that this process may run on
	L2, L3   string // sizes of the caches, "2048K"; empty where /sys does not say
	Kernel   string
	Governor string // of the CPUs' frequency; "none" where there is none to choose, as in most virtual machines
	Huge     string // transparent huge pages: always, madvise, never
	Go       string
	Variant  string // of the connection table's lookup, by cpuid
	Load     string // averages over 1, 5 and 15 minutes, at the start
}

// ReadMachine returns what this machine is; root is the file system's.
func ReadMachine(root fs.FS) Machine {
	topology, _ := cpu.Read(os.DirFS("/sys")) // who pins to them will tell
	read := func(name, otherwise string) string {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return otherwise
		}
		return strings.TrimSpace(string(text))
	}
	const cpu0 = "sys/devices/system/cpu/cpu0/"
	load := strings.Fields(read("proc/loadavg", ""))
	return Machine{
		CPU: cpu.Model(), CPUs: len(topology),
		L2: read(cpu0+"cache/index2/size", ""), L3: read(cpu0+"cache/index3/size", ""),
		Kernel: kernel(), Governor: read(cpu0+"cpufreq/scaling_governor", "none"),
		Huge: chosen(read("sys/kernel/mm/transparent_hugepage/enabled", "[never]")),
		Go:   runtime.Version() + " " + runtime.GOARCH, Variant: cpu.Variant(conn.Variants()),
		Load: strings.Join(load[:min(3, len(load))], " "),
	}
}

// chosen returns the word in brackets, by which sysfs marks what is set.
func chosen(words string) string {
	_, rest, _ := strings.Cut(words, "[")
	word, _, _ := strings.Cut(rest, "]")
	return word
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Warnings says what makes figures vary more than they need.
func (m Machine) Warnings() (all []string) {
	if m.Governor != "none" && m.Governor != "performance" {
		all = append(all, fmt.Sprintf("the CPUs' frequency has governor %s: set performance", m.Governor))
	}
	var load float64
	if _, err := fmt.Sscan(m.Load, &load); err == nil && load > float64(m.CPUs)/quiet {
		all = append(all, fmt.Sprintf("load average %.2f at the start: others use this machine", load))
	}
	return all
}

// quiet machines have a load average of one in so many CPUs at most.
const quiet = 4

// String describes the machine in two lines.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %d CPUs, L2 %s, L3 %s; Linux %s, governor %s, transparent huge pages %s\n%s, lookup variant %s; load at start %s",
		m.CPU, m.CPUs, m.L2, m.L3, m.Kernel, m.Governor, m.Huge, m.Go, m.Variant, m.Load)
}
