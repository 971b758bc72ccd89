package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/internal/control"
)

// defaultSocket is the configuration's default of control.socket.
const defaultSocket = "/run/sluice/control.sock"

// view is a command that prints something of the running node.
type view struct {
	socket string
	json   bool
	watch  bool
	every  time.Duration
}

// flags adds what all views have.
func (v *view) flags(c *cobra.Command) {
	c.Flags().StringVar(&v.socket, "socket", defaultSocket, "control socket of the node")
	jsonFlag(c, &v.json)
	c.Flags().BoolVarP(&v.watch, "watch", "w", false, "print again and again, until interrupted")
	c.Flags().DurationVar(&v.every, "interval", 2*time.Second, "time between two prints of --watch")
}

// show asks the node and prints the answer, once or again and again.
func show[T any](cmd *cobra.Command, v *view, ask func(context.Context, *control.Client) (T, error), table func(io.Writer, T)) error {
	if v.every < 100*time.Millisecond {
		return usageError{fmt.Errorf("--interval %s is too short, want 100ms or more", v.every)}
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, out := control.NewClient(v.socket), cmd.OutOrStdout()
	for {
		answer, err := ask(ctx, client)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if v.json {
			if err := printJSON(out, answer); err != nil {
				return err
			}
		} else {
			if v.watch {
				fmt.Fprint(out, "\x1b[H\x1b[2J") // home, clear
			}
			tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			table(tw, answer)
			if err := tw.Flush(); err != nil {
				return err
			}
		}
		if !v.watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(v.every):
		}
	}
}

func newStatus() *cobra.Command {
	var v view
	c := &cobra.Command{
		Use:   "status",
		Short: "The node, its workers and interfaces, drops by reason",
		Example: `  sluice status
  sluice status --json --socket /run/sluice/control.sock`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, &v, func(ctx context.Context, c *control.Client) (*control.Status, error) { return c.Status(ctx) }, statusTable)
		},
	}
	v.flags(c)
	return c
}

func statusTable(w io.Writer, s *control.Status) {
	fmt.Fprintf(w, "node %s\tpid %d, up %s, sluice %s\n", s.Node, s.PID, time.Since(s.Started).Round(time.Second), s.Version)
	fmt.Fprintf(w, "configuration\t%s, generation %d\n", s.ConfigFile, s.Generation)
	if r := s.LastReload; r != nil && r.Error != "" {
		fmt.Fprintf(w, "last reload\tFAILED %s: %s\n", r.At.Format(time.DateTime), strings.ReplaceAll(r.Error, "\n", "; "))
	} else if r != nil {
		fmt.Fprintf(w, "last reload\t%s: %d added, %d removed, %d edited, %d connections touched\n", r.At.Format(time.DateTime),
			r.Added, r.Removed, r.Edited, r.Touched)
	}
	fmt.Fprintf(w, "services\t%d with %d servers\n", s.Services, s.Servers)
	fmt.Fprintf(w, "connections\t%d of %d\n", s.Connections, s.MaxConns)
	fmt.Fprintf(w, "CPU\t%s, variant %s\n\n", s.CPUModel, s.Variant)
	fmt.Fprintln(w, "INTERFACE\tROLE\tMODE\tQUEUES\tMTU\tLINK\tREDIRECTED\tPASSED\tSTEERING")
	for _, i := range s.Interfaces {
		link := "down"
		if i.Up {
			link = "up"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%d\t%d\t%s\n", i.Name, i.Role, i.Mode, len(i.Queues), i.MTU, link, i.Redirected, i.Passed, i.Steering)
		for _, m := range i.Members {
			sends := "receives"
			if m.Sends {
				sends = "sends"
			}
			fmt.Fprintf(w, "- %s\t%s\t%s\t%d\t\t%s\t%d\t%d\t%s\n", m.Name, i.Bond, m.Mode, len(i.Queues), sends, m.Redirected, m.Passed, m.Steering)
		}
	}
	fmt.Fprintln(w, "\nWORKER\tCPU\tIDLE\tCONNS\tRECEIVED\tTRANSMITTED\tHANDED OVER\tHANDED IN")
	for _, k := range s.Workers {
		cpu := fmt.Sprint(k.CPU)
		if k.CPU < 0 {
			cpu = "-"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%d\t%d\t%d%s\t%d\n", k.ID, cpu, k.Idle, k.Connections, k.Received, k.Transmitted, k.HandedOver, share(k.HandedOver, k.Received), k.HandedIn)
	}
	fmt.Fprintln(w)
	totalsTable(w, &s.Totals.Received, s.Totals.Transmitted, s.Totals.Passed, s.Totals.Held, s.Totals.Dropped)
}

// share is " (n %)", or nothing.
func share(part, whole uint64) string {
	if whole == 0 || part == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.1f %%)", 100*float64(part)/float64(whole))
}

func totalsTable(w io.Writer, received *uint64, transmitted, passed, held uint64, dropped map[string]uint64) {
	fmt.Fprintf(w, "received\t%d\n= transmitted\t%d\n+ passed to the host\t%d\n+ held\t%d\n", *received, transmitted, passed, held)
	for _, reason := range slices.Sorted(maps.Keys(dropped)) {
		fmt.Fprintf(w, "+ dropped, %s\t%d\n", reason, dropped[reason])
	}
}

func newServices() *cobra.Command {
	var v view
	c := &cobra.Command{
		Use:   "services",
		Short: "Virtual services and their real servers",
		Example: `  sluice services
  sluice services --watch --interval 1s`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, &v, func(ctx context.Context, c *control.Client) ([]control.Service, error) { return c.Services(ctx) }, servicesTable)
		},
	}
	v.flags(c)
	return c
}

