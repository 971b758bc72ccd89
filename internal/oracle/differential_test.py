"""Tests of the differential test, without the kernel: a toy stands in for it, and fake_sluice.py for sluice."""
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "golden")]
import differential  # noqa: E402
import fake_sluice  # noqa: E402
import features  # noqa: E402
import golden  # noqa: E402
import oracle  # noqa: E402
import packet  # noqa: E402
import randcases  # noqa: E402
import shrink  # noqa: E402

FAKE = [sys.executable, os.path.join(HERE, "golden", "fake_sluice.py")]
TOY = [sys.executable, os.path.join(HERE, "differential_test.py"), "toy"]


class Toy:
    """A director that sends every frame on by the other NIC, with its TTL one less."""

    def ask(self, case):
        case, steps, now = oracle.compile_case(case), [], 0.0
        for s in case["steps"]:
            step = {**s, "t_ms": now, "out": []}
            for f in s.get("frames", []):
                out = bytearray.fromhex(f)
                out[22 if f[24:28] == "0800" else 21] -= 1
                step["out"].append({"nic": "eth1" if s["inject"] == "eth0" else "eth0", "t_ms": now,
                                    "frame": fake_sluice.fix_ip(out).hex()})
            if "cmd" in s:
                step.update(rc=0, stdout="", stderr="")
            if "snapshot" in s:
                step["snapshot"] = dict.fromkeys(s["snapshot"], "")
            steps.append(step)
            now += s.get("sleep_ms", 0) + s.get("wait_ms", 0)
        return {"ok": True, "steps": steps, "tables": dict.fromkeys(case.get("tables", []), "")}

    def close(self):
        pass


class ToyTest(differential.Test):
    """Kernel and sluice in this process: `spoil` gets the perfect answer before it is judged."""

    def __init__(self, spoil):
        super().__init__(["sluice"], ["kernel"], 2)
        self.spoil = spoil
        for _ in self.all:
            self.free.get()
            self.free.put(Toy())

    def __enter__(self):
        self.golden_replay = golden.replay
        golden.replay = self.replay
        return self

    def __exit__(self, *exc):
        golden.replay = self.golden_replay
        super().__exit__(*exc)

    def replay(self, plan, *_):
        answer = fake_sluice.Answer(plan)
        with contextlib.suppress(fake_sluice.NotApplicable):
            self.spoil(answer)
        return answer.records, answer.stdout(), answer.state


def planted(a):
    """A fault that needs four things: a sysctl, a flag of a service, one packet, and, later, another."""
    if "net.ipv4.vs.pmtu_disc" not in a.plan.case["sysctls"] or not any("-b" in r.split() for r in a.plan.case["ipvs"]):
        raise fake_sluice.NotApplicable
    udp = False
    for i, r in enumerate(a.records):
        p = packet.Packet(r.frame)
        if udp and p.proto == 6 and not p.is_fragment and p.body[13] & 4:
            del a.records[i]
            return a.recount()
        udp = udp or p.proto == 17
    raise fake_sluice.NotApplicable


class Features(unittest.TestCase):
    def test_each_occurs_and_can_be_left_out(self):
        seen = set().union(*(features.of(randcases.random_case("f", i)) for i in range(150)))
        self.assertEqual(seen, set(features.NAMES))
        for name in features.NAMES:
            out = features.parse(name)
            for i in range(3):
                self.assertEqual(features.of(randcases.random_case(f"without-{name}", i, out)) & out, set(), f"without {name}, case {i}")

    def test_together(self):
        out = features.parse("icmp,fragments mtu edits persistence thresholds gre,gue ipv6")
        left = set().union(*(features.of(randcases.random_case("t", i, out)) for i in range(60)))
        self.assertEqual(left & out, set())
        self.assertGreaterEqual(left, {"tcp", "udp", "sctp", "nat", "dr", "tun", "ops", "marks", "mh"})

    def test_names(self):
        self.assertGreaterEqual(features.parse("edits"), set(features.EDITS))
        self.assertEqual(features.parse(""), frozenset())
        with self.assertRaisesRegex(ValueError, "icpm"):
            features.parse("icpm,mtu")
        with self.assertRaisesRegex(ValueError, "left out"):
            randcases.random_case("x", 0, features.parse("tcp udp sctp marks"))


