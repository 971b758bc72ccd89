package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// strict is the YAML that viper reads: the same language, but every node is
// held against root, and what does not fit is recorded with its line and
// left out, so that one fault does not hide the next.
type strict struct{ *source }

// Decoder makes strict viper's decoder of every format.
func (s strict) Decoder(string) (viper.Decoder, error) { return s, nil }

// Decode fills into with the values of text, each of the type that the
// schema says. It returns an error only if text is not YAML at all.
func (s strict) Decode(text []byte, into map[string]any) error {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, rest yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return s.syntax(err)
	}
	if err := d.Decode(&rest); err == nil {
		s.failAt(rest.Line, "", "a second YAML document, want one")
	} else if !errors.Is(err, io.EOF) {
		return s.syntax(err)
	}
	top := doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.ShortTag() == tagNull {
		return nil
	}
	if v, ok := s.value(top, &root, "", false); ok {
		for k, x := range v.(map[string]any) {
			into[k] = x
		}
	}
	return nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntax turns an error of the YAML reader into ours.
func (s strict) syntax(err error) error {
	text := err.Error()
	line := 0
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		line, _ = strconv.Atoi(m[1])
	}
	s.failAt(line, "", "not YAML: %s", text)
	return s.errs
}

// value returns what node n stands for where shape is wanted; false: it is
// refused. fill asks for the defaults of what is left out: viper has those of
// the sections that every file has, but cannot express those of list elements.
func (s strict) value(n *yaml.Node, want *shape, path string, fill bool) (any, bool) {
	if n.Kind == yaml.AliasNode {
		s.failAt(n.Line, path, "*%s: aliases are not supported, write the value out", n.Value)
		return nil, false
	}
	switch {
	case n.Kind == yaml.MappingNode && want.keys != nil:
		return s.mapping(n, want, path, fill), true
	case n.Kind == yaml.SequenceNode && want.each != nil:
		return s.sequence(n, want, path)
	case n.Kind == yaml.ScalarNode && want.scalar != nil:
		v, err := want.scalar(n.ShortTag(), n.Value)
		if err == nil {
			return v, true
		}
		if !errors.Is(err, errOther) {
			s.failAt(n.Line, path, "%s", err)
			return nil, false
		}
	}
	s.failAt(n.Line, path, "%s, want %s", describe(n), want.want)
	return nil, false
}

func (s strict) mapping(n *yaml.Node, want *shape, path string, fill bool) map[string]any {
	m := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			s.failAt(k.Line, path, "%s as a key, want %s", describe(k), want.want)
			continue
		}
		full := join(path, plain(k.Value))
		known := find(want.keys, k.Value)
		if known == nil {
			s.failAt(k.Line, full, "unknown key, want one of %s", names(want.keys))
			continue
		}
		if first, ok := s.lines[full]; ok {
			s.failAt(k.Line, full, "duplicate key, first in line %d", first)
			continue
		}
		s.lines[full] = k.Line
		if v.Kind == yaml.ScalarNode && v.ShortTag() == tagNull && known.shape.scalar == nil && !known.optional {
			// All lines of a list or section are commented out.
			continue
		}
		if x, ok := s.value(v, &known.shape, full, fill || known.optional); ok {
			m[k.Value] = x
		}
	}
	for i := range want.keys {
		k := &want.keys[i]
		if full := join(path, k.name); k.required && !s.has(full) {
			s.fail(full, "missing, want %s", k.shape.want)
		}
		if _, ok := m[k.name]; !ok && k.def != nil && fill {
			m[k.name] = k.def
		}
	}
	return m
}

func (s strict) sequence(n *yaml.Node, want *shape, path string) (any, bool) {
	all := make([]any, 0, len(n.Content))
	seen := map[any]bool{}
	for i, e := range n.Content {
		element := at(path, i)
		s.lines[element] = e.Line
		v, ok := s.value(e, want.each, element, true)
		switch {
		case !ok && want.each.keys != nil:
			v = map[string]any{} // keeps the indexes of what follows
		case !ok:
			continue
		case want.unique && seen[v]:
			s.failAt(e.Line, element, "%s is listed twice", plain(e.Value))
		case want.unique:
			seen[v] = true
		}
		all = append(all, v)
	}
	if k := len(n.Content); k < want.min || want.max > 0 && k > want.max {
		s.failAt(n.Line, path, "%d elements, want %s", k, span(want.min, want.max))
		return nil, false
	}
	return all, true
}

func span(least, most int) string {
	if least == most {
		return strconv.Itoa(least)
	}
	return fmt.Sprintf("%d..%d", least, most)
}

func find(keys []key, name string) *key {
	for i := range keys {
		if keys[i].name == name {
			return &keys[i]
		}
	}
	return nil
}
