#!/usr/bin/python3
"""Random cases for the differential test: the same seed gives the same cases.

    randcases.py --seed S --count N [--without icmp,mtu] -o DIR    writes DIR/cases/SEED-NNNN.json

then, for example:

    oracle.py run DIR/cases/*.json -d DIR/results
    golden.py check --sluice ./sluice DIR

A case has one to four services of every kind, and clients, servers and routers that behave
well, badly and impossibly; rules are edited in mid-traffic, and time passes in jumps.  What
the kernel does not answer the same way twice is left out: the twos scheduler, drop_entry,
drop_packet with rate by memory.  Jumps never end within the time by which a kernel timer
may be late (see Clock), so that an implementation with exact timers can agree.  More is left
out by name (features.py has the names), for a sluice that does not know it yet.
"""
import argparse
import itertools
import json
import os
import random
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import frames  # noqa: E402  (of the oracle)
import features  # noqa: E402
from compare import HELD, lateness  # noqa: E402

VIPS4, VIPS6 = ["10.0.1.100", "10.0.1.101"], ["fd00:1::100"]
MARKED = "10.0.9."                      # 10.0.9.0/24 is local, for marks
CLIENTS4 = ["10.0.1.10", "10.0.1.11", "10.0.1.12"]
CLIENTS6 = ["fd00:1::10", "fd00:1::11", "fd00:1::12"]
SERVERS4 = [f"10.0.2.{n}" for n in range(11, 16)]
SERVERS6 = [f"fd00:2::{n}" for n in range(11, 16)]
ROUTER_C, ROUTER_S = "10.0.1.254", "10.0.2.254"
PERSISTENCE = [45, 80, 200]             # no multiple near a connection's timeout
MASKS4, MASKS6 = ["255.255.255.0", "255.255.0.0", "255.255.255.252", "255.0.0.0"], [64, 112, 127, 48]
PADDING = "010400000000"                # an option of an IPv6 extension header that says nothing
SCTP_CHUNKS = {
    "init": (1, "1111111100010000000a000a00000001"), "initack": (2, "2222222200010000000a000a000000010007000801020304"),
    "echo": (10, "01020304"), "ack": (11, ""), "data": (0, "00000001000000000000000041424344"),
    "sack": (3, "000000010000ffff00000000"), "shutdown": (7, "00000001"), "shutack": (8, ""),
    "shutdone": (14, ""), "abort": (6, ""), "error": (9, ""), "heartbeat": (4, "0001000801020304")}
TICKS = 45  # milliseconds in which the kernel does what it puts off: end connections, those of removed servers too
# Seconds between packets and the zeroing of counters, by -Z, or because a server's service goes and both come back, unless
# these happen at one time: to the kernel, zero is what they were when it last published them, every 2 to 2.1 s by its HZ.
QUIET = 2.2
GIVEN_UP = (30, 60)  # seconds after which the kernel tells who sent a datagram that stayed incomplete: IPv4, IPv6
TRASH = 60  # seconds between the kernel's looks into the trash of removed servers; one that was idle at a look goes at the second one after
DEFENCES = ("drop_packet", "secure_tcp")  # the kernel looks at these once a second
TUNNELS = {" --tun-type gre": "gre", " --tun-type gre --tun-csum": "gre", " --tun-type gue --tun-port 6080": "gue",
           " --tun-type gue --tun-port 6080 --tun-csum": "gue", " --tun-type gue --tun-port 6080 --tun-remcsum": "gue"}
# SIP requests and answers by Call-ID; without one, or with one that does not end, IPVS has nothing to go by.
SIP = ["INVITE sip:a@b SIP/2.0\r\nCall-ID: one@a\r\n\r\n", "SIP/2.0 200 OK\r\nVia: x\r\nCall-ID: one@a\r\n\r\n",
       "BYE sip:a@b SIP/2.0\r\nCall-ID: two@a\r\n\r\n", "BYE sip:a@b SIP/2.0\r\ncall-id:two@a\r\n\r\n",
       "INVITE sip:a@b SIP/2.0\r\nCall-ID: cut@a", "OPTIONS sip:a@b SIP/2.0\r\n\r\n", "not SIP"]


class Clock:
    """Chooses how long to sleep so that no packet comes when the kernel's (late) timers and
    exact timers disagree about whether a connection still exists."""

    TIMEOUTS = [3, 4, 10, 30, 60, 61, 120, 300, 600, 900]  # of connections, and of a path's MTU

    def __init__(self, rng, persistence):
        self.rng, self.persistence = rng, persistence
        self.now, self.busy = 0.0, [0.0]

    def ends(self, gap):
        """From when to when a template of that age may fire: a first time, then every 60 s while it has connections,
        each time late; if it was armed when it had fired before, after 60 s."""
        for first in {*self.persistence, *([HELD] if self.persistence else [])}:
            for k in range(int(max(gap + max(self.TIMEOUTS) - first, 0) / HELD) + 2):
                yield first + k * HELD, first + k * HELD + lateness(first) + k * lateness(HELD)

    def forbidden(self, gap):
        for t in self.TIMEOUTS:
            if t - 1.3 <= gap <= t + lateness(t) + 1.3:
                return True
        for begin, end in self.ends(gap):
            if begin - 1.3 <= gap <= end + 1.3:
                return True
            for t in self.TIMEOUTS:  # a template and its connections due at the same time
                if begin - t - lateness(t) - 1.3 <= gap <= end - t + 1.3 and gap > 2:
                    return True
        return False

    def work(self, seconds):
        """Packets came, for this long."""
        while seconds > 0:
            step = min(seconds, 0.5)
            self.now, seconds = self.now + step, seconds - step
            self.busy.append(self.now)

    def sleep(self):
        """A duration, or None if none of many tried will do."""
        for _ in range(300):
            d = self.rng.choice([1.6, 2, 6, 7, 15, 20, 35, 45, 70, 75, 90, 100, 130, 140, 180, 240, 320, 400])
            d += round(self.rng.random() * 2, 2)
            t = self.now + d
            if not any(self.forbidden(t - b) for b in self.busy):
                self.now = t
                self.busy.append(t)
                return d
        return None


