package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/bench"
	"github.com/sluice-lb/sluice/bench/report"
)

func newBenchChart() *cobra.Command {
	return &cobra.Command{
		Use:     "chart DIR FILE...",
		Short:   "Draw records that --json printed, as SVG files in DIR",
		Example: `  sluice bench chart docs/img engine.json wire.json`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			records, err := readRecords(args[1:])
			if err != nil {
				return err
			}
			return writeCharts(args[0], records)
		},
	}
}

func newBenchTable() *cobra.Command {
	var into string
	c := &cobra.Command{
		Use:   "table FILE...",
		Short: "Write records that --json printed as tables in Markdown, targets first",
		Example: `  sluice bench table engine.json wire.json
  sluice bench table --into docs/PERFORMANCE.md engine.json wire.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			records, err := readRecords(args)
			if err != nil {
				return err
			}
			if into != "" {
				return writeTables(into, report.Tables(records))
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), report.Tables(records))
			return err
		},
	}
	c.Flags().StringVar(&into, "into", "", "write them into `FILE`, between the lines "+tablesBegin+" and "+tablesEnd)
	return c
}

// readRecords reads the records of all files, each an array in JSON.
func readRecords(files []string) (all []bench.Record, err error) {
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var records []bench.Record
		if err := json.Unmarshal(text, &records); err != nil {
			return nil, fmt.Errorf("read records of %s: %w", name, err)
		}
		all = append(all, records...)
	}
	return all, nil
}

// writeCharts writes the records' charts into a folder, which is made if it is
// not there.
func writeCharts(dir string, records []bench.Record) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	for _, c := range report.Charts(records) {
		errs = append(errs, writeFile(filepath.Join(dir, c.Name+".svg"), []byte(c.SVG)))
	}
	return errors.Join(errs...)
}

// Lines of a document between which tables are written.
const (
	tablesBegin = "<!-- tables -->"
	tablesEnd   = "<!-- end of tables -->"
)

// writeTables puts tables into a document, in place of those of before.
func writeTables(name, tables string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), tablesBegin+"\n")
	_, after, ended := strings.Cut(rest, tablesEnd+"\n")
	if !ok || !ended {
		return fmt.Errorf("%s has not the lines %s and, behind it, %s", name, tablesBegin, tablesEnd)
	}
	return writeFile(name, []byte(before+tablesBegin+"\n\n"+tables+tablesEnd+"\n"+after))
}
