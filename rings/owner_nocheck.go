//go:build !frameowner

package rings

// owners checks nothing and takes no space: see owner_check.go.
type owners struct{}

func (*owners) init(int)                  {}
func (*owners) move(uint32, owner, owner) {}
