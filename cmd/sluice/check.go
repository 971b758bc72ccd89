package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/internal/config"
)

// defaultConfig is where a node's configuration lies.
const defaultConfig = "/etc/sluice/sluice.yaml"

// configFlag adds -c.
func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVarP(path, "config", "c", defaultConfig, "configuration `FILE`")
}

// jsonFlag adds --json.
func jsonFlag(c *cobra.Command, on *bool) {
	c.Flags().BoolVar(on, "json", false, "print JSON")
}

func newCheck() *cobra.Command {
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Validate a configuration file",
		Long: `Check reads a configuration file as "sluice run" would and reports every fault with its
file, line and key. It needs no root and asks nothing of the host.`,
		Example: `  sluice check -c sluice.yaml
  sluice check -c sluice.yaml --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return check(cmd.OutOrStdout(), path, asJSON) },
	}
	configFlag(c, &path)
	jsonFlag(c, &asJSON)
	return c
}

// checked is the JSON answer of sluice check.
type checked struct {
	File     string       `json:"file"`
	OK       bool         `json:"ok"`
	Services int          `json:"services"`
	Servers  int          `json:"servers"`
	Errors   []checkFault `json:"errors"`
}

type checkFault struct {
	Line    int    `json:"line"`
	Key     string `json:"key"`
	Message string `json:"message"`
}

func check(out io.Writer, path string, asJSON bool) error {
	c, err := config.Load(path)
	answer := checked{File: path, OK: err == nil, Errors: []checkFault{}}
	var faults config.Errors
	switch {
	case errors.As(err, &faults):
		for _, f := range faults {
			answer.Errors = append(answer.Errors, checkFault{f.Line, f.Key, f.Message})
		}
	case err != nil:
		answer.Errors = append(answer.Errors, checkFault{Message: err.Error()})
	default:
		answer.Services = len(c.Spec.Services)
		for _, s := range c.Spec.Services {
			answer.Servers += len(s.Servers)
		}
	}
	if asJSON {
		if printErr := printJSON(out, answer); printErr != nil {
			return printErr
		}
	} else if err == nil {
		fmt.Fprintf(out, "%s: ok, %d services with %d servers\n", path, answer.Services, answer.Servers)
	}
	if len(faults) > 1 {
		return fmt.Errorf("%d faults in %s:\n%w", len(faults), path, err)
	}
	return err
}

// printJSON prints v for people and programs alike.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
