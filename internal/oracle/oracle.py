#!/usr/bin/python3
"""Reference oracle for IPVS: asks a real Linux kernel what it does.

A case (JSON) describes a director: its NICs, addresses, static neighbours, routes,
sysctls, ipvsadm rules, and a sequence of frames to receive.  The oracle boots a
User-Mode Linux kernel with the real ip_vs modules, plays the case in a fresh network
namespace and reports, step by step, every frame the director emitted, and the IPVS
tables afterwards.  One boot (about two seconds) serves any number of cases.

    oracle.py run CASE.json... [-o RESULT.json | -d DIR] [--show]
    oracle.py serve              one case per line on stdin, one result per line on stdout
    oracle.py show RESULT.json   a result as readable text
    oracle.py diff A.json B.json compare two results, less what is random
    oracle.py sh 'COMMAND'       run a shell command in the guest (for exploring)
    oracle.py check              is everything that the oracle needs installed?

See README.md for the case format.  Needs the Debian packages user-mode-linux,
ipvsadm, iproute2 and python3; gcc and libc6-dev for virtual time (without them the
guest runs in real time); iptables for cases with firewall marks.
"""
import argparse
import ctypes
import difflib
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import frames  # noqa: E402

KERNEL = "linux.uml"
SCHEDULERS = "rr wrr lc wlc fo ovf lblc lblcr dh sh mh sed nq".split()
# Debian's User-Mode Linux has nf_tables without any IP family, hence iptables-legacy.
MODULES = (["ipv6", "tun", "ip_vs conn_tab_bits=12"] + ["ip_vs_" + s for s in SCHEDULERS] +
           ["iptable_mangle", "ip6table_mangle", "xt_mark", "xt_tcpudp", "xt_multiport"])


class OracleError(Exception):
    pass


# ---------------------------------------------------------------- the guest

