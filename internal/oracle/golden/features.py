"""What a case is made of, by name: randcases.py leaves out what it is told, the differential
test says which of it differed.

of(case) looks at the finished case, not at how it came about, so that it can tell whether a
generator that was to leave something out did.
"""
import re
import shlex

import translate

SCHEDULERS = "rr wrr lc wlc sed nq sh dh mh lblc lblcr fo ovf".split()
SYSCTLS = {  # those that random cases set, to these values
    "cache_bypass": [1], "conn_reuse_mode": [0, 2, 3], "drop_packet": [3], "expire_nodest_conn": [1],
    "expire_quiescent_template": [1], "nat_icmp_send": [1], "pmtu_disc": [0], "schedule_icmp": [1], "secure_tcp": [3],
    "sloppy_sctp": [1], "sloppy_tcp": [1], "snat_reroute": [0]}
NAMES = {
    # what is received
    "icmp": "ICMP errors about packets of connections", "tunerrors": "or of tunnels to servers",
    "fragments": "datagrams received in pieces, and errors about such",
    "mtu": "packets that may be too big for the way, and NICs with a small MTU",
    "ttl": "TTL or hop limit 1 and 2",
    "tos": "TOS other than 0",
    "nodf": "IPv4 packets that may be fragmented",
    "options": "IPv4 options",
    "badsum": "wrong checksums",
    "nosum": "UDP without checksum",
    "flowlabel": "IPv6 flow labels",
    "exthdr": "IPv6 extension headers",
    "strangers": "packets that are none of IPVS's business, echo requests among them",
    "port20": "source port 20",
    "sametick": "packets within a tick of the kernel's clock, in which connections that it ended are still there",
    "ipv6": "services and servers with IPv6 addresses",
    # services
    "tcp": "TCP", "udp": "UDP", "sctp": "SCTP",
    "marks": "services of a firewall mark", "markrules": "marks by port and client, or of any protocol",
    "port0": "services of every port",
    "ftpport": "TCP services of port 21, whose neighbours are found with them",
    "ipsec": "UDP services of port 500, with AH and ESP",
    "persistence": "persistent services", "netmask": "that group clients", "sip": "or know them by Call-ID",
    "ops": "one-packet scheduling",
    "schedflags": "flags of sh and mh",
    # servers
    "nat": "servers by NAT", "dr": "by direct routing", "tun": "by tunnel",
    "gre": "GRE tunnels", "gue": "GUE tunnels", "tunsum": "tunnels with checksum",
    "mixed": "IPv4 in IPv6 and IPv6 in IPv4",
    "thresholds": "thresholds",
    "weight0": "weight 0",
    # what is done while packets flow
    "edits": "commands and sysctls in mid-traffic, each of the following",
    "edit-weight": "another weight", "edit-remove": "a server removed", "edit-add": "a server added",
    "edit-scheduler": "another scheduler", "edit-persistence": "other persistence",
    "edit-service": "a service removed, or added again",
    "edit-flush": "everything removed", "edit-zero": "counters zeroed", "edit-set": "timeouts set",
    "edit-sysctl": "a sysctl written",
    "sleeps": "more time than a connection may live",
}
NAMES.update((s, f"scheduler {s}") for s in SCHEDULERS)
NAMES.update((s, f"sysctl net.ipv4.vs.{s}") for s in SYSCTLS)
EDITS = [n for n in NAMES if n.startswith("edit-")]
COMMANDS = {"-e": "edit-weight", "-d": "edit-remove", "-a": "edit-add", "-E": "edit-scheduler", "-D": "edit-service",
            "-A": "edit-service", "-C": "edit-flush", "-Z": "edit-zero", "--set": "edit-set"}
DIRECTOR = "10.0.2.1"  # its address on the servers' side, from where tunnels come
BIG = 1000  # bytes of payload


def parse(text):
    """A list of names, by commas or blanks; ValueError tells what is no name."""
    names = text.replace(",", " ").split()
    unknown = [n for n in names if n not in NAMES]
    if unknown:
        raise ValueError(f"no such feature: {', '.join(unknown)} (known: {' '.join(NAMES)})")
    out = set(names)
    if "edits" in out:
        out.update(EDITS)
    if "icmp" in out:
        out.add("tunerrors")
    if "persistence" in out:  # which these need
        out.update(("netmask", "sip", "port0", "edit-persistence"))
    if "edit-scheduler" in out:
        out.add("edit-persistence")
    if "marks" in out:
        out.add("markrules")
    if {"dr", "tun"} <= out:
        out.add("ftpport")
    if "tun" in out:
        out.update(("gre", "gue", "tunsum", "mixed"))
    if "udp" in out:
        out.update(("ops", "sip", "ipsec", "nosum"))
    if "tcp" in out:
        out.add("ftpport")
    if "ipv6" in out:
        out.update(("mixed", "flowlabel", "exthdr"))
    return frozenset(out)