def is_certain(clock, packets, looks, removed, added):
    """Is a server that comes back still in the kernel's trash, or gone from it, however late the kernel's timers were?
    looks: when looking may have begun."""
    def is_near(t, begin, end):
        return begin - 1.3 <= t <= end + 1.3
    held = [(b + begin, b + end) for b in packets if b <= removed
            for begin, end in [*((t, t + lateness(t)) for t in clock.TIMEOUTS), *clock.ends(added - b)]]
    for begun in looks if added - removed > 2 * TRASH - 2 else []:
        k, look, late = 1, begun, begun
        while look <= added + 1.3:
            look, late = begun + k * TRASH, begun + k * (TRASH + lateness(TRASH))
            if is_near(added, look, late) or \
                    is_near(added, look + 2 * TRASH, late + 3 * (TRASH + lateness(TRASH))) and \
                    any(is_near(look, begin - (late - look), end) for begin, end in held):
                return False
            k += 1
    return True


def servers_that_come_back(case):
    """When each was removed and when it was added again, and when servers were removed."""
    here, gone, out, removals, now = set(), {}, [], set(), 0.0
    for step in [{"cmd": "ipvsadm " + rule} for rule in case.get("ipvs", [])] + case["steps"]:
        op, _, service = step.get("cmd", "").removeprefix("ipvsadm ").partition(" ")
        service, _, server = service.partition(" -r ")
        name = service, server.partition(" ")[0]
        if op == "-a":
            if name in gone:
                out.append((gone.pop(name), now))
            here.add(name)
        elif op in ("-d", "-D", "-C"):
            going = {n for n in here if op == "-C" or n[0] == service and (op == "-D" or n == name)}
            gone.update(dict.fromkeys(going, now))
            removals |= {now} if going else set()
            here -= going
        now += (step.get("sleep_ms", 0) + step.get("wait_ms", 0)) / 1000
    return out, removals


def tunnels_share(case):
    """Does an error tell of a narrow way to a tunnel's end that is also a server by NAT or DR, for which the kernel heeds it, too? Or
    comes it after an edit of another server? Should that have the connection, the kernel tells what it knows of the way to that."""
    rules, edits, narrow = case.get("ipvs", []) + [s["cmd"] for s in case["steps"] if "cmd" in s], [], set()
    for step in case["steps"]:
        p = step.get("pkt", {})
        if re.search(" -[ae] ", step.get("cmd", "")):
            edits.append(step["cmd"])
        if p.get("dst") == features.DIRECTOR and (p.get("type"), p.get("code")) == (3, 4):
            narrow.add(f" -r {p['inner']['dst']}:")
            if any(not any(end in rule for end in narrow) for rule in edits):
                return True
    return any(end in rule and " -i" not in rule for end in narrow for rule in rules)


def is_timely(case):
    """Do the events of a case keep to what Clock allows, and to what QUIET, GIVEN_UP and TRASH are for?"""
    persistence, busy, now = set(), set(), 0.0
    expires, removed = "expire_nodest_conn" in str(case), None  # when servers went last, whose connections the kernel ends a tick later
    counted, unpublished = set(), set()  # times of packets; services that went with counts that the kernel had not published
    pieces = set()  # times of fragments
    away = {}  # services that went, and whether fragments came since
    orphaned = set()  # services that lost servers with such counts, which are zeroed when they come back to one made again
    services = {rule.split()[2] for rule in case.get("ipvs", [])}
    for rule in list(case.get("ipvs", [])) + [s["cmd"].partition(" ")[2] for s in case["steps"] if "cmd" in s]:
        if " -p " in rule:
            persistence.add(int(rule.split(" -p ")[1].split()[0]))
    for step in case["steps"]:
        words = step.get("cmd", "").split()[1:]
        if words[:1] == ["-a"] and unpublished & {"all", *words[1:3]}:
            return False
        if words[:1] in (["-D"], ["-d"], ["-C"]):
            removed = now
        quiet = not any(0 < now - b < QUIET for b in counted)
        if words[:1] == ["-Z"] and not quiet:
            return False
        if words[:1] == ["-d"] and not quiet:
            orphaned.add(words[2])
        if words[:1] == ["-D"] and (not quiet or words[2] in orphaned):
            unpublished.add(words[2])
        if words[:1] == ["-C"]:
            unpublished |= orphaned if quiet else {"all"}
        if "inject" in step:
            counted.add(now)
        if "frames" in step:
            pieces.add(now)
            away = dict.fromkeys(away, True)
        if words[:1] == ["-A"] and away.pop(words[2], False):
            return False  # the host has them; if it gives them up, the kernel counts the host's error on the service
        if words[:1] in (["-D"], ["-C"]):
            away.update({words[2]: False} if words[0] == "-D" else dict.fromkeys(services, False))
        if not {"sleep_ms", "snapshot"} & set(step):
            busy.add(round(now, 1))
        now += (step.get("sleep_ms", 0) + step.get("wait_ms", 0)) / 1000
    clock = Clock(None, persistence)
    gaps = {round(b - a, 1) for a in busy for b in busy if b > a + 1}
    if any(b + t <= now + QUIET and now <= b + t + lateness(t) for b in pieces for t in GIVEN_UP):
        return False  # while the oracle waits for the counters at the end
    back, removals = servers_that_come_back(case)
    if not all(is_certain(clock, counted, [t for t in removals if t <= b], a, b) for a, b in back):
        return False
    return not (expires and removed is not None and now - removed < 0.1) and not any(map(clock.forbidden, gaps))


