package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-lb/sluice/lb"
)

// FuzzParse holds for any text: no panic; faults of one line each with a
// message; and a configuration without faults is one that the director
// takes, that equals itself when read again and needs no restart then.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(deploy + "examples/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, deploy+"sluice.example.yaml", "testdata/replay/sched-rr-fwm.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(servicesText))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f.yaml", text)
		if err != nil {
			var faults Errors
			if !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("Parse fails with %v, which are no faults of the text", err)
			}
			for _, fault := range faults {
				if fault.Message == "" || strings.ContainsAny(fault.Error(), "\n\r\x00") {
					t.Errorf("a fault reads %q", fault.Error())
				}
			}
			return
		}
		again, err := Parse("f.yaml", text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, again, same); diff != "" {
			t.Errorf("read twice (-first +second)\n%s", diff)
		}
		if err := c.CheckReload(again); err != nil {
			t.Error(err)
		}
		d := lb.NewDirector(1)
		if _, err := d.Apply(c.Spec); err != nil {
			t.Fatalf("the director refuses what Parse took: %v", err)
		}
		if changes, err := d.Apply(again.Spec); err != nil || len(changes.Added)+len(changes.Removed)+len(changes.Edited) > 0 {
			t.Errorf("applied twice: %v, %+v", err, changes)
		}
	})
}

// TestLarge reads what a large node has: 1,000 services with ten servers
// each, and finds the one fault among them.
func TestLarge(t *testing.T) {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "- protocol: tcp\n  address: 10.1.%d.%d\n  port: 80\n  scheduler: wrr\n  servers:\n", i/250, i%250+1)
		for j := range 10 {
			fmt.Fprintf(&b, "  - {address: 10.2.%d.%d, port: %d, weight: %d}\n", i/250, i%250+1, 8000+j, j)
		}
	}
	c := mustParse(t, b.String())
	last := c.Spec.Services[999]
	if len(c.Spec.Services) != 1000 || len(last.Servers) != 10 || last.Servers[9].Weight != 9 {
		t.Errorf("%d services, the last is %+v", len(c.Spec.Services), last)
	}
	_, err := Parse("f.yaml", []byte(b.String()+"  - {address: 10.2.3.250, port: 8003}\n"))
	if want := "f.yaml:15002: services[999].servers[10].address: server 10.2.3.250:8003 is there twice, first in line 14995"; err == nil || err.Error() != want {
		t.Errorf("Parse gives %v, want %s", err, want)
	}
}

func BenchmarkParseLarge(b *testing.B) {
	var text strings.Builder
	text.WriteString("services:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "- {protocol: tcp, address: 10.1.%d.%d, port: 80, scheduler: wrr, servers: [", i/250, i%250+1)
		for j := range 10 {
			fmt.Fprintf(&text, "{address: 10.2.%d.%d, weight: %d}, ", j, i%250+1, j)
		}
		text.WriteString("]}\n")
	}
	for b.Loop() {
		if _, err := Parse("f.yaml", []byte(text.String())); err != nil {
			b.Fatal(err)
		}
	}
}