def of(case):
    """The names of what is in a case."""
    out = set()
    for rule in case.get("ipvs", []):
        _rule(rule, out)
    for name in case.get("sysctls", {}):
        out.add(name.rpartition(".")[2])
    if any(n.get("mtu", 1500) != 1500 for n in case.get("nics", [])):
        out.add("mtu")
    if any(is_quick(a) and is_quick(b) for a, b in zip(case["steps"], case["steps"][1:])):
        out.add("sametick")
    for rule in case.get("setup", []):
        _mark_rule(rule, out)
    addresses, marked = set(), any("MARK" in s for s in case.get("setup", []))
    persistence = {}
    for rule in list(case.get("ipvs", [])) + [s["cmd"].partition(" ")[2] for s in case["steps"] if "cmd" in s]:
        addresses |= _endpoints(rule)
        _persistence(rule, persistence, out)
    for step in case.get("steps", []):
        if "cmd" in step:
            rule = step["cmd"].partition(" ")[2]
            op = COMMANDS.get(rule.split()[0])
            out |= {"edits", op} if op else set()
            _rule(rule, out)
        elif "sysctl" in step:
            out |= {"edits", "edit-sysctl"} | {n.rpartition(".")[2] for n in step["sysctl"]}
        elif "sleep_ms" in step:
            out |= {"sleeps"} if step["sleep_ms"] >= 3000 else set()
        elif "pkt" in step:
            _packet(step["pkt"], out, addresses, marked)
            if "dmac" in step:
                out.add("strangers")
            if "fragment" in step:
                out.add("fragments")
        elif "frames" in step:
            out.add("fragments")
    return out & set(NAMES)


def is_quick(step):
    """Does a step end within a tick?"""
    return ("inject" in step or "cmd" in step) and step.get("wait_ms", 0) < 10


def _rule(text, out):
    """Adds what a rule of ipvsadm is about."""
    try:
        r = translate.parse_ipvsadm(shlex.split(text))
    except (translate.Inexpressible, ValueError, IndexError):
        return
    if "service" not in r:
        return
    kind, address, port = r["service"]
    out.add("marks" if kind == "fwm" else kind)
    v6 = port == 6 if kind == "fwm" else ":" in address
    if v6:
        out.add("ipv6")
    if kind != "fwm":
        out |= {n for n, yes in (("port0", port == 0), ("ftpport", (kind, port) == ("tcp", 21)),
                                 ("ipsec", (kind, port) == ("udp", 500))) if yes}
    for key, name in (("persistent", "persistence"), ("netmask", "netmask"), ("one_packet", "ops"), ("flags", "schedflags")):
        if key in r:
            out.add(name)
    if r["op"] in ("-A", "-E"):
        out.add(r.get("scheduler", "wlc"))
    if r.get("engine") == "sip":
        out.add("sip")
    if r["op"] in ("-a", "-e"):
        out.add(r.get("forward", "dr"))
        if (":" in translate.address_port(r["server"])[0]) != v6:
            out.add("mixed")
        if r.get("tun_type") in ("gre", "gue"):
            out.add(r["tun_type"])
        if r.get("tun_csum", "none") != "none":
            out.add("tunsum")
        if "upper" in r or "lower" in r:
            out.add("thresholds")
        if r.get("weight") == "0":
            out.add("weight0")


def _persistence(text, known, out):
    """Notes in known what a rule says of its service's persistence, and in out if that is new."""
    words = text.split()
    if words[0] in ("-A", "-E"):
        service = " ".join(words[1:3] + ["-6"] * ("-6" in words))
        persistence = " ".join(re.findall(r"-[pM] \S+", text))
        if words[0] == "-E" and known.get(service, persistence) != persistence:
            out.add("edit-persistence")
        known[service] = persistence


def _mark_rule(text, out):
    """Adds what an iptables command is about."""
    for m in translate.parse_mark_rule(text) or []:
        if "ports" in m or "source" in m or "protocol" not in m:
            out.add("markrules")
        if "protocol" in m:
            out.add(m["protocol"])


def _endpoints(text):
    """{(address, port or None for any)} of the service and server of a rule"""
    try:
        r = translate.parse_ipvsadm(shlex.split(text))
        out = {r["service"][1:]} if r.get("service", ("fwm",))[0] != "fwm" else set()
        if "server" in r:
            out.add(translate.address_port(r["server"]))
    except (translate.Inexpressible, ValueError, IndexError):
        return set()
    return {(a, p or None) for a, p in out}


def _packet(p, out, endpoints, marked):
    v6 = ":" in p["src"]
    if "frag" in p.get("inner", {}):
        out.add("fragments")
    if "inner" in p:
        out |= {"icmp"} | ({"tunerrors"} if p["dst"] == DIRECTOR else set())
    elif p["proto"] in ("icmp", "icmp6") or p.get("dport") in (7, 22) and not marked and \
            not {(p["dst"], p["dport"]), (p["dst"], None)} & endpoints:
        out.add("strangers")
    if p["proto"] in ("esp", "ah"):
        out.add("ipsec")
    if p.get("ttl", 64) < 3:
        out.add("ttl")
    if p.get("payload_len", 0) >= BIG:
        out.add("mtu")
    if p.get("bad_csum") or p.get("bad_ip_csum"):
        out.add("badsum")
    if "inner" not in p and not p.get("df", True) and not v6:
        out.add("nodf")
    if p.get("sport") == 20:
        out.add("port20")
    out |= {n for key, n in (("tos", "tos"), ("ip_options", "options"), ("no_csum", "nosum"), ("flow", "flowlabel"), ("ext", "exthdr"))
            if p.get(key)}
