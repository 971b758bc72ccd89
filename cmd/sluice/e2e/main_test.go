// Package e2e tests the built binary: directors in network namespaces, with
// real clients and servers around them.
//
// A test builds its network with internal/testnet, starts sluice in the
// namespace "director" and looks at it from outside: by traffic, by signals,
// by its commands. Each ends with the director stopped, its counters summing
// up, and nothing of it left behind. Without root the tests skip.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// patience is how long a test waits for what should happen at once, on a slow
// and busy machine.
const patience = 10 * time.Second

// builds is where the binaries are while the tests run.
var builds string

// TestMain removes what the tests built, and sees that no goroutine is left.
func TestMain(m *testing.M) {
	var err error
	if builds, err = os.MkdirTemp("", "sluice-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	if err := errors.Join(goleak.Find(), os.RemoveAll(builds)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// plain and raced build the command, once each; raced has the race detector,
// and the checks of pointer arithmetic that come with it. In bridged a bridge stands
// for a bond, which not every kernel has, and each frame's owner is checked.
var (
	plain   = sync.OnceValues(func() (string, error) { return build("sluice") })
	raced   = sync.OnceValues(func() (string, error) { return build("sluice-race", "-race") })
	bridged = sync.OnceValues(func() (string, error) {
		return build("sluice-bridged", "-race", "-tags", "bridgebond frameowner")
	})
)

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(builds, name)
	args := append([]string{"build", "-o", path}, flags...)
	out, err := exec.Command("go", append(args, "..")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// built is one of the above, for a test, which it skips without root.
func built(t testing.TB, build func() (string, error)) string {
	t.Helper()
	testnet.NeedRoot(t)
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
