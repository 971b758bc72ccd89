package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/bench/engine"
	"github.com/sluice-lb/sluice/bench/scenarios"
	"github.com/sluice-lb/sluice/bench/wire"
	"github.com/sluice-lb/sluice/internal/testnet"
	"github.com/sluice-lb/sluice/workers/cpu"
)

// benchOptions are the command line of sluice bench.
type benchOptions struct {
	patterns  []string
	length    time.Duration // how long a run counts, of wire; of engine a fifth of it
	runs      int
	short     bool
	full      bool
	list      bool
	json      bool
	benchstat string
	testpmd   string
	l2fwd     string
	subjects  string
	svg       string   // folder
	harnesses []string // engine, wire
}

func newBench() *cobra.Command {
	var o benchOptions
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine: the engine in memory, whole directors on the wire",
		Long: `Bench measures sluice beside others, on CPUs of their own. All subjects take turns, run by run; what is
reported is the median with the least and the greatest, and ratios of runs that followed each other.

PATTERN is a regular expression of scenarios' names, such as nat-in/v4 or '^engine/.*/1M/'. A whole name need not be
one of the list: engine/METHOD/FAMILY/CONNECTIONS/MIX/WORKERS, and that with /SERVICESxSERVERS, is measured whatever its parts are.`,
		Example: `  sluice bench                                         everything, about 10 minutes
  sluice bench engine engine/nat-in/v4/1M/steady/1     one scenario
  sluice bench engine --json nat-in > records.json
  sluice bench chart docs/img records.json             what is in them, drawn
  sluice bench --list                                  which scenarios there are`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.harnesses = []string{"engine", "wire"}
			return o.run(cmd)
		},
	}
	for _, h := range []struct{ name, short string }{
		{"engine", "The packet's way in memory: no root, no NIC"},
		{"wire", "Whole directors between network namespaces, on AF_XDP: root"},
	} {
		sub := &cobra.Command{
			Use: h.name + " [PATTERN...]", Short: h.short, Args: cobra.ArbitraryArgs,
			RunE: func(cmd *cobra.Command, args []string) error {
				o.harnesses, o.patterns = []string{h.name}, args
				return o.run(cmd)
			},
		}
		o.addFlags(sub)
		c.AddCommand(sub)
	}
	o.addFlags(c)
	c.AddCommand(newBenchChart(), newBenchTable())
	return c
}

func (o *benchOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.DurationVar(&o.length, "time", time.Second, "how long a run counts on the wire, or soaks; else in memory a fifth of it")
	f.IntVar(&o.runs, "runs", 3, "runs of each subject")
	f.BoolVar(&o.short, "short", false, "some scenarios once, to see that everything works")
	f.BoolVar(&o.full, "full", false, "those too that take minutes, such as 16 million connections")
	f.BoolVar(&o.list, "list", false, "list the scenarios and measure nothing")
	f.BoolVar(&o.json, "json", false, "print the records as JSON instead of a table")
	f.StringVar(&o.benchstat, "benchstat", "", "also write each run to `FILE`, as benchstat reads it")
	f.StringVar(&o.testpmd, "testpmd", "dpdk-testpmd", "DPDK's testpmd, to compare with on the wire")
	f.StringVar(&o.svg, "svg", "", "also draw what was measured, as SVG files in `DIR`")
	f.StringVar(&o.subjects, "subjects", "", "of the wire only the subjects that `REGEXP` matches")
	f.StringVar(&o.l2fwd, "l2fwd", "bench/peers/l2fwd", "the forwarder in C of bench/peers, to compare with on the wire")
}

