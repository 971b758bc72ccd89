package sluice

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/sluice-lb/sluice"

// order is the import order: a folder imports what has a smaller number, and
// its own subfolders. Folders of one number do not know each other.
var order = map[string]int{
	"cmd":              9,
	"deploy":           9, // tests of its examples only
	"docs":             9, // tests of the documents only
	"bench":            8,
	"internal/control": 8,
	"internal/ipvsadm": 8,
	"internal/config":  7,
	"internal/metrics": 6,
	"workers":          5,
	"slowpath":         4,
	"fastpath":         3,
	"rings":            2,
	"lb":               2,
	"internal/clock":   1,
	"internal/spsc":    1,
	"internal/testnet": 1,
	"internal/oracle":  1,
	".":                0,
}

// narrower lists folders that may import less of the project than the order
// lets them: frames reach the slow path by rings of internal/spsc, never of
// AF_XDP, and the pipeline knows neither.
var narrower = map[string][]string{
	"slowpath": {"fastpath/packet", "fastpath/csum", "fastpath/nexthop", "fastpath/rewrite", "lb", "internal/clock", "internal/spsc"},
	"fastpath": {"lb", "internal/clock", "internal/spsc"},
}

// isHelper tells a package for tests, packettest and its like. Tests may import
// them from any line of the order, other code may not, but for the benchmarks
// and, of networks, the demo.
func isHelper(folder string) bool {
	return folder == "internal/testnet" || strings.HasSuffix(path.Base(folder), "test")
}

// soleImporters are the files (or folders) that alone know a dependency.
var soleImporters = map[string]string{
	"github.com/asavie/xdp":         "rings/asavie.go",
	"github.com/klauspost/cpuid/v2": "workers/cpu",
	"github.com/spf13/viper":        "internal/config",
}

// elsewhere are places that a repository which stands alone does not mention.
// They are in two pieces here, so that this file does not either.
var elsewhere = []string{".." + "/shared", "/work" + "/"}

// The budget of ARCHITECTURE.md: lines of code, neither blank nor comment, that run
// while packets flow. Code for tests, generated code and atStart are free
// (docs/decisions/003-budget.md).
const (
	budgetLines  = 5000
	maxFileLines = 600
)

var budgeted = []string{"fastpath", "rings", "workers", "lb/conn"}

// atStart are files and folders of these that run before packets flow, or beside
// them: set-up, what follows a change of services or routes, the protocols' tables, the writing side of the next-hop table, the errors that the slow path
// writes, captures, the kernel's program and its tables, what other goroutines ask
// workers and sum up, and the checks of a build for tests.
var atStart = []string{
	"fastpath/adopt.go", "fastpath/nexthop/builder.go", "fastpath/nexthop/several.go", "fastpath/rewrite/icmperror.go", "lb/conn/memory_unsafe.go", "lb/conn/new.go", "lb/conn/tables.go", "rings/asavie.go", "rings/limits.go", "rings/members.go", "rings/nic.go", "rings/nic_unsafe.go", "rings/open.go", "rings/owner_check.go",
	"rings/pcapport", "rings/socket.go", "rings/socket_unsafe.go", "rings/xdpprog",
	"workers/ask.go", "workers/cpu", "workers/setup.go", "workers/totals.go",
}

// source is a file of Go or C.
type source struct {
	path, folder string
	lines        int
	code         int  // of them neither blank nor comment
	test         bool // a _test.go file, or one of a package for tests
	generated    bool
	imports      []string
	packageName  string // of Go
	doc          string // the package comment
}

// isTest tells a _test.go file from a package for tests, which follows the order.
func (s *source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// tree is what the rules look at: sources by path, and other text.
type tree struct {
	sources []*source
	texts   map[string][]byte
}

// load reads the files of a tree, but for those of git, of tools (folders with a
// dot), and binary ones.
func load(fsys fs.FS) (*tree, error) {
	t := &tree{texts: map[string][]byte{}}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := path.Base(name); base != "." && base != ".ci" && strings.HasPrefix(base, ".") {
				return fs.SkipDir
			}
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			return err
		}
		t.texts[name] = text
		if ext := path.Ext(name); ext == ".go" || ext == ".c" {
			s, err := parse(name, text)
			if err != nil {
				return err
			}
			t.sources = append(t.sources, s)
		}
		return nil
	})
	return t, err
}

func parse(name string, text []byte) (*source, error) {
	s := &source{path: name, folder: path.Dir(name), lines: bytes.Count(text, []byte("\n")), code: countCode(text)}
	s.test = s.isTest() || isHelper(s.folder)
	if path.Ext(name) == ".c" {
		return s, nil
	}
	f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return nil, err
	}
	s.generated, s.packageName, s.doc = ast.IsGenerated(f), f.Name.Name, f.Doc.Text()
	for _, i := range f.Imports {
		imported, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		s.imports = append(s.imports, imported)
	}
	return s, nil
}

