// Package ipvsadm is the command line of ipvsadm 1.31, to the letter: what it
// takes, what it prints, with which status it ends.
//
// Run parses a command line and does it on a Backend. A DirectorBackend is
// one over the services of a node or of a configuration file. Import reads
// what `ipvsadm -S` wrote, WriteServices writes services as configuration.
//
// Nothing here belongs to a goroutine, but for Meter, which locks. Where the
// output differs from ipvsadm's, it does so on purpose:
//   - Hosts are addresses. Names are not looked up, neither when read nor,
//     without -n, when shown; names of ports are (/etc/services).
//   - -S saves the thresholds too (-x, -y), and marks from 2^31 on as -f takes
//     them. It leaves out what has no meaning: the flag flag-3 of sh and mh
//     (ipvsadm writes a -b that it cannot read again) and a persistence
//     engine of a service that is not persistent.
//   - An IPv6 address that holds an IPv4 one (::ffff:10.0.0.1) is no address.
//   - A -b of commas only is no flags; ipvsadm crashes.
//   - --nosort lists in the backend's order; the kernel's depends on where in
//     memory it put things. Counters are those of now; the kernel shows those
//     of the estimator's last tick (K-STAT-10).
package ipvsadm

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sluice-lb/sluice/lb"
)

// Env is what a command line works with.
type Env struct {
	Stdin          io.Reader // of -R; nil: empty
	Stdout, Stderr io.Writer
	Backend        Backend
	Services       func() *Services // names of ports; nil: those of /etc/services
}

func (e *Env) services() *Services {
	if e.Services != nil {
		return e.Services()
	}
	return systemServices()
}

// usage is what -h prints.
//
//go:embed usage.txt
var usage string

const versionLine = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)\n"

// Run does what ipvsadm with these arguments (without its own name) would do,
// and returns its exit status.
func Run(args []string, env Env) int {
	r := &runner{env: &env, out: bufio.NewWriterSize(env.Stdout, 1<<16)}
	var err error
	if len(args) == 0 {
		err = r.listAll(layout{})
	} else {
		err = r.run(args, false)
	}
	exit := r.report(err)
	if err := r.out.Flush(); err != nil && exit == 0 {
		fmt.Fprintf(env.Stderr, "write output: %v\n", err)
		return exitAbsent
	}
	return exit
}

// runner does command lines, one or a whole input of -R.
type runner struct {
	env *Env
	out *bufio.Writer
}

// report prints an error after what was printed so far and returns the exit
// status. What the backend refuses has the text of the refusal alone, as
// ipvsadm knows no more.
func (r *runner) report(err error) int {
	if err == nil {
		return 0
	}
	text, exit := err.Error(), exitRefused
	if f := (*failure)(nil); errors.As(err, &f) {
		exit = f.exit
	} else if refusal := (*lb.Error)(nil); errors.As(err, &refusal) {
		text, exit = refusal.Text, refusal.ExitCode()
	}
	if text != "" {
		_ = r.out.Flush() // Run sees to its error
		fmt.Fprintln(r.env.Stderr, text)
	}
	return exit
}

// run does one command line.
func (r *runner) run(words []string, nested bool) error {
	c, err := parse(words, nested, r.env)
	if err != nil {
		return err
	}
	return r.do(c)
}

// do does one command.
func (r *runner) do(c *command) error {
	b, s := r.env.Backend, &c.service
	switch c.verb {
	case help:
		r.print(versionLine, usage)
		return errDone
	case version:
		r.print(versionLine)
		return errDone
	case addService:
		return b.AddService(*s)
	case editService:
		return b.EditService(*s)
	case deleteService:
		return b.DeleteService(s.Key)
	case flush:
		return b.Flush()
	case addServer:
		return b.AddReal(s.Key, c.real)
	case editServer:
		return b.EditReal(s.Key, c.real)
	case deleteServer:
		return b.DeleteReal(s.Key, c.real.Key)
	case setTimeouts:
		return b.SetTimeouts(c.timeouts)
	case startDaemon:
		return b.StartDaemon(c.daemon)
	case stopDaemon:
		return b.StopDaemon(c.daemon.State)
	case zero:
		if c.given.has(optService) {
			return b.Zero(&s.Key)
		}
		return b.Zero(nil)
	case save:
		return r.save(c.given.has(optNumeric))
	case restore:
		return r.restore()
	}
	return r.list(c)
}

func (r *runner) print(texts ...string) {
	for _, t := range texts {
		_, _ = r.out.WriteString(t) // Run sees to its error
	}
}

// errDone ends an input of -R early, without a fault.
var errDone error = &failure{}

// restore does the lines of the input as one batch.
func (r *runner) restore() error {
	if r.env.Stdin == nil {
		return nil
	}
	return r.env.Backend.Batch(func(batch Backend) error {
		env := *r.env
		env.Backend = batch
		return (&runner{env: &env, out: r.out}).lines()
	})
}

// lines does each line of the input. As with ipvsadm, a line that cannot be
// understood ends it, unless it was an option that nobody knows; one that the
// backend refuses does not; and the status is that of the last line. The word
// ipvsadm may stand anywhere.
func (r *runner) lines() error {
	var last error
	in := bufio.NewReader(r.env.Stdin)
	for {
		line, err := in.ReadString('\n')
		if words := splitLine(line); len(words) > 0 {
			r.report(last)
			last = r.run(words, true)
			if f := (*failure)(nil); errors.As(last, &f) && !f.mild {
				return last
			}
		}
		if err == io.EOF {
			return last
		}
		if err != nil {
			return fmt.Errorf("read rules: %w", err)
		}
	}
}

// splitLine returns the words of a line of -R. There is no quoting.
func splitLine(line string) []string {
	words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) })
	n := 0
	for _, w := range words {
		if w != "ipvsadm" {
			words[n] = w
			n++
		}
	}
	return words[:n]
}
