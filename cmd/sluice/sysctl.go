package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/lb"
)

func newSysctl() *cobra.Command {
	var socket string
	var asJSON, bare bool
	c := &cobra.Command{
		Use:   "sysctl [-n] [NAME | NAME=VALUE]...",
		Short: "Show or set the node's tunables, the kernel's net.ipv4.vs.*",
		Long: `Sysctl shows tunables of the running node, or sets them, as sysctl(8) does the kernel's:
names may have net.ipv4.vs. before them; without any, all are shown. What it sets lives until
the next reload, which says what it takes back. With an error, nothing is set.`,
		Example: `  sluice sysctl
  sluice sysctl -n drop_entry
  sluice sysctl net.ipv4.vs.drop_entry=1 sync_threshold="4 50"`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			words, err := readTunables(args)
			if err != nil {
				return err
			}
			client := control.NewClient(socket)
			now, err := client.Sysctl(cmd.Context())
			if err != nil {
				return err
			}
			if err := words.apply(now); err != nil {
				return err
			}
			if len(words.set) > 0 {
				if now, err = client.SetSysctl(cmd.Context(), words.set); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), now)
			}
			return words.print(cmd.OutOrStdout(), now, bare)
		},
	}
	c.Flags().StringVar(&socket, "socket", defaultSocket, "control socket of the node")
	c.Flags().BoolVarP(&bare, "values", "n", false, "print values without names")
	c.Flags().BoolP("write", "w", false, "of sysctl(8): a value sets, with or without it")
	c.Flags().BoolP("all", "a", false, "of sysctl(8): all are shown, with or without it")
	jsonFlag(c, &asJSON)
	return c
}

// tunableWords is what a command line of sysctl asks for.
type tunableWords struct {
	names []string // in the order in which they are shown; none: all
	set   map[string]control.Value
}

// readTunables reads words like NAME and NAME=VALUE.
func readTunables(args []string) (*tunableWords, error) {
	w := &tunableWords{set: map[string]control.Value{}}
	for _, arg := range args {
		full, value, sets := strings.Cut(arg, "=")
		name := config.TunableName(strings.TrimSpace(full))
		if name == "" {
			return nil, usageError{fmt.Errorf("%q: want NAME or NAME=VALUE", arg)}
		}
		w.names = append(w.names, name)
		if sets {
			w.set[name] = control.Value(value)
		}
	}
	return w, nil
}

// apply sets what is to be set in t, all or nothing.
func (w *tunableWords) apply(t *lb.Sysctl) error {
	next := *t
	for _, name := range w.names {
		if _, ok := tunable(t, name); !ok {
			return fmt.Errorf("%s: no such tunable", name)
		}
		if value, sets := w.set[name]; sets {
			if err := config.SetSysctl(&next, name, string(value)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	*t = next
	return nil
}

// tunable returns the value of one of t.
func tunable(t *lb.Sysctl, name string) (value string, ok bool) {
	all := config.Tunables(t)
	i := slices.IndexFunc(all, func(x config.Tunable) bool { return x.Name == name })
	if i < 0 {
		return "", false
	}
	return all[i].Value, true
}

// print shows what was asked for as sysctl(8) does; bare: without names.
func (w *tunableWords) print(out io.Writer, t *lb.Sysctl, bare bool) error {
	names := w.names
	if len(names) == 0 {
		for _, x := range config.Tunables(t) {
			names = append(names, x.Name)
		}
	}
	var text strings.Builder
	for _, name := range names {
		value, _ := tunable(t, name) // apply found it
		if bare {
			text.WriteString(value + "\n")
		} else {
			fmt.Fprintf(&text, "net.ipv4.vs.%s = %s\n", name, value)
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// Sysctl returns the tunables in force, after edit if that is not nil. What it
// changes lives until the next reload.
func (n *node) Sysctl(_ context.Context, edit func(*lb.Sysctl) error) (*lb.Sysctl, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.director.Current().Sysctl
	now := was
	if edit == nil {
		return &now, nil
	}
	if err := edit(&now); err != nil {
		return nil, err
	}
	if now == was {
		return &now, nil
	}
	n.director.SetSysctl(now)
	n.published()
	before := config.Tunables(&was)
	for i, t := range config.Tunables(&now) {
		if t != before[i] {
			n.log.Info("tunable set, until the next reload", "sysctl", t.Name, "value", t.Value, "was", before[i].Value)
		}
	}
	warnIgnored(n.log, &now)
	return &now, nil
}

// warnIgnored tells of tunables that are set and that nothing here heeds.
func warnIgnored(log *slog.Logger, s *lb.Sysctl) {
	if names := s.Ignored(); len(names) > 0 {
		log.Warn("tunables without effect here, see docs/MIGRATING.md", "sysctl", names)
	}
}