class Service:
    def __init__(self, g, index):
        r = g.rng
        self.g = g
        self.kind = g.one({"tcp": 8, "udp": 4, "sctp": 2, "marks": 2})
        self.proto = g.one({"tcp": 4, "udp": 2, "sctp": 1}) if self.kind == "marks" else self.kind
        self.v6 = g.may("ipv6", 0.3 if self.kind != "marks" else 0.2)
        self.vip = r.choice(VIPS6 if self.v6 else VIPS4)
        self.port = r.choice([80, 443, 53, 5060, 3868, 8000 + index])
        self.sip = self.proto == "udp" and g.may("sip", 0.15)
        self.any_port = self.kind in ("tcp", "udp") and not self.sip and g.may("port0", 0.1)
        if self.kind == "udp" and g.may("ipsec", 0.12):
            self.port = 500
        if self.kind == "tcp" and g.may("ftpport", 0.06):
            self.port = 21
        self.choose_persistence(0.25)
        self.choose_scheduler()
        self.ops = self.proto == "udp" and not self.persistent and g.may("ops", 0.2)
        self.mark = 5 + index
        self.repersist = g.may("edit-persistence", 0.2)
        self.servers = {}
        self.known = {}           # address -> the server as it was first added
        self.present = False

    def choose_persistence(self, probability):
        g = self.g
        self.persistent = g.rng.choice(PERSISTENCE) \
            if self.any_port or self.sip or g.may("persistence", probability) else None
        self.mask = g.rng.choice(MASKS6 if self.v6 else MASKS4) if self.persistent and g.may("netmask", 0.4) else None

    def choose_scheduler(self):
        g = self.g
        self.scheduler, self.flags = g.one(dict.fromkeys(features.SCHEDULERS, 1)), ""
        if self.scheduler in ("sh", "mh") and g.may("schedflags", 0.6):
            self.flags = ",".join(f"{self.scheduler}-{x}" for x in g.rng.choice([["port"], ["fallback"], ["fallback", "port"]]))

    def spec(self):
        host = f"[{self.vip}]" if self.v6 else self.vip
        port = 0 if self.any_port else self.port
        return {"tcp": f"-t {host}:{port}", "udp": f"-u {host}:{port}", "sctp": f"--sctp-service {host}:{port}",
                "marks": f"-f {self.mark}" + (" -6" if self.v6 else "")}[self.kind]

    def options(self):
        out = f"-s {self.scheduler}"
        if self.flags:
            out += f" -b {self.flags}"
        if self.persistent:
            out += f" -p {self.persistent}"
            if self.mask:
                out += f" -M {self.mask}"
        if self.sip:
            out += " --pe sip"
        return out + (" -o" if self.ops else "")

    def mark_rule(self):
        """The iptables command that gives packets this service's mark: of its protocol, or any; of all ports, or some; of all
        clients, or some. Of several that match, the last counts."""
        g = self.g
        tool, net = ("ip6tables-legacy", VIPS6[0]) if self.v6 else ("iptables-legacy", MARKED + "0/24")
        match = f"-d {net}"
        if not g.may("markrules", 0.5):
            match += f" -p {self.proto}"
        elif g.rng.random() < 0.7:
            match += f" -p {self.proto} " + g.rng.choice(["--dport 80", "--dport 80:443", "-m multiport --dports 80,22"])
        elif not self.v6:
            match += " -s 172.16.0.0/16"
        return f"{tool} -t mangle -A PREROUTING {match} -j MARK --set-mark {self.mark}"

    def target(self):
        """An address and port that this service takes."""
        r = self.g.rng
        port = r.choice([80, 443, 22, 22, 0]) if self.any_port or self.kind == "marks" else self.port
        if self.port == 21 and self.kind == "tcp":
            port = r.choice([21, 21, 20, 30000])
        if self.kind == "marks" and not self.v6:
            return MARKED + str(r.choice([1, 2, 3])), port
        return self.vip, port

    # -- servers

    def new_server(self, addr):
        """A server comes back with the forwarding method that it had: the kernel lets connections
        of before and after share a cached route, and then sends DR packets to a wrong next hop."""
        r = self.g.rng
        if addr in self.known:
            return {**self.known[addr], "weight": self.g.weight([0, 1, 1, 2, 3, 10])}
        ftp = (self.kind, self.port) == ("tcp", 21)  # which by NAT turns conntrack on for all: it drops what it takes for a clash
        forward = self.g.one({"dr": 3, "tun": 2} if ftp else {"nat": 6, "dr": 3, "tun": 2})
        forward = {"nat": "-m", "dr": "-g", "tun": "-i"}[forward]
        mixed = (":" in addr) != self.v6
        if mixed:
            forward = "-i"
        port = self.port
        if forward == "-m" and not self.any_port and self.kind != "marks" and r.random() < 0.6:
            port = 8080
        if self.any_port or self.kind == "marks":
            port = r.choice([0, 0, 0, 8080]) if forward == "-m" else 0
        s = {"addr": addr, "port": port, "forward": forward, "weight": self.g.weight([0, 1, 1, 1, 2, 3, 5, 100]), "extra": "", "limits": ""}
        tunnels = [t for t, kind in TUNNELS.items() if self.g.has(kind) and (self.g.has("tunsum") or "csum" not in t)]
        if forward == "-i" and tunnels and r.random() < 0.5:
            s["extra"] = r.choice(tunnels)
        if self.g.may("thresholds", 0.12):
            s["limits"] = self.limits()
        self.known[addr] = dict(s)
        return s

    def limits(self):
        upper = self.g.rng.choice([1, 2, 4])
        return f" -x {upper}" + (f" -y {self.g.rng.randint(1, upper)}" if self.g.rng.random() < 0.5 else "")

    def server_spec(self, s):
        host = f"[{s['addr']}]" if ":" in s["addr"] else s["addr"]
        return f"{host}:{s['port']}"

    def add_text(self, s):
        return f"{self.spec()} -r {self.server_spec(s)} {s['forward']} -w {s['weight']}{s['extra']}{s['limits']}"