class Cases(unittest.TestCase):
    def test_seeds(self):
        one, same, other = (randcases.random_case(s, 3) for s in ("a", "a", "b"))
        self.assertEqual(one, same)
        self.assertNotEqual({**one, "name": ""}, {**other, "name": ""})

    def test_timely(self):
        for i in range(40):
            self.assertTrue(randcases.is_timely(randcases.random_case("t", i)), i)
        syn = {"inject": "eth0", "pkt": {}}
        for seconds, timely in ((61, False), (66, False), (75, True), (903, False)):
            case = {"steps": [syn, {"sleep_ms": seconds * 1000}, syn]}
            self.assertEqual(randcases.is_timely(case), timely, f"{seconds} s, when connections end after 60 and 900")
        for seconds, what in ((46, "when a template ends after 45"), (107, "when it ends 60 s later, since it has connections")):
            case = {"ipvs": ["-A -t 10.0.1.100:80 -s rr -p 45"], "steps": [syn, {"sleep_ms": seconds * 1000}, syn]}
            self.assertFalse(randcases.is_timely(case), f"{seconds} s, {what}")

    def test_quiet(self):
        """Counters are zeroed when the kernel has published them."""
        syn, again = {"inject": "eth0", "pkt": {}}, [{"cmd": "ipvsadm -A -t 1:80 -s rr"}, {"cmd": "ipvsadm -a -t 1:80 -r 2:80 -m"}]
        gone, later = {"cmd": "ipvsadm -d -t 1:80 -r 2:80"}, {"sleep_ms": 7000}
        for seconds in (0, 1, 7):
            wait = {"sleep_ms": 1000 * seconds}
            for what, steps, timely in (
                    ("zeroed", [syn, wait, {"cmd": "ipvsadm -Z"}], seconds != 1),
                    ("removed", [syn, wait, {"cmd": "ipvsadm -D -t 1:80"}], True),
                    ("removed and back", [syn, wait, {"cmd": "ipvsadm -D -t 1:80"}] + again, seconds != 1),
                    ("all removed, one back", [syn, wait, {"cmd": "ipvsadm -C"}] + again, seconds != 1),
                    ("another back", [syn, wait, {"cmd": "ipvsadm -D -t 1:81"}] + again, True),
                    ("a server removed and back", [syn, wait, gone, again[1]], True),
                    ("a server removed, its service later, and both back", [syn, wait, gone, later, {"cmd": "ipvsadm -D -t 1:80"}] + again, seconds != 1),
                    ("a server removed, all later, and both back", [syn, wait, gone, later, {"cmd": "ipvsadm -C"}] + again, seconds != 1)):
                self.assertEqual(randcases.is_timely({"steps": steps}), timely, f"{what}, {seconds} s after a packet")

    def test_given_up(self):
        """A case does not end while it is uncertain whether a datagram was given up."""
        for seconds, timely in ((20, True), (28, False), (30.5, False), (33, True), (59, False)):
            case = {"steps": [{"inject": "eth0", "frames": ["00"]}, {"sleep_ms": 1000 * seconds}]}
            self.assertEqual(randcases.is_timely(case), timely, f"{seconds} s after a fragment")

    def test_fragments_of_the_host(self):
        part, again = {"inject": "eth0", "frames": ["00"]}, {"cmd": "ipvsadm -A -t 1:80 -s rr"}
        gone, flushed = {"cmd": "ipvsadm -D -t 1:80"}, {"cmd": "ipvsadm -C"}
        for steps, known, why in (
                ([gone, part, again], False, "the host has them, and the service comes back"), ([flushed, part, again], False, "all services went"),
                ([part, gone, again], True, "they came before"), ([gone, again, part], True, "or afterwards"), ([gone, part], True, "it stays away")):
            self.assertEqual(randcases.is_timely({"ipvs": ["-A -t 1:80 -s rr"], "steps": steps}), known, why)

    def test_tunnels_share(self):
        narrow = {"inject": "eth1", "pkt": {"dst": "10.0.2.1", "type": 3, "code": 4, "inner": {"dst": "10.0.2.11"}}}
        wide = {**narrow, "pkt": {**narrow["pkt"], "code": 1}}
        for rule, error, shared in (("-a -t 1:80 -r 10.0.2.11:80 -m", narrow, True), ("-a -t 1:80 -r 10.0.2.11:80 -m", wide, False),
                                    ("-a -t 1:80 -r 10.0.2.11:80 -i", narrow, False), ("-a -t 1:80 -r 10.0.2.12:80 -g", narrow, False)):
            self.assertEqual(randcases.tunnels_share({"ipvs": [rule], "steps": [error]}), shared, f"{rule}, {error}")
            self.assertEqual(randcases.tunnels_share({"steps": [error, {"cmd": "ipvsadm " + rule}]}), shared, f"a command: {rule}, {error}")
        for rule, shared in (("-e -t 1:80 -r 10.0.2.11:80 -i", False), ("-e -t 1:80 -r 10.0.2.12:80 -i", True)):
            self.assertEqual(randcases.tunnels_share({"steps": [{"cmd": "ipvsadm " + rule}, narrow]}), shared, f"before the error: {rule}")

    def test_back_from_the_trash(self):
        """A server comes back when it is certain whether the kernel still knows it."""
        add, syn = {"cmd": "ipvsadm -a -f 5 -6 -r 2:80 -g"}, {"inject": "eth0", "pkt": {}}
        for gone, back in (("-d -f 5 -6 -r 2:80", True), ("-D -f 5 -6", True), ("-C", True), ("-d -f 5 -6 -r 3:80", False), ("-D -f 5", False)):
            for packets, seconds, certain, why in (
                    ([], 115, True, "it is kept for 120 s at least"), ([], 140, True, "it goes when 180 s are over"),
                    ([], 184, False, "by then it may have gone, or a tick that is late is still to come"), ([], 205, True, "it has gone"),
                    ([syn], 205, False, "did a connection of 60 s hold it when the kernel looked?")):
                steps = [*packets, {"cmd": "ipvsadm " + gone}, {"sleep_ms": 1000 * seconds}, add]
                case = {"ipvs": ["-A -f 5 -6 -s rr", "-a -f 5 -6 -r 2:80 -g"], "steps": steps}
                self.assertEqual(randcases.is_timely(case), certain or not back, f"{gone}, back {seconds} s later: {why}")


