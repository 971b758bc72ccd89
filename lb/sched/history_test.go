package sched

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestLateWorker: a worker that meets many edits at once picks what one does
// that met each, whether they were published one by one or as a batch.
func TestLateWorker(t *testing.T) {
	for _, name := range []string{"rr", "wrr"} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				svc, loads := newService(name, 0), newCounts()
				punctual, _ := New(name, 0)
				late, _ := New(name, 0)
				punctual.Adopt(svc.dests, svc.plan)
				late.Adopt(svc.dests, svc.plan)
				weight := rapid.SampledFrom([]int32{0, 1, 2, 3, 6, 9})
				for range rapid.IntRange(1, 12).Draw(t, "rounds") {
					batch := newService(name, 0)
					*batch = *svc // the same edits, published as one
					batch.batch = true
					for range rapid.IntRange(0, 6).Draw(t, "edits") {
						id := rapid.Uint32Range(1, 4).Draw(t, "server")
						there := slices.ContainsFunc(svc.dests, func(d Dest) bool { return d.ID == id })
						w := weight.Draw(t, "weight")
						for _, s := range []*service{svc, batch} {
							switch {
							case !there:
								s.add(dest(id, "10.0.0.1", uint16(id), w))
							case w == 6:
								s.remove(id)
							default:
								s.weigh(id, w)
							}
						}
						punctual.Adopt(svc.dests, svc.plan)
					}
					batch.publish()
					if rapid.Bool().Draw(t, "as a batch") {
						svc.plan = batch.plan
						punctual.Adopt(svc.dests, svc.plan) // which changes nothing
					}
					late.Adopt(svc.dests, svc.plan)
					for range rapid.IntRange(0, 5).Draw(t, "picks") {
						if a, b := punctual.Pick(nil, loads), late.Pick(nil, loads); a != b {
							t.Fatalf("of %v the punctual worker picks %d, the late one %d", svc.dests, a, b)
						}
					}
				}
			})
		})
	}
}

// TestHistory: what a history knows, and when it has to say that it doesn't.
func TestHistory(t *testing.T) {
	number := func(from, n int) (steps []int) {
		for i := range n {
			steps = append(steps, from+i)
		}
		return steps
	}
	h := newHistory[int]()
	early, other := h, newHistory[int]()
	if steps, ok := h.since(&early); !ok || len(steps) != 0 {
		t.Errorf("since itself %v, %v, want nothing", steps, ok)
	}
	if _, ok := h.since(&other); ok {
		t.Error("it knows what came after another binding")
	}
	if _, ok := h.since(&history[int]{}); ok {
		t.Error("it knows what came after none")
	}
	h = h.after(number(0, 10))
	mid := h
	if steps, ok := h.since(&early); !ok || !slices.Equal(steps, number(0, 10)) {
		t.Errorf("after 10 steps %v, %v", steps, ok)
	}
	for i := range keptSteps + 1 {
		h = h.after(number(10+i, 1))
	}
	if steps, ok := h.since(&mid); !ok || !slices.Equal(steps, number(10, keptSteps+1)) {
		t.Errorf("after %d more %v, %v", keptSteps+1, steps, ok)
	}
	if _, ok := h.since(&early); ok {
		t.Error("it knows more than is kept")
	}
	before := h
	if h = h.after(number(0, mostSteps)); len(h.steps) != mostSteps {
		t.Errorf("%d steps are kept, want %d", len(h.steps), mostSteps)
	}
	if steps, ok := h.since(&before); !ok || len(steps) != mostSteps {
		t.Errorf("of the last %d steps it knows %d, %v", mostSteps, len(steps), ok)
	}
	if h = h.after(number(0, mostSteps+1)); len(h.steps) != mostSteps {
		t.Errorf("%d steps are kept, want %d", len(h.steps), mostSteps)
	}
	if _, ok := h.since(&before); ok {
		t.Error("it knows what it could not keep")
	}
}

// TestBoundAgain: a scheduler that was replaced and came back begins anew, though
// a worker never saw the other.
func TestBoundAgain(t *testing.T) {
	for _, name := range []string{"rr", "wrr"} {
		svc := newService(name, 0)
		for id := range uint32(3) {
			svc.add(dest(id+1, "10.0.0.1", uint16(id), 1))
		}
		worker, loads := svc.scheduler(t), newCounts()
		sequence(svc, worker, loads, 2)
		svc.plan = Plan(name, 0, svc.dests, nil, nil)
		worker.Adopt(svc.dests, svc.plan)
		if got := sequence(svc, worker, loads, 2); !slices.Equal(got, []uint32{3, 2}) {
			t.Errorf("%s, bound again, picks %v, want 3 and 2", name, got)
		}
	}
}
