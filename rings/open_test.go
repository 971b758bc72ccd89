package rings

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLadder(t *testing.T) {
	for _, row := range []struct {
		stake string
		modes []Mode
		want  []bool // true: zero-copy; nil: an error
	}{
		{"auto tries zero-copy first", []Mode{Auto, Auto}, []bool{true, false}},
		{"a fixed mode tries nothing else", []Mode{ZeroCopy}, []bool{true}},
		{"driver and generic both copy", []Mode{Driver, Generic}, []bool{false}},
		{"auto follows what its sibling must have", []Mode{Auto, ZeroCopy}, []bool{true}},
		{"and the other way", []Mode{Generic, Auto}, []bool{false}},
		{"one UMEM cannot be both", []Mode{ZeroCopy, Driver}, nil},
	} {
		var c OpenConfig
		for i, m := range row.modes {
			c.Interfaces = append(c.Interfaces, Interface{Name: fmt.Sprintf("eth%d", i), Mode: m})
		}
		got, err := c.ladder()
		if !slices.Equal(got, row.want) || (err == nil) != (row.want != nil) {
			t.Errorf("%s: %v gives %v, %v; want %v", row.stake, row.modes, got, err, row.want)
		}
	}
}

func TestAttach(t *testing.T) {
	for _, row := range []struct {
		mode     Mode
		zeroCopy bool
		want     []Mode
	}{
		{Auto, true, []Mode{Driver}},
		{ZeroCopy, true, []Mode{Driver}},
		{Auto, false, []Mode{Driver, Generic}},
		{Driver, false, []Mode{Driver}},
		{Generic, false, []Mode{Generic}},
	} {
		if got := row.mode.attach(row.zeroCopy); !slices.Equal(got, row.want) {
			t.Errorf("%v, zero-copy %v: attach %v, want %v", row.mode, row.zeroCopy, got, row.want)
		}
	}
}

func TestParseNames(t *testing.T) {
	for _, m := range []Mode{Auto, ZeroCopy, Driver, Generic} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("mode %v is read as %v, %v", m, got, err)
		}
	}
	for _, h := range []HugePages{HugeAuto, HugeRequire, HugeOff} {
		if got, err := ParseHugePages(h.String()); got != h || err != nil {
			t.Errorf("huge_pages %v is read as %v, %v", h, got, err)
		}
	}
	_, err := ParseMode("native")
	matches(t, "an unknown mode names the known ones", err, `"native"`, "auto, zerocopy, driver, generic")
	_, err = ParseHugePages("yes")
	matches(t, "as does huge_pages", err, `"yes"`, "auto, require, off")
}

// TestErrnoOf: asavie/xdp's errors are text; what they say decides what we do.
func TestErrnoOf(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EBUSY, unix.EOPNOTSUPP, unix.EPERM, unix.ENOBUFS, unix.EINVAL, unix.ENODEV} {
		text := errors.New("syscall.Bind SockaddrXDP failed: " + errno.Error())
		got := errnoOf(text)
		if !errors.Is(got, errno) || got.Error() != text.Error() {
			t.Errorf("%q became %q", text, got)
		}
	}
	other := errors.New("RxRingNumDescs and TxRingNumDescs cannot both be set to zero")
	if got := errnoOf(other); !errors.Is(got, other) || got.Error() != other.Error() {
		t.Errorf("%q became %q", other, got)
	}
}

func TestParseMaps(t *testing.T) {
	got := parseMaps(strings.NewReader(`00400000-0049b000 r-xp 00000000 fd:01 131 /usr/bin/sluice
7f0000000000-7f0000003000 rw-s 00000000 00:08 4711                       socket:[4711]
7f0000004000-7f0000006000 rw-s 100000000 00:08 4711                      socket:[4711]
7f0000008000-7f0000009000 rw-s 00000000 00:08 12                         socket:[12]
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
nonsense
zz-yy rw-s 0 0 0 socket:[9]
`))
	want := map[string][]mapping{
		"socket:[4711]": {{0x7f0000000000, 0x7f0000003000}, {0x7f0000004000, 0x7f0000006000}},
		"socket:[12]":   {{0x7f0000008000, 0x7f0000009000}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("maps are %v, want %v", got, want)
	}
}
