// Command measure runs the benchmarks: the engine in memory and whole
// directors on the wire. It prints a table; with -json also records.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/bench/engine"
	"github.com/sluice-lb/sluice/bench/wire"
	"github.com/sluice-lb/sluice/internal/testnet"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// options are the command line's.
type options struct {
	pattern *regexp.Regexp // of scenarios' names
	run     time.Duration  // how long a run of wire counts; of engine a fifth of it
	runs    int            // of wire; of engine half as many
	short   bool           // that everything still works: few scenarios, one run
	json    string
	sluice  string
	testpmd string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	}
	if err := o.measure(ctx, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "measure: %v\n", err)
		os.Exit(1)
	}
}

// parse reads the command line and tells log what is wrong with it.
func parse(args []string, log io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("measure", flag.ContinueOnError)
	f.SetOutput(log)
	pattern := f.String("match", ".", "regular expression of the scenarios to run, as in 'engine/nat-in/v4' or 'wire'")
	length := f.String("time", "1s", "how long a run counts; 'short' or '1x': run a few scenarios once, to see that they work")
	f.IntVar(&o.runs, "runs", 5, "runs of each subject on the wire; of the engine, whose scenarios are many, half as many")
	f.StringVar(&o.json, "json", "", "file to write records to")
	f.StringVar(&o.sluice, "sluice", "./sluice", "the binary to measure on the wire")
	f.StringVar(&o.testpmd, "testpmd", "dpdk-testpmd", "DPDK's testpmd, to compare with")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	err := o.check(*pattern, *length, f.Args())
	if err != nil {
		fmt.Fprintln(log, err)
	}
	return o, err
}

// check makes sense of the flags' texts.
func (o *options) check(pattern, length string, rest []string) (err error) {
	if o.pattern, err = regexp.Compile(pattern); err != nil {
		return fmt.Errorf("-match: %w", err)
	}
	if length == "short" || length == "1x" {
		o.short, o.runs, o.run = true, 1, 500*time.Millisecond
	} else if o.run, err = time.ParseDuration(length); err != nil || o.run <= 0 {
		return fmt.Errorf("-time: %q is neither a duration nor short", length)
	}
	if o.runs < 1 || len(rest) > 0 {
		return fmt.Errorf("want -runs of 1 or more, and no arguments: have %d, and %q", o.runs, rest)
	}
	return nil
}

// measure runs what is asked for and writes the results to out, whatever
// failed; to log goes what is being done.
func (o *options) measure(ctx context.Context, out, log io.Writer) error {
	topology, err := cpu.Read(os.DirFS("/sys"))
	if err != nil {
		return err
	}
	cpus, err := bench.Assign(topology)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%v\n%v\n\n", bench.ReadMachine(os.DirFS("/")), cpus)
	if cpus.Warning != "" {
		fmt.Fprintf(log, "warning: %s\n", cpus.Warning)
	}
	if err := bench.PinProcess(cpus.Rest...); err != nil {
		return err
	}
	memory, err := engine.NewMemory(engine.Frames)
	if err != nil {
		return err
	}
	defer memory.Close()
	report := func(run int, c *bench.Case) { fmt.Fprintf(log, "run %d: %s, %s\n", run+1, c.Scenario, c.Subject) }
	series, failed := bench.Run(ctx, o.engine(memory, cpus.Worker), (o.runs+1)/2, report)
	onWire, alsoFailed := bench.Run(ctx, o.wire(cpus, os.Geteuid() == 0, log), o.runs, report)
	series = append(append(series, onWire...), wire.Ratios(onWire)...)
	return errors.Join(failed, alsoFailed, o.write(out, bench.Records(series)))
}

// engine are the engine's cases that match.
func (o *options) engine(m *engine.Memory, onCPU int) []bench.Case {
	scenarios := engine.All()
	if o.short {
		scenarios = engine.Few()
	}
	return o.matching(engine.Cases(scenarios, m, o.run/5, onCPU))
}

// wire are those of wire, which need root.
func (o *options) wire(cpus bench.CPUs, root bool, log io.Writer) []bench.Case {
	cases := o.matching(wire.Cases(wire.Config{CPUs: cpus, Duration: o.run, Sluice: o.sluice, Testpmd: o.testpmd}))
	if len(cases) > 0 && !root {
		fmt.Fprintf(log, "%s is left out: %v\n", wire.Scenario, testnet.ErrNotRoot)
		return nil
	}
	return cases
}

func (o *options) matching(cases []bench.Case) []bench.Case {
	return slices.DeleteFunc(cases, func(c bench.Case) bool { return !o.pattern.MatchString(c.Scenario) })
}

func (o *options) write(out io.Writer, records []bench.Record) error {
	if err := bench.WriteTable(out, records); err != nil || o.json == "" {
		return err
	}
	f, err := os.Create(o.json)
	if err != nil {
		return err
	}
	return errors.Join(bench.WriteJSON(f, records), f.Close())
}