class Oracle:
    """A running guest.  with Oracle() as o: result = o.run(case)"""

    def __init__(self, virtual_time=True, mem="192M", boot_timeout=60, keep=False):
        self.virtual_time, self.mem = virtual_time, mem
        self.boot_timeout, self.keep = boot_timeout, keep
        self.proc = self.job = None
        self.serial = 0
        self.extra = set()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.close()

    def start(self):
        began = time.monotonic()
        # The kernel splits its command line at blanks, so the path must have none.
        base = tempfile.gettempdir()
        self.job = tempfile.mkdtemp(prefix="ipvs-oracle-", dir=base if " " not in base else "/tmp")
        for f in ("init.sh", "guest.py"):
            shutil.copy(os.path.join(HERE, "guest", f), self.job)
        with open(self.job + "/boot.json", "w") as f:
            json.dump({"modules": MODULES}, f)
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": self.job, "TMPDIR": self.job}
        if os.access("/dev/shm", os.W_OK):
            env["TMPDIR"] = "/dev/shm"  # the guest's memory lives in an unlinked file here
        if self.virtual_time:
            so = self._build_timewarp()
            if so:
                with open(self.job + "/clock", "wb") as f:
                    f.write(struct.pack("<qq", 1000000, 0))
                env.update(LD_PRELOAD=so, TIMEWARP_CTL=self.job + "/clock")
        self.log = open(self.job + "/kernel.log", "wb")
        args = [KERNEL, "mem=" + self.mem, "root=none", "rootfstype=hostfs", "rootflags=/", "ro",
                "init=" + self.job + "/init.sh", "con=null", "ssl=null", "ssl0=fd:0,fd:1",
                "uml_dir=" + self.job + "/uml", "ORACLE_JOBDIR=" + self.job, "quiet"]
        libc = ctypes.CDLL(None)

        def child():
            libc.prctl(1, signal.SIGTERM)  # die with the parent

        self.proc = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self.log, env=env, cwd=self.job, bufsize=0,
                                     start_new_session=True, preexec_fn=child)
        self.buf = b""
        self.extra = set()  # modules loaded by cases since the boot
        msg = self._wait(("READY", "FAILED"), self.boot_timeout)
        if not msg.startswith("READY"):
            self._die("boot: " + msg)
        self.kernel = msg.split()[1]
        self.boot_s = time.monotonic() - began

    def _build_timewarp(self):
        cc = shutil.which("cc") or shutil.which("gcc")
        if not cc:
            return None
        so = self.job + "/timewarp.so"
        r = subprocess.run([cc, "-O2", "-shared", "-fPIC", "-o", so,
                            os.path.join(HERE, "guest", "timewarp.c")], capture_output=True)
        return so if r.returncode == 0 else None

    def _wait(self, verbs, timeout):
        end = time.monotonic() + timeout
        while True:
            while b"\n" in self.buf:
                line, self.buf = self.buf.split(b"\n", 1)
                text = line.decode("ascii", "replace").strip()
                if text.split(" ")[0] in verbs:
                    return text
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.proc.stdout], [], [], left)[0]:
                self._die(f"no answer from the guest in {timeout} s")
            got = os.read(self.proc.stdout.fileno(), 65536)
            if not got:
                self._die("the guest ended")
            self.buf += got

    def _die(self, why):
        try:
            self.log.flush()
            with open(self.job + "/kernel.log", errors="replace") as f:
                tail = f.read()[-2000:]
        except OSError:
            tail = ""
        self.close()
        raise OracleError(why + ("\n" + tail if tail else ""))

    def close(self):
        if self.proc:
            if self.proc.poll() is None:
                try:
                    self.proc.stdin.write(b"HALT\n")
                    self.proc.wait(5)
                except (OSError, subprocess.TimeoutExpired):
                    pass
            # All of the guest's host processes are in the session that we made.
            try:
                os.killpg(self.proc.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.proc.wait()
            self.proc.stdin.close()
            self.proc.stdout.close()
            self.log.close()
            self.proc = None
        if self.job and not self.keep:
            shutil.rmtree(self.job, ignore_errors=True)
            self.job = None

    def _ask(self, verb, obj, timeout):
        if self.proc is None or self.proc.poll() is not None:
            self.close()
            self.start()
        self.serial += 1
        n = str(self.serial)
        with open(f"{self.job}/{n}.case.json", "w") as f:
            json.dump(obj, f)
        self.proc.stdin.write(f"{verb} {n}\n".encode())
        while self._wait(("DONE",), timeout) != "DONE " + n:
            pass
        out = f"{self.job}/{n}.out.json"
        with open(out) as f:
            res = json.load(f)
        os.unlink(out)
        os.unlink(f"{self.job}/{n}.case.json")
        return res

    def run(self, case, timeout=None):
        """Play a case; returns the result (see README.md). A guest that hangs is killed
        and OracleError raised; the next call boots another."""
        case = compile_case(case)
        began = time.monotonic()
        wanted = set(case.get("modules", []))
        if self.extra - wanted:  # a module left by another case may change this one
            self.close()
        res = self._ask("RUN", case, timeout or case.get("timeout", 120))
        self.extra |= wanted
        for s in res.get("steps", []):
            if "frames" in s:
                s["in"] = [frames.describe(bytes.fromhex(f)) for f in s["frames"]]
            for o in s["out"]:
                o["text"] = frames.describe(bytes.fromhex(o["frame"]))
        res["wall_s"] = round(time.monotonic() - began, 3)
        return res

    def sh(self, cmd, timeout=120):
        return self._ask("EXEC", {"cmd": cmd}, timeout)


# ---------------------------------------------------------------- cases

def compile_case(case):
    """Fill in defaults and turn "pkt" steps into frames."""
    case = json.loads(json.dumps(case))
    for i, n in enumerate(case.setdefault("nics", [])):
        n.setdefault("mac", f"02:00:00:00:00:{i + 1:02x}")
        n.setdefault("peer_mac", f"02:00:00:00:{i + 1:02x}:fe")
    nics = {n["name"]: n for n in case["nics"]}
    steps = []
    for s in case.get("steps", []):
        if "inject" in s and "pkt" in s:
            n = nics[s["inject"]]
            f = frames.build(s.pop("pkt"), s.pop("smac", n["peer_mac"]), s.pop("dmac", n["mac"]))
            mtu = s.pop("fragment", None)
            fr = frames.fragment(f, mtu) if mtu else [f]
            s["frames"] = [x.hex() for x in fr]
        if "inject" in s:
            for f in s.get("frames", [s.get("frame", "")]):
                bytes.fromhex(f)  # complain here rather than in the guest
        steps.append(s)
    case["steps"] = steps
    return case


def read_pcap(path):
    with open(path, "rb") as f:
        data = f.read()
    magic = data[:4]
    if magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        e = "<"
    elif magic in (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d"):
        e = ">"
    else:
        raise OracleError(f"{path}: not a pcap file (pcapng is not supported)")
    div = 1e9 if magic in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1e6
    if struct.unpack(e + "I", data[20:24])[0] != 1:
        raise OracleError(f"{path}: link type is not Ethernet")
    o, out = 24, []
    while o + 16 <= len(data):
        s, us, cap, _ = struct.unpack(e + "IIII", data[o:o + 16])
        out.append((s + us / div, data[o + 16:o + 16 + cap]))
        o += 16 + cap
    return out


def write_pcap(path, packets):
    with open(path, "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for t_ms, fr in packets:
            us = int(t_ms * 1000)
            f.write(struct.pack("<IIII", us // 1000000, us % 1000000, len(fr), len(fr)) + fr)


def save_pcaps(res, prefix):
    """One file per NIC, with what went in and what came out, at guest time."""
    per = {}
    for s in res["steps"]:
        for f in s.get("frames", []):
            per.setdefault(s["inject"], []).append((s["t_ms"], bytes.fromhex(f)))
        for o in s["out"]:
            per.setdefault(o["nic"], []).append((o["t_ms"], bytes.fromhex(o["frame"])))
    for nic, packets in per.items():
        write_pcap(f"{prefix}-{nic}.pcap", packets)


def add_pcap_steps(case, specs, timing):
    """specs: NIC=FILE; frames of several files are merged by their time stamps."""
    todo = []
    for spec in specs:
        nic, _, path = spec.partition("=")
        todo += [(t, nic, f) for t, f in read_pcap(path)]
    todo.sort(key=lambda x: x[0])
    steps = case.setdefault("steps", [])
    for i, (t, nic, f) in enumerate(todo):
        s = {"inject": nic, "frame": f.hex()}
        if timing and i + 1 < len(todo):
            s["wait_ms"] = round((todo[i + 1][0] - t) * 1000, 3)
        steps.append(s)


def format_result(res):
    """A result as text."""
    out = []
    p = out.append
    p(f"# {res.get('name')}: {'ok' if res.get('ok') else 'FAILED'}  (kernel {res.get('kernel')}, "
      f"{'virtual' if res.get('virtual_time') else 'real'} time, {res.get('wall_s')} s)")
    if res.get("error"):
        p("error: " + res["error"])
    for i, s in enumerate(res.get("steps", [])):
        note = f"   # {s['note']}" if "note" in s else ""
        head = f"[{i}] {s['t_ms']:.0f}ms "
        if "frames" in s:
            for t in s.get("in", []):
                p(f"{head}{s['inject']} <= {t}{note}")
                note = ""
        elif "cmd" in s:
            p(f"{head}$ {s['cmd']}{note}" + (f"   (exit {s['rc']})" if s["rc"] else ""))
            for line in (s["stdout"] + s["stderr"]).rstrip().splitlines():
                p("      | " + line)
        elif "snapshot" in s:
            p(head + "snapshot" + note)
            for k, v in s["snapshot"].items():
                p(f"      -- {k}")
                for line in v.rstrip().splitlines():
                    p("      | " + line)
        elif "sleep_ms" in s:
            p(f"{head}sleep {s['sleep_ms']} ms{note}")
        elif "sysctl" in s:
            p(f"{head}sysctl {s['sysctl']}{note}")
        else:
            p(head + "(after the last step)")
        for o in s["out"]:
            p(f"      {o['nic']} => {o['text']}")
        if "frames" in s and not s["out"]:
            p("      (nothing emitted)")
    for k, v in res.get("tables", {}).items():
        p(f"-- {k}")
        p(v.rstrip())
    for f in res.get("final", []):
        p(f"-- $ {f['cmd']}")
        p((f["stdout"] + f["stderr"]).rstrip())
    if "dmesg" in res:
        p("-- dmesg")
        p(res["dmesg"].rstrip())
    return "\n".join(out) + "\n"


def canonical(res):
    """A result as a list of lines in which whatever differs from boot to boot is masked:
    IP identifications and flow labels that the kernel chose, the source port of GUE and of
    the synchronisation daemon, the order of the connection table. For comparisons."""
    sent = " ".join(t for s in res.get("steps", []) for t in s.get("in", []))
    known = set(re.findall(r"(?:id|flow)=0x[0-9a-f]+", sent)) | {"id=0x0000"}

    def mask(text):
        text = re.sub(r"\b(id|flow)=0x[0-9a-f]+",
                      lambda m: m[0] if m[0] in known else m[1] + "=*", text)
        return re.sub(r":\d+ > (224\.\S+ UDP|\S+ UDP len=\d+ \S+ GUE)", r":* > \1", text)

    def table(name, text):
        lines = text.rstrip().splitlines()
        return sorted(lines) if name in ("conns", "ip_vs_conn", "ip_vs_conn_sync") else lines

    out = ["error: " + res["error"]] if res.get("error") else []
    for i, s in enumerate(res.get("steps", [])):
        out += [f"[{i}] => {o['nic']} {mask(o['text'])}" for o in s["out"]]
        for k, v in s.get("snapshot", {}).items():
            out += [f"[{i}] {k}: {x}" for x in table(k, v)]
        if "cmd" in s:
            out += [f"[{i}] {x}" for x in sorted((s["stdout"] + s["stderr"]).splitlines())]
    for k, v in res.get("tables", {}).items():
        out += [f"{k}: {x}" for x in table(k, v)]
    return out


# ---------------------------------------------------------------- commands

def load(path):
    with (sys.stdin if path == "-" else open(path)) as f:
        case = json.load(f)
    case.setdefault("name", os.path.basename(path).removesuffix(".json"))
    return case


def dump(obj, path):
    text = json.dumps(obj, indent=1) + "\n"
    if path in (None, "-"):
        sys.stdout.write(text)
    else:
        with open(path, "w") as f:
            f.write(text)


def cmd_run(a):
    if len(a.case) > 1 and not a.dir and not a.show:
        raise OracleError("several cases: give -d DIR or --show")
    if a.dir:
        os.makedirs(a.dir, exist_ok=True)
    failed = 0
    with Oracle(virtual_time=not a.real_time) as o:
        for path in a.case:
            case = load(path)
            if a.pcap_in:
                add_pcap_steps(case, a.pcap_in, a.pcap_timing)
            try:
                res = o.run(case)
            except OracleError as e:
                res = {"name": case["name"], "ok": False, "error": str(e), "steps": []}
            failed += not res["ok"]
            name = os.path.basename(path).removesuffix(".json")
            if a.dir:
                dump(res, os.path.join(a.dir, name + ".json"))
                with open(os.path.join(a.dir, name + ".txt"), "w") as f:
                    f.write(format_result(res))
                print(f"{name}: {'ok' if res['ok'] else 'FAILED: ' + res.get('error', '')}"
                      f" {res.get('wall_s', 0):.2f} s", file=sys.stderr)
            elif not a.show or a.output:
                dump(res, a.output)
            if a.show:
                sys.stdout.write(format_result(res))
            if a.pcap_out:
                save_pcaps(res, a.pcap_out if len(a.case) == 1 else f"{a.pcap_out}{name}")
        if a.verbose:
            print(f"boot {o.boot_s:.2f} s", file=sys.stderr)
    return 1 if failed else 0


def cmd_serve(a):
    with Oracle(virtual_time=not a.real_time) as o:
        print(json.dumps({"ready": True, "kernel": o.kernel}), flush=True)
        for line in sys.stdin:
            if not line.strip():
                continue
            try:
                res = o.run(json.loads(line))
            except (OracleError, ValueError, KeyError) as e:
                res = {"ok": False, "error": f"{type(e).__name__}: {e}", "steps": []}
            print(json.dumps(res), flush=True)
    return 0


def cmd_show(a):
    for path in a.result:
        with open(path) as f:
            sys.stdout.write(format_result(json.load(f)))
    return 0


def cmd_diff(a):
    with open(a.a) as f, open(a.b) as g:
        x, y = canonical(json.load(f)), canonical(json.load(g))
    d = list(difflib.unified_diff(x, y, a.a, a.b, lineterm="", n=1))
    if d:
        print("\n".join(d))
    return 1 if d else 0


def cmd_sh(a):
    with Oracle(virtual_time=False) as o:
        r = o.sh(a.command)
    sys.stdout.write(r["stdout"])
    sys.stderr.write(r["stderr"])
    return r["rc"]


def cmd_check(a):
    bad = 0
    for prog, pkg, need in ((KERNEL, "user-mode-linux", True), ("ipvsadm", "ipvsadm", True),
                            ("ip", "iproute2", True), ("mount", "mount", True),
                            ("iptables-legacy", "iptables", False), ("cc", "gcc libc6-dev", False)):
        path = shutil.which(prog, path="/usr/sbin:/usr/bin:/sbin:/bin")
        print(f"{prog:16} {path or 'MISSING: apt-get install ' + pkg}"
              f"{'' if need or path else ' (optional)'}")
        bad += need and not path
    if not os.path.exists("/usr/bin/python3"):
        print("/usr/bin/python3 MISSING: apt-get install python3 (the guest runs it)")
        bad += 1
    if not bad:
        with Oracle() as o:
            print(f"guest            boots: kernel {o.kernel}, {o.boot_s:.1f} s, "
                  f"{'virtual' if os.path.exists(o.job + '/clock') else 'real'} time")
    return 1 if bad else 0


def main():
    ap = argparse.ArgumentParser(description=__doc__, prog="oracle.py",
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="verb", required=True)
    p = sub.add_parser("run", help="play case files")
    p.add_argument("case", nargs="+", help="case file (- for stdin)")
    p.add_argument("-o", "--output", help="result file (default stdout)")
    p.add_argument("-d", "--dir", help="write NAME.json and NAME.txt for each case here")
    p.add_argument("--show", action="store_true", help="print readable text")
    p.add_argument("--pcap-in", action="append", metavar="NIC=FILE",
                   help="inject these frames after the case's own steps (repeatable)")
    p.add_argument("--pcap-timing", action="store_true", help="keep the gaps between the frames")
    p.add_argument("--pcap-out", metavar="PREFIX", help="write PREFIX-NIC.pcap")
    p.add_argument("--real-time", action="store_true", help="do not use virtual time")
    p.add_argument("-v", "--verbose", action="store_true")
    p.set_defaults(fn=cmd_run)
    p = sub.add_parser("serve", help="cases on stdin, results on stdout, one JSON per line")
    p.add_argument("--real-time", action="store_true")
    p.set_defaults(fn=cmd_serve)
    p = sub.add_parser("show", help="print a result file as text")
    p.add_argument("result", nargs="+")
    p.set_defaults(fn=cmd_show)
    p = sub.add_parser("diff", help="compare two results (exit status 1: they differ)")
    p.add_argument("a")
    p.add_argument("b")
    p.set_defaults(fn=cmd_diff)
    p = sub.add_parser("sh", help="run a shell command in the guest")
    p.add_argument("command")
    p.set_defaults(fn=cmd_sh)
    p = sub.add_parser("check", help="check the installation")
    p.set_defaults(fn=cmd_check)
    a = ap.parse_args()
    try:
        return a.fn(a)
    except OracleError as e:
        print(f"oracle: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
