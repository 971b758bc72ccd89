// Package scenarios is what is measured, each a small file of this folder.
//
// It is read-only and belongs to nobody.
package scenarios

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/sluice-lb/sluice/bench/engine"
	"github.com/sluice-lb/sluice/bench/wire"
)

//go:embed *.yaml
var files embed.FS

// File is one file: a harness's scenarios, of engine or of wire.
type File struct {
	Name   string        `yaml:"-"`
	About  string        `yaml:"about"`           // what question they answer
	Short  []string      `yaml:"short,omitempty"` // names of those that are run to see that everything works
	Full   bool          `yaml:"full,omitempty"`  // they take long: only for who asks for everything
	Engine engine.Matrix `yaml:"engine,omitempty"`
	Soak   []string      `yaml:"soak,omitempty"` // names of the engine's soaks
	Wire   []string      `yaml:"wire,omitempty"` // names
}

// Load returns the files in the order of their names.
func Load() ([]File, error) { return load(files) }

func load(from fs.FS) (all []File, err error) {
	names, err := fs.Glob(from, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(from, name)
		if err != nil {
			return nil, err
		}
		f := File{Name: name}
		d := yaml.NewDecoder(bytes.NewReader(text))
		d.KnownFields(true)
		if err := d.Decode(&f); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, f)
	}
	return all, nil
}

// Length is how many of the scenarios are wanted.
type Length int

// Lengths.
const (
	Short Length = iota // those that the files name for that
	Usual               // without the files that take long
	Full                // all
)

// Engine returns the engine's scenarios of the files, each once.
func Engine(files []File, length Length) (all []engine.Scenario, err error) {
	seen := map[engine.Scenario]bool{}
	for i := range files {
		f := &files[i]
		if f.Soak != nil || f.Wire != nil {
			continue
		}
		of, ferr := f.Engine.Scenarios()
		if length == Short && ferr == nil {
			of, ferr = named(f.Short)
		}
		if ferr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", f.Name, ferr))
		}
		if f.Full && length != Full {
			continue
		}
		for _, s := range of {
			if !seen[s] {
				seen[s] = true
				all = append(all, s)
			}
		}
	}
	return all, err
}

func named(names []string) (all []engine.Scenario, err error) {
	for _, name := range names {
		s, err := engine.Parse(name)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Soaks returns the engine's soaks of the files.
func Soaks(files []File) (all []engine.Soak, err error) {
	for i := range files {
		for _, name := range files[i].Soak {
			s, serr := engine.ParseSoak(name)
			if serr != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", files[i].Name, serr))
				continue
			}
			all = append(all, s)
		}
	}
	return all, err
}

// Wire returns the names of the wire's scenarios of the files, each once.
func Wire(files []File, length Length) (all []string, err error) {
	for i := range files {
		f := &files[i]
		names := f.Wire
		if length == Short && f.Wire != nil {
			names = f.Short
		}
		if f.Full && length != Full {
			continue
		}
		for _, name := range names {
			if werr := wire.Check(name); werr != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", f.Name, werr))
			}
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all, err
}
