package config

import (
	"fmt"
	"sort"
	"strings"
)

// source is a file as far as messages need it: which key stands in which
// line, and which of them have been refused already.
type source struct {
	file    string
	lines   map[string]int  // key path → line, of every key and list element in the file
	damaged map[string]bool // paths with a fault at or below them
	errs    Errors
}

func newSource(file string) *source {
	return &source{file: file, lines: map[string]int{}, damaged: map[string]bool{}}
}

// line returns the line of a key or, if the file leaves it out, of the
// innermost thing around it that is there; 0 if none is.
func (s *source) line(path string) int {
	for {
		if n, ok := s.lines[path]; ok {
			return n
		}
		path = parent(path)
		if path == "" {
			return 0
		}
	}
}

// has reports whether the file gives the key.
func (s *source) has(path string) bool {
	_, ok := s.lines[path]
	return ok
}

// fail records a fault of the key at path.
func (s *source) fail(path, format string, args ...any) {
	s.failAt(s.line(path), path, format, args...)
}

func (s *source) failAt(line int, path, format string, args ...any) {
	s.errs = append(s.errs, Error{s.file, line, path, fmt.Sprintf(format, args...)})
	for ; path != ""; path = parent(path) {
		s.damaged[path] = true
	}
}

// sound reports that none of the keys has a fault, so that a rule about
// them together may be judged without blaming the same mistake twice.
func (s *source) sound(paths ...string) bool {
	for _, p := range paths {
		if s.damaged[p] {
			return false
		}
	}
	return true
}

// parent cuts the last step off a path: a.b[2].c → a.b[2] → a.b → a → "".
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// at appends a list index to a path.
func at(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// err returns the faults found, in order, or nil if there are none.
func (s *source) err() error {
	if len(s.errs) == 0 {
		return nil
	}
	sort.SliceStable(s.errs, func(i, j int) bool { return s.errs[i].Line < s.errs[j].Line })
	return s.errs
}