class Shrinking(unittest.TestCase):
    case = {"name": "x", "nics": [{"name": "eth0", "mtu": 1400}], "tables": ["list"],
            "sysctls": {f"s{i}": 1 for i in range(5)},
            "setup": ["mark 5", "mark 6"],
            "ipvs": ["-A -t 1:80 -s mh -p 45 -M 255.0.0.0", "-a -t 1:80 -r 2:80 -m -w 3 -x 5 -y 2", "-a -t 1:80 -r 3:80 -g",
                     "-A -f 5 -6 -s lc", "-a -f 5 -6 -r 4 -i --tun-type gue --tun-port 5", "-A -f 5 -s rr"],
            "steps": [{"inject": "eth0", "pkt": {"src": "a", "dst": "b", "proto": "tcp", "sport": i, "ttl": 9, "tos": 4}, "wait_ms": 15}
                      for i in range(40)] + [{"inject": "eth0", "frames": ["aa", "bb", "cc"]}, {"cmd": "ipvsadm -e -t 1:80 -r 2:80 -m -w 0"},
                                             {"snapshot": ["list"]}]}

    def shrink(self, shows, budget=1000):
        asked = []

        def ask(case):
            asked.append(json.dumps(case, sort_keys=True))
            return shows(case)
        small, n = shrink.shrink(self.case, ask, budget)
        self.assertEqual(n, len(asked))
        self.assertEqual(len(asked), len(set(asked)), "a question was asked twice")
        return small

    def test_to_what_matters(self):
        def ports(c):
            return [s["pkt"].get("sport") for s in c["steps"] if "pkt" in s]
        for what, shows, want in (
                ("nothing", lambda c: True, {"steps": [], "ipvs": [], "sysctls": {}, "setup": [], "tables": []}),
                ("two packets in order", lambda c: [p for p in ports(c) if p in (7, 31)] == [7, 31], {"steps": 2}),
                ("a field", lambda c: any(s.get("pkt", {}).get("tos") for s in c["steps"]),
                 {"steps": [{"inject": "eth0", "pkt": {"src": "a", "dst": "b", "proto": "tcp", "sport": 0, "tos": 4}}]}),
                ("a wait", lambda c: sum(s.get("wait_ms", 0) for s in c["steps"]) >= 30, {"steps": 2}),
                ("a frame of several", lambda c: any("bb" in s.get("frames", []) for s in c["steps"]),
                 {"steps": [{"inject": "eth0", "frames": ["bb"]}]}),
                ("a sysctl and a mark", lambda c: "s3" in c["sysctls"] and "mark 6" in c["setup"], {"sysctls": {"s3": 1}, "setup": ["mark 6"]}),
                ("a service", lambda c: any("-f 5 -6" in r for r in c["ipvs"]), {"ipvs": 1}),
                ("a server", lambda c: any("-r 3" in r for r in c["ipvs"]), {"ipvs": 2}),
                ("an option", lambda c: any("-x 5" in r for r in c["ipvs"]), {"ipvs": ["-A -t 1:80 -s rr", "-a -t 1:80 -r 2:80 -m -x 5"]}),
                ("a scheduler", lambda c: any("-s mh" in r for r in c["ipvs"]), {"ipvs": ["-A -t 1:80 -s mh"]}),
                ("a command", lambda c: any("-w 0" in s.get("cmd", "") for s in c["steps"]),
                 {"steps": [{"cmd": "ipvsadm -e -t 1:80 -r 2:80 -m -w 0"}]}),
                ("an MTU", lambda c: c["nics"][0].get("mtu"), {"nics": [{"name": "eth0", "mtu": 1400}], "steps": []}),
                ("a listing", lambda c: c["tables"] and any("snapshot" in s for s in c["steps"]), {"steps": [{"snapshot": ["list"]}]})):
            with self.subTest(what):
                self.assertTrue(shows(self.case))
                small = self.shrink(shows)
                self.assertTrue(shows(small))
                for key, value in want.items():
                    self.assertEqual(len(small[key]) if isinstance(value, int) else small[key], value, f"{key} of {small}")

    def test_budget(self):
        asked = []
        small, n = shrink.shrink(self.case, lambda c: asked.append(c) or len(c["steps"]) > 3, 10)
        self.assertEqual((n, len(asked)), (10, 10))
        self.assertLess(len(small["steps"]), len(self.case["steps"]))

    def test_stays_timely(self):
        syn = {"inject": "eth0", "pkt": {"src": "a", "dst": "b", "proto": "tcp"}}
        case = {"name": "x", "nics": [], "ipvs": [], "steps": [
            syn, {"sleep_ms": 45000}, syn, {"sleep_ms": 35000}, {"sleep_ms": 15000}, syn]}  # without the second, 60 s
        self.assertTrue(randcases.is_timely(case))
        seen = []

        def shows(c):
            seen.append(randcases.is_timely(c))
            return sum("inject" in s for s in c["steps"]) == 3
        small, _ = shrink.shrink(case, shows)
        self.assertTrue(all(seen), "asked of a case whose events fall into the time in which the kernel's timers are late")
        self.assertEqual(sum("sleep_ms" in s for s in small["steps"]), 0)


