package cpu

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// PinProcess moves all threads of this process, and with them those that they
// start, to cpus.
func PinProcess(cpus ...int) error {
	// Threads may come to life meanwhile, on their parents' CPUs: the second
	// look finds them.
	for range 2 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		for _, t := range tasks {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return fmt.Errorf("list threads: %w", err)
			}
			if err := Pin(id, cpus...); err != nil {
				return err
			}
		}
	}
	return nil
}

// Pin allows a thread, 0 being the calling one, some CPUs.
func Pin(thread int, cpus ...int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(thread, &set); err != nil && err != unix.ESRCH { // a thread that has ended
		return fmt.Errorf("pin thread %d to CPUs %v: %w", thread, cpus, err)
	}
	return nil
}

// Without returns the IDs of the others.
func (t Topology) Without(cpus []int) (others []int) {
	for _, c := range t {
		if !slices.Contains(cpus, c.ID) {
			others = append(others, c.ID)
		}
	}
	return others
}