// within tells whether a folder, file or import path is p or below it.
func within(name, p string) bool { return name == p || strings.HasPrefix(name, p+"/") }

// home returns the entry of the order that a folder belongs to, "" if none.
func home(folder string) string {
	if folder == "." {
		return "."
	}
	for entry := range order {
		if within(folder, entry) {
			return entry
		}
	}
	return ""
}

// A rule returns what breaks it.
type rule func(*tree) []string

var rules = map[string]rule{
	"import order":    followsOrder,
	"sole importer":   hasSoleImporters,
	"unsafe":          namesUnsafe,
	"package comment": commentsPackages,
	"stands alone":    standsAlone,
	"budget":          keepsBudget,
}

func followsOrder(t *tree) (broken []string) {
	for _, s := range t.sources {
		from := home(s.folder)
		if from == "" {
			broken = append(broken, fmt.Sprintf("%s: folder %s has no place in the order", s.path, s.folder))
			continue
		}
		for _, i := range s.imports {
			if !within(i, module) {
				continue
			}
			to := strings.TrimPrefix(strings.TrimPrefix(i, module), "/")
			if why := mayNotImport(s, from, to); why != "" {
				broken = append(broken, fmt.Sprintf("%s imports %s: %s", s.path, to, why))
			}
		}
	}
	return broken
}

// mayNotImport says why a source of the folder entry from may not import the
// project's folder to; "" if it may.
func mayNotImport(s *source, from, to string) string {
	if isHelper(to) {
		if s.test || from == "bench" || from == "cmd" && to == "internal/testnet" {
			return ""
		}
		return "that is for tests"
	}
	target := home(to)
	if target == from && target != "" {
		return ""
	}
	if target == "" || order[target] >= order[from] {
		return fmt.Sprintf("line %d does not know line %d", order[from], order[target])
	}
	if list, ok := narrower[from]; ok && !slices.ContainsFunc(list, func(p string) bool { return within(to, p) }) {
		return fmt.Sprintf("%s knows only %s", from, strings.Join(list, ", "))
	}
	return ""
}

func hasSoleImporters(t *tree) (broken []string) {
	for _, s := range t.sources {
		for _, i := range s.imports {
			for dependency, importer := range soleImporters {
				if within(i, dependency) && !within(s.path, importer) {
					broken = append(broken, fmt.Sprintf("%s imports %s: only %s may", s.path, i, importer))
				}
			}
		}
	}
	return broken
}

func namesUnsafe(t *tree) (broken []string) {
	for _, s := range t.sources {
		name := strings.TrimSuffix(strings.TrimSuffix(s.path, ".go"), "_test")
		if slices.Contains(s.imports, "unsafe") && !strings.HasSuffix(name, "_unsafe") {
			broken = append(broken, s.path+" imports unsafe: only *_unsafe.go may")
		}
	}
	return broken
}

func commentsPackages(t *tree) (broken []string) {
	commented := map[string]bool{}
	for _, s := range t.sources {
		if s.packageName == "" || s.isTest() {
			continue
		}
		opening := "Package " + s.packageName + " "
		if s.packageName == "main" {
			opening = "Command " + path.Base(s.folder) + " "
		}
		commented[s.folder] = commented[s.folder] || strings.HasPrefix(s.doc, opening)
	}
	for _, folder := range slices.Sorted(maps.Keys(commented)) {
		if !commented[folder] {
			broken = append(broken, folder+" has no package comment")
		}
	}
	return broken
}

func standsAlone(t *tree) (broken []string) {
	for _, name := range slices.Sorted(maps.Keys(t.texts)) {
		for _, place := range elsewhere {
			if bytes.Contains(t.texts[name], []byte(place)) {
				broken = append(broken, fmt.Sprintf("%s mentions %s", name, place))
			}
		}
	}
	return broken
}

// countCode counts the lines that are neither blank nor comment, of a file whose
// comments have lines of their own.
func countCode(text []byte) (n int) {
	inComment := false
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		switch {
		case inComment:
			inComment = !bytes.Contains(line, []byte("*/"))
		case bytes.HasPrefix(line, []byte("/*")):
			inComment = !bytes.Contains(line, []byte("*/"))
		case len(line) > 0 && !bytes.HasPrefix(line, []byte("//")):
			n++
		}
	}
	return n
}

