package oracle

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// The differential test itself, with a toy for the kernel: each feature occurs and can
// be left out, faults are found, and are made small.
func TestDifferential(t *testing.T) {
	needPython(t)
	cmd := exec.CommandContext(t.Context(), "python3", "-m", "unittest", "differential_test")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if ran := regexp.MustCompile(`(?m)^Ran (\d+) tests`).FindSubmatch(out); err != nil || ran == nil || string(ran[1]) == "0" {
		t.Errorf("differential_test.py: %v\n%s", err, out)
	}
}

// And with the kernel: a sluice that gives its answers back passes, one that
// spoils them does not.
func TestDifferentialAsksTheKernel(t *testing.T) {
	needPython(t)
	for _, program := range []string{"linux.uml", "ipvsadm", "ip", "iptables-legacy", "gcc"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("the oracle needs %s (make differential installs it)", program)
		}
	}
	for _, c := range []struct {
		mutation string
		status   int
		says     string
	}{
		{"", 0, "no difference"},
		{"drop-everything", 1, "1 cases differ"},
	} {
		args := []string{"--sluice", "python3 golden/fake_sluice.py", "--seed", "gotest", "--count", "1", "--jobs", "1", "--shrink", "0"}
		if c.mutation != "" {
			args[1] += " --mutate " + c.mutation
		}
		cmd := exec.CommandContext(t.Context(), "./differential.py", args...)
		cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
		out, err := cmd.CombinedOutput()
		if status := cmd.ProcessState.ExitCode(); status != c.status || !strings.Contains(string(out), c.says) {
			t.Errorf("mutation %q: exit status %d (%v), want %d and %q\n%s", c.mutation, status, err, c.status, c.says, out)
		}
	}
}
