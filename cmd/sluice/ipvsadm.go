package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/ipvsadm"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/lb/conn"
	"github.com/sluice-lb/sluice/lb/flow"
	"github.com/sluice-lb/sluice/workers"
)

// exitError ends the program with a status, everything having been said.
type exitError struct{ status int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

func newIPVSAdm() *cobra.Command {
	return &cobra.Command{
		Use:   "ipvsadm [--socket PATH | --config FILE] [IPVSADM ARGUMENTS]",
		Short: "ipvsadm's command line on the running node",
		Long: `Ipvsadm is the command line and output of ipvsadm 1.31, on the running node, also when the
program is called by the name ipvsadm. Changes live until the next reload, which says what it
takes back. With --config it lists (-L) or saves (-S) the services of a file and asks no node.
ipvsadm's own help: sluice ipvsadm -h.`,
		Example: `  sluice ipvsadm -Ln
  sluice ipvsadm -a -t 203.0.113.10:80 -r 10.0.1.14:8080 -m -w 2
  sluice ipvsadm --config sluice.yaml -S -n > rules`,
		DisableFlagParsing: true,
		Args:               cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "--help" {
				return cmd.Help()
			}
			socket, file, args, err := nodeFlags(args)
			if err != nil {
				return err
			}
			var status int
			switch {
			case file != "":
				status, err = ipvsadmOffline(file, args, cmd)
			case len(args) == 1 && slices.Contains([]string{"-h", "--help", "-v", "--version"}, args[0]): // no node is needed
				status = ipvsadm.Run(args, ipvsadm.Env{Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr()})
			default:
				status, err = ipvsadmLive(cmd, socket, args)
			}
			if err == nil && status != 0 {
				err = exitError{status}
			}
			return err
		},
	}
}

// nodeFlags takes --socket and --config, which are ours, from ipvsadm's
// arguments, wherever they stand.
func nodeFlags(all []string) (socket, file string, args []string, err error) {
	socket = defaultSocket
	for i := 0; i < len(all); i++ {
		name, value, inline := strings.Cut(all[i], "=")
		if name != "--socket" && name != "--config" {
			args = append(args, all[i])
			continue
		}
		if !inline {
			if i++; i == len(all) {
				return "", "", nil, usageError{fmt.Errorf("%s wants a value", name)}
			}
			value = all[i]
		}
		if value == "" {
			return "", "", nil, usageError{fmt.Errorf("%s wants a value", name)}
		}
		if name == "--socket" {
			socket = value
		} else {
			file = value
		}
	}
	return socket, file, args, nil
}

// ipvsadmLive has the running node do a command line.
func ipvsadmLive(cmd *cobra.Command, socket string, args []string) (int, error) {
	a := control.Admin{Args: args}
	if slices.Contains(args, "-R") || slices.Contains(args, "--restore") {
		text, err := io.ReadAll(cmd.InOrStdin())
		if err != nil {
			return 0, fmt.Errorf("read standard input: %w", err)
		}
		a.Stdin = string(text)
	}
	r, err := control.NewClient(socket).IPVSAdm(cmd.Context(), a)
	if err != nil {
		return 0, err
	}
	_, err = io.WriteString(cmd.OutOrStdout(), r.Stdout)
	_, errErr := io.WriteString(cmd.ErrOrStderr(), r.Stderr)
	return r.Exit, errors.Join(err, errErr)
}

// errOffline refuses changes where no node runs.
var errOffline = errors.New("--config only lists (-L) and saves (-S): edit the file to change it")

// ipvsadmOffline does a command line on the services of a file.
func ipvsadmOffline(path string, args []string, cmd *cobra.Command) (int, error) {
	cfg, err := config.Load(path)
	if err != nil {
		return 0, err
	}
	d := lb.NewDirector(1)
	if _, err := d.Apply(cfg.Spec); err != nil {
		return 0, err
	}
	return ipvsadm.Run(args, ipvsadm.Env{
		Stdin: cmd.InOrStdin(), Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr(),
		Backend: &ipvsadm.DirectorBackend{Director: d, Frozen: errOffline},
	}), nil
}

