package sched

// Edit is one change of a service's servers: one was added at the head of the
// list, edited, or removed.
type Edit struct {
	ID     uint32
	Weight int32  // Gone: removed
	Before uint32 // of a removed one: who stood before it in the list, NoID: nobody
}

// Gone is the weight of a server that was removed, NoID the number of none.
const (
	Gone = int32(-1)
	NoID = ^uint32(0)
)

// history is a part of a plan. It lets a worker follow the edits of a service's
// servers one by one, as the kernel's scheduler does, though it may meet many
// at once: a rule set that was restored as one batch, or commands that come
// faster than its turns. A step is what a scheduler makes of an edit. It is
// immutable.
type history[S any] struct {
	bound *byte // tells one binding of a scheduler to a service from the next
	end   uint64
	steps []S // the last ones, up to end
}

// Lengths of a history. A worker that is further behind than it reaches begins
// as one that has not served the service yet.
const (
	keptSteps = 64      // from before a snapshot
	mostSteps = 1 << 16 // in all
)

// newHistory begins the history of a binding.
func newHistory[S any]() history[S] { return history[S]{bound: new(byte)} }

// after returns h with more steps.
func (h *history[S]) after(more []S) history[S] {
	old := h.steps[max(0, len(h.steps)-keptSteps):]
	steps := append(append(make([]S, 0, len(old)+len(more)), old...), more...)
	return history[S]{h.bound, h.end + uint64(len(more)), steps[max(0, len(steps)-mostSteps):]}
}

// since returns the steps after those of was; false: they are not known.
func (h *history[S]) since(was *history[S]) ([]S, bool) {
	if h.bound != was.bound || h.end-was.end > uint64(len(h.steps)) {
		return nil, false
	}
	return h.steps[uint64(len(h.steps))-(h.end-was.end):], true
}
