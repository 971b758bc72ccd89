package rings

import (
	"strings"
	"testing"
)

// good is a configuration that passes; a row changes what it is about.
func good(change func(*OpenConfig)) OpenConfig {
	c := OpenConfig{
		Interfaces: []Interface{{Name: "eth0", RingSize: 2048}, {Name: "eth1", RingSize: 2048}},
		Frames:     16384, FrameSize: 2048,
	}
	if change != nil {
		change(&c)
	}
	return c
}

// matches checks an error against the words that it must have; none: no error.
func matches(t *testing.T, row string, err error, words ...string) {
	t.Helper()
	if (err == nil) != (len(words) == 0) {
		t.Errorf("%s: error %v, want words %q", row, err, words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error lacks %q: %v", row, w, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, row := range []struct {
		stake  string
		change func(*OpenConfig)
		words  []string
	}{
		{"the defaults of the example file", nil, nil},
		{"four interfaces are what 16384 frames allow", func(c *OpenConfig) {
			c.Interfaces = append(c.Interfaces, Interface{Name: "eth2", RingSize: 2048}, Interface{Name: "eth3", RingSize: 2048})
		}, nil},
		{"five starve each other", func(c *OpenConfig) {
			for _, name := range []string{"eth2", "eth3", "eth4"} {
				c.Interfaces = append(c.Interfaces, Interface{Name: name, RingSize: 2048})
			}
		}, []string{"workers.umem_frames is 16384", "32768 or more"}},
		{"no interface", func(c *OpenConfig) { c.Interfaces = nil }, []string{"at least one"}},
		{"a name twice", func(c *OpenConfig) { c.Interfaces[1].Name = "eth0" }, []string{`interfaces.name "eth0"`, "once"}},
		{"the kernel takes powers of two only", func(c *OpenConfig) { c.Interfaces[0].RingSize = 1000 }, []string{"interfaces.ring_size of eth0 is 1000", "power of two"}},
		{"too small a ring", func(c *OpenConfig) { c.Interfaces[1].RingSize = 32 }, []string{"eth1 is 32"}},
		{"too large a ring", func(c *OpenConfig) { c.Interfaces[1].RingSize = 1 << 16 }, []string{"eth1 is 65536"}},
		{"a negative ring", func(c *OpenConfig) { c.Interfaces[1].RingSize = -64 }, []string{"eth1 is -64"}},
		{"a negative queue", func(c *OpenConfig) { c.Interfaces[0].Queue = -1 }, []string{"interfaces.queues of eth0"}},
		{"a frame size that the kernel refuses", func(c *OpenConfig) { c.FrameSize = 3000 }, []string{"workers.frame_size is 3000"}},
		{"frames not a power of two", func(c *OpenConfig) { c.Frames = 20000 }, []string{"workers.umem_frames is 20000", "power of two"}},
		{"beyond a 32-bit length", func(c *OpenConfig) { c.Frames, c.FrameSize = 1<<20, 4096 }, []string{"below 4 GiB"}},
		{"just below it", func(c *OpenConfig) { c.Frames = 1 << 20 }, nil},
		{"all mistakes are told", func(c *OpenConfig) { c.Frames, c.FrameSize = 3, 5 }, []string{"umem_frames is 3", "frame_size is 5"}},
	} {
		c := good(row.change)
		matches(t, row.stake, c.validate(), row.words...)
	}
}

func TestMemoryCheck(t *testing.T) {
	const mib = 1 << 20
	m := memory{locked: 64 * mib, available: 1024 * mib}
	for _, row := range []struct {
		stake   string
		memory  memory
		workers int
		huge    HugePages
		words   []string
	}{
		{"fits", m, 2, HugeAuto, nil},
		{"RLIMIT_MEMLOCK counts all workers", m, 3, HugeAuto, []string{"3 workers", "96 MiB", "RLIMIT_MEMLOCK is 65536 KiB", "umem_frames"}},
		{"CAP_IPC_LOCK is exempt from it", memory{exempt: true, available: 1024 * mib}, 3, HugeAuto, nil},
		{"less memory than that", memory{exempt: true, available: 90 * mib}, 3, HugeOff, []string{"90 MiB are available"}},
		{"memory is unknown", memory{exempt: true}, 3, HugeOff, nil},
		{"huge pages are required and missing", memory{exempt: true, available: 1024 * mib, hugeFree: 64 * mib}, 3, HugeRequire, []string{"64 MiB of them are free", "vm.nr_hugepages"}},
		{"huge pages are not ordinary memory", memory{exempt: true, available: 10 * mib, hugeFree: 96 * mib}, 3, HugeRequire, nil},
		{"auto has too few of them and uses ordinary memory", memory{exempt: true, available: 96 * mib, hugeFree: 64 * mib}, 3, HugeAuto, nil},
		{"off does not touch them", memory{exempt: true, available: 10 * mib, hugeFree: 96 * mib}, 3, HugeOff, []string{"10 MiB are available"}},
	} {
		matches(t, row.stake, row.memory.check(row.workers, 32*mib, row.huge), row.words...)
	}
	if m := readMemory(); m.available == 0 || m.locked == 0 {
		t.Errorf("this machine's memory is not known: %+v", m)
	}
}

func TestNICCheck(t *testing.T) {
	for _, row := range []struct {
		stake     string
		nic       NIC
		mode      Mode
		frameSize int
		warning   string
		words     []string
	}{
		{"a usual one", NIC{Name: "eth0", MTU: 1500, Up: true, RxRing: 1024}, Auto, 2048, "", nil},
		{"the largest MTU with two VLAN tags", NIC{Name: "eth0", MTU: 2048 - 256 - 22, Up: true}, Auto, 2048, "", nil},
		{"a larger one would be dropped silently", NIC{Name: "eth0", MTU: 2048 - 256 - 21, Up: true}, Auto, 2048, "", []string{"frame_size is 2048", "MTU of eth0 is 1771", "frame_size to 4096"}},
		{"jumbo frames", NIC{Name: "eth0", MTU: 9000, Up: true}, Auto, 4096, "", []string{"at most 3818"}},
		{"down", NIC{Name: "eth0", MTU: 1500}, Auto, 2048, "eth0 is down", nil},
		{"a NIC with longer rings", NIC{Name: "eth0", MTU: 1500, Up: true, RxRing: 4096}, ZeroCopy, 2048, "ring_size of eth0 is 2048, less than the NIC's own 4096", nil},
		{"which matter in zero-copy only", NIC{Name: "eth0", MTU: 1500, Up: true, RxRing: 4096}, Driver, 2048, "", nil},
	} {
		warnings, err := row.nic.Check(&Interface{Name: "eth0", RingSize: 2048, Mode: row.mode}, row.frameSize)
		matches(t, row.stake, err, row.words...)
		if got := strings.Join(warnings, "; "); (got == "") != (row.warning == "") || !strings.Contains(got, row.warning) {
			t.Errorf("%s: warns %q, want %q", row.stake, got, row.warning)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	_, err := Check([]OpenConfig{good(func(c *OpenConfig) { c.Interfaces[0].Name, c.Interfaces[1].Name = "lo", "not-there0" })})
	matches(t, "an interface that is not there, and one that cannot be", err, "interface not-there0", "MTU of lo is 65536")
	_, err = Check([]OpenConfig{good(func(c *OpenConfig) { c.FrameSize = 1 })})
	matches(t, "what is wrong anyway", err, "frame_size is 1")
	_, err = Check([]OpenConfig{good(func(c *OpenConfig) { c.Interfaces[0].Mode, c.Interfaces[1].Mode = Driver, ZeroCopy })})
	matches(t, "modes that exclude each other", err, "eth0 driver, eth1 zerocopy")
}
