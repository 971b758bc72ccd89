// Package deploy holds what an operator installs beside the binary; it has no
// code, only tests that these files do what they say. The example
// configurations are tested where configurations are read.
package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const nicSetup = "nic/sluice-nic-setup"

// TestNICSetupRefuses covers what must not get as far as a NIC.
func TestNICSetupRefuses(t *testing.T) {
	need(t, "bash", "ethtool")
	rows := []struct {
		args string
		want string // in standard error
	}{
		{"", "no NIC given"},
		{"--apply", "no NIC given"},
		{"eth0", "unknown argument eth0"},
		{"--client", "--client needs the name of a NIC"},
		{"--client --apply", "--client needs the name of a NIC"},
		{"--client nosuchnic", "no interface nosuchnic on this machine"},
		{"--client ../lo", "no interface ../lo on this machine"},
		{"--client lo --server lo", "lo is given twice"},
		{"--queues 0 --both lo", "--queues needs a number from 1 to 9999"},
		{"--both lo --queues", "--queues needs a number from 1 to 9999"},
	}
	for _, row := range rows {
		t.Run(row.args, func(t *testing.T) {
			var stderr strings.Builder
			cmd := exec.Command(nicSetup, strings.Fields(row.args)...)
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if cmd.ProcessState.ExitCode() != 2 || len(out) > 0 || !strings.Contains(stderr.String(), row.want) {
				t.Errorf("%v, output %q, error %q; want exit status 2 and %q alone", err, out, stderr.String(), row.want)
			}
		})
	}
}

// TestNICSetup looks at a veth in a namespace of its own before and after.
// veth has no combined queues, so that way of counting them is covered too.
func TestNICSetup(t *testing.T) {
	need(t, "bash", "ethtool", "ip", "unshare")
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	// State of the NIC: queues, offload of VLAN tags, deferral of interrupts.
	const script = `
mount -t sysfs sysfs /sys
ip link add va numtxqueues 4 numrxqueues 4 type veth peer name vb
state() {
	echo "$(ls /sys/class/net/va/queues | grep -c rx) $(ethtool -k va | grep -c 'rx-vlan-offload: on') $(</sys/class/net/va/napi_defer_hard_irqs)"
}
state
` + nicSetup + ` --queues 2 --client va >&2; echo "said $?"
state
` + nicSetup + ` --queues 2 --client va --apply >&2; echo "done $?"
state
`
	cmd := exec.Command("unshare", "--net", "--mount", "bash", "-c", script)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	// A kernel whose veth cannot do a step makes the script exit with 1.
	if !regexp.MustCompile(`^4 1 0\nsaid 0\n4 1 0\ndone [01]\n2 0 2\n$`).Match(out) {
		t.Errorf("went\n%swant four queues, tags taken off and no deferral until --apply, then two, none and 2; it said\n%s", out, said.String())
	}
	for _, want := range []string{"ethtool -L va rx 2 tx 2", "rx-flow-hash tcp4 sf", "rx-flow-hash udp6 sf", "Nothing was changed"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it did not say %q but\n%s", want, said.String())
		}
	}
}

func TestNICSetupShell(t *testing.T) {
	need(t, "shellcheck")
	if out, err := exec.Command("shellcheck", nicSetup).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestUnit has systemd read the unit, with a program that this machine has.
func TestUnit(t *testing.T) {
	need(t, "systemd-analyze")
	unit, err := os.ReadFile("systemd/sluice.service")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sluice.service")
	text := strings.ReplaceAll(string(unit), "/usr/bin/sluice", "/bin/true")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), "sluice.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// need skips a test without the programs it runs.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}