func servicesTable(w io.Writer, services []control.Service) {
	fmt.Fprintln(w, "SERVICE\tSCHEDULER\tFORWARD\tWEIGHT\tACTIVE\tINACTIVE\tCONNS\tIN PKTS\tOUT PKTS\tIN BYTES\tOUT BYTES")
	for _, s := range services {
		flags := s.Scheduler
		if s.OnePacket {
			flags += " one-packet"
		}
		if s.MSS != "" {
			flags += " mss " + s.MSS
		}
		fmt.Fprintf(w, "%s\t%s\t\t\t\t\t%s\n", serviceTitle(&s), flags, statsCells(s.Stats))
		for _, d := range s.Servers {
			forward := d.Forward
			if d.PathMTU > 0 {
				forward += fmt.Sprintf(", MTU %d", d.PathMTU)
			}
			fmt.Fprintf(w, "  %s\t\t%s\t%d\t%d\t%d\t%s\n", endpoint(d.Address, d.Port), forward, d.Weight, d.Active, d.Inactive, statsCells(d.Stats))
		}
	}
}

// serviceTitle is a service in a line: its name, and what clients address.
func serviceTitle(s *control.Service) string {
	what := fmt.Sprintf("fwmark %d %s", s.FWMark, s.Family)
	if s.FWMark == 0 {
		what = s.Protocol + " " + endpoint(s.Address, s.Port)
	}
	return s.Name + " (" + what + ")"
}

// endpoint is ADDRESS:PORT, with brackets around an IPv6 address.
func endpoint(address string, port uint16) string {
	if strings.Contains(address, ":") {
		return fmt.Sprintf("[%s]:%d", address, port)
	}
	return fmt.Sprintf("%s:%d", address, port)
}

func statsCells(s control.Stats) string {
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%d", s.Conns, s.InPackets, s.OutPackets, s.InBytes, s.OutBytes)
}

