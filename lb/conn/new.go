package conn

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-lb/sluice/lb/flow"
)

// MaxConns is the most connections that one table can hold: an index slot has
// 24 bits for an ID.
const MaxConns = 1<<24 - 1

// Config sizes a Table.
type Config struct {
	Max       int       // connections, 1 to MaxConns
	Seed      flow.Seed // secret of the index's hash
	HugePages bool      // try huge pages; Table.Pages says what came of it
	Variant   string    // how Seek and Candidates overlap their reads: one of Variants, "" for the best
}

// Errors of New.
var (
	ErrMax     = errors.New("connection table size out of range")
	ErrVariant = errors.New("unknown variant of the connection table's lookup")
)

// Variants of Seek and Candidates; they differ in speed only.
const (
	VariantPlain    = "plain"    // loads whose values nobody waits for
	VariantPrefetch = "prefetch" // the processor's prefetch instruction; amd64
)

// Variants returns the variants that this architecture has, best first. Any
// processor of the architecture can run them.
func Variants() []string {
	if hasPrefetch {
		return []string{VariantPrefetch, VariantPlain}
	}
	return []string{VariantPlain}
}

// New maps the memory of a table and touches all of it, so that the packet's
// way meets no page fault and too little memory shows here.
func New(c Config) (*Table, error) {
	if c.Max < 1 || c.Max > MaxConns {
		return nil, fmt.Errorf("%w: %d, want 1 to %d", ErrMax, c.Max, MaxConns)
	}
	if c.Variant == "" {
		c.Variant = Variants()[0]
	}
	if !slices.Contains(Variants(), c.Variant) {
		return nil, fmt.Errorf("%w: %q, want one of %q", ErrVariant, c.Variant, Variants())
	}
	t := &Table{seed: c.Seed, prefetch: c.Variant == VariantPrefetch}
	if err := t.mapMemory(c.Max, c.HugePages); err != nil {
		return nil, err
	}
	return t, nil
}

// Close gives the memory back. The table must not be used any more.
func (t *Table) Close() error { return t.memory.unmap() }

// Variant returns which variant of Seek and Candidates runs.
func (t *Table) Variant() string {
	if t.prefetch {
		return VariantPrefetch
	}
	return VariantPlain
}
