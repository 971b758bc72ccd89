// Package docs_test holds the documents to the code: what one cites or lists,
// the other has.
package docs_test

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-lb/sluice/fastpath"
	"github.com/sluice-lb/sluice/lb"
	"github.com/sluice-lb/sluice/rings"
	"github.com/sluice-lb/sluice/rings/xdpprog"
	"github.com/sluice-lb/sluice/slowpath"
	"github.com/sluice-lb/sluice/slowpath/ftp"
	"github.com/sluice-lb/sluice/slowpath/punt"
)

var repository = os.DirFS("..")

// files returns the repository's files with one of these endings, by path;
// folders of tools (with a dot) and of test data aside.
func files(t *testing.T, endings ...string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	err := fs.WalkDir(repository, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case !d.IsDir() && slices.Contains(endings, path.Ext(name)):
			text, err := fs.ReadFile(repository, name)
			texts[name] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// A row's name, which may have several numbers behind it: K-ICMP-2/3.
var row = regexp.MustCompile(`\bK-[A-Z]+-(?:AH/ESP|[A-Z0-9]+(?:-[A-Z0-9]+)*(?:/[0-9]+)*)`)

// rowsIn returns the rows that a text cites, each by its full name.
func rowsIn(text string) (names []string) {
	for _, cited := range row.FindAllString(text, -1) {
		first, more, _ := strings.Cut(cited, "/")
		if more == "ESP" {
			names = append(names, cited)
			continue
		}
		names = append(names, first)
		for number := range strings.SplitSeq(more, "/") {
			if number != "" {
				names = append(names, first[:strings.LastIndexByte(first, '-')+1]+number)
			}
		}
	}
	return names
}

func TestRowsIn(t *testing.T) {
	const text = "K-CONN-9, (K-ICMP-2/3) K-PROTO-AH/ESP: K-FWD-TUN-IPIP. K-FWD-* S-ACK-SENT K-SCH-RR/WRR"
	want := []string{"K-CONN-9", "K-ICMP-2", "K-ICMP-3", "K-PROTO-AH/ESP", "K-FWD-TUN-IPIP", "K-SCH-RR"}
	if got := rowsIn(text); !slices.Equal(got, want) {
		t.Errorf("rowsIn(%q) = %q, want %q", text, got, want)
	}
}

// Each row of the IPVS notes that anything cites is in IPVS.md, once.
func TestCitedRowsAreThere(t *testing.T) {
	sources := files(t, ".go", ".c", ".md", ".yaml")
	notes := map[string]int{}
	for line := range strings.Lines(sources["docs/IPVS.md"]) {
		if first, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |"); row.FindString(first) == first && first != "" {
			notes[first]++
		}
	}
	if len(notes) < 50 {
		t.Fatalf("docs/IPVS.md has rows %v, want more", notes)
	}
	for name, n := range notes {
		if n > 1 {
			t.Errorf("docs/IPVS.md has row %s %d times", name, n)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		if name == "docs/docs_test.go" {
			continue
		}
		for _, cited := range rowsIn(sources[name]) {
			if notes[cited] == 0 {
				t.Errorf("%s cites row %s, which docs/IPVS.md does not have", name, cited)
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile("(?m)^#+ (.*)$")
	fence   = regexp.MustCompile("(?s)```.*?```")
	unsaid  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the places of a document that a link may name, as GitHub
// makes them of its headings.
func anchors(text string) map[string]bool {
	found := map[string]bool{"": true}
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		found[strings.ReplaceAll(unsaid.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return found
}

// Links between files of the repository lead somewhere.
func TestLinks(t *testing.T) {
	documents, checked := files(t, ".md"), 0
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		for _, l := range link.FindAllStringSubmatch(documents[name], -1) {
			file, anchor, _ := strings.Cut(l[1], "#")
			if strings.Contains(file, "://") {
				continue
			}
			checked++
			target := path.Join(path.Dir(name), file)
			if file == "" {
				target = name
			}
			if _, err := fs.Stat(repository, target); err != nil {
				t.Errorf("%s links to %s: %v", name, l[1], err)
			} else if text, ok := documents[target]; ok && !anchors(text)[anchor] {
				t.Errorf("%s links to %s: no such heading", name, l[1])
			}
		}
	}
	if checked < 20 {
		t.Errorf("%d links were checked, want more: is the pattern right?", checked)
	}
}

// OPERATING.md explains every counter by the name that the API gives it.
func TestCountersAreExplained(t *testing.T) {
	text := files(t, ".md")["docs/OPERATING.md"]
	explained := func(name string) {
		if !regexp.MustCompile("(?m)^\\|[^|]*`" + name + "`").MatchString(text) {
			t.Errorf("docs/OPERATING.md has no row for %s", name)
		}
	}
	for v := range fastpath.Verdicts {
		explained(v.String())
	}
	for f := range slowpath.Fates {
		explained(f.String())
	}
	for f := range slowpath.ErrorFates {
		explained(f.String())
	}
	for k := range slowpath.Kinds {
		if k != slowpath.Nothing { // no packets are counted under it
			explained(k.String())
		}
	}
	for c := range slowpath.Classes {
		explained(c.String())
	}
	for r := range slowpath.Refusals {
		explained(r.String())
	}
	for r := range ftp.Refusals {
		explained(r.String())
	}
	for r := range xdpprog.Reasons {
		explained(r.String())
	}
	for _, counters := range []reflect.Type{reflect.TypeFor[rings.PortStats](), reflect.TypeFor[punt.Counters]()} {
		for field := range counters.Fields() {
			explained(field.Tag.Get("json"))
		}
	}
}

// MIGRATING.md says of each tunable that nothing heeds why that is so.
func TestIgnoredTunables(t *testing.T) {
	var odd lb.Sysctl // no tunable at its default
	for field := range reflect.TypeFor[lb.Sysctl]().Fields() {
		if v := reflect.ValueOf(&odd).Elem().FieldByIndex(field.Index); v.Kind() == reflect.Int {
			v.SetInt(77)
		}
	}
	want := odd.Ignored()
	slices.Sort(want)
	_, table, _ := strings.Cut(files(t, ".md")["docs/MIGRATING.md"], "| Tunable | Why")
	var got []string
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(table, -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("docs/MIGRATING.md gives reasons for %q, want them for %q", got, want)
	}
}
