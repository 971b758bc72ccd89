package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// shape says what may stand at one place of the file: a scalar, a mapping
// with certain keys, a list, or either of a word and a list.
type shape struct {
	want   string                              // what would be right, after "want"
	scalar func(tag, text string) (any, error) // value of a scalar; errOther: not even its type fits
	keys   []key                               // of a mapping
	each   *shape                              // of a list: its elements,
	min    int                                 // the least
	max    int                                 // and the greatest number of them; 0: any
	unique bool                                // and whether one may not stand there twice
}

// key is one key of a mapping.
type key struct {
	name     string
	shape    shape
	def      any  // value if it is left out; nil: none
	required bool // an error if it is left out
	optional bool // a section whose presence switches something on, even if empty
}

// errOther says that a scalar is of a type that is out of place.
var errOther = errors.New("other type")

const (
	tagText = "!!str"
	tagInt  = "!!int"
	tagBool = "!!bool"
	tagNull = "!!null"
)

// describe names what stands in the file where something else should.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.ShortTag() == tagNull:
		return "no value"
	case n.ShortTag() == tagText:
		return fmt.Sprintf("text %q", n.Value)
	}
	return plain(n.Value)
}

// plain is a word of the file as it may stand in a message of one line.
func plain(s string) string {
	if s != "" && len(s) <= 64 && printable(s) {
		return s
	}
	return strconv.Quote(s[:min(len(s), 64)])
}

// section is a mapping.
func section(keys ...key) shape {
	return shape{want: "a mapping with keys of " + names(keys), keys: keys}
}

func names(keys []key) string {
	n := make([]string, len(keys))
	for i, k := range keys {
		n[i] = k.name
	}
	return strings.Join(n, ", ")
}

// list is a list of min to max elements (max 0: any number).
func list(each shape, least, most int) shape {
	s := shape{want: "a list", each: &each, min: least, max: most}
	if each.scalar != nil {
		s.unique = true
		s.want = "a list, each " + each.want
	}
	return s
}

// wordOr is a list that one word may stand for; its value is then nil.
func wordOr(word string, l shape) shape {
	l.want = word + " or " + l.want
	l.scalar = func(tag, text string) (any, error) {
		if tag != tagText || text != word {
			return nil, errOther
		}
		return []any(nil), nil
	}
	return l
}

// choice is one of some words, each with the value it stands for.
type choice struct {
	word  string
	value any
}

func words(names ...string) shape {
	c := make([]choice, len(names))
	for i, n := range names {
		c[i] = choice{n, n}
	}
	return oneOf(c...)
}

// oneOf is a scalar out of a few.
func oneOf(choices ...choice) shape {
	names := make([]string, len(choices))
	for i, c := range choices {
		if names[i] = c.word; c.word == "" {
			names[i] = `""`
		}
	}
	want := strings.Join(names, " | ")
	return shape{want: want, scalar: func(tag, text string) (any, error) {
		if tag != tagText && tag != tagInt {
			return nil, errOther
		}
		for _, c := range choices {
			if c.word == text {
				return c.value, nil
			}
		}
		return nil, fmt.Errorf("%q is unknown, want %s", text, want)
	}}
}

// textual makes a shape of a function that judges a text.
func textual(want string, parse func(text string) (any, error)) shape {
	return shape{want: want, scalar: func(tag, text string) (any, error) {
		if tag != tagText {
			return nil, errOther
		}
		v, err := parse(text)
		if errors.Is(err, errOther) {
			err = fmt.Errorf("%q, want %s", text, want)
		}
		return v, err
	}}
}

func printable(s string) bool {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}
