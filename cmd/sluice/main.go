// Command sluice is a layer-4 load balancer: Linux Virtual Server in user
// space, on AF_XDP sockets. Each command is a file of this package; run.go is
// the wiring of a running node.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line that makes no sense.
type usageError struct{ error }

func main() {
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == "ipvsadm" {
		if len(args) == 1 && args[0] == "--help" {
			args[0] = "-h" // ipvsadm's, not the help of sluice ipvsadm
		}
		args = append([]string{"ipvsadm"}, args...)
	}
	os.Exit(execute(context.Background(), newRoot(), args))
}

// execute runs a command line and returns the exit status.
func execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if said := (exitError{}); errors.As(err, &said) {
		return said.status
	}
	fmt.Fprintf(root.ErrOrStderr(), "%s: %s\n", cmd.CommandPath(), err)
	if errors.As(err, new(usageError)) || strings.HasPrefix(err.Error(), "unknown command") {
		return exitUsage
	}
	return exitFailed
}

// newRoot returns the whole command.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "Layer-4 load balancer: Linux Virtual Server in user space, on AF_XDP",
		Long: `sluice is a layer-4 load balancer: Linux Virtual Server (IPVS) in user space, on
AF_XDP sockets. A node offers virtual services and sends each new connection to one of the
service's real servers, by NAT, direct routing or a tunnel.`,
		Example: `  sluice demo                          see it work, on this machine
  sluice check -c sluice.yaml          is the file right?
  sluice run -c sluice.yaml            be the director
  sluice services --watch              who serves what`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.NoArgs,
		// Without this, cobra shows the help for any wrong command, and is content.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newRun(), newCheck(), newReplay(), newStatus(), newServices(), newConns(), newStats(), newSysctl(), newReload(), newIPVSAdm(), newImport(), newSave(), newDemo(), newBench())
	for _, c := range root.Commands() {
		wantArgs(c)
	}
	return root
}

// wantArgs makes a wrong number of arguments a usage error.
func wantArgs(c *cobra.Command) {
	check := c.Args
	if check == nil {
		check = cobra.NoArgs
	}
	c.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
	for _, sub := range c.Commands() {
		wantArgs(sub)
	}
}

// version is the module's version, and the commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && !strings.Contains(v, s.Value[:min(12, len(s.Value))]) {
			v += " " + s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}
