package spsc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// TestOrder runs random operations against a queue of what was committed, in
// rings whose counters are about to wrap.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := 1 << rapid.IntRange(0, 4).Draw(t, "bits")
		slotBytes := rapid.IntRange(0, 20).Draw(t, "slot bytes")
		r := New[int](slots, slotBytes)
		start := rapid.SampledFrom([]uint64{0, math.MaxUint32 - 5, math.MaxUint64 - 5}).Draw(t, "start")
		r.head.Store(start)
		r.tail.Store(start)
		r.headSeen, r.tailSeen = start, start
		type item struct {
			meta int
			data []byte
		}
		var queue []item
		serial := 0
		t.Repeat(map[string]func(*rapid.T){
			"produce": func(t *rapid.T) {
				meta, data, ok := r.Reserve()
				if ok != (len(queue) < slots) {
					t.Fatalf("Reserve %v with %d of %d slots filled", ok, len(queue), slots)
				}
				if !ok {
					return
				}
				if len(data) != slotBytes || cap(data) != slotBytes {
					t.Fatalf("a buffer of %d bytes (capacity %d), want %d", len(data), cap(data), slotBytes)
				}
				serial++
				want := item{serial, rapid.SliceOfN(rapid.Byte(), 0, slotBytes).Draw(t, "data")}
				*meta = want.meta
				r.Commit(copy(data, want.data))
				queue = append(queue, want)
			},
			"reserve only": func(t *rapid.T) {
				first, _, ok := r.Reserve()
				again, _, _ := r.Reserve()
				if ok && first != again {
					t.Fatal("reserved twice, got two slots")
				}
			},
			"consume": func(t *rapid.T) {
				meta, data, ok := r.Front()
				if ok != (len(queue) > 0) {
					t.Fatalf("Front %v with %d slots filled", ok, len(queue))
				}
				if !ok {
					return
				}
				if *meta != queue[0].meta || !bytes.Equal(data, queue[0].data) {
					t.Fatalf("got %d %x, want %d %x", *meta, data, queue[0].meta, queue[0].data)
				}
				if rapid.Bool().Draw(t, "release") {
					r.Release()
					queue = queue[1:]
				}
			},
			"": func(t *rapid.T) {
				if r.Len() != len(queue) {
					t.Fatalf("Len %d, want %d", r.Len(), len(queue))
				}
			},
		})
	})
}

// TestTwoGoroutines hands slots over, each with its number in meta
// and data, through rings that are full or empty most of the time.
func TestTwoGoroutines(t *testing.T) {
	for _, slots := range []int{1, 2, 64} {
		t.Run(fmt.Sprintf("slots=%d", slots), func(t *testing.T) {
			const n = 50_000
			r := New[uint64](slots, 8)
			var both sync.WaitGroup
			both.Go(func() {
				for i := uint64(0); i < n; {
					meta, data, ok := r.Reserve()
					if !ok {
						runtime.Gosched()
						continue
					}
					*meta = i
					binary.LittleEndian.PutUint64(data, ^i)
					r.Commit(int(i % 9))
					i++
				}
			})
			for i := uint64(0); i < n; {
				meta, data, ok := r.Front()
				if !ok {
					runtime.Gosched()
					continue
				}
				if length := r.Len(); length < 1 || length > slots {
					t.Fatalf("Len %d of %d while a slot is held", length, slots)
				}
				if *meta != i || uint64(len(data)) != i%9 || len(data) == 8 && binary.LittleEndian.Uint64(data) != ^i {
					t.Fatalf("slot %d arrived as %d with %x", i, *meta, data)
				}
				r.Release()
				i++
			}
			both.Wait()
			if _, _, ok := r.Front(); ok || r.Len() != 0 {
				t.Errorf("%d slots left over", r.Len())
			}
		})
	}
}

// TestMisuse: a wrong size would break the mask or a neighbour's buffer.
func TestMisuse(t *testing.T) {
	for stake, do := range map[string]func(){
		"no slots":             func() { New[int](0, 8) },
		"not a power of two":   func() { New[int](3, 8) },
		"negative size":        func() { New[int](4, -1) },
		"more than the buffer": func() { r := New[int](2, 8); r.Reserve(); r.Commit(9) },
	} {
		t.Run(stake, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			do()
		})
	}
}

func TestNoAllocation(t *testing.T) {
	r := New[[4]uint64](8, 64)
	if n := testing.AllocsPerRun(100, func() {
		for range 9 {
			if meta, _, ok := r.Reserve(); ok {
				meta[0]++
				r.Commit(64)
			}
		}
		for range 9 {
			if _, _, ok := r.Front(); ok {
				r.Release()
			}
		}
	}); n != 0 {
		t.Errorf("a round allocates %v times, want 0", n)
	}
}

// BenchmarkHandOver hands slots over, to the same goroutine in bursts of 64
// (what the ring itself costs) and to another one (with the cache lines' way
// between two processors).
func BenchmarkHandOver(b *testing.B) {
	b.Run("goroutines=1", func(b *testing.B) {
		r := New[uint64](64, 64)
		n := 0
		for b.Loop() {
			if n++; n%64 == 0 {
				for range 64 {
					r.Front()
					r.Release()
				}
			}
			r.Reserve()
			r.Commit(64)
		}
	})
	b.Run("goroutines=2", func(b *testing.B) {
		r := New[uint64](1024, 64)
		var consumer sync.WaitGroup
		consumer.Go(func() {
			for i := 0; i < b.N; {
				if _, _, ok := r.Front(); ok {
					r.Release()
					i++
				}
			}
		})
		for i := 0; i < b.N; {
			if _, _, ok := r.Reserve(); ok {
				r.Commit(64)
				i++
			}
		}
		consumer.Wait()
	})
}