func newConns() *cobra.Command {
	var v view
	var f control.Filter
	var client, virtual, server string
	c := &cobra.Command{
		Use:   "conns",
		Short: "Live connections",
		Example: `  sluice conns --limit 20
  sluice conns --client 198.51.100.7 --state established
  sluice conns --server 10.0.1.11 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, a := range map[string]struct {
				text string
				to   *netip.Addr
			}{"client": {client, &f.Client}, "virtual": {virtual, &f.Virtual}, "server": {server, &f.Server}} {
				if a.text == "" {
					continue
				}
				var err error
				if *a.to, err = netip.ParseAddr(a.text); err != nil {
					return usageError{fmt.Errorf("--%s: %w", name, err)}
				}
			}
			return show(cmd, &v, func(ctx context.Context, c *control.Client) (*control.Conns, error) { return c.Conns(ctx, f) }, connsTable)
		},
	}
	v.flags(c)
	c.Flags().StringVar(&f.Protocol, "protocol", "", "only this one: tcp, udp or sctp")
	c.Flags().StringVar(&client, "client", "", "only of this client `ADDRESS`")
	c.Flags().StringVar(&virtual, "virtual", "", "only to this virtual `ADDRESS`")
	c.Flags().StringVar(&server, "server", "", "only on this server `ADDRESS`")
	c.Flags().Uint16Var(&f.Port, "port", 0, "only to this virtual port")
	c.Flags().StringVar(&f.State, "state", "", "only in this state, by the kernel's name")
	c.Flags().IntVar(&f.Limit, "limit", 1000, "most rows")
	return c
}

func connsTable(w io.Writer, c *control.Conns) {
	fmt.Fprintln(w, "PROTO\tEXPIRES\tSTATE\tCLIENT\tVIRTUAL\tSERVER\tWORKER")
	for _, k := range c.Connections {
		fmt.Fprintf(w, "%s\t%.1f s\t%s\t%s\t%s\t%s\t%d\n", k.Protocol, k.Expires, k.State, endpoint(k.Client, k.ClientPort),
			endpoint(k.Virtual, k.VirtualPort), endpoint(k.Server, k.ServerPort), k.Worker)
	}
	if c.Truncated {
		fmt.Fprintln(w, "… and more; see --limit")
	}
}

func newStats() *cobra.Command {
	var v view
	c := &cobra.Command{
		Use:   "stats",
		Short: "All counters: fates of packets, sums over services",
		Example: `  sluice stats
  sluice stats --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, &v, func(ctx context.Context, c *control.Client) (*control.AllStats, error) { return c.Stats(ctx) }, statsTable)
		},
	}
	v.flags(c)
	return c
}

func statsTable(w io.Writer, s *control.AllStats) {
	totalsTable(w, &s.Totals.Received, s.Totals.Transmitted, s.Totals.Passed, s.Totals.Held, s.Totals.Dropped)
	slowPathTable(w, &s.SlowPath)
	fmt.Fprintln(w, "\nSERVICE\tCONNS\tIN PKTS\tOUT PKTS\tIN BYTES\tOUT BYTES")
	fmt.Fprintf(w, "all\t%s\n", statsCells(s.Sum))
	for _, svc := range s.Services {
		fmt.Fprintf(w, "%s\t%s\n", serviceTitle(&svc), statsCells(svc.Stats))
	}
}

// slowPathTable shows what happened on the slow path; nothing if nothing did.
func slowPathTable(w io.Writer, s *control.SlowPath) {
	if len(s.Packets)+len(s.Refused)+len(s.Errors) == 0 && s.FTP == nil {
		return
	}
	fmt.Fprintln(w, "\nSLOW PATH\t\tPACKETS")
	rows := func(prefix string, sums map[string]map[string]uint64) {
		for _, of := range slices.Sorted(maps.Keys(sums)) {
			for _, what := range slices.Sorted(maps.Keys(sums[of])) {
				fmt.Fprintf(w, "%s\t%s\t%d\n", prefix+of, what, sums[of][what])
			}
		}
	}
	rows("", s.Packets)
	rows("refused ", s.Refused)
	rows("", map[string]map[string]uint64{"ICMP of its own": s.Errors})
	if f := s.FTP; f != nil {
		rows("", map[string]map[string]uint64{"ftp": {"announced": f.Announced, "begun": f.Begun, "expired": f.Expired, "rewritten": f.Rewritten}})
		rows("refused ", map[string]map[string]uint64{"ftp": f.Refused})
	}
}

func newReload() *cobra.Command {
	var v view
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the node read its configuration again, as SIGHUP does",
		Example: `  sluice reload
  sluice reload --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := control.NewClient(v.socket).Reload(cmd.Context())
			if err != nil {
				return err
			}
			if v.json {
				if err := printJSON(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			} else if r.Error == "" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s%d live connections touched, applied in %.3f s\n", r.Changes.String(), r.Touched, r.Seconds)
			}
			if r.Error != "" {
				return fmt.Errorf("nothing was changed: %s", r.Error)
			}
			return nil
		},
	}
	c.Flags().StringVar(&v.socket, "socket", defaultSocket, "control socket of the node")
	jsonFlag(c, &v.json)
	return c
}
