package oracle

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// played are the cases of what sluice does so far. Each pattern has to match.
var played = []string{
	"nat-tcp*", "nat-udp*", "nat-port*", // VS/NAT: states and timeouts, UDP, one port kept
	"dr-tcp", "dr-port*", // VS/DR: the port of the server's rule means nothing
	"tun-ipip",     // VS/TUN, 4in4
	"v6-*-tcp",     // NAT and DR over IPv6
	"v6-nat-udp",   // zero checksums are none in IPv6
	"v6-tun",       // IP6IP6
	"v6-in-v4-tun", // a family in the other
	"v4-in-v6-tun", //
	"sched-rr*",    // order of the kernel's list, marks, established connections
	"sched-wrr*",   // its gcd, its maximum, weight 0
}

// caseFiles returns the files of the cases that match the patterns.
func caseFiles(t *testing.T, patterns []string) []string {
	t.Helper()
	var files []string
	for _, p := range patterns {
		found, err := filepath.Glob("testdata/cases/" + p + ".json")
		if err != nil || len(found) == 0 {
			t.Fatalf("no case matches %q (%v)", p, err)
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// needPython skips the test, saying why, where the checker cannot run.
func needPython(t *testing.T) {
	t.Helper()
	version := exec.Command("python3", "-c", "import sys; sys.exit(sys.version_info < (3, 11))")
	if out, err := version.CombinedOutput(); err != nil {
		t.Skipf("the checker needs python3, 3.11 or later (%v %s)", err, bytes.TrimSpace(out))
	}
}

// buildSluice returns the path of a sluice built from this source.
func buildSluice(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "sluice")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build sluice: %v\n%s", err, out)
	}
	return binary
}

// golden runs golden.py and returns what it printed.
func golden(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "python3", append([]string{"golden/golden.py"}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Every frame that sluice emits is the kernel's.
func TestFramesAreTheKernels(t *testing.T) {
	needPython(t)
	binary := buildSluice(t)
	files := caseFiles(t, played)
	report := filepath.Join(t.TempDir(), "report.json")
	out, err := golden(t, append([]string{"check", "--sluice", binary, "--frames-only", "--quiet", "--json", report}, files...)...)
	verdicts := readReport(t, report, out)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			switch v := verdicts[name]; v.Verdict {
			case "PASS":
			case "SKIP":
				t.Errorf("not played: %s", v.Text)
			default:
				t.Errorf("%s: %s\nto see it: cd internal/oracle && golden/golden.py show %s", v.Area, v.Text, file)
			}
		})
	}
	if err != nil && !t.Failed() {
		t.Errorf("golden.py: %v\n%s", err, out)
	}
}

// verdict is golden.py's on one case.
type verdict struct{ Case, Verdict, Area, Text string }

func readReport(t *testing.T, path, out string) map[string]verdict {
	t.Helper()
	var report struct{ Cases []verdict }
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &report)
	}
	if err != nil {
		t.Fatalf("report of golden.py: %v\n%s", err, out)
	}
	verdicts := map[string]verdict{}
	for _, v := range report.Cases {
		verdicts[v.Case] = v
	}
	return verdicts
}

// The checker finds each fault put into a perfect answer, in every case played.
func TestCheckerCanFail(t *testing.T) {
	needPython(t)
	if out, err := golden(t, append([]string{"selftest"}, caseFiles(t, played)...)...); err != nil {
		t.Errorf("golden.py selftest: %v\n%s", err, out)
	}
}

// And what it finds reaches go test: with the kernel's own frames the verdict
// is PASS, with one of them spoiled FAIL.
func TestCheckerReports(t *testing.T) {
	needPython(t)
	const name = "nat-tcp-full"
	for mutation, want := range map[string]string{"": "PASS", "checksum-off-by-one": "FAIL", "missing-frame": "FAIL", "wrong-mac": "FAIL"} {
		fake := "python3 golden/fake_sluice.py"
		if mutation != "" {
			fake += " --mutate " + mutation
		}
		report := filepath.Join(t.TempDir(), "report.json")
		out, err := golden(t, "check", "--sluice", fake, "--frames-only", "--json", report, "testdata/cases/"+name+".json")
		if got := readReport(t, report, out)[name].Verdict; got != want || (err == nil) != (want == "PASS") {
			t.Errorf("answer with mutation %q: verdict %s (%v), want %s", mutation, got, err, want)
		}
	}
}

// The cases are generated: an edit of the files alone would be lost.
func TestCasesAreGenerated(t *testing.T) {
	needPython(t)
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "python3", "gencases.py", dir).CombinedOutput(); err != nil {
		t.Fatalf("gencases.py: %v\n%s", err, out)
	}
	written := fileNames(t, dir)
	if kept := fileNames(t, "testdata/cases"); !slices.Equal(kept, written) {
		t.Fatalf("testdata/cases holds %v, gencases.py writes %v", kept, written)
	}
	if results := fileNames(t, "testdata/results"); !slices.Equal(results, written) {
		t.Errorf("testdata/results holds %v, want a result for each of %v", results, written)
	}
	for _, name := range written {
		if want, got := read(t, dir, name), read(t, "testdata/cases", name); got != want {
			t.Errorf("testdata/cases/%s differs from what gencases.py writes", name)
		}
	}
}

func fileNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
