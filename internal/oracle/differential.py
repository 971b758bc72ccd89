#!/usr/bin/python3
"""The differential test: random cases, answered by the kernel's IPVS and by sluice in the same run.

    differential.py --sluice ./sluice --seed S --count N [--without icmp,mtu] [--frames-only]
    differential.py --sluice ./sluice --again CASE...      asks the kernel and sluice these cases again
    differential.py --features                             what --without knows

Each case goes to a guest (oracle.py serve, several at once) and to `sluice replay`, and golden/compare.py
holds one answer against the other, packet by packet and table by table.  A difference is asked for once
more; then the first of each kind are made small (golden/shrink.py), and written with the kernel's answer to
testdata/found/NAME.json, which the tests of this package replay.  The same seed, count and features give
the same cases.  Exit status: 0 no difference, 1 some, 2 it could not be told (wrong usage, no kernel).
"""
import argparse
import collections
import concurrent.futures
import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "golden")]
import compare  # noqa: E402
import features  # noqa: E402
import golden  # noqa: E402
import randcases  # noqa: E402
import shrink  # noqa: E402
import translate  # noqa: E402

TRIES = 2              # of a case that the kernel could not play


class KernelGone(Exception):
    """The process that plays cases to the kernel ended."""


class Kernel:
    """A process that takes a case a line and gives a result a line: oracle.py serve."""

    def __init__(self, command):
        self.command, self.process = command, None

    def start(self):
        # In a session of its own, so that an interrupt reaches it as the end of its input, and it can clean up.
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        start_new_session=True)
        self._answer()  # {"ready": true}

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise KernelGone(f"{shlex.join(self.command)} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, case):
        if not self.process:
            self.start()
        try:
            self.process.stdin.write(json.dumps(case) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._answer()

    def close(self):
        if self.process:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
            self.process.stdout.close()
            self.process.wait()
            self.process = None


class Verdict:
    """What came of a case: PASS, FAIL (area and text say where), SKIP (text says why) or UNSTABLE (the second
    time, kernel and sluice agreed)."""

    def __init__(self, case, result, verdict, area="", text=""):
        self.case, self.result, self.verdict, self.area, self.text = case, result, verdict, area, text

    @property
    def kind(self):
        """The difference without its particulars, to tell those that may have one cause."""
        return kind_of(self.area, self.text)


def kind_of(area, text):
    """area, and what is wrong with which sort of packet or row; numbers and addresses are left out."""
    lines = text.splitlines() or [""]
    if area == "frames":
        came = re.search(r"^  in: +\S+ (?:\S+ > \S+ )?(.*)", text, re.M)
        wrong = next((x for x in lines if re.search(r"of this step: |^  in=|^  pass in=", x)), lines[0])
        parts = [wrong.rpartition("of this step: ")[2], sort_of(came[1]) if came else ""]
    else:
        parts = lines[:1] + [" ".join(re.findall(r"[A-Z][A-Z_]{2,}", x)) for x in lines[1:3]]
    return " ".join([area] + [re.sub(r"\d+|0x[0-9a-f]+|\b[0-9a-f]{2}\b", "#", p) for p in parts]).strip()


def sort_of(description):
    """Of a described frame: the protocols in it and its TCP flags."""
    return " ".join(re.findall(r"IP6?\b|TCP \[\w*\]|UDP|SCTP|ICMP6? type=\d+|frag|GRE|GUE|proto=\d+", description))


class Test:
    """The questions, and those who answer them."""

    def __init__(self, sluice, kernel, jobs, frames_only=False, keep=None, timeout=golden.TIMEOUT, questions=400):
        self.questions = questions  # for making one case small
        self.sluice, self.frames_only, self.keep, self.timeout = sluice, frames_only, keep, timeout
        self.folder = tempfile.mkdtemp(prefix="differential-")
        self.serial, self.lock = 0, threading.Lock()
        self.all = [Kernel(kernel) for _ in range(jobs)]
        self.free = queue.SimpleQueue()
        for k in self.all:
            self.free.put(k)
        self.pool = concurrent.futures.ThreadPoolExecutor(jobs)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.pool.shutdown(cancel_futures=True)
        for k in self.all:
            k.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def answer(self, case):
        """The kernel's result of a case."""
        kernel = self.free.get()
        try:
            for _ in range(TRIES):
                result = kernel.ask(case)
                if result.get("ok") or result.get("steps"):  # else the guest hung
                    break
            return result
        except KernelGone:
            kernel.close()
            raise
        finally:
            self.free.put(kernel)

    def judge(self, case):
        """A Verdict."""
        result = self.answer(case)
        with self.lock:
            self.serial += 1
            name = f"{case['name']}.{self.serial}"
        path = os.path.join(self.folder, name + ".json")
        write(path, {"case": case, "result": result})
        folder = os.path.join(self.keep, case["name"]) if self.keep else os.path.join(self.folder, name)
        os.makedirs(folder, exist_ok=True)
        try:
            plan = translate.Plan(case, result, path)
            got = golden.replay(plan, self.sluice, folder, self.timeout)
            d = ("run", got.replace(folder + os.sep, "")) if isinstance(got, str) else \
                compare.difference(plan, *got, frames_only=self.frames_only)
        except translate.Skip as e:
            return Verdict(case, result, "SKIP", text=str(e))
        finally:
            if self.keep:
                shutil.move(path, os.path.join(folder, "case.json"))
            else:
                os.unlink(path)
                shutil.rmtree(folder)
        return Verdict(case, result, "FAIL", *d) if d else Verdict(case, result, "PASS")

    def examine(self, case):
        """As judge, but a difference is looked at twice."""
        v = self.judge(case)
        if v.verdict == "FAIL" and self.judge(case).verdict != "FAIL":
            v.verdict = "UNSTABLE"
        return v

    def make_small(self, verdict):
        """The Verdict of the smallest case of this kind of difference, and the number of questions."""
        best = verdict

        def shows(case):
            nonlocal best
            v = self.judge(case)
            if v.verdict != "FAIL" or v.kind != verdict.kind:
                return False
            best = v
            return True
        _, asked = shrink.shrink(verdict.case, shows, self.questions)
        return best, asked


def write(path, data):
    with open(path, "w") as f:
        json.dump(data, f, indent=1)
        f.write("\n")


# ---------------------------------------------------------------- the report

class Progress:
    """A line now and then."""

    def __init__(self, total, every=15):
        self.total, self.every, self.began = total, every, time.monotonic()
        self.done, self.last, self.tally = 0, self.began, collections.Counter()

    def count(self, verdict):
        self.done += 1
        self.tally[verdict] += 1
        now = time.monotonic()
        if now - self.last >= self.every or self.done == self.total:
            self.last = now
            print(f"{self.done}/{self.total} cases, {self.done / (now - self.began):.1f} a second, "
                  f"{self.tally['FAIL']} with a difference", flush=True)


def print_summary(verdicts):
    """By feature: in how many cases it was, and how many of these differed."""
    table = collections.defaultdict(collections.Counter)
    for v in verdicts:
        for name in features.of(v.case) | {"all"}:
            table[name][v.verdict] += 1
    print(f"\n{'feature':26} {'cases':>6} {'differ':>7}")
    for name in [n for n in features.NAMES if n in table] + ["all"]:
        print(f"{name:26} {sum(table[name].values()):6} {table[name]['FAIL'] or '-':>7}")
    for what, note in (("SKIP", "could not be judged"), ("UNSTABLE", "differed once, and not again")):
        for v in (v for v in verdicts if v.verdict == what):
            print(f"{v.case['name']} {note}: {v.area} {v.text}")


def report_differences(test, failed, most, found, command):
    """Prints the kinds of difference; of the first of each kind, up to `most`, makes a small case and writes it."""
    kinds = collections.defaultdict(list)
    for v in failed:
        kinds[v.kind].append(v)
    print(f"\n{len(failed)} cases differ, in {len(kinds)} ways:")
    chosen = sorted((group[0] for group in kinds.values()), key=lambda v: v.area == "run")[:most]  # these speak for themselves
    small = {v.kind: test.pool.submit(test.make_small, v) for v in chosen}
    for kind, group in kinds.items():
        names = " ".join(v.case["name"] for v in group[:8]) + (" ..." if len(group) > 8 else "")
        print(f"\n{kind}\n  in {names}")
        if kind not in small:
            print(f"  {group[0].area}: {group[0].text}")
            continue
        v, asked = small[kind].result()
        name = group[0].case["name"]
        v.case["doc"] = f"{command}, made small with {asked} questions"
        path = os.path.join(found, name + ".json")
        os.makedirs(found, exist_ok=True)
        write(path, {"case": v.case, "result": v.result})
        print(f"  made small: {size_of(group[0].case)} -> {size_of(v.case)}; {os.path.relpath(path)}\n  {v.area}: {v.text}",
              flush=True)


def size_of(case):
    return f"{len(case['ipvs'])} rules and {len(case['steps'])} steps"


def random_cases(a):
    return [randcases.random_case(a.seed, i, a.without) for i in range(a.first, a.first + a.count)]


def old_cases(paths):
    cases = []
    for path in golden.find(paths):
        case, _ = golden.load(path)
        cases.append({**case, "name": case.get("name") or golden.case_name(path)})
    return cases


def run(a):
    cases = old_cases(a.again) if a.again else random_cases(a)
    print(f"{len(cases)} cases" + ("" if a.again else f", seed {a.seed}") +
          (f", without {' '.join(sorted(a.without))}" if a.without else "") +
          (", frames only" if a.frames_only else "") + f", {a.jobs} at once", flush=True)
    progress = Progress(len(cases))
    with Test(shlex.split(a.sluice), shlex.split(a.kernel), a.jobs, a.frames_only, a.keep, questions=a.questions) as test:
        verdicts = []
        jobs = [test.pool.submit(test.examine, c) for c in cases]
        for j in jobs:
            v = j.result()
            verdicts.append(v)
            progress.count(v.verdict)
            if v.verdict == "FAIL":
                print(f"{v.case['name']} differs: {v.kind}", flush=True)
        failed = [v for v in verdicts if v.verdict == "FAIL"]
        if failed:
            report_differences(test, failed, 0 if a.again else a.shrink, a.found, "make differential SEED=" + a.seed)
    print_summary(verdicts)
    if not a.again:
        print(f"seed {a.seed}: " + ("no difference" if not failed else f"{len(failed)} cases differ"))
    if failed:
        return 1
    return 0 if any(v.verdict == "PASS" for v in verdicts) else 2


def positive(text):
    n = int(text)
    if n < 1:
        raise ValueError
    return n


def main():
    if "--features" in sys.argv[1:]:
        for name, what in features.NAMES.items():
            print(f"{name:26} {what}")
        return 0
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--sluice", required=True, metavar="BINARY", help="may hold arguments")
    ap.add_argument("--seed", default=time.strftime("%y%m%d%H%M%S"), help="a word; default: the time")
    ap.add_argument("--count", type=positive, default=100, metavar="N")
    ap.add_argument("--first", type=int, default=0, metavar="N", help="number of the first case, to repeat that of SEED-N")
    ap.add_argument("--without", type=features.parse, default=frozenset(), metavar="NAME,...",
                    help="features to leave out, as --features lists them")
    ap.add_argument("--again", nargs="+", metavar="CASE", help="ask these cases instead of random ones")
    ap.add_argument("--frames-only", action="store_true", help="compare no tables and no state")
    ap.add_argument("--jobs", type=positive, default=os.cpu_count(), metavar="N", help="guests at once")
    ap.add_argument("--shrink", type=int, default=4, metavar="N", help="kinds of difference to make small; 0: none")
    ap.add_argument("--questions", type=positive, default=400, metavar="N", help="for making one of them small")
    ap.add_argument("--found", default=os.path.join(HERE, "testdata", "found"), metavar="DIR", help="where to write them")
    ap.add_argument("--keep", metavar="DIR", help="keep the files of each replay in DIR/CASE/")
    ap.add_argument("--kernel", default=shlex.join([os.path.join(HERE, "oracle.py"), "serve"]), metavar="COMMAND",
                    help="who answers instead of the kernel")
    a = ap.parse_args()
    if not re.fullmatch(r"[\w.-]+", a.seed):
        ap.error(f"seed {a.seed!r}: want letters, digits, and _ . - only")
    binary = shlex.split(a.sluice)[0]
    if not shutil.which(binary):
        ap.error(f"no such program: {binary}")
    try:
        return run(a)
    except (KernelGone, ValueError) as e:
        print(f"differential: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("differential: interrupted", file=sys.stderr)
        return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(1)
