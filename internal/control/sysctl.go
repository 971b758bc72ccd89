package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/lb"
)

// Value is what a tunable is set to, as sysctl(8) takes it. In JSON it may also
// be a number or a list of numbers.
type Value string

// UnmarshalJSON reads a text, a number or a list of numbers.
func (v *Value) UnmarshalJSON(text []byte) error {
	var s string
	var numbers []json.Number
	var number json.Number
	switch {
	case string(text) == "null":
		return errors.New("null is no value of a tunable")
	case json.Unmarshal(text, &s) == nil:
		*v = Value(s)
	case json.Unmarshal(text, &number) == nil:
		*v = Value(number)
	case json.Unmarshal(text, &numbers) == nil:
		words := make([]string, len(numbers))
		for i, n := range numbers {
			words[i] = n.String()
		}
		*v = Value(strings.Join(words, " "))
	default:
		return fmt.Errorf("%s is no value of a tunable, want a number, a list of numbers or a text", text)
	}
	return nil
}

// setTunables sets all of set in t, or nothing: the error says what is wrong
// with the first, in the order of their names.
func setTunables(t *lb.Sysctl, set map[string]Value) error {
	next := *t
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if err := config.SetSysctl(&next, name, string(set[name])); err != nil {
			return badQuery{fmt.Errorf("%s: %w", name, err)}
		}
	}
	*t = next
	return nil
}