// run is the whole of sluice bench.
func (o *benchOptions) run(cmd *cobra.Command) error {
	if o.length <= 0 || o.runs < 1 {
		return usageError{fmt.Errorf("--time %v and --runs %d: want more than 0 of both", o.length, o.runs)}
	}
	if o.short && o.full {
		return usageError{errors.New("--short and --full: want one of them")}
	}
	if o.short {
		o.runs, o.length = 1, min(o.length, 200*time.Millisecond)
	}
	out, log := cmd.OutOrStdout(), cmd.ErrOrStderr()
	inMemory, err := o.engineScenarios()
	if err != nil {
		return err
	}
	soaks, err := o.soaks()
	if err != nil {
		return err
	}
	onWire, err := o.wireScenarios()
	if err != nil {
		return err
	}
	if len(inMemory)+len(soaks)+len(onWire) == 0 {
		return fmt.Errorf("no scenario matches %q; --list lists them", o.patterns)
	}
	if o.list {
		for _, s := range inMemory {
			fmt.Fprintln(out, s)
		}
		for _, s := range soaks {
			fmt.Fprintln(out, s)
		}
		for _, s := range onWire {
			fmt.Fprintln(out, s)
		}
		return nil
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return o.measure(ctx, inMemory, soaks, onWire, out, log)
}

// wants says whether a scenario is one of those asked for.
func (o *benchOptions) wants(harness string) (func(name string) bool, error) {
	if !slices.Contains(o.harnesses, harness) {
		return func(string) bool { return false }, nil
	}
	var all []*regexp.Regexp
	for _, p := range o.patterns {
		r, err := regexp.Compile(p)
		if err != nil {
			return nil, usageError{err}
		}
		all = append(all, r)
	}
	return func(name string) bool {
		return len(all) == 0 || slices.ContainsFunc(all, func(r *regexp.Regexp) bool { return r.MatchString(name) })
	}, nil
}

// scenarios says how many of the files' are wanted.
func (o *benchOptions) scenarios() scenarios.Length {
	switch {
	case o.short:
		return scenarios.Short
	case o.full:
		return scenarios.Full
	}
	return scenarios.Usual
}

// engineScenarios are those of the files that a pattern matches, and those that
// are named in full.
func (o *benchOptions) engineScenarios() ([]engine.Scenario, error) {
	wants, err := o.wants("engine")
	if err != nil {
		return nil, err
	}
	files, err := scenarios.Load()
	if err != nil {
		return nil, err
	}
	all, err := scenarios.Engine(files, o.scenarios())
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s engine.Scenario) bool { return !wants(s.String()) })
	for _, p := range o.patterns {
		if s, err := engine.Parse(p); err == nil && slices.Contains(o.harnesses, "engine") && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all, nil
}

// soaks are those of the files that a pattern matches, and those that are named
// in full.
func (o *benchOptions) soaks() (all []engine.Soak, err error) {
	wants, err := o.wants("engine")
	if err != nil {
		return nil, err
	}
	files, err := scenarios.Load()
	if err != nil {
		return nil, err
	}
	if all, err = scenarios.Soaks(files); err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s engine.Soak) bool { return !wants(s.String()) })
	for _, p := range o.patterns {
		if s, err := engine.ParseSoak(p); err == nil && slices.Contains(o.harnesses, "engine") && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all, nil
}

// wireScenarios are those of the files that a pattern matches, and those that are
// named in full.
func (o *benchOptions) wireScenarios() ([]string, error) {
	wants, err := o.wants("wire")
	if err != nil {
		return nil, err
	}
	files, err := scenarios.Load()
	if err != nil {
		return nil, err
	}
	all, err := scenarios.Wire(files, o.scenarios())
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s string) bool { return !wants(s) })
	for _, p := range o.patterns {
		if wire.Check(p) == nil && slices.Contains(o.harnesses, "wire") && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all, nil
}

