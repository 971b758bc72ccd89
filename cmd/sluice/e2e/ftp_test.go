package e2e

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-lb/sluice/internal/testnet"
)

// serveFTP runs vsftpd in a namespace until the test ends. Anonymous clients find
// the namespace's name in the file name and noise in the file noise, and may
// leave files in the folder in, whose path is returned.
func serveFTP(t *testing.T, s *testnet.Namespace, noise []byte) (in string) {
	t.Helper()
	program, err := exec.LookPath("vsftpd")
	if err != nil {
		t.Skipf("no FTP server: %v (Debian: vsftpd)", err)
	}
	folder, err := os.MkdirTemp("", "sluice-ftp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	root, empty, in := filepath.Join(folder, "root"), filepath.Join(folder, "empty"), filepath.Join(folder, "root", "in")
	anonymous, err := user.Lookup("ftp") // of the package
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(anonymous.Uid)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return os.Chmod(folder, 0o755) },
		func() error { return os.Mkdir(root, 0o755) },
		func() error { return os.Mkdir(empty, 0o755) },
		func() error { return os.Mkdir(in, 0o755) },
		func() error { return os.Chown(in, uid, -1) },
		func() error { return os.WriteFile(filepath.Join(root, "name"), []byte(s.Name()), 0o644) },
		func() error { return os.WriteFile(filepath.Join(root, "noise"), noise, 0o644) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(folder, "vsftpd.conf")
	if err := os.WriteFile(config, []byte("listen=NO\nlisten_ipv6=YES\nbackground=NO\nisolate=NO\nisolate_network=NO\nseccomp_sandbox=NO\n"+
		"anonymous_enable=YES\nno_anon_password=YES\nxferlog_enable=NO\n"+
		"write_enable=YES\nanon_upload_enable=YES\nanon_other_write_enable=YES\nanon_umask=022\nconnect_from_port_20=YES\n"+
		"anon_root="+root+"\nsecure_chroot_dir="+empty+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has a process for each session
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := s.Dial(t.Context(), &net.Dialer{Timeout: time.Second}, "tcp", "[::1]:21")
		if err == nil {
			c.Close()
			return in
		}
		if time.Now().After(deadline) {
			t.Fatalf("vsftpd does not listen: %v", err)
		}
	}
}

// curl runs that program in a namespace, with options and addresses for each of
// jobs, over one connection if that is to one server. It gives up after a while,
// but not at once: where command and data connection are different workers', the
// answer on the one may come before the other is accepted, which curl takes for
// an error.
func curl(t *testing.T, s *testnet.Namespace, jobs ...[]string) error {
	t.Helper()
	args := []string{"--fail-early"}
	for i, job := range jobs {
		if i > 0 {
			args = append(args, "--next")
		}
		args = append(args, "--silent", "--show-error", "--globoff", "--connect-timeout", "10", "--max-time", "60", "--retry", "2", "--retry-all-errors")
		args = append(args, job...)
	}
	cmd := exec.Command("curl", args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := s.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, said.String())
	}
	return nil
}

// fileSum is the SHA-256 of a file.
func fileSum(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(text)
}

// FTP by NAT between Debian's curl and vsftpd: files of 50 MB down and up over
// one command connection, active and passive, by each command there is, in
// either family. Two servers, whose data connections have to go where the
// command connection went; two workers, of which neither gets the packets that
// are its own.
func TestFTP(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skipf("no FTP client: %v", err)
	}
	const size, servers = 50 << 20, 2
	plan := routed(servers)
	for _, ends := range [][]testnet.End{{plan.Links[0].A, plan.Links[0].B}, plan.Switches[0].Ends} {
		for i := range ends {
			ends[i].TxQueues, ends[i].RxQueues = 2, 2
		}
	}
	plan.Links[0].A.TxQueues, plan.Links[0].A.RxQueues, plan.Links[0].B.TxQueues, plan.Links[0].B.RxQueues = 2, 2, 2, 2
	n := testnet.New(t, plan)
	sums, uploads := map[string][sha256.Size]byte{}, map[string]string{}
	for i := range servers {
		content := noise(uint64(100+i), size)
		sums[server(i)] = sha256.Sum256(content)
		uploads[server(i)] = serveFTP(t, n.In(server(i)), content)
	}
	config := "helpers: {ftp: {ports: [21, 2121]}}\nservices:\n"
	for _, vip := range []struct {
		address string
		port    int
		server  func(int) string
	}{{"203.0.113.100", 21, server4}, {"2001:db8::100", 2121, server6}} {
		config += fmt.Sprintf("  - {protocol: tcp, address: %q, port: %d, scheduler: rr, forward: nat, servers: [{address: %q, port: 21}, {address: %q, port: 21}]}\n",
			vip.address, vip.port, vip.server(0), vip.server(1))
	}
	d := start(t, n, config)
	transfers := uint64(0)
	for k, row := range []struct {
		what, at string
		args     []string
	}{
		{"PASV", "203.0.113.100", []string{"--disable-epsv", "--no-ftp-skip-pasv-ip"}},
		{"EPSV v4", "203.0.113.100", nil},
		{"PORT", "203.0.113.100", []string{"--ftp-port", "-", "--disable-eprt"}},
		{"EPRT v4", "203.0.113.100", []string{"--ftp-port", "-"}},
		{"EPSV v6", "[2001:db8::100]:2121", nil},
		{"EPRT v6", "[2001:db8::100]:2121", []string{"--ftp-port", "-"}},
	} {
		t.Run(row.what, func(t *testing.T) {
			folder := t.TempDir()
			name, down, up := filepath.Join(folder, "name"), filepath.Join(folder, "down"), fmt.Sprintf("up%d", k)
			content := noise(uint64(k), size)
			if err := os.WriteFile(filepath.Join(folder, up), content, 0o600); err != nil {
				t.Fatal(err)
			}
			url := "ftp://" + row.at + "/"
			began := time.Now()
			err := curl(
				t, n.In("client"), append(slices.Clip(row.args), url+"name", "-o", name, url+"noise", "-o", down),
				append(slices.Clip(row.args), "-T", filepath.Join(folder, up), url+"in/"+up),
			)
			if err != nil {
				t.Fatal(err)
			}
			transfers += 3
			by, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := fileSum(t, down), sums[string(by)]; got != want {
				t.Errorf("downloaded from %s with sum %x, want %x", by, got, want)
			}
			if got, want := fileSum(t, filepath.Join(uploads[string(by)], up)), sha256.Sum256(content); got != want {
				t.Errorf("uploaded to %s with sum %x, want %x", by, got, want)
			}
			t.Logf("%d MiB each way with %s in %.1f s", size>>20, by, time.Since(began).Seconds())
		})
	}
	s := d.status()
	f := s.SlowPath.FTP
	if f == nil || f.Begun < transfers || f.Begun > transfers+3 || f.Announced != f.Begun+uint64(f.Expected) || len(f.Refused) != 0 {
		t.Errorf("the helper counts %+v, want %d announced and begun, hardly more", f, transfers)
	}
	if len(s.Workers) != 2 || s.Workers[0].HandedOver+s.Workers[1].HandedOver == 0 {
		t.Errorf("%d workers handed nothing over, so that no data connection was another's", len(s.Workers))
	}
	t.Logf("%+v; %s", *f, d.counters())
}
