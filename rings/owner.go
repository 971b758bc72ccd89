package rings

// owner is who has a frame. Each frame has exactly one; a set of them says who
// may give a frame away. Built with the tag frameowner, every hand-over is
// checked; without it the checks compile to nothing.
type owner uint8

const (
	ownFree       owner = 1 << iota // the free stack
	ownFill                         // fill ring, kernel or rx ring: received next
	ownBatch                        // received, in the worker's hands
	ownSlow                         // allocated for a packet that starts here
	ownTx                           // tx ring or kernel: being sent
	ownCompletion                   // sent, being taken back
)
