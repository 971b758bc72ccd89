package wire

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a Scenario asks of the subjects.
type Kind string

// The kinds.
const (
	Full    Kind = "full"    // as many packets as the generator can send
	Rate    Kind = "rate"    // the highest rate with less than 0.1 % loss, by RFC 2544's search (26.1)
	Fixed   Kind = "fixed"   // a rate, the same for all
	Latency Kind = "latency" // delays at a part of the subject's own highest rate
)

// Scenario is a load that every subject gets: UDP packets in IPv4 of many
// clients' ports. Its name is wire/KIND/v4/FLOWS/SIZE, in which SIZE is that of a
// frame without its checksum, and of fixed and latency /LOAD:
// wire/latency/v4/10k/60B/50.
type Scenario struct {
	Kind  Kind
	Shape Shape
	Load  int // of Fixed packets a second, of Latency percent
}

// Shape is what packets a load is of.
type Shape struct {
	Flows int // source ports, taken in turn
	Size  int // bytes of a frame
}

const (
	maxFlows         = 50_000 // from firstPort on
	minSize, maxSize = 60, 1514
	maxLoad          = 100_000_000
)

// Parse returns the Scenario of that name.
func Parse(name string) (s Scenario, err error) {
	const form = "wire/KIND/v4/FLOWS/SIZE[/LOAD]"
	part := strings.Split(name, "/")
	if len(part) < 5 || part[0] != "wire" || part[2] != "v4" {
		return s, fmt.Errorf("scenario %q: want %s", name, form)
	}
	s.Kind = Kind(part[1])
	want := 5
	if s.Kind == Fixed || s.Kind == Latency {
		want = 6
	}
	if !slices.Contains([]Kind{Full, Rate, Fixed, Latency}, s.Kind) || len(part) != want {
		return s, fmt.Errorf("scenario %q: want %s, KIND full or rate, or with a load fixed or latency", name, form)
	}
	bounded := func(what, text string, least, most int) int {
		n, nerr := count(text)
		if err == nil && (nerr != nil || n < least || n > most) {
			err = fmt.Errorf("scenario %q: %s %q: want a number from %d to %d", name, what, text, least, most)
		}
		return n
	}
	s.Shape.Flows = bounded("FLOWS", part[3], 1, maxFlows)
	s.Shape.Size = bounded("SIZE", strings.TrimSuffix(part[4], "B"), minSize, maxSize)
	switch s.Kind {
	case Fixed:
		s.Load = bounded("LOAD", part[5], 1, maxLoad)
	case Latency:
		s.Load = bounded("LOAD", part[5], 1, 100)
	}
	if err == nil && s.String() != name {
		err = fmt.Errorf("scenario %q: write %s", name, s)
	}
	return s, err
}

// count reads a number, in thousands with k and in millions with M.
func count(text string) (int, error) {
	unit := 1
	if rest, ok := strings.CutSuffix(text, "k"); ok {
		text, unit = rest, 1000
	} else if rest, ok := strings.CutSuffix(text, "M"); ok {
		text, unit = rest, 1_000_000
	}
	n, err := strconv.Atoi(text)
	return n * unit, err
}

func short(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return strconv.Itoa(n/1_000_000) + "M"
	case n >= 1000 && n%1000 == 0:
		return strconv.Itoa(n/1000) + "k"
	}
	return strconv.Itoa(n)
}

// String returns the scenario's name.
func (s Scenario) String() string {
	name := "wire/" + string(s.Kind) + "/" + s.Shape.String()
	switch s.Kind {
	case Fixed:
		name += "/" + short(s.Load)
	case Latency:
		name += "/" + strconv.Itoa(s.Load)
	}
	return name
}

// String is the part of the name that a Shape is.
func (s Shape) String() string { return "v4/" + short(s.Flows) + "/" + strconv.Itoa(s.Size) + "B" }
