//go:build frameowner

package rings

import (
	"fmt"
	"strings"
)

// owners knows who has each frame.
type owners struct{ of []owner }

func (o *owners) init(frames int) {
	o.of = make([]owner, frames)
	for i := range o.of {
		o.of[i] = ownFree
	}
}

// move hands a frame over, and panics if it is not from's to give.
func (o *owners) move(id uint32, from, to owner) {
	if o.of[id]&from == 0 {
		panic(fmt.Sprintf("rings: frame %d goes from %v to %v, but %v has it", id, from, to, o.of[id]))
	}
	o.of[id] = to
}

var ownerNames = [...]string{"free stack", "fill ring", "rx batch", "slow path", "tx ring", "completion ring"}

func (o owner) String() string {
	var names []string
	for i, name := range ownerNames {
		if o&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}