func keepsBudget(t *tree) (broken []string) {
	sum := 0
	for _, s := range t.sources {
		if s.generated {
			continue
		}
		if s.lines >= maxFileLines {
			broken = append(broken, fmt.Sprintf("%s has %d lines, want less than %d", s.path, s.lines, maxFileLines))
		}
		under := func(p string) bool { return within(s.path, p) }
		if !s.test && slices.ContainsFunc(budgeted, under) && !slices.ContainsFunc(atStart, under) {
			sum += s.code
		}
	}
	if sum > budgetLines {
		broken = append(broken, fmt.Sprintf("%s have %d lines of code together, want at most %d", strings.Join(budgeted, ", "), sum, budgetLines))
	}
	return broken
}

// The repository keeps each rule.
func TestTidy(t *testing.T) {
	project, err := load(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []string{"tidy_test.go", "lb/flow/flow.go", "rings/asavie.go", "rings/xdpprog/steer.bpf.c"} {
		if !slices.ContainsFunc(project.sources, func(s *source) bool { return s.path == known }) {
			t.Errorf("%s is not among the files looked at", known)
		}
	}
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			for _, why := range rule(project) {
				t.Error(why)
			}
		})
	}
}

// goFile is a commented Go file that imports what is named.
func goFile(name string, imports ...string) *fstest.MapFile {
	text := "// Package " + name + " is made up.\npackage " + name + "\n"
	for _, i := range imports {
		text += fmt.Sprintf("import _ %q\n", i)
	}
	return &fstest.MapFile{Data: []byte(text)}
}

// long is a file of n lines, all but its first of code.
func long(n int) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("// Package p is long.\npackage p\n" + strings.Repeat("var _ = 0\n", n-2))}
}

// prose is a file of n lines, all but one of no code.
func prose(n int) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("// Package p talks.\npackage p\n" + strings.Repeat("\n", n-7) + "// It\n/* goes\non\n*/\n/* and on */\n")}
}

