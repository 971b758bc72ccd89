#!/usr/bin/python3
"""Writes the case files of testdata/cases/ (usage: gencases.py [DIR]).

All cases share one topology: a director with eth0 towards the clients (10.0.1.0/24,
fd00:1::/64; other clients 172.16.0.0/16 behind the router 10.0.1.254) and eth1 towards
the real servers (10.0.2.0/24, fd00:2::/64). The VIPs are local addresses of the director.
"""
import json
import os
import struct
import sys

VIP, VIP6 = "10.0.1.100", "fd00:1::100"
C, C6 = "10.0.1.10", "fd00:1::10"
RS = ["10.0.2.11", "10.0.2.12", "10.0.2.13"]
RS6 = ["fd00:2::11", "fd00:2::12", "fd00:2::13"]
MARK = "iptables-legacy -t mangle -A PREROUTING"


def topology():
    cl = {f"10.0.1.{i}": f"02:00:00:00:01:{i:02x}" for i in (10, 11, 12, 254)}
    cl.update({f"fd00:1::{i}": f"02:00:00:00:01:{i}" for i in (10, 11, 12)})
    sv = {f"10.0.2.{i}": f"02:00:00:00:02:{i:02x}" for i in (11, 12, 13, 254)}
    sv.update({f"fd00:2::{i}": f"02:00:00:00:02:{i}" for i in (11, 12, 13)})
    return {
        "nics": [
            {"name": "eth0", "mac": "02:00:00:00:00:01", "neigh": cl,
             "addrs": ["10.0.1.1/24", VIP + "/32", "fd00:1::1/64", VIP6 + "/128"]},
            {"name": "eth1", "mac": "02:00:00:00:00:02", "neigh": sv,
             "addrs": ["10.0.2.1/24", "fd00:2::1/64"]},
        ],
        "routes": ["172.16.0.0/16 via 10.0.1.254"],
    }


CASES = {}


def case(name, doc, ipvs, steps, **kw):
    c = {"name": name, "doc": doc, **topology()}
    nic = kw.pop("nic", {})
    for n in c["nics"]:
        n.update(nic.get(n["name"], {}))
    c["routes"] += kw.pop("routes", [])
    c.update(kw)
    c["ipvs"] = ipvs
    c["steps"] = steps
    CASES[name] = c


def svc(spec, fwd="-m", rs=None, sched="rr", rport=8080, weights=(1, 1, 1), extra="", rextra=""):
    """Rules for one service; spec is for example "-t 10.0.1.100:80"."""
    rs = RS if rs is None else rs
    out = [f"-A {spec} -s {sched} {extra}".rstrip()]
    for r, w in zip(rs, weights):
        a = f"[{r}]" if ":" in r else r
        port = f":{rport}" if rport is not None else ""
        out.append(f"-a {spec} -r {a}{port} {fwd} -w {w} {rextra}".rstrip())
    return out


def pkt(nic, src, dst, proto="tcp", sport=None, dport=None, flags=None, note=None, step=None, **kw):
    p = {"src": src, "dst": dst, "proto": proto}
    if sport is not None:
        p["sport"], p["dport"] = sport, dport
    if flags:
        p["flags"] = flags
    p.update(kw)
    s = {"inject": nic, "pkt": p, **(step or {})}
    if note:
        s["note"] = note
    return s


def cli(flags="S", sport=1000, src=C, dst=VIP, dport=80, **kw):
    """Client to VIP."""
    return pkt("eth0", src, dst, sport=sport, dport=dport, flags=flags, **kw)


def srv(flags="SA", src=RS[1], dst=C, sport=8080, dport=1000, **kw):
    """Real server to client."""
    return pkt("eth1", src, dst, sport=sport, dport=dport, flags=flags, **kw)


def udp(sport=1000, src=C, dst=VIP, dport=53, **kw):
    kw.setdefault("payload", "query")
    return pkt("eth0", src, dst, "udp", sport, dport, **kw)


def usrv(src=RS[1], dst=C, sport=5353, dport=1000, **kw):
    kw.setdefault("payload", "answer")
    return pkt("eth1", src, dst, "udp", sport, dport, **kw)


SNAP = {"snapshot": ["conns"]}
SNAPL = {"snapshot": ["list", "conns"]}


def sleep(s):
    return {"sleep_ms": int(s * 1000)}


def cmd(c, **kw):
    return {"cmd": c, **kw}


# Most cases have a single real server, so that it is clear which one answers.
def one(spec, fwd="-m", rport=8080, rs=None, **kw):
    return svc(spec, fwd, [rs or RS[0]], rport=rport, weights=(1,), **kw)


R = RS[0]
T80, U53 = f"-t {VIP}:80", f"-u {VIP}:53"
T680, U653 = f"-t [{VIP6}]:80", f"-u [{VIP6}]:53"

# ------------------------------------------------------------------ NAT

case("nat-tcp-full", "VS/NAT: handshake, data, FIN from the client first; table after each packet",
     one(T80), [
         cli("S", seq=100, ttl=64, id=1), SNAP,
         srv("SA", R, seq=500, ack=101, ttl=60, id=2), SNAP,
         cli("A", seq=101, ack=501), SNAP,
         cli("PA", seq=101, ack=501, payload="GET / HTTP/1.0\r\n\r\n"),
         srv("A", R, seq=501, ack=119),
         srv("PA", R, seq=501, ack=119, payload="HTTP/1.0 200 OK\r\n\r\n"),
         cli("A", seq=119, ack=520), SNAP,
         cli("FA", seq=119, ack=520), SNAP,
         srv("A", R, seq=520, ack=120), SNAP,
         srv("FA", R, seq=520, ack=120), SNAP,
         cli("A", seq=120, ack=521), SNAPL,
         sleep(5), SNAP, sleep(130), SNAP],
     tables=["list", "conns", "stats", "rate", "timeout", "thresholds", "persistent", "save"])

case("nat-tcp-server-fin", "VS/NAT: the server closes first", one(T80), [
    cli("S"), srv("SA", R), cli("A"), srv("FA", R), SNAP, cli("A"), SNAP, cli("FA"), SNAP,
    srv("A", R), SNAPL, sleep(120), SNAP])

case("nat-tcp-rst", "VS/NAT: RST from either side, and what follows", one(T80), [
    cli("S"), srv("SA", R), cli("A"), SNAP, cli("R", note="client resets"), SNAP,
    cli("A", note="data after the reset"), SNAP, sleep(11), SNAP,
    cli("S", 1001), srv("RA", R, dport=1001, note="server refuses"), SNAP, sleep(11), SNAP])

case("nat-tcp-rst-synrecv", "RST of the client while SYN_RECV, before and after the server's SYN+ACK", one(T80), [
    cli("S"), cli("R"), SNAP, cli("S", 1001), srv("SA", R, dport=1001), cli("R", 1001), SNAP])

case("nat-tcp-timeouts", "life of SYN_RECV (60 s) and of a half-open connection", one(T80), [
    cli("S"), SNAP, sleep(59), SNAP, sleep(2), SNAP, sleep(8), SNAP,
    cli("S", 1001), sleep(30), cli("S", 1001, note="SYN again refreshes"), SNAP, sleep(35), SNAP])

case("nat-set-timeouts", "ipvsadm --set 20 7 5, then ESTABLISHED, FIN_WAIT and UDP timeouts",
     one(T80) + one(U53, rport=5353), [
         cmd("ipvsadm --set 20 7 5"), cli("S"), SNAP, srv("SA", R), SNAP, cli("A"), SNAP,
         cli("FA"), SNAP, srv("FA", R), SNAP, cli("S", 1001), srv("SA", R, dport=1001), cli("A", 1001),
         srv("FA", R, dport=1001, note="the server closes first: FIN_WAIT"), SNAP, udp(2000), SNAP, usrv(R, dport=2000), SNAP,
         sleep(21), SNAP, sleep(120), SNAP])

case("nat-tcp-odd", "VS/NAT: first packet not a SYN, wrong checksums, TTL 1 and 2, IP options, no service",
     one(T80), [
         cli("A", 2000, note="no connection: ACK"), cli("R", 2001, note="no connection: RST"),
         cli("SA", 2002, note="no connection: SYN+ACK"), cli("F", 2003, note="no connection: FIN"),
         SNAP,
         cli("S", 2004, bad_csum=True, note="wrong TCP checksum"), SNAP,
         cli("S", 2005, bad_ip_csum=True, note="wrong IP header checksum"),
         cli("S", 2006, ttl=1, note="TTL 1"), cli("S", 2007, ttl=2, note="TTL 2"),
         cli("S", 2008, ip_options="01010100", note="IP options (NOPs)"),
         cli("S", 2009, tos=0xb8, note="TOS"),
         cli("S", 2010, dport=81, note="no such service on the VIP"),
         srv("SA", R, dport=2007, ttl=1, note="reply with TTL 1"),
         srv("SA", R, dport=2007, bad_csum=True, note="reply with a wrong checksum"),
         srv("SA", R, dport=4000, note="reply from the server's port without a connection"),
         srv("S", R, sport=3333, dport=4000, note="other traffic server to client"), SNAPL])

case("nat-sloppy-tcp", "sloppy_tcp=1: a connection created by an ACK", one(T80),
     [cli("A", 2000), SNAP, cli("R", 2001), SNAP, cli("FA", 2002), SNAP, cli("SA", 2003), SNAP],
     sysctls={"net.ipv4.vs.sloppy_tcp": 1})

case("nat-icmp-send", "nat_icmp_send=1: packets from the server without a connection", one(T80) +
     one(U53, rport=5353), [
         srv("SA", R, dport=4000, note="SYN+ACK, no connection"),
         srv("A", R, dport=4001, note="ACK"), srv("RA", R, dport=4002, note="RST"),
         srv("S", R, dport=4005, note="SYN"),
         usrv(R, dport=4003, note="UDP"), srv("A", R, sport=9999, dport=4004, note="other port")],
     sysctls={"net.ipv4.vs.nat_icmp_send": 1})