class Judging(unittest.TestCase):
    def test_agrees(self):
        with ToyTest(lambda a: None) as t:
            for i in range(12):
                v = t.examine(randcases.random_case("j", i))
                self.assertEqual((v.verdict, v.text), ("PASS", ""))

    def test_finds_each_fault(self):
        for name in ("missing-frame", "wrong-mac", "extra-frame", "ttl-not-decremented", "spoiled-payload", "command-forgotten",
                     "wrong-exit-status", "state-counters-do-not-add-up"):
            with ToyTest(lambda a: fake_sluice.MUTATIONS[name](a, random.Random(1))) as t:
                v = t.examine(randcases.random_case("j", 1))
                self.assertEqual(v.verdict, "FAIL", name)
                self.assertNotEqual(v.text, "", name)

    def test_makes_a_planted_fault_small(self):
        with ToyTest(planted) as t:
            cases = (randcases.random_case("r", i, {"fragments"}) for i in range(1000))
            v = next(v for v in map(t.examine, cases) if v.verdict == "FAIL")
            small, asked = t.make_small(v)
            self.assertLessEqual(asked, 400)
            self.assertEqual(small.verdict, "FAIL")
            case = small.case
            self.assertEqual([s["pkt"]["proto"] for s in case["steps"]], ["udp", "tcp"], case["steps"])
            self.assertIn("R", case["steps"][1]["pkt"]["flags"])
            self.assertEqual(list(case["sysctls"]), ["net.ipv4.vs.pmtu_disc"])
            self.assertEqual(len(case["ipvs"]), 1)
            self.assertEqual([s["frames"] for s in small.result["steps"]],
                             [s["frames"] for s in oracle.compile_case(case)["steps"]], "the result is not that of the case")

    def test_what_happens_once_is_told_apart(self):
        times = []
        with ToyTest(lambda a: times or times.append(1) or fake_sluice.MUTATIONS["missing-frame"](a, random.Random(1))) as t:
            self.assertEqual(t.examine(randcases.random_case("j", 2)).verdict, "UNSTABLE")

    def test_what_the_kernel_cannot_play(self):
        with ToyTest(lambda a: None) as t:
            t.free.get().ask, t.free.get()
            for _ in t.all:
                broken = Toy()
                broken.ask = lambda case: {"ok": False, "error": "no answer from the guest in 120 s", "steps": []}
                t.free.put(broken)
            v = t.examine(randcases.random_case("j", 2))
            self.assertEqual(v.verdict, "SKIP")
            self.assertIn("no answer from the guest", v.text)

    def test_kinds(self):
        text = ("step {0}, packet {0}\n  in:     eth0 02:00:00:00:01:fe > 02:00:00:00:00:01 IP ttl=64 id=0x10{0} DF "
                "10.0.1.{0}:1000 > 10.0.1.100:80 TCP [{1}] seq=1{0}\n  on eth1, frame 0 of this step: {2}\n  kernel: x")
        kinds = [differential.kind_of("frames", text.format(*x)) for x in (
            (11, "S", "missing frame"), (12, "S", "missing frame"), (11, "R", "missing frame"), (11, "S", "length 60 instead of 40 bytes"))]
        self.assertEqual(kinds[0], kinds[1])
        self.assertEqual(len(set(kinds)), 3, kinds)
        rows = [differential.kind_of("tables", f"step 5, 'ipvsadm -Lnc' at {t} s: connection\n  kernel: TCP 00:5{n} {state} 10.0.1.1{n}:1")
                for t, n, state in (("0.5", 1, "SYN_RECV"), ("7.25", 2, "SYN_RECV"), ("0.5", 1, "ESTABLISHED"))]
        self.assertEqual(rows[0], rows[1])
        self.assertNotEqual(rows[0], rows[2])