// Each kind of violation is caught, and what is no violation is not.
func TestTidyCatches(t *testing.T) {
	const p = module + "/"
	for _, c := range []struct {
		what string
		tree fstest.MapFS
		want []string // rule: what it says; none: the tree is tidy
	}{
		{"lower lines, own folder, sole importers", fstest.MapFS{
			"cmd/sluice/main.go":          {Data: []byte("// Command sluice is made up.\npackage main\nimport _ \"" + p + "internal/control\"\nimport _ \"" + p + "internal/testnet\"\n")},
			"workers/worker.go":           goFile("workers", p+"rings", p+"slowpath/icmp", p+"workers/cpu", "os"),
			"workers/cpu/cpu.go":          goFile("cpu", "github.com/klauspost/cpuid/v2"),
			"slowpath/icmp/icmp.go":       goFile("icmp", p+"fastpath/packet", p+"lb/conn", p+"slowpath/frag"),
			"fastpath/rewrite/nat.go":     goFile("rewrite", p+"lb/flow", p+"fastpath/csum"),
			"rings/asavie.go":             goFile("rings", "github.com/asavie/xdp"),
			"rings/queue_unsafe.go":       goFile("rings", "unsafe"),
			"rings/queue_unsafe_test.go":  goFile("rings", "unsafe"),
			"lb/lb_test.go":               goFile("lb", p+"fastpath/packet/packettest", p+"internal/testnet"),
			"lb/lb.go":                    goFile("lb"),
			"internal/config/file.go":     goFile("config", "github.com/spf13/viper", p+"lb"),
			"bench/pktgen/pktgen.go":      goFile("pktgen", p+"rings/ringstest", p+"fastpath/packet/packettest"),
			"rings/ringstest/far_side.go": goFile("ringstest", p+"rings", p+"fastpath/packet/packettest"),
			".tools/notes.txt":            {Data: []byte(elsewhere[0])},
			"sluice":                      {Data: []byte("\x7fELF\x00" + elsewhere[1])},
		}, nil},
		{"upwards", fstest.MapFS{"lb/a.go": goFile("lb", p+"fastpath")}, []string{"import order: lb/a.go imports fastpath: line 2 does not know line 3"}},
		{"upwards in a test", fstest.MapFS{"lb/a.go": goFile("lb"), "lb/a_test.go": goFile("lb", p+"workers")}, []string{"import order: lb/a_test.go imports workers"}},
		{"strangers on a line", fstest.MapFS{"rings/a.go": goFile("rings", p+"lb/flow")}, []string{"import order: rings/a.go imports lb/flow: line 2 does not know line 2"}},
		{"slow path and a ring", fstest.MapFS{"slowpath/a.go": goFile("slowpath", p+"rings")}, []string{"import order: slowpath/a.go imports rings: slowpath knows only"}},
		{"pipeline and a ring", fstest.MapFS{"fastpath/a.go": goFile("fastpath", p+"rings")}, []string{"import order: fastpath/a.go imports rings: fastpath knows only"}},
		{"below the command", fstest.MapFS{"internal/control/a.go": goFile("control", p+"cmd/sluice")}, []string{"import order: internal/control/a.go imports cmd/sluice"}},
		{"a helper outside tests", fstest.MapFS{"workers/a.go": goFile("workers", p+"rings/ringstest")}, []string{"import order: workers/a.go imports rings/ringstest: that is for tests"}},
		{"a folder of no line", fstest.MapFS{"util/a.go": goFile("util")}, []string{"import order: util/a.go: folder util has no place in the order"}},
		{"a second importer of asavie/xdp", fstest.MapFS{"rings/other.go": goFile("rings", "github.com/asavie/xdp")}, []string{"sole importer: rings/other.go imports github.com/asavie/xdp: only rings/asavie.go may"}},
		{"a second importer of cpuid", fstest.MapFS{"fastpath/a.go": goFile("fastpath", "github.com/klauspost/cpuid/v2")}, []string{"sole importer: fastpath/a.go imports github.com/klauspost/cpuid/v2"}},
		{"a second importer of viper, by a subpackage", fstest.MapFS{"cmd/a.go": goFile("main", "github.com/spf13/viper/remote")}, []string{"sole importer: cmd/a.go imports github.com/spf13/viper/remote", "package comment: cmd"}},
		{"unsafe", fstest.MapFS{"rings/rx.go": goFile("rings", "unsafe")}, []string{"unsafe: rings/rx.go"}},
		{"unsafe in a test", fstest.MapFS{"rings/rx.go": goFile("rings"), "rings/rx_test.go": goFile("rings", "unsafe")}, []string{"unsafe: rings/rx_test.go"}},
		{"no package comment", fstest.MapFS{"lb/a.go": {Data: []byte("package lb\n")}}, []string{"package comment: lb has no"}},
		{"a comment on nothing", fstest.MapFS{"lb/a.go": {Data: []byte("// Lists servers.\npackage lb\n")}}, []string{"package comment: lb has no"}},
		{"a comment in a test only", fstest.MapFS{"lb/a.go": {Data: []byte("package lb\n")}, "lb/a_test.go": goFile("lb")}, []string{"package comment: lb has no"}},
		{"a path out of the repository", fstest.MapFS{"docs/A.md": {Data: []byte("see " + elsewhere[0] + "/x")}}, []string{"stands alone: docs/A.md mentions " + elsewhere[0]}},
		{"a path of one machine", fstest.MapFS{".ci/run": {Data: []byte("cd " + elsewhere[1] + "x")}}, []string{"stands alone: .ci/run mentions " + elsewhere[1]}},
		{"a long file", fstest.MapFS{"lb/p.go": long(600)}, []string{"budget: lb/p.go has 600 lines, want less than 600"}},
		{"a long C file", fstest.MapFS{"rings/xdpprog/p.c": {Data: bytes.Repeat([]byte("\n"), 601)}}, []string{"budget: rings/xdpprog/p.c has 601 lines"}},
		{"no line too many, without tests, their packages and generated code", fstest.MapFS{
			"fastpath/p.go": long(599), "fastpath/q.go": long(599), "rings/p.go": long(599), "rings/q.go": long(599), "workers/p.go": long(599),
			"workers/q.go": long(599), "lb/conn/p.go": long(599), "lb/conn/q.go": long(599), "workers/r.go": long(216),
			"workers/s.go": prose(590), "workers/cpu/p.go": long(599), "rings/open.go": long(599),
			"workers/p_test.go": long(500), "rings/ringstest/p.go": long(500), "lb/q.go": long(500),
			"rings/g.go": {Data: []byte("// Code generated by a program. DO NOT EDIT.\n\n" + string(long(700).Data))},
		}, nil},
		{"one line too many", fstest.MapFS{
			"fastpath/p.go": long(599), "fastpath/q.go": long(599), "rings/p.go": long(599), "rings/q.go": long(599), "workers/p.go": long(599),
			"workers/q.go": long(599), "lb/conn/p.go": long(599), "lb/conn/q.go": long(599), "workers/r.go": long(218),
		}, []string{"budget: fastpath, rings, workers, lb/conn have 5001 lines of code together, want at most 5000"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			fake, err := load(c.tree)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, name := range slices.Sorted(maps.Keys(rules)) {
				for _, why := range rules[name](fake) {
					got = append(got, name+": "+why)
				}
			}
			slices.Sort(c.want)
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}