case("nat-udp", "VS/NAT UDP, checksum none, reply; timeout 300 s", one(U53, rport=5353), [
    udp(), SNAP, usrv(R), SNAP, udp(note="same flow again"), udp(1001, no_csum=True, note="no checksum"),
    usrv(R, dport=1001, no_csum=True), udp(1002, bad_csum=True), SNAP, sleep(299), SNAP, sleep(45), SNAP])

case("nat-udp-ops", "UDP one-packet scheduling", svc(U53, rport=5353, extra="-o"), [
    udp(), SNAP, udp(), udp(), udp(), udp(1001), SNAPL, usrv(RS[0]), usrv(RS[1]), SNAP])

case("dr-udp-ops", "UDP one-packet scheduling, DR", svc(U53, "-g", rport=53, extra="-o"),
     [udp(), udp(), udp(), udp(), SNAPL])

case("nat-port-same", "NAT, real server port equal to the service port", one(T80, rport=80),
     [cli("S"), srv("SA", R, sport=80)])

case("nat-conntrack", "net.ipv4.vs.conntrack=1", one(T80), [
    cli("S"), srv("SA", R), cli("A"), SNAP, cmd("cat /proc/net/nf_conntrack")],
    sysctls={"net.ipv4.vs.conntrack": 1})

case("nat-conntrack-rule", "an iptables rule enables conntrack; net.ipv4.vs.conntrack=0", one(T80), [
    cli("S"), srv("SA", R), cli("A"), srv("PA", R, payload="x"), SNAP, cmd("cat /proc/net/nf_conntrack"),
    cmd("iptables-legacy -nvxL FORWARD")],
    setup=["iptables-legacy -A FORWARD -m conntrack --ctstate INVALID -j ACCEPT",
           "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -j ACCEPT",
           "iptables-legacy -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"],
    modules=["iptable_filter", "xt_conntrack"])

case("nat-conntrack-both", "an iptables rule enables conntrack; net.ipv4.vs.conntrack=1", one(T80), [
    cli("S"), srv("SA", R), cli("A"), srv("PA", R, payload="x"), SNAP, cmd("cat /proc/net/nf_conntrack"),
    cmd("iptables-legacy -nvxL FORWARD")],
    setup=["iptables-legacy -A FORWARD -m conntrack --ctstate INVALID -j ACCEPT",
           "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -j ACCEPT",
           "iptables-legacy -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"],
    modules=["iptable_filter", "xt_conntrack"], sysctls={"net.ipv4.vs.conntrack": 1})

case("nat-onearm", "NAT, client and server on the same network interface", one(T80, rs="10.0.1.12"), [
    cli("S"), pkt("eth0", "10.0.1.12", C, sport=8080, dport=1000, flags="SA"), cli("A"), SNAP])

case("dr-onearm", "DR, client and server on the same network interface", one(T80, "-g", rport=80, rs="10.0.1.12"),
     [cli("S"), cli("A"), SNAP])

case("dr-arp", "DR to a server whose MAC address is not known and never answers", one(T80, "-g", rport=80, rs="10.0.2.50"),
     [cli("S"), cli("S", 1001), sleep(4), SNAP, cli("S", 1002), sleep(4)])

case("dr-no-route", "DR to a server without a route", one(T80, "-g", rport=80, rs="192.0.2.1"),
     [cli("S"), SNAPL])

case("nat-udp-sameport", "NAT UDP, port unchanged, no checksum in the packet", one(U53, rport=53), [
    udp(no_csum=True), usrv(R, sport=53, no_csum=True), udp(1001, bad_csum=True), SNAP])

case("nat-mtu", "NAT towards a server link of MTU 1300: DF set and not", one(T80), [
    cli("S"), srv("SA", R), cli("A"),
    cli("PA", payload_len=1400, note="DF"), cli("PA", payload_len=1400, df=False, note="no DF"),
    SNAP], nic={"eth1": {"mtu": 1300}})

case("nat-vip-not-local", "the VIP is not an address of the director (packets get routed)",
     one("-t 10.0.9.9:80"), [pkt("eth0", C, "10.0.9.9", sport=1000, dport=80, flags="S"), SNAPL],
     routes=["10.0.9.0/24 via 10.0.2.254"])

case("nat-reuse", "conn_reuse_mode: SYN of the same port in ESTABLISHED, FIN_WAIT, TIME_WAIT", svc(T80), [
    cli("S"), SNAP,
    srv("SA", RS[2]), cli("A"), srv("SA", RS[1]), srv("SA", RS[0]), cli("A"), SNAP,
    cli("S", seq=9000, note="SYN while ESTABLISHED"), SNAP,
    cli("FA"), SNAP, srv("FA", RS[0]), srv("FA", RS[1]), srv("FA", RS[2]), cli("A"), SNAP,
    cli("S", seq=90000, note="SYN in TIME_WAIT"), SNAP])

case("nat-noport-persistent", "service for all ports (port 0, needs -p)",
     [f"-A -t {VIP}:0 -s rr -p 60", f"-a -t {VIP}:0 -r {R} -m"],
     [cli("S", dport=80), cli("S", 1001, dport=443), SNAPL, cli("S", 1002, dport=22)])

case("nat-localnode", "real server 127.0.0.1 / own address (Local)", [
    f"-A {T80} -s rr", f"-a {T80} -r 10.0.2.1:8080 -m", f"-A -t {VIP}:81 -s rr",
    f"-a -t {VIP}:81 -r 10.0.2.1:81 -g"],
    [cli("S", note="nothing listens on 8080"), SNAPL, cli("S", 1001, dport=81), SNAPL])

case("vip-icmp-echo", "echo request to a VIP and to the director's own address", one(T80), [
    pkt("eth0", C, VIP, "icmp", type=8, rest=0x12340001, payload="abcdefgh"),
    pkt("eth0", C, "10.0.1.1", "icmp", type=8, rest=0x12340002, payload="abcdefgh"),
    pkt("eth0", C6, VIP6, "icmp6", type=128, rest=0x12340003, payload="abcdefgh"), SNAPL])

# ------------------------------------------------------------------ ICMP errors

OUTSIDE = "10.0.1.254"


def quoted(src, dst, sport, dport, proto="tcp", n=28, **kw):
    return {"inner": {"src": src, "dst": dst, "proto": proto, "sport": sport, "dport": dport, **kw},
            "inner_len": n}


case("nat-icmp-from-rs", "ICMP errors from the server side about client packets (NAT)",
     one(T80) + one(U53, rport=5353), [
         udp(payload="query"),
         pkt("eth1", R, C, "icmp", type=3, code=3, note="port unreachable, by the server itself",
             **quoted(C, R, 1000, 5353, "udp", payload="query", ttl=63)),
         SNAP, cli("S"), srv("SA", R), cli("A"),
         pkt("eth1", R, C, "icmp", type=3, code=4, rest=1400, note="frag needed, by the server",
             **quoted(C, R, 1000, 8080, n=28, flags="PA", payload_len=1400)),
         pkt("eth1", "10.0.2.254", C, "icmp", type=3, code=4, rest=1300,
             note="frag needed, by a router between director and server",
             **quoted(C, R, 1000, 8080, n=576, flags="PA", payload_len=1400)),
         pkt("eth1", "10.0.2.254", C, "icmp", type=11, code=0, note="time exceeded, by a router",
             **quoted(C, R, 1000, 8080, n=28, flags="PA")),
         pkt("eth1", R, C, "icmp", type=3, code=3, note="for an unknown connection",
             **quoted(C, R, 7777, 8080, n=28, flags="S")),
         pkt("eth1", R, C, "icmp", type=3, code=3, bad_csum=True, note="wrong ICMP checksum",
             **quoted(C, R, 1000, 8080, n=28, flags="S")), SNAP])

case("nat-icmp-from-client", "ICMP errors from the client side about server packets (NAT)",
     one(T80) + one(U53, rport=5353), [
         udp(), usrv(R),
         pkt("eth0", C, VIP, "icmp", type=3, code=3, note="client: port unreachable",
             **quoted(VIP, C, 53, 1000, "udp", payload="answer", ttl=63)),
         cli("S"), srv("SA", R), cli("A"),
         pkt("eth0", OUTSIDE, VIP, "icmp", type=3, code=4, rest=1400, note="router: frag needed",
             **quoted(VIP, C, 80, 1000, n=28, flags="PA", payload_len=1400)),
         pkt("eth0", OUTSIDE, VIP, "icmp", type=11, note="router: time exceeded, long quote",
             **quoted(VIP, C, 80, 1000, n=576, flags="PA", payload_len=1400)),
         pkt("eth0", OUTSIDE, VIP, "icmp", type=3, code=1, note="unknown connection",
             **quoted(VIP, C, 80, 7777, n=28)),
         pkt("eth0", OUTSIDE, VIP, "icmp", type=3, code=1, bad_csum=True, note="wrong ICMP checksum",
             **quoted(VIP, C, 80, 1000, n=28, flags="A")),
         SNAP])

for fwd, label in (("-g", "dr"), ("-i", "tun")):
    case(f"{label}-icmp-from-client", f"ICMP errors from the client side, {label.upper()}",
         one(T80, fwd, rport=80), [
             cli("S"), cli("A"),
             pkt("eth0", OUTSIDE, VIP, "icmp", type=3, code=4, rest=1400, note="frag needed",
                 **quoted(VIP, C, 80, 1000, n=28, flags="PA", payload_len=1400)),
             pkt("eth0", OUTSIDE, VIP, "icmp", type=3, code=1, note="unknown connection",
                 **quoted(VIP, C, 80, 7777, n=28)), SNAP])

