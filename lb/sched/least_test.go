package sched

import (
	"math"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestHeavier holds the comparison of costs by weight to that of fractions, up to
// the largest that there are.
func TestHeavier(t *testing.T) {
	cost := rapid.OneOf(rapid.Uint64Range(0, 9), rapid.Uint64Range(0, overhead(math.MaxInt32, math.MaxInt32)))
	weight := rapid.OneOf(rapid.Int32Range(1, 9), rapid.Int32Range(1, math.MaxInt32))
	ratio := func(c uint64, w int32) *big.Rat {
		return new(big.Rat).SetFrac(new(big.Int).SetUint64(c), big.NewInt(int64(w)))
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b, wa, wb := cost.Draw(t, "a"), cost.Draw(t, "b"), weight.Draw(t, "wa"), weight.Draw(t, "wb")
		if got, want := heavier(a, wa, b, wb), ratio(a, wa).Cmp(ratio(b, wb)) > 0; got != want {
			t.Errorf("%d/%d > %d/%d: %v, want %v", a, wa, b, wb, got, want)
		}
	})
}

// TestChanges: what is noted is taken once, by the service that has the server and by no
// other, wherever their IDs lie.
func TestChanges(t *testing.T) {
	// At the ends of words and blocks, and two services in one word.
	ids := [2][]uint32{{4096, 0, 63, 130, 8191, 4095}, {1, 62, 64, 131, 8192, 129}}
	var of [2]*leaves
	for i := range of {
		var dests []Dest
		for _, id := range ids[i] {
			dests = append(dests, Dest{ID: id})
		}
		of[i] = planLeast(0, dests, nil, nil).(*leaves)
	}
	early := Changes{}.Grow(4097)
	c := early.Grow(9000)
	taken := func(service int) (got []uint32) {
		of[service].take(c, func(place uint32) { got = append(got, ids[service][place]) })
		return got
	}
	for _, tt := range []struct {
		note []uint32
		want [2][]uint32
	}{
		{nil, [2][]uint32{}},
		{[]uint32{63, 63}, [2][]uint32{{63}, nil}},
		{[]uint32{8191, 131, 62, 0, 5000, 2}, [2][]uint32{{0, 8191}, {62, 131}}}, // nobody's among them
		{[]uint32{8192, 4096, 4095, 130, 129, 64, 1}, [2][]uint32{{130, 4095, 4096}, {1, 64, 129, 8192}}},
	} {
		for _, id := range tt.note {
			if id <= 4096 {
				early.Note(id) // the same, as long as there is room
			} else {
				c.Note(id)
			}
		}
		for service, want := range tt.want {
			if got := taken(service); !slices.Equal(got, want) {
				t.Errorf("of %v service %d gets %v, want %v", tt.note, service, got, want)
			}
			if again := taken(service); again != nil {
				t.Errorf("and again %v", again)
			}
		}
	}
}
