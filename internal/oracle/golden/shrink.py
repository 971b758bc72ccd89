"""Makes a case small that shows something, by asking again and again whether less still shows it.

shrink(case, shows, budget) tries to leave out steps, services, servers, sysctls and marks, then
options of rules, frames, fields of packets, and tables, each by delta debugging (Zeller and
Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002), until nothing more can go.
"""
import copy
import json

import randcases

# Options of a rule that may be left out, with the number of words behind them.
OPTIONS = {"-p": 1, "-M": 1, "-b": 1, "--pe": 1, "-o": 0, "-x": 1, "-y": 1, "-w": 1,
           "--tun-type": 1, "--tun-port": 1, "--tun-csum": 0, "--tun-remcsum": 0}
NEEDED = {"src", "dst", "proto", "sport", "dport", "flags", "chunks", "type", "inner", "frames"}  # fields of a packet


class Spent(Exception):
    """No more questions are allowed."""


class Shrinker:
    """The smallest case so far, and what it took to find it."""

    def __init__(self, case, shows, budget):
        self.case, self._shows, self.budget = case, shows, budget
        self.asked, self._seen = 0, set()
        self._timely = randcases.is_timely(case)

    def better(self, case):
        """Takes the case if it still shows the thing."""
        key = json.dumps(case, sort_keys=True)
        if key in self._seen or self._timely and not randcases.is_timely(case):
            return False
        self._seen.add(key)
        if self.asked >= self.budget:
            raise Spent
        self.asked += 1
        if not self._shows(copy.deepcopy(case)):
            return False
        self.case = case
        return True

    def with_(self, **changes):
        return {**self.case, **changes}

    def fewer(self, items, put):
        """Delta debugging: put(some of the items) is the case with these only."""
        parts = 1
        while items:
            size = -(-len(items) // parts)
            for end in range(len(items), 0, -size):  # the last first: what comes late matters least
                rest = items[:max(0, end - size)] + items[end:]
                if self.better(put(rest)):
                    items, parts = rest, max(parts - 1, 1)
                    break
            else:
                if size == 1:
                    break
                parts = min(2 * parts, len(items))
        return items

    # -- passes, each from coarse to fine

    def tables(self):
        steps = [s for s in self.case["steps"] if "snapshot" not in s]
        self.better(self.with_(tables=[], steps=steps)) or self.better(self.with_(steps=steps)) or \
            self.better(self.with_(tables=[]))

    def steps(self):
        self.fewer(self.case["steps"], lambda steps: self.with_(steps=steps))

    def services(self):
        """A service goes with its servers."""
        def of(rule):
            words = rule.split()
            return tuple(words[1:3]) + (("-6",) if "-6" in words else ())
        names = list(dict.fromkeys(map(of, self.case["ipvs"])))
        self.fewer(names, lambda kept: self.with_(ipvs=[r for r in self.case["ipvs"] if of(r) in kept]))

    def servers(self):
        """What is not `-A`."""
        def put(kept):
            return self.with_(ipvs=[r for i, r in enumerate(rules) if r.startswith("-A") or i in kept])
        rules = self.case["ipvs"]
        self.fewer([i for i, r in enumerate(rules) if not r.startswith("-A")], put)

    def settings(self):
        for key in ("sysctls", "setup"):
            items = self.case.get(key, [])
            kind = type(items)
            pick = (lambda kept: {k: items[k] for k in kept}) if kind is dict else list
            self.fewer(list(items), lambda kept: self.with_(**{key: pick(kept)}))
        nics = [{k: v for k, v in n.items() if k != "mtu"} for n in self.case["nics"]]
        self.better(self.with_(nics=nics))

    def options(self):
        """Options of the rules, and of commands in the steps."""
        for i in range(len(self.case["ipvs"])):
            self._rule(lambda: self.case["ipvs"][i],
                       lambda r: self.with_(ipvs=self.case["ipvs"][:i] + [r] + self.case["ipvs"][i + 1:]))
        for i, s in enumerate(self.case["steps"]):
            if "cmd" in s:
                self._rule(lambda: self.case["steps"][i]["cmd"], lambda c: self._step(i, {**self.case["steps"][i], "cmd": c}))

    def _rule(self, get, put):
        for option, n in OPTIONS.items():
            words = get().split()
            if option in words:
                at = words.index(option)
                self.better(put(" ".join(words[:at] + words[at + 1 + n:])))
        words = get().split()
        if "-s" in words:
            at = words.index("-s") + 1
            self.better(put(" ".join(words[:at] + ["rr"] + words[at + 1:])))

    def _step(self, i, step):
        return self.with_(steps=self.case["steps"][:i] + [step] + self.case["steps"][i + 1:])

    def frames(self):
        """Frames of a step with several."""
        for i, s in enumerate(self.case["steps"]):
            if len(s.get("frames", [])) > 1:
                self.fewer(s["frames"], lambda kept: self._step(i, {**self.case["steps"][i], "frames": kept}))

    def fields(self):
        """Whatever a packet need not have, and notes."""
        for i in range(len(self.case["steps"])):
            s = self.case["steps"][i]
            if "pkt" in s:
                optional = [k for k in s["pkt"] if k not in NEEDED]

                def put(kept):
                    pkt = {k: v for k, v in self.case["steps"][i]["pkt"].items() if k in NEEDED or k in kept}
                    return self._step(i, {**self.case["steps"][i], "pkt": pkt})
                self.fewer(optional, put)
            for key in ("wait_ms", "note"):
                if key in self.case["steps"][i]:
                    self.better(self._step(i, {k: v for k, v in self.case["steps"][i].items() if k != key}))

    PASSES = (tables, steps, services, servers, settings, steps, options, frames, fields)

    def run(self):
        try:
            before = None
            while before != self.case:
                before = self.case
                for step in self.PASSES:
                    step(self)
        except Spent:
            pass
        return self.case


def shrink(case, shows, budget=400):
    """The smallest case found that shows(case), and how many were asked for. The case itself must show it."""
    s = Shrinker(case, shows, budget)
    return s.run(), s.asked