case("tun-icmp-from-rs", "frag needed about the outer IPIP packet, from a router on the server side",
     one(T80, "-i", rport=80), [
         cli("S"), cli("A"),
         pkt("eth1", "10.0.2.254", "10.0.2.1", "icmp", type=3, code=4, rest=1400, note="quotes 8 bytes of the inner packet",
             inner={"src": "10.0.2.1", "dst": R, "proto": "ipip",
                    "inner": {"src": C, "dst": VIP, "proto": "tcp", "sport": 1000, "dport": 80,
                              "flags": "PA", "payload_len": 1380}}, inner_len=28),
         pkt("eth1", "10.0.2.254", "10.0.2.1", "icmp", type=3, code=4, rest=1400, note="quotes 128 bytes",
             inner={"src": "10.0.2.1", "dst": R, "proto": "ipip",
                    "inner": {"src": C, "dst": VIP, "proto": "tcp", "sport": 1000, "dport": 80,
                              "flags": "PA", "payload_len": 1380}}, inner_len=128),
         cli("PA", payload_len=1390, note="1430 bytes with DF, now above the path MTU"),
         pkt("eth1", R, "10.0.2.1", "icmp", type=3, code=2, note="protocol unreachable (no ipip at the server)",
             inner={"src": "10.0.2.1", "dst": R, "proto": "ipip",
                    "inner": {"src": C, "dst": VIP, "proto": "tcp", "sport": 1000, "dport": 80,
                              "flags": "S"}}, inner_len=68), SNAP])

case("nat-schedule-icmp", "schedule_icmp=1: an ICMP error without a connection", one(T80), [
    pkt("eth0", OUTSIDE, VIP, "icmp", type=3, code=1, note="quotes client to VIP? (src VIP)",
        **quoted(VIP, C, 80, 7777, n=28)),
    pkt("eth0", OUTSIDE, VIP, "icmp", type=3, code=1, note="quotes client > VIP",
        **quoted(C, VIP, 7777, 80, n=28, flags="S")), SNAPL],
    sysctls={"net.ipv4.vs.schedule_icmp": 1})

# ------------------------------------------------------------------ fragments

case("nat-frag", "IPv4 fragments of a datagram to the VIP and back (NAT)", one(U53, rport=5353), [
    pkt("eth0", C, VIP, "udp", 1000, 53, step={"fragment": 1000}, payload_len=2000, df=False),
    SNAP, pkt("eth1", R, C, "udp", 5353, 1000, step={"fragment": 1000}, payload_len=2000, df=False),
    SNAP])

case("dr-frag", "IPv4 fragments to the VIP (DR)", one(U53, "-g", rport=53), [
    pkt("eth0", C, VIP, "udp", 1000, 53, step={"fragment": 1000}, payload_len=2000, df=False), SNAP])

case("tun-frag", "IPv4 fragments to the VIP (TUN)", one(U53, "-i", rport=53), [
    pkt("eth0", C, VIP, "udp", 1000, 53, step={"fragment": 1000}, payload_len=2000, df=False), SNAP])

case("frag-incomplete", "only the second fragment, then the first (NAT); then a first alone", one(U53, rport=5353), [
    pkt("eth0", C, VIP, 17, payload_len=500, frag=[976, False], id=77, note="last fragment alone"),
    pkt("eth0", C, VIP, 17, payload_hex="03e80035" + "05bc0000" + "41" * 968, frag=[0, True], id=77,
        note="now the first"), SNAP,
    pkt("eth0", C, VIP, 17, payload_hex="03e90035" + "05bc0000" + "41" * 968, frag=[0, True], id=78,
        note="a first fragment, never completed"), sleep(31), SNAP])

case("v6-nat-frag", "IPv6 fragments to the VIP and back (NAT)", one(U653, rport=5353, rs=RS6[0]), [
    pkt("eth0", C6, VIP6, "udp", 1000, 53, step={"fragment": 1280}, payload_len=2000),
    SNAP, pkt("eth1", RS6[0], C6, "udp", 5353, 1000, step={"fragment": 1280}, payload_len=2000), SNAP])

case("v6-dr-frag", "IPv6 fragments to the VIP (DR)", one(U653, "-g", rport=53, rs=RS6[0]), [
    pkt("eth0", C6, VIP6, "udp", 1000, 53, step={"fragment": 1280}, payload_len=2000), SNAP])

# ------------------------------------------------------------------ DR, TUN

case("dr-tcp", "VS/DR: states from one side only; TTL", one(T80, "-g", rport=80), [
    cli("S"), SNAP, cli("A"), SNAP, cli("PA", payload="hello"), cli("FA"), SNAP, cli("A"), SNAP,
    cli("S", 1001, ttl=1, note="TTL 1"), cli("S", 1002, bad_csum=True, note="wrong TCP checksum"),
    cli("S", 1003, tos=0xb9), sleep(120), SNAP])

case("dr-port-ignored", "DR with another port given for the server", one(T80, "-g", rport=8080),
     [cli("S"), SNAPL])

case("dr-rst", "DR: client RST", one(T80, "-g", rport=80), [cli("S"), cli("A"), cli("R"), SNAP,
                                                           sleep(11), SNAP])

case("dr-mtu", "DR towards a link of MTU 1300", one(T80, "-g", rport=80), [
    cli("S"), cli("A"), cli("PA", payload_len=1400, note="DF"),
    cli("PA", payload_len=1400, df=False, note="no DF")], nic={"eth1": {"mtu": 1300}})

case("tun-ipip", "VS/TUN ipip: header fields of the outer packet", one(T80, "-i", rport=80), [
    cli("S", ttl=64, id=0x1234), SNAP, cli("A", ttl=10, tos=0x10), cli("A", ttl=1, note="TTL 1"),
    cli("A", df=False, tos=0xb9, id=0x55), cli("FA"), SNAPL,
    cli("S", 1001, bad_csum=True, note="wrong TCP checksum")])

case("tun-ipip-mtu", "VS/TUN: packets that do not fit (pmtu_disc=1, the default)", one(T80, "-i", rport=80), [
    cli("S"), cli("A"), cli("PA", payload_len=1440, note="1480 bytes, DF: fits exactly"),
    cli("PA", payload_len=1441, note="1481 bytes, DF"),
    cli("PA", payload_len=1441, df=False, note="1481 bytes, no DF"),
    cli("PA", payload_len=1460, df=False, note="1500 bytes, no DF")])

case("tun-ipip-mtu-nopmtu", "the same with pmtu_disc=0", one(T80, "-i", rport=80), [
    cli("S"), cli("A"), cli("PA", payload_len=1440, note="1480 bytes, DF"),
    cli("PA", payload_len=1441, note="1481 bytes, DF"),
    cli("PA", payload_len=1441, df=False, note="1481 bytes, no DF")],
    sysctls={"net.ipv4.vs.pmtu_disc": 0})

for kind, opts in (("gue", "--tun-type gue --tun-port 6080"),
                   ("gue-csum", "--tun-type gue --tun-port 6080 --tun-csum"),
                   ("gue-remcsum", "--tun-type gue --tun-port 6080 --tun-remcsum"),
                   ("gre", "--tun-type gre"), ("gre-csum", "--tun-type gre --tun-csum")):
    case(f"tun-{kind}", f"VS/TUN {opts}",
         one(T80, "-i " + opts, rport=80) + one(T680, "-i " + opts, rport=80, rs=RS6[0]), [
             cli("S"), cli("A", ttl=10, tos=0x10), cli("A", df=False),
             cli("PA", payload="hello"), cli("S", 1001),
             cli("PA", payload_len=1440, note="too big"),
             pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"),
             pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A", tos=0x20, ttl=9), SNAPL,
             cmd("ipvsadm -Ln --tun-info")])

case("v6-tun", "IPv6 VS/TUN: IPv6 in IPv6", one(T680, "-i", rport=80, rs=RS6[0]), [
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"),
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A", ttl=9, tos=0xb9, flow=0x12345),
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A", payload_len=1400, note="1460 bytes: fits exactly"),
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A", payload_len=1401, note="1461 bytes"),
    SNAPL])

case("v6-in-v4-tun", "IPv6 service, IPv4 server (mixed tunnel)", one(T680, "-i", rport=80, rs=RS[0]), [
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"),
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A", ttl=9, tos=0xb9),
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A", payload_len=1430, note="too big"), SNAPL])

case("v4-in-v6-tun", "IPv4 service, IPv6 server (mixed tunnel)", one(T80, "-i", rport=80, rs=RS6[0]), [
    cli("S"), cli("A", ttl=9, tos=0xb9), cli("A", payload_len=1430, note="too big"), SNAPL])

# ------------------------------------------------------------------ IPv6

case("v6-nat-tcp", "IPv6 VS/NAT", one(T680, rs=RS6[0]), [
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"),
    pkt("eth1", RS6[0], C6, sport=8080, dport=1000, flags="SA"),
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A"), SNAP,
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="PA", payload="GET"),
    pkt("eth1", RS6[0], C6, sport=8080, dport=1000, flags="PA", payload="200"),
    pkt("eth0", C6, VIP6, sport=1001, dport=80, flags="S", ttl=1, note="hop limit 1"),
    pkt("eth1", RS6[0], C6, "icmp6", type=1, code=4, note="port unreachable from the server",
        **quoted(C6, RS6[0], 1000, 8080, n=60, flags="PA")),
    pkt("eth1", RS6[0], C6, "icmp6", type=2, rest=1300, note="packet too big from the server",
        **quoted(C6, RS6[0], 1000, 8080, n=200, flags="PA", payload_len=600)),
    pkt("eth0", C6, VIP6, "icmp6", type=2, rest=1300, note="packet too big from the client side",
        **quoted(VIP6, C6, 80, 1000, n=200, flags="PA", payload_len=600)),
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="FA"),
    pkt("eth1", RS6[0], C6, sport=8080, dport=1000, flags="FA"), SNAPL])

