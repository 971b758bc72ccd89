package wire

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-lb/sluice/bench"
)

// tick is the unit of CPU times in /proc, USER_HZ being 100 on every
// architecture that Go runs on (proc(5), sysconf(_SC_CLK_TCK)).
const tick = 10 * time.Millisecond

// cpuTimes is what a forwarder has cost, of the machine's own books: a
// process's would count the softirqs that strike it a second time.
type cpuTimes struct {
	user, system time.Duration // of the worker's CPU
	softirq      time.Duration // of all CPUs: the kernel receives where it likes
}

// readCPUTimes returns the times since the machine's start.
func readCPUTimes(worker int) (cpuTimes, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTimes{}, fmt.Errorf("read CPU times: %w", err)
	}
	return parseCPUTimes(string(text), worker)
}

// readStolen returns what the hypervisor has taken from some CPUs since the machine's
// start.
func readStolen(cpus ...int) (sum time.Duration, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read CPU times: %w", err)
	}
	const steal = 8
	for _, c := range cpus {
		stolen, err := cpuTime(string(text), "cpu"+strconv.Itoa(c), steal)
		if err != nil {
			return 0, err
		}
		sum += stolen
	}
	return sum, nil
}

// parseCPUTimes finds them in /proc/stat, proc(5): the lines cpu, the sum of
// all, and cpuN.
func parseCPUTimes(stat string, worker int) (t cpuTimes, err error) {
	const user, nice, system, irq, softirq = 1, 2, 3, 6, 7
	add := func(line, field int) time.Duration {
		name := "cpu"
		if line >= 0 {
			name += strconv.Itoa(line)
		}
		d, addErr := cpuTime(stat, name, field)
		err = errors.Join(err, addErr)
		return d
	}
	t.user = add(worker, user) + add(worker, nice)
	t.system = add(worker, system) + add(worker, irq)
	t.softirq = add(-1, softirq)
	return t, err
}

// cpuTime returns a field of a line of /proc/stat.
func cpuTime(stat, name string, field int) (time.Duration, error) {
	for line := range strings.Lines(stat) {
		fields := strings.Fields(line)
		if len(fields) > field && fields[0] == name {
			n, err := strconv.ParseInt(fields[field], 10, 64)
			return time.Duration(n) * tick, err
		}
	}
	return 0, fmt.Errorf("/proc/stat has no line of %s", name)
}

// waiting returns how long the forwarder has waited for the worker's CPU, where it is a
// process, and the hypervisor kept that or the generator's from everybody.
func (p *process) waiting(c *bench.CPUs) (time.Duration, error) {
	stolen, err := readStolen(c.Worker, c.Generator)
	if p == nil || err != nil {
		return stolen, err
	}
	waited, err := readWaiting(p.pid, c.Worker)
	return waited + stolen, err
}

// readWaiting returns how long those threads of a process that run on the worker's
// CPU alone have been ready to run without it: what others took from them.
func readWaiting(pid, worker int) (sum time.Duration, err error) {
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err == nil && len(names) == 0 {
		err = os.ErrNotExist
	}
	if err != nil {
		return 0, fmt.Errorf("threads of process %d: %w", pid, err)
	}
	for _, name := range names {
		status, err := os.ReadFile(name + "/status")
		if err == nil && allowedCPUs(string(status)) != strconv.Itoa(worker) {
			continue
		}
		schedstat, statErr := os.ReadFile(name + "/schedstat")
		if err = errors.Join(err, statErr); errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended
		}
		waiting, parseErr := parseWaiting(string(schedstat))
		if err = errors.Join(err, parseErr); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		sum += waiting
	}
	return sum, nil
}

// allowedCPUs returns the list of CPUs in a thread's status, proc(5).
func allowedCPUs(status string) string {
	_, rest, _ := strings.Cut(status, "Cpus_allowed_list:")
	list, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(list)
}

// parseWaiting reads the second number of schedstat (Documentation/scheduler/
// sched-stats.rst): nanoseconds spent waiting on a run queue.
func parseWaiting(schedstat string) (time.Duration, error) {
	fields := strings.Fields(schedstat)
	if len(fields) != 3 {
		return 0, fmt.Errorf("%q has not three numbers", schedstat)
	}
	n, err := strconv.ParseInt(fields[1], 10, 64)
	return time.Duration(n), err
}