class Generator:
    def __init__(self, seed, index, without, attempt):
        self.rng = r = random.Random(f"{seed}/{index}/{attempt}")
        self.without = without
        self.name = f"{seed}-{index:04d}"
        self.steps, self.setup = [], []
        self.ident = 1
        self.wait = {} if self.may("sametick", 0.5) else {"wait_ms": TICKS}
        self.services = []
        seen = set()
        for i in range(r.choice([1, 1, 2, 2, 3, 4])):
            s = Service(self, i)
            if s.spec() not in seen:
                seen.add(s.spec())
                self.services.append(s)
        self.clock = Clock(r, PERSISTENCE if any(s.repersist for s in self.services) else
                           sorted({s.persistent for s in self.services if s.persistent}))
        self.flows = []
        self.narrow = False       # a path's MTU was learnt

    def has(self, feature):
        return feature not in self.without

    def may(self, feature, probability):
        """With this probability, if the feature is not left out."""
        return self.rng.random() < probability and self.has(feature)

    def one(self, weights):
        """One of the features that are keys and not left out."""
        known = {k: w for k, w in weights.items() if self.has(k)}
        if not known:
            raise ValueError(f"all of {', '.join(weights)} are left out: no case remains")
        return self.rng.choices(list(known), list(known.values()))[0]

    def weight(self, weights):
        return self.rng.choice([w for w in weights if w or self.has("weight0")])

    # -- the case

    def case(self):
        r = self.rng
        rules = []
        for s in self.services:
            rules += self.add_service(s)
        sysctls = {}
        for name, values in features.SYSCTLS.items():
            if self.may(name, 0.06 if name in ("cache_bypass", "snat_reroute") else 0.12):
                sysctls["net.ipv4.vs." + name] = r.choice(values)
        if "net.ipv4.vs.drop_packet" in sysctls:
            sysctls["net.ipv4.vs.am_droprate"] = r.choice([2, 3, 5])
        if {"net.ipv4.vs." + n for n in DEFENCES} & set(sysctls):
            self.steps.append({"sleep_ms": 2500, "note": "the kernel looks once a second whether to defend itself"})
            self.clock.now += 2.5
            self.clock.busy = [self.clock.now]
        for s in self.services:
            if s.kind == "marks":
                self.setup.append(s.mark_rule())
        case = {"name": self.name, "doc": "; ".join(rules[:1]) + f" and {len(rules) - 1} rules more",
                "nics": topology(r.choice([1500, 1500, 1500, 1400, 1300]) if self.has("mtu") else 1500),
                "routes": ["172.16.0.0/16 via 10.0.1.254", "local 10.0.9.0/24 dev lo"],
                "sysctls": sysctls, "setup": self.setup, "ipvs": rules}
        bursts = r.randint(2, 5)
        for b in range(bursts):
            begun = len(self.steps)
            for _ in range(r.randint(3, 12)):
                self.action()
            self.clock.work(sum(s.get("wait_ms", 0) for s in self.steps[begun:]) / 1000)
            if b + 1 < bursts:
                self.steps.append({"snapshot": ["list", "conns"]})
                self.rest()
        case["steps"] = self.steps
        case["tables"] = ["list", "conns", "stats"] + \
            [t for t in ("thresholds", "persistent", "save", "timeout") if r.random() < 0.3]
        return case

    def add_service(self, s):
        r = self.rng
        s.present = True
        rules = [f"-A {s.spec()} {s.options()}"]
        pool = list(SERVERS6 if s.v6 else SERVERS4)
        if self.may("mixed", 0.1):
            pool.append((SERVERS4 if s.v6 else SERVERS6)[0])  # tunnel over the other family
        r.shuffle(pool)
        for a in pool[:r.choice([0, 1, 1, 1, 2, 2, 3, 3, 5])]:
            s.servers[a] = s.new_server(a)
            rules.append("-a " + s.add_text(s.servers[a]))
        return rules

    def rest(self):
        """Time in which nothing comes."""
        d = self.clock.sleep() if self.has("sleeps") else 1
        if d:
            self.steps.append({"sleep_ms": round(d * 1000)})

    def command(self, rule):
        self.steps.append({"cmd": "ipvsadm " + rule, **self.wait})
        if self.rng.random() < 0.5:
            self.steps[-1]["wait_ms"] = TICKS

    # -- packets

    def inject(self, nic, pkt, **kw):
        self.ident += 1
        if ":" not in pkt["src"]:
            pkt.setdefault("id", self.ident)
        self.steps.append({"inject": nic, "pkt": pkt, **self.wait, **kw})

    def spice(self, pkt):
        """Sometimes, something unusual in the packet."""
        r = self.rng
        v6 = ":" in pkt["src"]
        what = r.choices([None, "ttl", "tos", "nodf", "options", "badsum", "nosum", "mtu", "flowlabel", "exthdr"],
                         [75, 5, 3, 3, 2, 4, 2, 5, 1, 1])[0]
        if what is None or not self.has(what) or v6 and what in ("nodf", "options", "nosum"):
            return pkt
        if what == "ttl":
            pkt["ttl"] = r.choice([1, 1, 2])
        elif what == "tos":
            pkt["tos"] = r.choice([0x10, 0xB8, 0xB9])
        elif what == "nodf":
            pkt["df"] = False
        elif what == "options":
            pkt["ip_options"] = "01010100"
        elif what == "badsum":
            pkt["bad_csum" if v6 or r.random() < 0.7 else "bad_ip_csum"] = True
        elif what == "nosum" and pkt["proto"] == "udp":
            pkt["no_csum"] = True
        elif what == "mtu" and pkt["proto"] in ("tcp", "udp"):
            pkt["payload_len"] = r.choice([1, 100, 1200, 1300, 1360, 1400, 1432] if v6 else
                                          [1, 100, 1252, 1260, 1400, 1440, 1446, 1460])
            pkt.pop("payload", None)
            if not v6 and self.has("nodf"):
                pkt["df"] = r.random() < 0.6
        elif what == "flowlabel" and v6:
            pkt["flow"] = 0x12345
        elif what == "exthdr" and v6 and pkt["proto"] == "udp":
            pkt["ext"] = r.choice([[[0, PADDING]], [[60, PADDING]], [[0, PADDING], [60, PADDING]]])
        return pkt

    def flow(self, new=0.4):
        r = self.rng
        if self.flows and r.random() > new:
            return r.choice(self.flows)
        s = r.choice(self.services)
        vip, vport = s.target()
        client = r.choice(CLIENTS6) if s.v6 else \
            r.choice(CLIENTS4 + [f"172.16.{r.randint(0, 3)}.{r.randint(1, 20)}"] * 2)
        cport = 20 if self.may("port20", 0.03) else r.choice([1000, 1001, 1002, r.randint(2000, 60000)])
        if vport == 500 and self.has("ipsec") and r.random() < 0.8:
            cport = 500
        f = {"s": s, "client": client, "cport": cport,
             "vip": vip, "vport": vport, "seq": r.randint(1, 1 << 30), "ack": r.randint(1, 1 << 30)}
        self.flows.append(f)
        return f

    def client_packet(self, f, **kw):
        p = {"src": f["client"], "dst": f["vip"], "proto": f["s"].proto, "sport": f["cport"], "dport": f["vport"]}
        p.update(kw)
        self.inject("eth0", self.spice(p))

    def server_packets(self, f, **kw):
        """Replies, from the NAT servers: nobody but the kernel knows which one was chosen."""
        r = self.rng
        nat = [x for x in f["s"].servers.values() if x["forward"] == "-m"]
        if not nat:
            return
        for x in nat if r.random() < 0.7 else [r.choice(nat)]:
            p = {"src": x["addr"], "dst": f["client"], "proto": f["s"].proto,
                 "sport": x["port"] or f["vport"], "dport": f["cport"]}
            p.update(kw)
            self.inject("eth1", self.spice(p))

    def tcp(self, f):
        r = self.rng
        seq, ack = f["seq"], f["ack"]
        scripts = {
            "handshake": "S <SA A", "data": "PA <A <PA A", "close": "FA <FA A", "server closes": "<FA A FA <A",
            "reset": "R", "server resets": "<RA", "open": "S", "whole": "S <SA A PA <PA FA <FA A",
            "one way": "S A PA FA", "odd": None}
        what = r.choices(list(scripts), [6, 5, 4, 3, 2, 2, 5, 4, 3, 5])[0]
        moves = scripts[what]
        if moves is None:
            moves = " ".join(r.choice(["", "<"]) + r.choice(["S", "SA", "A", "PA", "F", "FA", "R", "RA", "SF", "P", "SR", "FR", "SAUEC", ""])
                             for _ in range(r.randint(1, 3)))
        for m in moves.split():
            flags = m.removeprefix("<")
            data = {"payload": r.choice(["x", "hello"])} if "P" in flags else {}
            if m.startswith("<"):
                self.server_packets(f, flags=flags, seq=ack, ack=seq + 1, **data)
            else:
                self.client_packet(f, flags=flags, seq=seq, ack=ack + 1 if "A" in flags else 0, **data)
        f["seq"] = (seq + r.randint(1, 100000)) & 0x7FFFFFFF

    def udp(self, f):
        r = self.rng
        requests, answers = (SIP, SIP) if f["s"].sip else (["q", "query", ""], ["a", "answer"])
        for _ in range(r.randint(1, 3)):
            if f["s"].sip and r.random() < 0.2:
                self.server_packets(f, payload=r.choice(answers), dport=r.choice([f["cport"], 5060]))
            self.client_packet(f, payload=r.choice(requests))
            if r.random() < 0.6:
                self.server_packets(f, payload=r.choice(answers))
        if f["vport"] == 500 and self.has("ipsec"):
            self.ipsec(f)

    def ipsec(self, f):
        """AH and ESP, which have no ports: they go where the UDP packets from 500 to 500 go."""
        r = self.rng
        for _ in range(r.randint(1, 2)):
            proto, body = r.choice([("esp", "00001001000000010102030405060708"),
                                    ("ah", "3b0400000000100100000001010203040506070800000000")])
            p = {"src": f["client"], "dst": f["vip"], "proto": proto, "payload_hex": body}
            nic = "eth0"
            nat = [x["addr"] for x in f["s"].servers.values() if x["forward"] == "-m"]
            if nat and r.random() < 0.4:
                p.update({"src": r.choice(nat), "dst": f["client"]})
                nic = "eth1"
            self.inject(nic, self.spice(p))

    def sctp(self, f):
        r = self.rng
        scripts = ["init <initack echo <ack", "init", "data <sack", "shutdown <shutack shutdone", "abort", "<abort",
                   "heartbeat", None, None]
        moves = r.choice(scripts)
        if moves is None:
            moves = " ".join(r.choice(["", "<"]) + "+".join(r.choices(list(SCTP_CHUNKS), k=r.choice([1, 1, 2]))) for _ in range(2))
        for m in moves.split():
            chunks = [SCTP_CHUNKS[c] for c in m.removeprefix("<").split("+")]
            kw = {"chunks": [[t, 3 if t == 0 else 0, body] for t, body in chunks], "vtag": 0 if chunks[0][0] == 1 else 0x11111111}
            (self.server_packets if m.startswith("<") else self.client_packet)(f, **kw)

    def talk(self):
        f = self.flow()
        getattr(self, f["s"].proto)(f)

    def icmp_error(self):
        """From either side, about a packet of a known or an unknown connection."""
        r, f = self.rng, self.flow(new=0.1)
        s, v6 = f["s"], f["s"].v6
        proto = s.proto
        port = f["cport"] if r.random() < 0.85 else 7777
        inner = {"proto": proto}
        if proto == "tcp":
            inner["flags"] = "A"
        if proto == "sctp":
            inner["chunks"] = [[3, 0, "000000010000ffff00000000"]]
        nat = [x for x in s.servers.values() if x["forward"] == "-m" and (":" in x["addr"]) == v6]
        tun = [x for x in s.servers.values() if x["forward"] == "-i" and not v6 and ":" not in x["addr"]]
        if tun and self.may("tunerrors", 0.4):
            return self.tunnel_error(f, r.choice(tun), inner)
        if v6:
            kind = {"proto": "icmp6", **r.choice([{"type": 1, "code": 4}, {"type": 1, "code": r.randrange(7)}, {"type": 2, "rest": 1300},
                                                  {"type": 3}, {"type": 3, "code": 1}, {"type": 4, "code": 1, "rest": 6}])}
        else:
            kind = {"proto": "icmp", **r.choice([{"type": 3, "code": 3}, {"type": 3, "code": r.randrange(16)}, {"type": 11},
                                                 {"type": 3, "code": 4, "rest": 1300}, {"type": 12}, {"type": 4}])}
        kind["inner_len"] = r.choice([44, 48, 60, 100]) if v6 else r.choice([24, 28, 28, 40, 100])
        if r.random() < 0.3:
            self.odd_error(kind, inner, v6)
        if not v6 and self.may("fragments", 0.08):
            inner["frag"] = [0, True]
        if r.random() < 0.5 or not nat:
            inner.update({"src": f["vip"], "dst": f["client"], "sport": f["vport"], "dport": port})
            src = f["client"] if v6 or r.random() < 0.5 else ROUTER_C
            p = {"src": src, "dst": f["vip"], "inner": inner, **kind}
            nic = "eth0"
        else:
            x = r.choice(nat)
            inner.update({"src": f["client"], "dst": x["addr"], "sport": port, "dport": x["port"] or f["vport"]})
            src = x["addr"] if v6 or r.random() < 0.5 else ROUTER_S
            p = {"src": src, "dst": f["client"], "inner": inner, **kind}
            nic = "eth1"
            if v6 and r.random() < 0.9:
                p["no_pseudo"] = True  # what the oracle's kernel takes for a right checksum
        if self.may("badsum", 0.07):
            p["bad_csum"] = True
        if kind["inner_len"] >= 100 and "no_pseudo" not in p and not {"ext", "ip_options"} & set(p) and self.may("fragments", 0.2):
            self.inject(nic, {**p, "df": False}, fragment=136 if v6 else 88)
        else:
            self.inject(nic, p)

    def odd_error(self, kind, inner, v6):
        """Makes an error, or what it quotes, unusual."""
        r = self.rng
        what = r.choice(["ttl", "tos", "exthdr" if v6 else "options", "nodf", "long", "quoted ttl", "quoted options"])
        if not self.has({"quoted options": "exthdr" if v6 else "options", "quoted ttl": "ttl", "long": "mtu"}.get(what, what)):
            return
        options = {"ext": [[60, PADDING]]} if v6 else {"ip_options": "01010100"}
        if what == "ttl":
            kind["ttl"] = r.choice([1, 2])
        elif what == "tos":
            kind["tos"] = r.choice([0x10, 0xC0])
        elif what == "nodf" and not v6:
            kind["df"] = False
        elif what in ("exthdr", "options"):
            kind.update(options)
        elif what == "quoted options":
            inner.update(options)
            kind["inner_len"] = max(kind["inner_len"], 60)  # with the ports
        elif what == "quoted ttl":
            inner["ttl"] = r.choice([0, 1, 255])
        elif what == "long" and inner["proto"] != "sctp":
            inner["payload_len"] = r.choice([100, 700, 1200])
            kind["inner_len"] = r.choice([100, 500, 1200] if v6 else [100, 500])

    def tunnel_error(self, f, x, inner):
        """From the way to a tunnel's end, about a tunnel's packet."""
        r = self.rng
        inner = {**inner, "src": f["client"], "dst": f["vip"], "sport": f["cport"], "dport": f["vport"]}
        outer = {"src": features.DIRECTOR, "dst": x["addr"]}
        words = x["extra"].split()
        if "gue" in words:
            outer.update({"proto": "udp", "sport": 50000, "dport": 6080, "payload_hex": "00040000" + frames.ip_packet(inner).hex()})
        elif "--tun-csum" in words:
            outer.update({"proto": frames.PROTO["gre"], "payload_hex": "8000080012340000" + frames.ip_packet(inner).hex()})
        else:
            outer.update({"proto": "gre" if "gre" in words else "ipip", "inner": inner})
        kinds = [{"type": 3, "code": 3}, {"type": 3, "code": 1}, {"type": 11}, {"type": 12}]
        if not words and not self.narrow:
            kinds += [{"type": 3, "code": 4, "rest": 1300}] * 2
        kind = r.choice(kinds)
        # Once: what the kernel tells of a second one depends on what it sent in between.
        self.narrow = self.narrow or kind.get("code") == 4
        p = {"src": r.choice([x["addr"], ROUTER_S]), "dst": features.DIRECTOR, "proto": "icmp", "inner": outer,
             "inner_len": r.choice([28, 68, 128, 200]), **kind}
        if self.may("badsum", 0.07):
            p["bad_csum"] = True
        self.inject("eth1", p)

    def fragments(self):
        """One datagram in pieces, or two mingled: in order, shuffled, with one missing, twice there, or of another cut."""
        r, f = self.rng, self.flow()
        s = f["s"]
        nat = [x for x in s.servers.values() if x["forward"] == "-m" and (":" in x["addr"]) == s.v6]
        server = r.choice(nat) if nat and r.random() < 0.4 else None
        queues = [self.pieces(f, server) for _ in range(r.choice([1, 1, 1, 1, 1, 2]))]
        parts = [x for pair in itertools.zip_longest(*queues) for x in pair if x]
        self.steps.append({"inject": "eth1" if server else "eth0", "frames": [x.hex() for x in parts], **self.wait})

    def pieces(self, f, server):
        """The fragments of a datagram of a flow: of the client, or of a NAT server."""
        r, s = self.rng, f["s"]
        p = {"src": f["client"], "dst": f["vip"], "proto": s.proto, "sport": f["cport"], "dport": f["vport"]}
        smac, dmac = "02:00:00:00:01:fe", "02:00:00:00:00:01"
        if server:
            p.update({"src": server["addr"], "dst": f["client"], "sport": server["port"] or f["vport"], "dport": f["cport"]})
            smac, dmac = "02:00:00:00:02:fe", "02:00:00:00:00:02"
        size = r.choice([1500, 2000, 3000] * 3 + [20, 100, 600, 1472])
        p.update({"tcp": {"flags": r.choice(["PA", "PA", "S"]), "payload_len": size}, "udp": {"payload_len": size},
                  "sctp": {"chunks": [[0, 3, "61" * size]]}}[s.proto])
        if self.may("ttl", 0.05):
            p["ttl"] = r.choice([1, 2])
        if self.may("tos", 0.05):
            p["tos"] = r.choice([0x10, 0xB9])
        if self.may("badsum", 0.04):
            p["bad_csum"] = True
        if not s.v6:
            p["df"] = False
        self.ident += 1
        frame = frames.build(p, smac, dmac)
        if s.v6 and self.may("flowlabel", 0.05):
            p["flow"] = 0x12345
        if not s.v6 and self.may("options", 0.05):
            p["ip_options"] = "01010100"
        sizes = [1280] * 4 + [1416] * 2 if s.v6 else [600, 1000, 1300] * 2
        if size <= 1500:  # some small: TCP's header is in the first, as it would be dropped else
            sizes += [120, 600] if s.v6 else [68, 576]
        parts = frames.fragment(frame, r.choice(sizes), self.ident)
        how = r.random()
        if how < 0.3:
            r.shuffle(parts)
        elif how < 0.4:
            del parts[r.randrange(len(parts))]
        elif how < 0.45:
            parts.insert(r.randrange(len(parts) + 1), r.choice(parts))
        elif how < 0.5:
            parts[r.randrange(len(parts))] = r.choice(frames.fragment(frame, r.choice(sizes), self.ident))
        return parts

    def unrelated(self):
        r = self.rng
        v6 = self.may("ipv6", 0.25)
        c, vip = (r.choice(CLIENTS6), VIPS6[0]) if v6 else (r.choice(CLIENTS4), r.choice(VIPS4))
        server, own = (SERVERS6[0], "fd00:1::1") if v6 else (r.choice(SERVERS4), "10.0.1.1")
        what = r.choice(["echo", "echo own", "closed port", "closed udp", "routed", "from server", "other station's"])
        parts = {"fragment": r.choice([1280, 1416] if v6 else [600, 1300])} if self.has("mtu") and self.may("fragments", 0.2) else {}
        large = {"payload_len": r.choice([800, 1500, 3000]), "df": False} if parts else {}
        if what in ("echo", "echo own"):
            self.inject("eth0", {"src": c, "dst": vip if what == "echo" else own,
                                 "proto": "icmp6" if v6 else "icmp", "type": 128 if v6 else 8,
                                 "rest": 0x12340000 + self.ident, "payload": "ping"})
        elif what == "closed port":
            self.inject("eth0", self.spice({"src": c, "dst": vip, "proto": "tcp", "sport": 1000, "dport": 7,
                                            "flags": r.choice(["S", "A", "R"])}))
        elif what == "other station's":
            f = self.flow()
            self.client_packet(f, **{"tcp": {"flags": "S"}, "udp": {}, "sctp": {"chunks": [[1, 0, SCTP_CHUNKS["init"][1]]]}}[f["s"].proto])
            self.steps[-1]["dmac"] = r.choice(["02:00:00:00:00:99", "ff:ff:ff:ff:ff:ff"])
        elif what == "closed udp":
            self.inject("eth0", {"src": c, "dst": vip, "proto": "udp", "sport": 1000, "dport": 7, "payload": "x", **large}, **parts)
        elif what == "routed":
            self.inject("eth0", self.spice({"src": c, "dst": server, "proto": "tcp", "sport": 1000, "dport": 22,
                                            "flags": "S", **large}), **parts)
        else:
            self.inject("eth1", self.spice({"src": server, "dst": c, "proto": "tcp", "sport": 22, "dport": 1000,
                                            "flags": "SA", **large}), **parts)

    # -- rules

    def edit(self):
        r = self.rng
        s = r.choice(self.services)
        if not s.present:
            if self.has("edit-service") and self.has("edit-add"):
                for rule in self.add_service(s):
                    self.command(rule)
            return
        what = self.one({"edit-weight": 9, "edit-remove": 4, "edit-add": 4, "edit-scheduler": 2, "edit-service": 1,
                         "edit-flush": 0.5, "edit-zero": 0.5, "edit-sysctl": 1, "edit-set": 0.5})
        addresses = sorted(s.servers)
        if what == "edit-weight" and addresses:
            x = s.servers[r.choice(addresses)]
            x["weight"] = 0 if r.random() < 0.4 and self.has("weight0") else r.choice([1, 2, 3, 5])
            if self.may("thresholds", 0.15):
                x["limits"] = s.limits() if r.random() < 0.7 else ""
            self.command("-e " + s.add_text(x))
        elif what == "edit-remove" and addresses:
            a = r.choice(addresses)
            self.command(f"-d {s.spec()} -r {s.server_spec(s.servers.pop(a))}")
        elif what == "edit-add":
            a = r.choice(SERVERS6 if s.v6 else SERVERS4)
            if a not in s.servers:
                s.servers[a] = s.new_server(a)
                self.command("-a " + s.add_text(s.servers[a]))
        elif what == "edit-scheduler":
            if s.repersist:
                s.choose_persistence(0.6)
                s.ops = s.ops and not s.persistent
            if not s.repersist or r.random() < 0.3:
                s.choose_scheduler()
            self.command(f"-E {s.spec()} {s.options()}")
        elif what == "edit-service":
            if r.random() < 0.5:
                self.rest()
            self.command(f"-D {s.spec()}")
            s.present, s.servers = False, {}
        elif what == "edit-flush":
            if r.random() < 0.5:
                self.rest()
            self.command("-C")
            for x in self.services:
                x.present, x.servers = False, {}
        elif what == "edit-zero":
            self.rest()
            self.command("-Z")
        elif what == "edit-set":  # of the timeouts that Clock minds
            self.command(f"--set {r.choice([0, 120, 300])} {r.choice([0, 30, 60])} {r.choice([0, 60, 120])}")
        elif what == "edit-sysctl":
            names = [n for n in features.SYSCTLS if self.has(n) and n not in DEFENCES]
            for name in r.sample(names, min(1, len(names))):
                self.steps.append({"sysctl": {"net.ipv4.vs." + name: r.choice([0, 1, *features.SYSCTLS[name]])}})

    def action(self):
        known = {"talk": 20, "icmp_error": 3 * self.has("icmp"), "fragments": 1.5 * self.has("fragments"),
                 "unrelated": 1.5 * self.has("strangers"), "edit": 3 * any(map(self.has, features.EDITS))}
        getattr(self, self.rng.choices(list(known), list(known.values()))[0])()


