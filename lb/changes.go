package lb

import (
	"fmt"
	"strings"
)

// Changes says what an Apply changed, for logs and the API.
type Changes struct {
	Generation uint64   `json:"generation"` // of the snapshot that now holds
	Added      []Change `json:"added"`
	Removed    []Change `json:"removed"`
	Edited     []Change `json:"edited"`
	// TouchedReals are the IDs of the servers that were removed or edited:
	// their connections are those that the change touches.
	TouchedReals []uint32 `json:"-"`
}

// Change is one service or server that was added, removed or edited. Both
// names are empty if it concerns the node: timeouts, sysctls, mark rules.
type Change struct {
	Service string  `json:"service,omitempty"`
	Real    string  `json:"real,omitempty"` // ADDRESS:PORT; "": the service itself
	Fields  []Field `json:"fields,omitempty"`
}

// Field is one value that went from Old to New. Of what was added, Old is
// empty.
type Field struct {
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// Empty says that nothing changed.
func (c *Changes) Empty() bool { return len(c.Added)+len(c.Removed)+len(c.Edited) == 0 }

// String returns one line a change: "+" added, "-" removed, "~" edited.
func (c *Changes) String() string {
	var b strings.Builder
	for _, group := range []struct {
		sign    string
		changes []Change
	}{{"-", c.Removed}, {"~", c.Edited}, {"+", c.Added}} {
		for _, change := range group.changes {
			fmt.Fprintf(&b, "%s %s\n", group.sign, change)
		}
	}
	return b.String()
}

// String returns "www 10.0.0.1:80: weight 1 → 5".
func (c Change) String() string {
	var b strings.Builder
	switch {
	case c.Service == "":
		b.WriteString("node")
	case c.Real == "":
		b.WriteString("service " + c.Service)
	default:
		b.WriteString("server " + c.Service + " " + c.Real)
	}
	for i, f := range c.Fields {
		b.WriteString([...]string{", ", ": "}[b2i(i == 0)])
		if f.Old == "" {
			fmt.Fprintf(&b, "%s %s", f.Name, f.New)
		} else {
			fmt.Fprintf(&b, "%s %s → %s", f.Name, f.Old, f.New)
		}
	}
	return b.String()
}