func newImport() *cobra.Command {
	c := &cobra.Command{
		Use:     "import",
		Short:   "Turn another balancer's rules into a configuration",
		Example: `  ipvsadm -S -n | sluice import ipvsadm - > sluice.yaml`,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(&cobra.Command{
		Use:   "ipvsadm FILE",
		Short: "Print the services section that equals the output of ipvsadm -S",
		Long: `Import ipvsadm reads what "ipvsadm -S" wrote (FILE -: standard input) and prints the same
services as a sluice.yaml. Interfaces, and the marks rules that mark services need, are to be
added by hand.`,
		Example: `  ipvsadm -S -n > rules; sluice import ipvsadm rules > sluice.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("read rules: %w", err)
				}
				defer f.Close()
				in = f
			}
			return importRules(in, args[0], cmd.OutOrStdout())
		},
	})
	return c
}

// importRules prints rules of ipvsadm as a configuration.
func importRules(in io.Reader, name string, out io.Writer) error {
	rules, err := ipvsadm.Import(in)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if t := rules.Timeouts; t != (lb.Timeouts{}) {
		if _, err := fmt.Fprintf(out, "connections:\n  timeouts: {tcp: %s, tcp_fin: %s, udp: %s}\n", t.TCP, t.TCPFin, t.UDP); err != nil {
			return err
		}
	}
	for _, m := range rules.Marks {
		if _, err := fmt.Fprintf(out, "# mark %d needs a rule under marks: that says which packets carry it\n", m); err != nil {
			return err
		}
	}
	return ipvsadm.WriteServices(out, rules.Services)
}

// connOf is a connection as ipvsadm -Lc shows it.
func connOf(r *workers.ConnRow) ipvsadm.Conn {
	return ipvsadm.Conn{
		Proto:  r.Proto,
		Client: addrPort(r.Client, r.ClientPort), Virtual: addrPort(r.Virtual, r.VirtualPort), Server: addrPort(r.Server, r.RealPort),
		State: conn.StateName(r.Proto, r.Flags&conn.Template != 0, r.State), Expires: r.Expires,
		Engine: r.Engine, EngineData: r.EngineData,
	}
}

func addrPort(a flow.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a.Netip(), port) }

// live is what the running node tells ipvsadm.
type live struct {
	ctx context.Context
	n   *node
}

// Counts returns the counters of now.
func (l live) Counts() (ipvsadm.Counts, error) {
	stats, err := l.n.pool.Stats(l.ctx, l.n.director.Current())
	if err != nil {
		return ipvsadm.Counts{}, err
	}
	return ipvsadm.Counts{Services: stats.Services, Reals: stats.Reals}, nil
}

// Conns visits all connections.
func (l live) Conns(visit func(*ipvsadm.Conn)) error {
	return l.n.pool.Conns(l.ctx, func(_ int, r *workers.ConnRow) bool {
		c := connOf(r)
		visit(&c)
		return true
	})
}

// IPVSAdm does a command line of ipvsadm. What it changes lives until the next
// reload. It holds up nobody: a listing of many connections takes a while, and
// changes are the director's to order.
func (n *node) IPVSAdm(ctx context.Context, a control.Admin) (*control.AdminResult, error) {
	before := n.director.Current()
	var out, errs strings.Builder
	r := &control.AdminResult{}
	r.Exit = ipvsadm.Run(a.Args, ipvsadm.Env{
		Stdin: strings.NewReader(a.Stdin), Stdout: &out, Stderr: &errs,
		Backend: &ipvsadm.DirectorBackend{Director: n.director, Live: live{ctx, n}, Meter: &n.meter},
	})
	if after := n.director.Current(); after != before { // perhaps by others, who see to the same
		n.published()
		n.mu.Lock()
		defer n.mu.Unlock()
		n.keepNeighbors()
		if err := n.resteer(nil); err != nil {
			return nil, err
		}
		n.log.Info("changed by ipvsadm, until the next reload", "generation", after.Generation, "args", strings.Join(a.Args, " "))
	}
	r.Stdout, r.Stderr = out.String(), errs.String()
	return r, nil
}

// meterRates moves the rates on, until ctx ends.
func (n *node) meterRates(ctx context.Context) {
	every := time.NewTicker(ipvsadm.EstimatorPeriod)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		snap := n.director.Current()
		if stats, err := n.pool.Stats(ctx, snap); err == nil {
			n.meter.Tick(snap, ipvsadm.Counts{Services: stats.Services, Reals: stats.Reals})
		}
	}
}
