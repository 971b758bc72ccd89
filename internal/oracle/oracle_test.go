package oracle

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// folders of testdata hold cases with the kernel's answers: those of gencases.py, what
// was asked about single questions, and what the differential test found.
var folders = []string{"cases", "recorded", "found"}

// open are the cases in which sluice does not answer as the kernel, by folder and name, or
// cannot be held to its answer, and why.
var open = map[string]string{
	"cases/dr-arp":                  unjudged,
	"cases/drop-entry":              unjudged,
	"cases/nat-vip-not-local":       unjudged,
	"cases/ftp-addresses":           quirk,
	"cases/ftp-again":               quirk,
	"cases/ftp-mtu":                 "the kernel's error about an FTP answer that grew comes from the VIP, and quotes it as translated",
	"cases/ipvsadm-errors":          syncDaemon,
	"cases/sync-backup-captured":    syncDaemon,
	"cases/sync-backup-captured-v0": syncDaemon,
	"cases/sync-backup-norules":     syncDaemon,
	"cases/sync-backup-v0":          syncDaemon,
	"cases/sync-backup-v1":          syncDaemon,
	"cases/sync-master-more":        syncDaemon,
	"cases/sync-master-persist":     syncDaemon,
	"cases/sync-master-v0":          syncDaemon,
	"cases/sync-master-v1":          syncDaemon,
	"cases/sync-options":            syncDaemon,
	"cases/sync-period":             syncDaemon,
	"recorded/tunnel-error-gre":     headers,
	"recorded/tunnel-error-gue":     headers,
}

// Reasons of open.
const (
	syncDaemon = "there is no sync daemon yet"
	quirk      = "left out on purpose: docs/IPVS.md, quirks"
	headers    = "the kernel tells clients an MTU less by 20 bytes whatever the tunnel (docs/IPVS.md, quirks)"
	// The kernel's answer depends on what a replay has not; golden/README.md says on what.
	unjudged = "golden.py: SKIP"
)

// spoiled are the cases in which the checker has to find faults: one of each sort of
// packet and of each rule of comparison. Each pattern has to match.
var spoiled = []string{
	"nat-tcp*", "nat-udp*", "dr-*", "tun-ipip*", "v6-*", "v4-in-v6-tun", "sched-rr*", "persist-*",
	"ftp-persistent",  // announced connections, and what belongs to them
	"rates",           // what --stats may be ahead, and --rate differ
	"ipvsadm-formats", // all listings
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

// Every frame, listing and counter of sluice is the kernel's.
func TestAnswersAreTheKernels(t *testing.T) {
	needPython(t)
	binary := buildSluice(t)
	listed := maps.Clone(open)
	for _, folder := range folders {
		t.Run(folder, func(t *testing.T) {
			report := filepath.Join(t.TempDir(), "report.json")
			dir := filepath.Join("testdata", folder)
			out, _ := golden(t, "check", "--sluice", binary, "--quiet", "--json", report, dir) // its status is its verdicts'
			verdicts := readReport(t, report, out)
			for _, name := range fileNames(t, dir) {
				name = strings.TrimSuffix(name, ".json")
				reason, isOpen := listed[folder+"/"+name]
				delete(listed, folder+"/"+name)
				t.Run(name, func(t *testing.T) { judge(t, verdicts[name], reason, isOpen) })
			}
		})
	}
	for name := range listed {
		t.Errorf("%s is listed as open, and is no case", name)
	}
}

// judge holds a verdict to what is known about the case: that it passes, or why it cannot.
func judge(t *testing.T, v verdict, reason string, isOpen bool) {
	t.Helper()
	switch {
	case !isOpen && v.Verdict != "PASS":
		t.Errorf("%s %s: %s\nto see it: cd internal/oracle && golden/golden.py show the case", v.Verdict, v.Area, v.Text)
	case isOpen && v.Verdict == "PASS":
		t.Errorf("passes, and is listed as open (%s): take it off the list", reason)
	case isOpen && (v.Verdict == "SKIP") != (reason == unjudged):
		t.Errorf("%s %s, and is listed as open because %s", v.Verdict, v.Text, reason)
	case isOpen:
		t.Logf("open: %s (%s)", reason, v.Text)
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

// The checker finds each fault put into a perfect answer.
func TestCheckerCanFail(t *testing.T) {
	needPython(t)
	if out, err := golden(t, append([]string{"selftest"}, caseFiles(t, spoiled)...)...); err != nil {
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