case("v6-nat-icmp-from-rs", "ICMPv6 errors from the server side: right checksum, and one without pseudo header",
     one(T680, rs=RS6[0]), [
         pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"),
         *sum([[pkt("eth1", RS6[0], C6, "icmp6", type=1, code=4, no_pseudo=np, note=note,
                    **quoted(C6, RS6[0], 1000, 8080, n=60, flags="PA")),
                pkt("eth1", "fd00:2::12", C6, "icmp6", type=2, rest=1300, no_pseudo=np, note=note,
                    **quoted(C6, RS6[0], 1000, 8080, n=200, flags="PA", payload_len=600))]
               for np, note in ((False, "right checksum"), (True, "without the pseudo header"))], [])],
     debug=6)

case("v6-nat-udp", "IPv6 VS/NAT, UDP", one(U653, rport=5353, rs=RS6[0]), [
    pkt("eth0", C6, VIP6, "udp", 1000, 53, payload="query"),
    pkt("eth1", RS6[0], C6, "udp", 5353, 1000, payload="answer"), SNAPL])

case("v6-dr-tcp", "IPv6 VS/DR", one(T680, "-g", rport=80, rs=RS6[0]), [
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"),
    pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A"), SNAP,
    pkt("eth0", C6, VIP6, sport=1001, dport=80, flags="S", ttl=1, note="hop limit 1"), SNAPL])

# ------------------------------------------------------------------ schedulers

SCHED = "rr wrr lc wlc sed nq sh dh mh lblc lblcr fo ovf".split()
SPREAD = [f"172.16.{i // 7}.{i * 13 % 250 + 1}" for i in range(50)]
for s in SCHED:
    for label, w in (("w123", (1, 2, 3)), ("w333", (3, 3, 3)), ("w520", (5, 2, 0))):
        case(f"sched-{s}-{label}", f"{s}, weights {w}: 50 new connections (SYN only), 50 client addresses",
             svc(T80, "-g", sched=s, rport=80, weights=w),
             [cli("S", 1000 + i, src=SPREAD[i]) for i in range(50)], tables=["list"])
    case(f"sched-{s}-est", f"{s}, weights 1,2,3: 30 connections, each established at once (DR: SYN, ACK)",
         svc(T80, "-g", sched=s, rport=80, weights=(1, 2, 3)),
         sum([[cli("S", 1000 + i, src=SPREAD[i]), cli("A", 1000 + i, src=SPREAD[i])]
              for i in range(30)], []), tables=["list"])
    case(f"sched-{s}-fwm", f"{s}, weights 1,2,3: firewall mark service, 50 destination addresses",
         svc("-f 5", "-g", sched=s, rport=0, weights=(1, 2, 3)),
         [pkt("eth0", C, f"10.0.9.{i + 1}", sport=1000 + i, dport=80, flags="S") for i in range(50)],
         setup=[f"{MARK} -d 10.0.9.0/24 -j MARK --set-mark 5"],
         routes=["local 10.0.9.0/24 dev lo"], tables=["list"])
for s, ex in (("sh", "-b sh-port"), ("sh", "-b sh-fallback"), ("sh", "-b sh-fallback,sh-port"),
              ("mh", "-b mh-port"), ("mh", "-b mh-fallback")):
    tag = ex.split()[1].replace(",", "-")
    case(f"sched-{tag}", f"{s} {ex}, weights 5,2,0: one client, 50 ports",
         svc(T80, "-g", sched=s, rport=80, weights=(5, 2, 0), extra=ex),
         [cli("S", 1000 + i) for i in range(50)], tables=["list"])

# ------------------------------------------------------------------ persistence etc.

case("persist", "-p 300", svc(T80, "-g", rport=80, extra="-p 300"), [
    cli("S", 1000), cli("S", 1001), cli("S", 1002, src="10.0.1.11"), SNAPL, sleep(59), SNAP,
    sleep(10), SNAP, sleep(240), SNAP, sleep(120), SNAP, sleep(300), SNAP,
    cli("S", 1003, note="template gone: next in turn"), SNAP],
    tables=["list", "conns", "persistent", "save"])

case("persist-refresh", "-p 300: does a packet, does a new connection restart the template's timer?",
     one(T80, "-g", rport=80, extra="-p 300"), [
         cli("S"), cli("A"), SNAP, sleep(100), cli("A"), SNAP, sleep(50), cli("S", 1001), SNAP])

case("persist-mask", "-p 300 -M 255.255.255.0", svc(T80, "-g", rport=80, extra="-p 300 -M 255.255.255.0"), [
    cli("S", 1000, src="172.16.5.1"), cli("S", 1001, src="172.16.5.200"),
    cli("S", 1002, src="172.16.6.1"), SNAPL], tables=["list", "conns", "persistent", "save"])

case("persist-est", "-p 60, an established connection keeps the template",
     one(T80, extra="-p 60"), [
         cli("S"), srv("SA", R), cli("A"), SNAP, sleep(61), SNAP, sleep(60), SNAP,
         cli("R"), SNAP, sleep(11), SNAP, sleep(60), SNAP, sleep(10), SNAP])

case("persist-fwmark", "persistent firewall mark service: ports 80 and 443 stick together",
     svc("-f 7", "-g", rport=0, extra="-p 100"), [
         cli("S", 1000), cli("S", 1001, dport=443), cli("S", 1002, dport=443, src="10.0.1.11"),
         cli("S", 1003, src="10.0.1.11"), SNAPL],
     setup=[f"{MARK} -d {VIP} -p tcp -m multiport --dports 80,443 -j MARK --set-mark 7"])

case("fwmark", "firewall mark service, NAT (port of the server 0: unchanged)",
     ["-A -f 7 -s rr", f"-a -f 7 -r {R} -m"], [
         cli("S", 1000), srv("SA", R, sport=80), cli("S", 1001, dport=443), SNAPL],
     setup=[f"{MARK} -d {VIP} -j MARK --set-mark 7"])

case("weight0", "a server is set to weight 0, then all are", svc(T80, weights=(1, 1)), [
    cli("S", 1000), cli("S", 1001), SNAP, cmd(f"ipvsadm -e {T80} -r {RS[1]}:8080 -m -w 0"),
    cli("A", 1000), cli("A", 1001), cli("S", 1002), cli("S", 1003), SNAPL,
    cmd(f"ipvsadm -e {T80} -r {RS[0]}:8080 -m -w 0"), cli("S", 1004, note="nobody left"),
    pkt("eth0", C, VIP, sport=1005, dport=80, flags="A", note="ACK, nobody left"), SNAPL])