def random_case(seed, index, without=frozenset()):
    """Case number index of those of this seed."""
    for attempt in itertools.count():
        case = Generator(seed, index, without, attempt).case()
        if is_timely(case) and not tunnels_share(case):
            return case


def topology(mtu):
    cl = {a: "02:00:00:00:01:" + a.rsplit(".", 1)[1].zfill(2) for a in CLIENTS4}
    cl["10.0.1.254"] = "02:00:00:00:01:fe"
    cl.update({a: "02:00:00:00:61:" + a.rsplit(":", 1)[1] for a in CLIENTS6})
    sv = {a: "02:00:00:00:02:" + a.rsplit(".", 1)[1] for a in SERVERS4}
    sv["10.0.2.254"] = "02:00:00:00:02:fe"
    sv.update({a: "02:00:00:00:62:" + a.rsplit(":", 1)[1] for a in SERVERS6})
    return [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "neigh": cl,
             "addrs": ["10.0.1.1/24", "fd00:1::1/64"] + [v + "/32" for v in VIPS4] + [v + "/128" for v in VIPS6]},
            {"name": "eth1", "mac": "02:00:00:00:00:02", "mtu": mtu, "neigh": sv,
             "addrs": ["10.0.2.1/24", "fd00:2::1/64"]}]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seed", default="rand", help="becomes part of the names")
    ap.add_argument("--count", type=int, default=100)
    ap.add_argument("--first", type=int, default=0, help="number of the first case")
    ap.add_argument("--without", type=features.parse, default=frozenset(), metavar="NAME,...",
                    help="features to leave out: " + " ".join(features.NAMES))
    ap.add_argument("-o", "--output", required=True, metavar="DIR")
    a = ap.parse_args()
    folder = os.path.join(a.output, "cases")
    os.makedirs(folder, exist_ok=True)
    for i in range(a.first, a.first + a.count):
        c = random_case(a.seed, i, a.without)
        with open(os.path.join(folder, c["name"] + ".json"), "w") as f:
            json.dump(c, f, indent=1)
            f.write("\n")
    print(f"{a.count} cases in {folder}")


if __name__ == "__main__":
    main()
