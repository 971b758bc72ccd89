package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// scriptLine is one line of a replay's script: a command and when it runs.
type scriptLine struct {
	number  int    // in the file, from 1
	nanos   int64  // from the first packet; negative: before it
	text    string // as it stands in the file
	command string // without the time
}

// readScript reads a script, in the order in which its lines run: by time,
// and lines of one time as they stand. Empty lines and those that begin with
// # are not commands.
func readScript(name string, r io.Reader) ([]scriptLine, error) {
	var lines []scriptLine
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for n := 1; in.Scan(); n++ {
		text := strings.TrimSpace(in.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		when, command := text, ""
		if i := strings.IndexAny(text, " \t"); i >= 0 {
			when, command = text[:i], text[i:]
		}
		nanos, err := parseSeconds(when)
		if err == nil && strings.TrimSpace(command) == "" {
			err = fmt.Errorf("no command after the time")
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		lines = append(lines, scriptLine{number: n, nanos: nanos, text: text, command: strings.TrimSpace(command)})
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read script %s: %w", name, err)
	}
	slices.SortStableFunc(lines, func(a, b scriptLine) int {
		switch {
		case a.nanos < b.nanos:
			return -1
		case a.nanos > b.nanos:
			return 1
		}
		return 0
	})
	return lines, nil
}

// parseSeconds reads a decimal number of seconds, exact to nine decimals, as
// nanoseconds.
func parseSeconds(s string) (int64, error) {
	bad := fmt.Errorf("time %q, want seconds with up to nine decimals", s)
	digits, negative := strings.CutPrefix(s, "-")
	whole, part, _ := strings.Cut(digits, ".")
	if len(part) > 9 || strings.ContainsAny(digits, "+-_eExX") {
		return 0, bad
	}
	if whole == "" && part != "" {
		whole = "0"
	}
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec > math.MaxInt64/2_000_000_000 {
		return 0, bad
	}
	nanos := int64(0)
	if part != "" {
		if nanos, err = strconv.ParseInt((part + "000000000")[:9], 10, 64); err != nil {
			return 0, bad
		}
	}
	nanos += sec * 1_000_000_000
	if negative {
		nanos = -nanos
	}
	return nanos, nil
}

// scriptTunables reads the words behind sysctl in a script, where there is no
// shell: a value may have quotes, and a number belongs to the value before it.
func scriptTunables(words []string) (asked *tunableWords, bare bool, err error) {
	var args []string
	for _, w := range words {
		w = strings.NewReplacer(`"`, "", "'", "").Replace(w)
		last := len(args) - 1
		switch {
		case w == "-w" || w == "-a":
		case w == "-n":
			bare = true
		case last >= 0 && strings.Contains(args[last], "=") && strings.Trim(w, "0123456789") == "":
			args[last] += " " + w
		default:
			args = append(args, w)
		}
	}
	asked, err = readTunables(args)
	return asked, bare, err
}