class Command(unittest.TestCase):
    """As a user calls it."""

    def run_it(self, *args, sluice=FAKE, kernel=TOY):
        found = tempfile.mkdtemp(prefix="found-")
        self.addCleanup(lambda: subprocess.run(["rm", "-rf", found], check=True))
        p = subprocess.run([sys.executable, os.path.join(HERE, "differential.py"), "--sluice", " ".join(sluice), "--kernel",
                            " ".join(kernel), "--seed", "c", "--jobs", "2", "--found", found, *args],
                           capture_output=True, text=True, timeout=120)
        return p.returncode, p.stdout + p.stderr, [os.path.join(found, f) for f in sorted(os.listdir(found))]

    def test_no_difference(self):
        status, out, found = self.run_it("--count", "4", "--without", "edits,icmp,fragments")
        self.assertEqual((status, found), (0, []), out)
        for line in ("4 cases, seed c, without edit-add", "4/4 cases", "seed c: no difference"):
            self.assertIn(line, out)
        self.assertRegex(out, r"(?m)^all +4 +-$")

    def test_difference(self):
        spoiled = FAKE + ["--mutate", "missing-frame"]
        status, out, found = self.run_it("--count", "2", "--shrink", "1", "--questions", "20", sluice=spoiled)
        self.assertEqual((status, len(found)), (1, 1), out)
        self.assertRegex(out, r"(?m)^all +2 +2$")
        for sluice, want in ((spoiled, 1), (FAKE, 0)):  # what was found shows it to the checker
            p = subprocess.run([sys.executable, os.path.join(HERE, "golden", "golden.py"), "check", "--sluice", " ".join(sluice)] + found,
                               capture_output=True, text=True)
            self.assertEqual(p.returncode, want, p.stdout)
        status, out, again = self.run_it("--again", found[0], sluice=spoiled)
        self.assertEqual((status, again), (1, []), out)

    def test_trouble(self):
        for what, kw, args, want in (
                ("no kernel", {"kernel": ["false"]}, [], "false ended with 1"),
                ("no sluice", {"sluice": ["/no/such"]}, [], "no such program: /no/such"),
                ("an unknown feature", {}, ["--without", "icpm"], "icpm"),
                ("nothing left", {}, ["--without", "tcp udp sctp marks"], "left out"),
                ("a seed that is no file name", {}, ["--seed", "../x"], "letters, digits"),
                ("no cases", {}, ["--count", "0"], "--count")):
            with self.subTest(what):
                status, out, _ = self.run_it("--count", "2", *args, **kw)
                self.assertEqual(status, 2, out)
                self.assertIn(want, out)


def toy():
    """oracle.py serve, with the toy."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(Toy().ask(json.loads(line))), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["toy"]:
        toy()
    else:
        unittest.main()
