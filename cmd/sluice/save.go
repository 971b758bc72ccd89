package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/internal/control"
	"github.com/sluice-lb/sluice/internal/ipvsadm"
)

func newSave() *cobra.Command {
	var socket string
	var asJSON bool
	c := &cobra.Command{
		Use:   "save [FILE]",
		Short: "Write the running state as a configuration file",
		Long: `Save writes the configuration that the node runs by, with what ipvsadm changed since the last
reload, as a sluice.yaml: to FILE, or to standard output. Comments of the original are not kept.`,
		Example: `  sluice save > running.yaml
  sluice save /etc/sluice/sluice.yaml && sluice reload`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			saved, err := control.NewClient(socket).Save(cmd.Context())
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				return printJSON(cmd.OutOrStdout(), saved)
			case len(args) == 0:
				_, err := io.WriteString(cmd.OutOrStdout(), saved.YAML)
				return err
			}
			if err := writeFile(args[0], []byte(saved.YAML)); err != nil {
				return fmt.Errorf("write configuration: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&socket, "socket", defaultSocket, "control socket of the node")
	jsonFlag(c, &asJSON)
	return c
}

// Save writes the configuration in force, services as the director has them.
func (n *node) Save(context.Context) (*control.Saved, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	running := *n.cfg
	running.Spec = n.director.Spec()
	var b strings.Builder
	if err := config.Write(&b, &running, ipvsadm.WriteServices); err != nil {
		return nil, err
	}
	return &control.Saved{YAML: b.String()}, nil
}
