package testnet

import "errors"

// TB is what is used of testing.TB, so that the demo need not link testing.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// NeedRoot skips the test, saying why, where namespaces cannot be made: without
// root, or as the root of a container without its capabilities.
func NeedRoot(t TB) {
	t.Helper()
	n, err := Build(Plan{Namespaces: []string{"probe"}})
	if errors.Is(err, ErrNotRoot) {
		t.Skipf("%v", err)
	}
	if err == nil {
		err = n.Close()
	}
	if err != nil {
		t.Fatalf("make a namespace: %v", err)
	}
}

// New builds the plan for a test, which it skips where NeedRoot does. The
// network is closed when the test ends.
func New(t TB, plan Plan) *Network {
	t.Helper()
	NeedRoot(t)
	n, err := Build(plan)
	if err != nil {
		t.Fatalf("build test network: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close test network: %v", err)
		}
	})
	return n
}
