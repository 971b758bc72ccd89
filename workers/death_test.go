package workers

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/rings"
)

// deadly is a port that dies when it is read.
type deadly struct{ rings.Port }

func (deadly) Receive([]rings.Frame) int { panic("the port is deadly") }

// A worker that dies takes the process down with its reason: no half-dead
// director goes on.
func TestWorkerDies(t *testing.T) {
	const inside = "SLUICE_TEST_DEADLY_PORT"
	if os.Getenv(inside) != "" {
		b := newBench(t, 2, true)
		b.pool.Workers[1].Ports[0] = deadly{b.pool.Workers[1].Ports[0]}
		err := b.pool.Run(context.Background())
		t.Fatalf("the pool ended with %v, and the process lives", err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWorkerDies$", "-test.timeout=30s")
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err == nil || !strings.Contains(text, "panic: the port is deadly") || strings.Contains(text, "the process lives") {
		t.Errorf("the process ended with %v and said:\n%s", err, text)
	}
}
