package ipvsadm

import (
	"strings"
	"testing"
)

// FuzzCommandLine: no command line makes ipvsadm panic, its status is one of
// ipvsadm's, and what was done can be saved and restored.
func FuzzCommandLine(f *testing.F) {
	f.Add("-A\x00-t\x0010.0.0.1:80\x00-s\x00rr\x00-p600\x00-M\x00255.255.255.0", "")
	f.Add("-a\x00-f\x001\x00-6\x00-r\x00[fd00::1]:80\x00-mw3\x00-x=5", "")
	f.Add("-R", "-A -u [::1]:53 -o -b flag-1,flag-3\n-a -u [::1]:53 -r 1.2.3.4 -i --tun-type gue --tun-port 5\n")
	f.Add("-Lnc", "")
	f.Add("-L\x00--stats\x00--exact\x00-t\x001.2.3.4:5", "")
	f.Add("--set\x001\x002\x003", "")
	f.Add("--start-daemon=master\x00--mcast-group\x00ff02::1", "")
	f.Add("-A\x00-t=\x00-b\x00,", "")
	f.Fuzz(func(t *testing.T, args, stdin string) {
		check(t, stdin, strings.Split(args, "\x00")...)
	})
}

// FuzzRestore: no input of -R does.
func FuzzRestore(f *testing.F) {
	for _, s := range readLines[step](f, "testdata/recorded/restore.jsonl") {
		f.Add(s.Stdin)
	}
	f.Add("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:8080 -m\nipvsadm -Sn\n-R\n")
	f.Add("-A -f 1\n-a -f 1 -r 1.2.3.4:0 -g\r\n\x00\n# x\n-Z -f 1\n--set 0 0 0\n-C\n")
	f.Add("-A -t 1.2.3.4:http -p -M 255.0.0.0 --pe sip\n-E -t 1.2.3.4:80\n-L -n --rate\n-L -c")
	f.Fuzz(func(t *testing.T, stdin string) {
		check(t, stdin, "-R")
		_, _ = Import(strings.NewReader(stdin))
	})
}

func check(t *testing.T, stdin string, args ...string) {
	t.Helper()
	b := newBackend()
	out, errs, exit := do(b, stdin, args...)
	if exit != 0 && exit != 1 && exit != 2 && exit != 255 {
		t.Errorf("exit %d: %q %q", exit, out, errs)
	}
	if exit != 0 && errs == "" {
		t.Errorf("exit %d without a word", exit)
	}
	saved, errs, exit := do(b, "", "-S", "-n")
	if exit != 0 || errs != "" {
		t.Fatalf("-S: exit %d, %s", exit, errs)
	}
	again := newBackend()
	if _, errs, exit := do(again, saved, "-R"); exit != 0 || errs != "" {
		t.Fatalf("-R of\n%sexit %d, %s", saved, exit, errs)
	}
	if twice, _, _ := do(again, "", "-S", "-n"); twice != saved {
		t.Errorf("saved\n%srestored\n%s", saved, twice)
	}
}