// measure runs what is asked for and writes the results to out, whatever
// failed; to log goes what is being done.
func (o *benchOptions) measure(ctx context.Context, inMemory []engine.Scenario, soaks []engine.Soak, onWire []string, out, log io.Writer) error {
	topology, err := cpu.Read(os.DirFS("/sys"))
	if err != nil {
		return err
	}
	cpus, err := bench.Assign(topology)
	if err != nil {
		return err
	}
	about := log // next to the table it explains; not within JSON
	if !o.json {
		about = out
	}
	machine := bench.ReadMachine(os.DirFS("/"))
	fmt.Fprintf(about, "%v\n%v\n\n", machine, cpus)
	for _, w := range append(machine.Warnings(), cpus.Warning) {
		if w != "" {
			fmt.Fprintf(log, "warning: %s\n", w)
		}
	}
	report := func(run int, c *bench.Case, unavailable error) {
		if unavailable != nil {
			fmt.Fprintf(log, "%s is left out: %v\n", c.Subject, unavailable)
			return
		}
		fmt.Fprintf(log, "run %d: %s, %s\n", run+1, c.Scenario, c.Subject)
	}
	series, failed := o.measureEngine(ctx, inMemory, soaks, cpus, report)
	told := false
	nicMode := func(mode string) {
		if !told {
			fmt.Fprintf(about, "NIC mode of sluice: %s\n\n", mode)
		}
		told = true
	}
	more, alsoFailed := o.measureWire(ctx, onWire, wire.Config{CPUs: cpus, Duration: o.length, Short: o.short, Testpmd: o.testpmd, L2fwd: o.l2fwd, NICMode: nicMode}, report, log)
	series = append(series, more...)
	return errors.Join(failed, alsoFailed, o.write(out, series))
}

func (o *benchOptions) measureEngine(ctx context.Context, all []engine.Scenario, soaks []engine.Soak, cpus bench.CPUs, report func(int, *bench.Case, error)) (series []bench.Series, err error) {
	if len(all)+len(soaks) == 0 {
		return nil, nil
	}
	workers := 1
	for _, s := range all {
		workers = max(workers, s.Workers)
	}
	var memories []*engine.Memory
	for range workers {
		m, err := engine.NewMemory(engine.Frames)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		memories = append(memories, m)
	}
	onCPUs := append([]int{cpus.Worker, cpus.Generator}, cpus.Rest...)
	cases := append(engine.Cases(all, memories, o.length/5, onCPUs), engine.SoakCases(soaks, memories[0], o.length, onCPUs)...)
	series, err = bench.Run(ctx, cases, o.runs, report)
	return append(series, engine.Ratios(series)...), err
}

func (o *benchOptions) measureWire(ctx context.Context, all []string, c wire.Config, report func(int, *bench.Case, error), log io.Writer) ([]bench.Series, error) {
	switch {
	case len(all) == 0:
		return nil, nil
	case os.Geteuid() != 0:
		fmt.Fprintf(log, "%s is left out: %v\n", strings.Join(all, ", "), testnet.ErrNotRoot)
		return nil, nil
	}
	var err error
	if c.Sluice, err = os.Executable(); err != nil {
		return nil, err
	}
	if err := cpu.PinProcess(c.CPUs.Rest...); err != nil {
		return nil, err
	}
	cases, err := wire.Cases(c, all)
	if err != nil {
		return nil, err
	}
	only, err := regexp.Compile(o.subjects)
	if err != nil {
		return nil, usageError{err}
	}
	cases = slices.DeleteFunc(cases, func(c bench.Case) bool { return !only.MatchString(c.Subject) })
	series, err := bench.Run(ctx, cases, o.runs, report)
	return append(series, wire.Ratios(series)...), err
}

// write writes what was measured in the forms that were asked for.
func (o *benchOptions) write(out io.Writer, series []bench.Series) error {
	var err error
	if o.benchstat != "" {
		var text bytes.Buffer
		err = errors.Join(bench.WriteBenchstat(&text, series), writeFile(o.benchstat, text.Bytes()))
	}
	records := bench.Records(series)
	if o.svg != "" {
		err = errors.Join(err, writeCharts(o.svg, records))
	}
	if o.json {
		return errors.Join(err, bench.WriteJSON(out, records))
	}
	return errors.Join(err, bench.WriteTable(out, records))
}
