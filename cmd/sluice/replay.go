package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluice-lb/sluice/internal/config"
	"github.com/sluice-lb/sluice/rings/pcapport"
)

// replayOptions are the command line of sluice replay.
type replayOptions struct {
	config, in, out      string
	state, script, until string
}

func newReplay() *cobra.Command {
	var o replayOptions
	c := &cobra.Command{
		Use:   "replay IN.pcapng OUT.pcapng",
		Short: "Send a capture through the same pipeline: no root, no NIC",
		Long: `Replay sends the packets of a pcapng file through the director's pipeline and writes what it
would have sent. Each interface of the input is the configuration's of that name; time stamps are
the clock; neighbours, routes and addresses come from the configuration's network section.

Each frame of the output carries the time and, as its comment, the cause: "in=N", the input's
packet N from 0, or "timer". A frame for the host's stack is there as received, "pass in=N".

A script has lines "SECONDS COMMAND", by time from the first packet, which may be negative.
Commands: "reload FILE.yaml". Standard output then has each line behind "# ", and what it printed.`,
		Example: `  sluice replay -c sluice.yaml in.pcapng out.pcapng
  sluice replay -c sluice.yaml in.pcapng out.pcapng --state state.json --until 60
  sluice replay -c sluice.yaml in.pcapng out.pcapng --script changes.txt`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.in, o.out = args[0], args[1]
			return replayFiles(o, cmd.OutOrStdout())
		},
	}
	configFlag(c, &o.config)
	c.Flags().StringVar(&o.state, "state", "", "write services, connections and counters at the end to `FILE`")
	c.Flags().StringVar(&o.script, "script", "", "run the commands of `FILE`")
	c.Flags().StringVar(&o.until, "until", "", "go on to `SECONDS` after the first packet")
	return c
}

// replayFiles is the whole of sluice replay. OUT and STATE are complete or not
// there.
func replayFiles(o replayOptions, stdout io.Writer) error {
	cfg, err := config.Load(o.config)
	if err != nil {
		return err
	}
	until := int64(noTime)
	if o.until != "" {
		if until, err = parseSeconds(o.until); err != nil {
			return usageError{fmt.Errorf("--until: %w", err)}
		}
	}
	var script []scriptLine
	if o.script != "" {
		f, err := os.Open(o.script)
		if err != nil {
			return fmt.Errorf("read script: %w", err)
		}
		defer f.Close()
		if script, err = readScript(o.script, f); err != nil {
			return err
		}
	}
	in, err := pcapport.OpenReader(o.in)
	if err != nil {
		return err
	}
	defer in.Close()
	var frames bytes.Buffer
	p, err := newPlayer(cfg, o.config, in.Interfaces(), &frames, stdout)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.play(in, script, until); err != nil {
		return err
	}
	if o.state != "" {
		var b bytes.Buffer
		if err := printJSON(&b, p.state()); err != nil {
			return err
		}
		if err := writeFile(o.state, b.Bytes()); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
	}
	if err := writeFile(o.out, frames.Bytes()); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return nil
}

// writeFile replaces the file at path as a whole, or a device as it is.
func writeFile(path string, data []byte) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(path, data, 0o644)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = cmp.Or(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