case("no-dest", "services without real servers: TCP, UDP, IPv6", [f"-A {T80} -s rr", f"-A {U53} -s rr", f"-A {T680} -s rr"], [
    cli("S"), udp(), pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"), cli("A", 1001), SNAPL])

case("persist-weight0", "weight 0 with persistence (the template still wins)", svc(T80, "-g", rport=80, extra="-p 300", weights=(1, 1)), [
    cli("S", 1000), SNAP, cmd(f"for r in {RS[0]} {RS[1]}; do ipvsadm -e {T80} -r $r:80 -g -w 0; done"),
    cli("S", 1001), {"sysctl": {"net.ipv4.vs.expire_quiescent_template": 1}},
    cli("S", 1002, note="expire_quiescent_template=1"), SNAPL])

case("thresholds", "-x 2 -y 1, and connections that end", svc(T80, weights=(1, 1), rextra="-x 2 -y 1"), [
    *sum([[cli("S", 1000 + i), cli("A", 1000 + i)] for i in range(6)], []), SNAPL,
    cmd("ipvsadm -Ln --thresholds"),
    cli("R", 1000, note="one ends, 10 s later its entry goes"), cli("S", 2000), sleep(12), SNAPL, cli("S", 2001),
    cli("R", 1002), sleep(12), SNAPL, cli("S", 2002), cli("S", 2003), cli("S", 2004), SNAPL])

case("thresholds-u", "-x 2 without -y (below 3/4 of x counts as recovered)",
     svc(T80, weights=(1, 1), rextra="-x 4"), [
         *sum([[cli("S", 1000 + i), srv("SA", RS[1 - i % 2], dport=1000 + i), cli("A", 1000 + i)] for i in range(10)], []), SNAPL,
         cli("R", 1000), sleep(12), SNAPL, cli("S", 2000), cli("R", 1002), sleep(12), cli("S", 2001), SNAPL])

case("expire-nodest-off", "server removed under a connection, expire_nodest_conn=0", svc(T80, weights=(1, 1)), [
    cli("S", 1000), cli("S", 1001), SNAP, cmd(f"ipvsadm -d {T80} -r {RS[1]}:8080"),
    cli("A", 1000), cli("A", 1001), SNAPL,
    cmd(f"ipvsadm -a {T80} -r {RS[1]}:8080 -m"), cli("A", 1000), cli("A", 1001), SNAPL])

case("expire-nodest-on", "the same with expire_nodest_conn=1", svc(T80, weights=(1, 1)), [
    cli("S", 1000), cli("S", 1001), SNAP, cmd(f"ipvsadm -d {T80} -r {RS[1]}:8080"),
    cli("A", 1000), cli("A", 1001), SNAPL, cli("A", 1000), cli("A", 1001), cli("S", 1000), cli("S", 1001),
    SNAPL], sysctls={"net.ipv4.vs.expire_nodest_conn": 1})

case("service-deleted", "the service is removed under a connection", one(T80), [
    cli("S"), srv("SA", R), cli("A"), cmd(f"ipvsadm -D {T80}"), cli("PA", payload="x"),
    srv("A", R), SNAPL])

case("service-deleted-other", "the same while another service exists", one(T80) + one(U53), [
    cli("S"), srv("SA", R), cli("A"), cmd(f"ipvsadm -D {T80}"), cli("PA", payload="x"),
    srv("A", R), cli("S", 1001), SNAPL, sleep(61), SNAPL])

case("clear", "ipvsadm -C with connections", one(T80), [
    cli("S"), srv("SA", R), cmd("ipvsadm -C"), cli("A"), SNAPL])

case("drop-packet", "drop_packet=3 (always; rate am_droprate=3): new connections and established",
     one(T80), [cli("S", 900), cli("A", 900)] + [{"sysctl": {"net.ipv4.vs.am_droprate": 3}},
                {"sysctl": {"net.ipv4.vs.drop_packet": 3}}, sleep(2)] +
     [cli("S", 1000 + i) for i in range(12)] + [cli("A", 900) for _ in range(6)] + [SNAPL])

case("drop-entry", "drop_entry=3: half-open connections are dropped at random once a second",
     one(T80), [cli("S", 1000 + i) for i in range(30)] + [
         {"sysctl": {"net.ipv4.vs.drop_entry": 3}}, SNAP, sleep(5), SNAP, sleep(10), SNAP])

case("secure-tcp", "secure_tcp=3", one(T80), [
    {"sysctl": {"net.ipv4.vs.secure_tcp": 3}}, sleep(2), cli("S"), SNAP, srv("SA", R), SNAP, cli("A"), SNAP,
    cli("FA"), SNAP, srv("FA", R), SNAP])

# ------------------------------------------------------------------ SCTP

SC = {"proto": "sctp"}
INIT = [[1, 0, "1111111100010000000a000a00000001"]]
INITACK = [[2, 0, "2222222200010000000a000a00000001" + "0007000801020304"]]
case("nat-sctp", "VS/NAT SCTP", one(f"--sctp-service {VIP}:3868", rport=3868) , [
    pkt("eth0", C, VIP, "sctp", 1000, 3868, chunks=INIT), SNAP,
    pkt("eth1", R, C, "sctp", 3868, 1000, vtag=0x11111111, chunks=INITACK), SNAP,
    pkt("eth0", C, VIP, "sctp", 1000, 3868, vtag=0x22222222, chunks=[[10, 0, "01020304"]]), SNAP,
    pkt("eth1", R, C, "sctp", 3868, 1000, vtag=0x11111111, chunks=[[11, 0, ""]]), SNAP,
    pkt("eth0", C, VIP, "sctp", 1000, 3868, vtag=0x22222222, chunks=[[0, 3, "000000010000000000000000" + "41424344"]]),
    pkt("eth1", R, C, "sctp", 3868, 1000, vtag=0x11111111, chunks=[[3, 0, "000000010000ffff00000000"]]), SNAP,
    pkt("eth0", C, VIP, "sctp", 1000, 3868, vtag=0x22222222, chunks=[[7, 0, "00000001"]]), SNAP,
    pkt("eth1", R, C, "sctp", 3868, 1000, vtag=0x11111111, chunks=[[8, 0, ""]]), SNAP,
    pkt("eth0", C, VIP, "sctp", 1000, 3868, vtag=0x22222222, chunks=[[14, 0, ""]]), SNAP,
    pkt("eth0", C, VIP, "sctp", 1001, 3868, vtag=0x22222222, chunks=[[0, 3, "000000010000000000000000"]], note="DATA first"),
    pkt("eth0", C, VIP, "sctp", 1002, 3868, chunks=INIT, bad_csum=True, note="wrong CRC"),
    SNAPL, sleep(70), SNAP])
case("nat-sctp-port", "VS/NAT SCTP with port translation: CRC rewritten", one(f"--sctp-service {VIP}:3868", rport=9999), [
    pkt("eth0", C, VIP, "sctp", 1000, 3868, chunks=INIT),
    pkt("eth1", R, C, "sctp", 9999, 1000, vtag=0x11111111, chunks=INITACK),
    pkt("eth0", C, VIP, "sctp", 1002, 3868, chunks=INIT, bad_csum=True, note="wrong CRC"), SNAPL])

FTP = [
    pkt("eth0", C, VIP, sport=1000, dport=21, flags="S", seq=100),
    pkt("eth1", R, C, sport=21, dport=1000, flags="SA", seq=500, ack=101),
    pkt("eth0", C, VIP, sport=1000, dport=21, flags="A", seq=101, ack=501),
    pkt("eth0", C, VIP, sport=1000, dport=21, flags="PA", seq=101, ack=501, payload="PASV\r\n"),
    pkt("eth1", R, C, sport=21, dport=1000, flags="PA", seq=501, ack=107,
        payload="227 Entering Passive Mode (10,0,2,11,200,10).\r\n"), SNAPL,
    pkt("eth0", C, VIP, sport=1000, dport=21, flags="A", seq=107, ack=549, note="ack after translation"),
    pkt("eth0", C, VIP, sport=1001, dport=51210, flags="S", note="passive data connection"),
    pkt("eth1", R, C, sport=51210, dport=1001, flags="SA"), SNAP,
    pkt("eth0", C, VIP, sport=1000, dport=21, flags="PA", seq=107, ack=549, payload="PORT 10,0,1,10,4,1\r\n"), SNAP,
    pkt("eth1", R, C, sport=20, dport=1025, flags="S", seq=7000, note="active data connection, from the server"),
    pkt("eth0", C, VIP, sport=1025, dport=20, flags="SA"), SNAPL,
    pkt("eth1", R, C, sport=21, dport=1000, flags="PA", seq=548, ack=127, payload="200 PORT ok\r\n"),
]
# ------------------------------------------------------------------ synchronisation


def established(n=1, **kw):
    return sum([[cli("S", 1000 + i), srv("SA", R, dport=1000 + i), cli("A", 1000 + i)]
                for i in range(n)], [])


MASTER = "ipvsadm --start-daemon master --mcast-interface eth1 --syncid 7"
for v in (1, 0):
    case(f"sync-master-v{v}", f"sync daemon, master, sync_version={v}", one(T80) + one(U53, rport=5353), [
        cmd(MASTER), sleep(1), *established(2), udp(), usrv(R), sleep(3), SNAP,
        *[cli("A", 1000) for _ in range(6)], sleep(3), cli("FA", 1000), sleep(3),
        srv("FA", R, dport=1000), sleep(3), cli("A", 1000), sleep(3),
        *[cli("A", 1001) for _ in range(60)], sleep(3), cli("R", 1001), sleep(3)],
        sysctls={"net.ipv4.vs.sync_version": v}, tables=["list", "conns", "daemon"])

case("sync-master-persist", "sync daemon, master: persistence templates, DR, IPv6, firewall mark",
     one(T80, "-g", rport=80, extra="-p 300") + one(T680, "-i", rport=80, rs=RS6[0]), [
         cmd(MASTER), sleep(1), cli("S"), sleep(3), cli("A"), sleep(3),
         pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"),
         pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="A"), sleep(3)], tables=["list", "conns", "daemon"])

case("sync-options", "sync daemon: --sync-maxlen, --mcast-group, --mcast-port, --mcast-ttl", one(T80), [
    cmd(MASTER + " --sync-maxlen 200 --mcast-group 224.0.0.99 --mcast-port 9999 --mcast-ttl 3"), sleep(1),
    *established(6), *[cli("A", 1000 + i) for i in range(6)], sleep(3), cmd("ipvsadm -Ln --daemon")])

case("sync-period", "sync_threshold '3 50' and sync_refresh_period: which packets are announced", one(T80), [
    cmd(MASTER), sleep(1), *established(1), sleep(3),
    *sum([[cli("A"), sleep(2.5)] for _ in range(6)], [])], tables=["conns"])

# Datagrams for the backup are made by sync_v1()/sync_v0() and equal what the master emits.


def ip4(a):
    return bytes(map(int, a.split(".")))


def sync_v1(conns, syncid=7):
    body = b""
    for proto, flags, state, c, cp, v, vp, d, dp, tmo in conns:
        e = struct.pack("!IHHHHII", flags, state, cp, vp, dp, 0, tmo) + ip4(c) + ip4(v) + ip4(d)
        e = struct.pack("!BBH", 0, proto, 4 + len(e)) + e
        body += e
    return struct.pack("!BBHbBH", 0, syncid, 8 + len(body), len(conns), 1, 0) + body


def sync_v0(conns, syncid=7):
    body = b""
    for proto, flags, state, c, cp, v, vp, d, dp, _ in conns:
        body += struct.pack("!BBHHH", 0, proto, cp, vp, dp) + ip4(c) + ip4(v) + ip4(d) + \
            struct.pack("!HH", flags, state)
    return struct.pack("!BBH", len(conns), syncid, 4 + len(body)) + body


CONNS = [(6, 0x100, 1, C, 1000, VIP, 80, R, 8080, 900), (17, 0x100, 0, C, 1001, VIP, 53, R, 5353, 300),
         (6, 0x103, 1, C, 1002, VIP, 80, R, 80, 900), (6, 0x0, 4, C, 1003, VIP, 80, "10.0.2.13", 8080, 120)]
BACKUP = "ipvsadm --start-daemon backup --mcast-interface eth1 --syncid 7"


def mcast(data, **kw):
    s = pkt("eth1", "10.0.2.254", "224.0.0.81", "udp", 40000, 8848, payload_hex=data.hex(), ttl=1, **kw)
    s["dmac"] = "01:00:5e:00:00:51"
    s["wait_ms"] = 100
    return s


for v, mk in ((1, sync_v1), (0, sync_v0)):
    case(f"sync-backup-v{v}", f"sync daemon, backup, fed with a v{v} datagram", one(T80) + one(U53, rport=5353), [
        cmd(BACKUP), sleep(1), mcast(mk(CONNS)), SNAPL, cli("A", 1000, note="synchronised connection is used"),
        srv("A", R, dport=1000), SNAP, mcast(mk(CONNS[:1], syncid=8), note="other syncid"),
        mcast(mk(CONNS[:1])[:-3], note="truncated"),
        mcast(mk([(6, 0x100, 99, C, 1009, VIP, 80, R, 8080, 900)]), note="state out of range"),
        cmd("cat /proc/net/ip_vs_conn_sync"), SNAP, sleep(185), SNAP],
        tables=["list", "conns", "daemon"])

# Payloads that a real master emitted (results sync-master-v1, sync-master-persist, sync-master-v0).
CAPTURED = ["0007002c010100000006002400000000000103e800501f9000000000000003840a00010a0a0001640a00020b",
            "0007002c0101000000060024000011830001000000500050000000000000012c0a00010a0a0001640a00020b"]
CAPTURED_V0 = ["0107001c000603e800501f900a00010a0a0001640a00020b00000001"]
case("sync-backup-captured", "sync daemon, backup, fed with what a master really emitted", one(T80), [
    cmd(BACKUP), sleep(1), mcast(bytes.fromhex(CAPTURED[0])), SNAP, mcast(bytes.fromhex(CAPTURED[1])), SNAP,
    cmd("cat /proc/net/ip_vs_conn_sync"),
    mcast(sync_v1([(6, 0x0, 1, C, 1005, VIP, 80, R, 8080, 77)]), note="timeout 77 s in the message"), SNAPL])
case("sync-backup-captured-v0", "the same, v0", one(T80), [
    cmd(BACKUP), sleep(1), mcast(bytes.fromhex(CAPTURED_V0[0])), SNAP, cmd("cat /proc/net/ip_vs_conn_sync")])

case("sync-master-more", "sync daemon, master: IPv6, firewall mark, sequence offsets of ip_vs_ftp",
     one(T680, rs=RS6[0]) + ["-A -f 7 -s rr", f"-a -f 7 -r {R} -m"] + one(f"-t {VIP}:21", rport=21), [
         cmd(MASTER), sleep(1),
         *[pkt("eth0", C6, VIP6, sport=1000, dport=80, flags=f) for f in ("S", "A", "A", "A")], sleep(3),
         *[cli(f, 1000) for f in ("S", "A", "A", "A")], sleep(3),
         *FTP[:5], FTP[6], FTP[9], FTP[12], FTP[6], FTP[6], sleep(3),
         pkt("eth0", C, VIP, sport=1000, dport=21, flags="FA", seq=127, ack=562), sleep(3)],
     setup=[f"{MARK} -d {VIP} -p tcp --dport 80 -j MARK --set-mark 7"], modules=["ip_vs_ftp"],
     tables=["list", "conns", "daemon"])

case("sync-backup-norules", "sync daemon, backup, without any service configured", [], [
    cmd(BACKUP), sleep(1), mcast(sync_v1(CONNS)), SNAPL, cli("A", 1000), SNAP,
    cmd(f"ipvsadm -A {T80} -s rr; ipvsadm -a {T80} -r {R}:8080 -m"), SNAPL, cli("A", 1000), SNAPL])

# ------------------------------------------------------------------ FTP

case("ftp", "ip_vs_ftp, passive and active (conntrack=1)", one(f"-t {VIP}:21", rport=21), FTP,
     modules=["ip_vs_ftp", "nf_conntrack_ftp", "nf_nat_ftp"], sysctls={"net.ipv4.vs.conntrack": 1},
     final=["cat /proc/net/ip_vs_app", "cat /proc/net/nf_conntrack"])
case("ftp-noct", "ip_vs_ftp with conntrack=0", one(f"-t {VIP}:21", rport=21), FTP, modules=["ip_vs_ftp"],
     final=["cat /proc/net/ip_vs_app"])
case("ftp-nomodule", "FTP without the helper", one(f"-t {VIP}:21", rport=21), FTP)


class Talk:
    """A command connection. seq and ack are right unless said otherwise: the server's replies are
    longer or shorter for the client than as it sent them."""

    def __init__(self, c=C, v=VIP, r=R, sport=1000, vport=21, rport=21):
        self.c, self.v, self.r, self.sport, self.vport, self.rport = c, v, r, sport, vport, rport
        self.up, self.down, self.longer = 100, 500, 0  # numbers of what each sends next; the client's view of the latter

    def client(self, flags, n=0, **kw):
        kw = {"seq": self.up, "ack": self.down + self.longer if "A" in flags else 0, **kw}
        self.up += n
        return pkt("eth0", self.c, self.v, sport=self.sport, dport=self.vport, flags=flags, **kw)

    def server(self, flags, n=0, longer=0, **kw):
        kw = {"seq": self.down, "ack": self.up if "A" in flags else 0, **kw}
        self.down += n
        self.longer += longer
        return pkt("eth1", self.r, self.c, sport=self.rport, dport=self.sport, flags=flags, **kw)

    def open(self):
        return [self.client("S", 1), self.server("SA", 1), self.client("A")]

    def close(self):
        return [self.client("FA", 1), self.server("FA", 1), self.client("A")]

    def says(self, text, **kw):
        return self.client("PA", len(text), payload=text, **kw)

    def replies(self, text, longer=0, **kw):
        return self.server("PA", len(text), longer, payload=text, **kw)

    def passive(self, port=51210, **kw):
        """PASV and its answer, longer by the last byte of the VIP, which has a digit more."""
        return [self.says("PASV\r\n", **kw), self.replies(self.at(port), 1)]

    def at(self, port):
        return f"227 Entering Passive Mode (10,0,2,11,{port >> 8},{port & 255}).\r\n"

    def data(self, port=51210, sport=2000):
        """What the client opens in passive mode."""
        return [pkt("eth0", self.c, self.v, sport=sport, dport=port, flags="S"),
                pkt("eth1", self.r, self.c, sport=port, dport=sport, flags="SA"),
                pkt("eth0", self.c, self.v, sport=sport, dport=port, flags="A", seq=1001, ack=1001)]

    def active(self, port=1025, to=None, of=20, at=20):
        """What the server opens in active mode."""
        to = to or self.c
        return [pkt("eth1", self.r, to, sport=at, dport=port, flags="S", seq=7000),
                pkt("eth0", to, self.v, sport=port, dport=of, flags="SA", seq=8000, ack=7001),
                pkt("eth1", self.r, to, sport=at, dport=port, flags="A", seq=7001, ack=8001)]


def ftp_case(name, doc, steps, rules=None, **kw):
    kw.setdefault("modules", ["ip_vs_ftp"])
    case("ftp-" + name, doc, rules or one(f"-t {VIP}:21", rport=21), steps, **kw)


EPSV, R229 = "EPSV\r\n", "229 Entering Extended Passive Mode (|||%d|)\r\n"
t = Talk()
ftp_case("extended", "EPSV and EPRT, several transfers over one command connection", [
    *t.open(), t.says(EPSV), t.replies(R229 % 51210), SNAPL, *t.data(), SNAPL,
    t.says("EPSV 1\r\n"), t.replies("229 Entering Extended Passive Mode (|1|10.0.2.11|51211|)\r\n", -10), SNAP,
    *t.data(51211, 2001), SNAP, t.says("EPRT |1|10.0.1.10|1025|\r\n"), SNAP, *t.active(), SNAP, t.replies("200 ok\r\n"),
    t.client("A"), *t.passive(51212), *t.data(51212, 2002), t.says("PORT 10,0,1,10,4,2\r\n"), *t.active(1026), SNAPL])

# The kernel verifies a checksum of TCP over IPv6 that no NIC has vouched for twice, the second time wrongly,
# and drops the packet (as with ICMPv6 errors); not so without the first time.
UNCHECKED = {"net.netfilter.nf_conntrack_checksum": 0}
t = Talk(C6, VIP6, RS6[0])
ftp_case("v6", "EPSV and EPRT over IPv6; PASV means nothing there", [
    *t.open(), t.says(EPSV), t.replies(R229 % 51210), SNAPL, *t.data(), SNAPL,
    t.says("EPSV 2\r\n"), t.replies("229 Entering Extended Passive Mode (|2|fd00:2::11|51211|)\r\n", -11), SNAP,
    *t.data(51211, 2001), SNAP, t.says("EPRT |2|fd00:1::10|1025|\r\n"), SNAP, *t.active(), SNAP, t.replies("200 ok\r\n"),
    t.says("EPRT |1|10.0.1.10|1026|\r\n"), t.says("EPRT |2|fd00:1:0:0:0::10|1027|\r\n"), t.says("EPRT |2|fd00:1:::10|1028|\r\n"),
    t.says("EPRT |2|fd00:1:0:0:0:0:0:1:10|1029|\r\n"), t.says("EPRT |2|fd00:1:0:0:0:0:0:10|1030|\r\n"),
    t.says("EPRT |2|FD00:1::A.0.1.10|1031|\r\n"), t.says("EPRT |2|fd00:1::10.0.1.10|1032|\r\n"), t.says("EPSV 1\r\n"),
    t.replies(R229 % 51212), t.says("PASV\r\n"), t.replies(t.at(51213)), SNAPL],
    one(f"-t [{VIP6}]:21", rport=21, rs=RS6[0]), sysctls=UNCHECKED)

t = Talk()
ftp_case("odd-passive", "PASV and 227 in other words, places and pieces", [
    *t.open(), t.says("pasv\r\n"), t.replies(t.at(51200), 1), SNAP,
    t.says("NOOP\r\nPASV\r\nTYPE I\r\n", note="in the middle"), t.replies(t.at(51201), 1),
    t.says("PA"), t.says("SV\r\n", note="in two"), t.replies(t.at(51202)), SNAP,
    t.says("PASV\r\n"), t.replies("227 Passive 10,0,2,11,200,3 here\r\n", 1, note="without parentheses"),
    t.says("PASV\r\n"), t.replies("200 first\r\n" + t.at(51204), note="not at the beginning"), SNAP,
    t.replies(t.at(51204), 1, note="but then"), SNAP,
    t.says("PASV\r\n"), t.replies("227 Entering Passive Mode (10,0,2", note="in two"), t.replies(",11,200,5).\r\n"),
    t.says("PASV\n"), t.says("PASV \r\n"), t.says("XPASV\r\n", note="anywhere"), t.replies(t.at(51206), 1), SNAP,
    t.says("PASV\r\n"), t.replies("227 (10,0,2,11,200,7", note="nothing behind"), SNAP,
    t.replies("227 (10,0,2,11,200,7\r", 1), t.says("PASV\r\n"), t.replies("227 ((10,0,2,11,200,8)\r\n", 1),
    t.says("PASV\r\n"), t.replies("227 (10,0,2,11,456,265)\r\n", -1, note="modulo 256"),
    t.says("PASV\r\n"), t.says("NOOP\r\n"), t.replies("227 (10,0,2,11,200,10,5)\r\n", 1, note="one too many"),
    t.says("PASV\r\n"), t.replies("227 (10,0,2,11,200)\r\n", note="one too few"), t.replies("227 \r\n"), t.replies("226 (10,0,2,11,200,11)\r\n"),
    t.replies("22"), SNAPL])

t = Talk()
ftp_case("odd-active", "PORT and EPRT in other words, and with mistakes", [*t.open(), *[t.says(x + "\r\n") for x in (
    "port 10,0,1,10,4,2", "PORT  10,0,1,10,4,3", "PORT10,0,1,10,4,4", "PORT 10,0,1,10,4", "PORT", "NOOP\r\nPORT 10,0,1,10,4,6",
    "PORT 10,0,1,10,4,7x", "PORTX 10,0,1,10,4,8", "PORT 10,0,1,12,4,9", "PORT 10,0,1,10,4,2", "PORT x,0,1,10,4,1",
    "PORT 0010,000,001,010,0004,0011", "PORT 10,0,1,10,,12")], t.says("PORT 10,0,1,10,4,13"), SNAP, *[t.says(x + "\r\n") for x in (
        "EPRT |1|10.0.1.10|2001|", "eprt |1|10.0.1.10|2002|", "EPRT !1!10.0.1.10!2003!", "EPRT |2|fd00:1::10|2004|",
        "EPRT |1|10.0.1|2005|", "EPRT |1|10.0.1.10|2006", "EPRT |1|010.0.1.10|2008|", "EPRT |1|10..1.10|2009|",
        "EPRT |1|10.0.1.266|2010|", "EPRT |1|10.0.1.10|67547|", "EPRT |1|10.0.1.10|0|", "EPRT 11110.0.1.101201211", "EPRT",
        "EPRT ||10.0.1.10|2013|", "EPRT |1|10.0.1.10||", "EPRT|1|10.0.1.10|2014|", "EPRT x |1|10.0.1.10|2015|",
        "EPRT |1|10.0.1.10|20x16|", "EPRT |11|10.0.1.10|2017|")], t.says("EPRT |1|10.0.1.10|2007|"), SNAPL])

t = Talk()
ftp_case("odd-extended", "EPSV and 229 in other words, and with mistakes", [
    *t.open(), t.says("epsv\r\n"), t.replies(R229 % 50001), t.says("EPSV ALL\r\n"), t.replies(R229 % 50002),
    t.says("EPSV 2\r\n"), t.replies(R229 % 50003), SNAP, t.says(EPSV), t.replies("229 (|||50005)\r\n"),
    t.replies("229 |||50006|\r\n"), t.replies("229 (|1||50008|)\r\n"), t.replies("229 (|2|fd00:2::11|50009|)\r\n"),
    t.replies("229 (1115000111)\r\n"), t.replies("229 (!!!50007!)\r\n"), SNAP, t.says("EPSV\n"), t.replies("229 (|||50011|)\r\n"),
    t.says("EPSV\r\nNOOP\r\n"), t.replies("229 (|||50012|\r\n"), t.says("EPSV 1\r\nPASV\r\n"), t.replies("229 (|||50013|)\r\n"),
    t.says("PASV\r\n"), t.replies("229 (|||50014|)\r\n"), SNAPL])

t = Talk()
ftp_case("order", "answers to what was asked last, once", [
    *t.open(), *t.passive(51200), t.says("PASV\r\n"), t.replies("229 (|||5000|)\r\n"), t.replies(t.at(51201), 1),
    t.says("PASV\r\n"), t.says("PORT 10,0,1,10,4,1\r\n", note="changed its mind"), t.replies(t.at(51202)), t.says(EPSV),
    t.says("EPSV 2\r\n", note="does not go with IPv4"), t.replies("229 (|||5001|)\r\n"),
    t.replies("229 (|||5002|)\r\n", note="nobody has asked"), SNAPL])


def sack(*edges):
    return f"0101{5:02x}{2 + 4 * len(edges):02x}" + "".join(f"{e:08x}" for e in edges)


t = Talk()
ftp_case("sequence", "sequence numbers, acknowledgements and SACK behind one and two changes; wrong checksums", [
    *t.open(), *t.passive(51200), t.client("A"), t.client("A", ack=501, note="without the reply"), t.client("A", ack=502),
    t.client("A", ack=548), t.replies("150 a\r\n"), t.client("A", ack=501, options=sack(549, 556)),
    t.client("A", ack=501, options=sack(501, 549, 549, 556)),
    t.client("A", ack=501, options="0101080a0000000100000002" + sack(549, 556)), t.client("A"),
    t.client("A", options="01020400", note="an option cut off"),
    *t.passive(51201), t.client("A", ack=556, note="without the second"), t.client("A"),
    t.client("A", ack=549, note="before both"), t.client("A", ack=501), t.replies("150 b\r\n"), t.server("A"),
    t.server("A", seq=554), t.server("A", seq=501), t.server("PA", seq=548, payload="150 a\r\n", note="again, between the changes"),
    t.says("NOOP\r\n", bad_csum=True), t.server("PA", payload="200 x\r\n", bad_csum=True),
    t.client("A", bad_csum=True), SNAPL, t.server("R", ack=0, note="without an acknowledgement"), SNAPL])

t = Talk()
ftp_case("expire", "announced twice, begun late, not begun", [
    *t.open(), *t.passive(), sleep(60), *t.passive(note="the same port"), SNAP, sleep(61), SNAP, sleep(40),
    *t.data(), SNAP, t.says("PORT 10,0,1,10,4,1\r\n"), sleep(119), SNAP, sleep(20), SNAPL,
    pkt("eth1", R, C, sport=20, dport=1025, flags="S", seq=7000, note="too late"), SNAPL])

t = Talk()
ftp_case("control", "a command connection outlives what it announced", [
    *t.open(), *t.passive(), *t.data(), *t.close(), SNAP, sleep(119), SNAP, sleep(3), SNAP, sleep(58), SNAP, sleep(600), SNAP,
    sleep(300), SNAPL])

t = Talk()
ftp_case("control-drop", "and so does one that only announced", [
    *t.open(), t.says("PORT 10,0,1,10,4,1\r\n"), t.client("R", 1), SNAP, sleep(30), SNAP, sleep(180), SNAPL])

t = Talk()
ftp_case("data", "what begins an announced connection", [
    *t.open(), *t.passive(), pkt("eth1", R, C, sport=51210, dport=2000, flags="SA", note="before the client"),
    pkt("eth0", "10.0.1.11", VIP, sport=2000, dport=51210, flags="S", note="another client"),
    pkt("eth0", C, VIP, sport=2000, dport=51211, flags="S", note="another port"),
    pkt("eth0", C, VIP, sport=2000, dport=51210, flags="A", note="no SYN"), SNAP,
    pkt("eth0", C, VIP, sport=2001, dport=51210, flags="S", note="a second"), SNAP,
    pkt("eth0", C, VIP, sport=2000, dport=51210, flags="S"), SNAP, *t.passive(note="the port once more"), SNAPL,
    *t.data(sport=2002), SNAPL])

t = Talk()
ftp_case("data-active", "active data connections, from either side, and the port again", [
    *t.open(), t.says("PORT 10,0,1,10,4,1\r\n"), pkt("eth0", C, VIP, sport=1025, dport=20, flags="S", note="from the client"), SNAP,
    pkt("eth1", R, C, sport=20, dport=1025, flags="SA", seq=1), pkt("eth0", C, VIP, sport=1025, dport=20, flags="A", seq=1001, ack=2), SNAP,
    t.says("PORT 10,0,1,10,4,1\r\n", note="while it is ESTABLISHED"), SNAPL,
    pkt("eth0", C, VIP, sport=1025, dport=20, flags="FA", seq=1001, ack=2), SNAPL, t.says("PORT 10,0,1,10,4,1\r\n"),
    pkt("eth1", R, C, sport=20, dport=1025, flags="S", seq=100000), SNAP, t.says("PORT 10,0,1,11,4,1\r\n", note="another host"),
    *t.active(to="10.0.1.11"), SNAPL])

t = Talk(rport=2021)
ftp_case("server-port", "a server of another port: active data comes from the port before it", [
    *t.open(), *t.passive(), *t.data(), t.says("PORT 10,0,1,10,4,1\r\n"), SNAP,
    pkt("eth1", R, C, sport=20, dport=1025, flags="S", seq=1, note="not from 2020"), *t.active(at=2020), SNAPL],
    one(f"-t {VIP}:21", rport=2021))

t, other = Talk(vport=2121, rport=2121), Talk(sport=1007)
ftp_case("ports", "other ports (the service on port 21 only brings conntrack)", [
    *t.open(), *t.passive(), *t.data(), t.says("PORT 10,0,1,10,4,1\r\n"), *t.active(of=2120, at=2120), SNAPL,
    *other.open(), other.says("PASV\r\n"), other.replies(t.at(51201), note="not of the ports"), SNAPL],
    one(f"-t {VIP}:2121", rport=2121) + one(f"-t {VIP}:21", rport=21), modules=["ip_vs_ftp ports=2121,990"])

t = Talk()
ftp_case("mark", "a firewall mark service (the service on port 21 only brings conntrack)", [
    *t.open(), *t.passive(), *t.data(), t.says("PORT 10,0,1,10,4,1\r\n"), *t.active(), SNAPL],
    ["-A -f 7 -s rr", f"-a -f 7 -r {R} -m", *one("-t 10.0.1.1:21", rport=21)],
    setup=[f"{MARK} -d {VIP} -p tcp --dport 21 -j MARK --set-mark 7"])

t = Talk()
ftp_case("persistent", "a persistent service: template, command and data connection", [
    *t.open(), *t.passive(), SNAPL, *t.data(), SNAPL, pkt("eth0", C, VIP, sport=2001, dport=40000, flags="S", note="by the template"),
    pkt("eth0", C, VIP, sport=1024, dport=20, flags="S", note="by the template"), SNAPL, *t.close(), sleep(400), SNAPL, sleep(600), SNAPL],
    one(f"-t {VIP}:21", rport=21, extra="-p 300"), tables=["list", "conns", "persistent", "stats"])

t = Talk()
ftp_case("half-closed", "a command connection that is not ESTABLISHED announces nothing", [
    *t.open(), t.server("FA", 1), SNAP, t.says("PORT 10,0,1,10,4,1\r\n"), t.says("PASV\r\n"), SNAPL])

t = Talk()
ftp_case("reuse", "the client's next command connection from the same port", [
    *t.open(), *t.passive(), *t.close(), SNAP, t.client("S", seq=100000), SNAP, sleep(1), SNAP,
    t.server("SA", seq=1, ack=100001), SNAPL, sleep(130), SNAPL])

t = Talk()
ftp_case("again", "an answer that is sent again, because the first was lost", [
    *t.open(), *t.passive(), t.server("PA", seq=501, payload=t.at(51210)), SNAP])

t = Talk()
ftp_case("addresses", "answers that name another server, and port 0", [
    *t.open(), t.says("PASV\r\n"), t.replies("227 (10,0,2,12,200,10)\r\n", 1), t.says(EPSV), t.replies("229 (|1|10.0.2.13|51211|)\r\n", -10),
    t.says("PASV\r\n"), t.replies("227 (10,0,2,11,0,0)\r\n", 1), t.says("PORT 10,0,1,10,0,0\r\n"), SNAPL])

t = Talk()
ftp_case("mtu", "an answer that is longer than the MTU with the VIP in it", [
    *t.open(), t.says("PASV\r\n"), t.replies(t.at(51210) + "x" * (1460 - len(t.at(51210))), 1), SNAPL])

t = Talk()
tiny, large = [{"df": False, "step": {"fragment": mtu}} for mtu in (60, 1500)]
ftp_case("fragments", "commands and answers that come in fragments, and an answer that leaves in some", [
    *t.open(), t.says("PASV\r\n"), t.replies(t.at(51210), 1, **tiny), SNAP, t.says("PORT 10,0,1,10,4,1" + 20 * " " + "\r\n", **tiny),
    pkt("eth1", R, C, sport=20, dport=1025, flags="S", seq=1), SNAPL,
    t.says("PASV\r\n"), t.replies("227 " + 2000 * "x" + " (10,0,2,11,201,10)\r\n", 1, **large), SNAPL,
    t.says("PASV\r\n"), t.replies(t.at(51722) + "x" * (1460 - len(t.at(51722))), 1, df=False), SNAPL])

DELETE, ADD = [f"ipvsadm -{x} -t {VIP}:21 -r {R}:21" for x in "da"]
t = Talk()
ftp_case("server-gone", "the server is removed and comes back", [
    *t.open(), *t.passive(), cmd(DELETE), pkt("eth0", C, VIP, sport=2000, dport=51210, flags="S"), SNAPL, cmd(ADD + " -m"), SNAPL,
    pkt("eth0", C, VIP, sport=2000, dport=51210, flags="S"), SNAPL])
t = Talk()
ftp_case("server-gone-expire", "the server is removed, expire_nodest_conn=1", [
    *t.open(), *t.passive(), *t.data(), cmd(DELETE), sleep(1), SNAPL], sysctls={"net.ipv4.vs.expire_nodest_conn": 1})
t = Talk()
ftp_case("server-quiet", "the server's weight is 0, expire_nodest_conn=1", [
    *t.open(), *t.passive(), cmd(f"ipvsadm -e -t {VIP}:21 -r {R}:21 -m -w 0"), pkt("eth0", C, VIP, sport=2000, dport=51210, flags="S"),
    sleep(1), SNAPL], sysctls={"net.ipv4.vs.expire_nodest_conn": 1})

# ------------------------------------------------------------------ rates and estimators

case("rates", "ipvsadm --rate over time: 10 packets a second for 20 s, then silence", one(T80, "-g", rport=80),
     [cli("S")] + sum([[cli("A", payload_len=100), sleep(0.1)] for _ in range(200)], []) +
     [{"snapshot": ["rate", "stats"]}, sleep(4), {"snapshot": ["rate"]}, sleep(20),
      {"snapshot": ["rate"]}, cmd("cat /proc/net/ip_vs_stats"), cmd("ipvsadm -Z"),
      {"snapshot": ["stats"]}])


# ------------------------------------------------------------------ ipvsadm itself

MANY = [f"-A -t {VIP}:80 -s wlc", f"-a -t {VIP}:80 -r {RS[0]}:8080 -m -w 5", f"-a -t {VIP}:80 -r {RS[1]}:80 -g -w 0",
        f"-a -t {VIP}:80 -r {RS[2]}:80 -i -w 65535 -x 100 -y 50",
        f"-A -u {VIP}:53 -s rr -o", f"-a -u {VIP}:53 -r {RS[0]} -g",
        f"-A -t {VIP}:443 -s sh -b sh-port,sh-fallback -p 600 -M 255.255.0.0",
        f"-a -t {VIP}:443 -r 10.0.2.1 -m", f"-A -t {VIP}:444 -s mh -b mh-port",
        "-A -f 5 -s rr", f"-a -f 5 -r {RS[0]}:0 -i --tun-type gue --tun-port 6080 --tun-nocsum",
        "-A -f 6 -6 -s lc -p 90 -M 64", f"-a -f 6 -6 -r [{RS6[0]}]:0 -g",
        f"-A -t [{VIP6}]:80 -s sed", f"-a -t [{VIP6}]:80 -r [{RS6[0]}]:80 -m -w 3",
        f"-A --sctp-service {VIP}:3868 -s nq", f"-a --sctp-service {VIP}:3868 -r {RS[0]} -m",
        f"-A -t {VIP}:0 -s fo -p", f"-a -t {VIP}:0 -r {RS[0]} -g"]
case("ipvsadm-formats", "every listing format of ipvsadm over a varied table", MANY, [
    cli("S"), cli("S", 1001, dport=443), pkt("eth0", C6, VIP6, sport=1000, dport=80, flags="S"), udp(), sleep(3),
    *[cmd("ipvsadm " + a) for a in (
        "-Ln", "-Ln --stats", "-Ln --stats --exact", "-Ln --rate", "-Ln --thresholds", "-Ln --persistent-conn",
        "-Ln --tun-info", "-Lnc", "-Lnc --persistent-conn", "-Ln --timeout", "-Ln --daemon", "-Sn",
        f"-Ln -t {VIP}:80", "-Ln -f 5", "-Ln --nosort", "-Ln -6")],
    *[cmd(f"cat /proc/net/{n}") for n in ("ip_vs", "ip_vs_conn", "ip_vs_stats", "ip_vs_stats_percpu", "ip_vs_app")],
    cmd("cd /proc/sys/net/ipv4/vs && grep -H . *")], tables=["list", "conns", "save"])

case("ipvsadm-errors", "what ipvsadm and the kernel say to mistakes", one(T80), [
    cmd("ipvsadm " + a) for a in (
        f"-A {T80} -s rr", f"-a {T80} -r {R}:8080 -m", f"-A -t {VIP}:81 -s nosuch", f"-D -t {VIP}:99",
        f"-E -t {VIP}:99 -s rr", f"-a -t {VIP}:99 -r {R}", f"-d {T80} -r 10.0.2.99", f"-e {T80} -r 10.0.2.99 -w 1",
        f"-A -t {VIP}:0 -s rr", f"-a {T80} -r {R}:1 -w -1", f"-a {T80} -r {R}:1 -w 70000", "-A -f 0 -s rr",
        f"-a {T80} -r {R}:81 -x 1 -y 2", f"-A -t {VIP}:82 -s rr -o", f"-A -t {VIP}:83 -s rr -M 255.255.0.255",
        f"-a {T80} -r [{RS6[0]}]:80 -m", f"-a {T80} -r [{RS6[0]}]:80 -i", "--stop-daemon master",
        "--start-daemon master --mcast-interface nosuch", "--set 0 0 0", "-Z -t 1.2.3.4:5", "--bogus", "")])

case("cache-bypass", "cache_bypass=1: firewall mark service, no server, destination not local",
     ["-A -f 5 -s rr"], [pkt("eth0", C, "10.0.9.5", sport=1000, dport=80, flags="S"),
                         pkt("eth0", C, VIP, sport=1001, dport=80, flags="S"), SNAPL],
     setup=[f"{MARK} -j MARK --set-mark 5"], routes=["local 10.0.9.0/24 dev lo"],
     sysctls={"net.ipv4.vs.cache_bypass": 1})


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "testdata", "cases")
    os.makedirs(out, exist_ok=True)
    for name, c in CASES.items():
        with open(os.path.join(out, name + ".json"), "w") as f:
            f.write(json.dumps(c, indent=1) + "\n")
    print(f"{len(CASES)} cases in {out}")


if __name__ == "__main__":
    main()
