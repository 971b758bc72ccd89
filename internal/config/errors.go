package config

import (
	"fmt"
	"strings"
)

// Error is one fault of a configuration file.
type Error struct {
	File    string // name under which the text was given
	Line    int    // from 1; 0: the fault is in no particular line
	Key     string // path of the key, like services[2].servers[0].weight; "": the file as a whole
	Message string // what is wrong and what would be right
}

// Error returns "file:line: key: message", leaving out what is unknown.
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Errors are all faults of a file in the order of its lines, never empty
// where it is returned as an error.
type Errors []Error

// Error returns a line for each fault.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}
