package ipvsadm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/lb"
)

// Imported is what a file of ipvsadm rules holds.
type Imported struct {
	Services []lb.ServiceSpec // in the order of the file, every default filled in
	Timeouts lb.Timeouts      // of --set; 0: not set
	// Marks are those of the mark services, in ascending order. What packets
	// carry them, ipvsadm does not know: rules for them must be written by hand.
	Marks []uint32
}

// Import reads what `ipvsadm -S` wrote, or any rules that -R takes. Lines that
// begin with # are comments. The error says all that is wrong, by line; with
// one, nothing is returned.
func Import(in io.Reader) (*Imported, error) { return importRules(in, systemServices) }

// importRules is Import with the names of ports.
func importRules(in io.Reader, names func() *Services) (*Imported, error) {
	b := &DirectorBackend{Director: lb.NewDirector(1)}
	var out Imported
	if err := b.Batch(func(batch Backend) error {
		return out.rules(in, &Env{Backend: batch, Services: names})
	}); err != nil {
		return nil, err
	}
	out.Services = b.Director.Spec().Services
	for i := range out.Services {
		if mark := out.Services[i].Key.Mark; mark != 0 {
			out.Marks = append(out.Marks, mark)
		}
	}
	slices.Sort(out.Marks)
	out.Marks = slices.Compact(out.Marks)
	return &out, nil
}

// rules takes all lines.
func (m *Imported) rules(in io.Reader, env *Env) error {
	var errs []error
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		text := lines.Text()
		words := splitLine(text)
		if len(words) == 0 || strings.HasPrefix(strings.TrimSpace(text), "#") {
			continue
		}
		if err := m.rule(words, env); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
		}
	}
	return errors.Join(append(errs, lines.Err())...)
}

// rule takes one line.
func (m *Imported) rule(words []string, env *Env) error {
	c, err := parse(words, true, env)
	if err != nil {
		return err
	}
	switch c.verb {
	case addService, editService, deleteService, flush, addServer, editServer, deleteServer:
		return (&runner{env: env}).do(c)
	case setTimeouts:
		m.Timeouts = m.Timeouts.With(c.timeouts)
		return nil
	}
	return fmt.Errorf("the '%s' command makes no rule", verbNames[c.verb])
}
