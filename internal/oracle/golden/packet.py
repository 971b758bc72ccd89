"""What the checker needs to know of a frame: its headers, whether checksums are right, which
packet some fragments make."""
import ipaddress
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import frames as fr  # noqa: E402  (of the oracle: decoding and checksums)

CHECKSUM_AT = {6: 16, 17: 6, 1: 2, 58: 2}   # protocol -> where its header has the checksum


class Packet:
    """The parts of an Ethernet frame with IPv4 or IPv6 that comparisons need."""

    def __init__(self, frame):
        self.frame = frame
        self.version = {b"\x08\x00": 4, b"\x86\xdd": 6}.get(frame[12:14], 0)
        self.proto = self.l4 = None
        self.offset = self.ident = 0
        self.more = False
        self.frag_at = None            # where the IPv6 fragment header is
        ip = frame[14:]
        try:
            if self.version == 4 and ip[0] >> 4 == 4:
                self._ip4(ip)
            elif self.version == 6 and ip[0] >> 4 == 6:
                self._ip6(ip)
            else:
                self.version = 0
        except (struct.error, IndexError):
            self.version = 0
        self.body = frame[self.l4:self.end] if self.version else b""

    def _ip4(self, ip):
        hl = (ip[0] & 15) * 4
        total, self.ident, fo = struct.unpack("!HHH", ip[2:8])
        self.offset, self.more, self.df = (fo & 0x1FFF) * 8, bool(fo & 0x2000), bool(fo & 0x4000)
        self.ttl, self.proto = ip[8], ip[9]
        self.src, self.dst = ip[12:16], ip[16:20]
        self.l4, self.end = 14 + hl, 14 + max(total, hl)
        self.header_ok = hl >= 20 and len(ip) >= total >= hl and fr.csum(ip[:hl]) == 0

    def _ip6(self, ip):
        w, plen, nh, self.ttl = struct.unpack("!IHBB", ip[:8])
        self.flow = w & 0xFFFFF
        self.src, self.dst = ip[8:24], ip[24:40]
        self.df, self.header_ok = True, len(ip) >= 40 + plen
        o = 54
        while nh in (0, 43, 44, 60):
            if nh == 44:
                self.frag_at = o
                fo, self.ident = struct.unpack("!HI", self.frame[o + 2:o + 8])
                self.offset, self.more = fo & ~7, bool(fo & 1)
                nh, o = self.frame[o], o + 8
                if self.offset:
                    break
            else:
                nh, o = self.frame[o], o + 8 * (self.frame[o + 1] + 1)
        self.proto, self.l4, self.end = nh, o, 54 + plen

    @property
    def is_fragment(self):
        return bool(self.offset or self.more)

    def ports(self):
        return struct.unpack("!HH", self.body[:4]) if len(self.body) >= 4 else (0, 0)

    def l4_ok(self):
        """Is the transport checksum right? (A UDP packet without one is.)"""
        b = self.body
        if self.proto == 17 and b[6:8] == b"\0\0":
            return True
        if self.proto == 1:
            return fr.csum(b) == 0
        if self.proto == 132:
            return struct.pack("<I", fr.crc32c(b[:8] + b"\0\0\0\0" + b[12:])) == b[8:12]
        return fr.csum(fr._pseudo(self.src, self.dst, self.proto, len(b)) + b) == 0

    def is_icmp_error(self):
        return len(self.body) >= 8 and not self.offset and (
            self.proto == 1 and self.body[0] in (3, 4, 5, 11, 12) or
            self.proto == 58 and self.body[0] < 128)

    def icmp(self):
        return (self.proto, self.body[0], self.body[1]) \
            if self.proto in (1, 58) and len(self.body) >= 8 else None


def is_redirect(p):
    return p.icmp() is not None and (p.proto, p.body[0]) in ((1, 5), (58, 137))


def is_host_chatter(frame):
    """Frames that the director's kernel sends of its own accord: ARP, neighbour and multicast
    discovery. A replay is not asked for them."""
    if frame[12:14] == b"\x08\x06":
        return True
    p = Packet(frame)
    icmp = p.icmp()
    return p.version == 4 and p.proto == 2 or \
        icmp is not None and p.proto == 58 and (130 <= icmp[1] <= 136 or icmp[1] == 143)


def is_sync(p):
    return p.version != 0 and p.proto == 17 and not p.offset and ipaddress.ip_address(p.dst).is_multicast


def vouched(frame):
    """An ICMPv6 frame with the checksum that it should have, if it lacks only the pseudo header
    in it; else None."""
    p = Packet(frame)
    if p.version != 6 or p.proto != 58 or p.is_fragment or len(p.body) < 8 or fr.csum(p.body) or p.l4_ok():
        return None
    b = p.body[:2] + b"\0\0" + p.body[4:]
    c = fr.csum(fr._pseudo(p.src, p.dst, 58, len(b)) + b)
    return frame[:p.l4 + 2] + struct.pack("!H", c) + frame[p.l4 + 4:]


class Reassembly:
    """Fragments that were handed to the host, which puts them together."""

    def __init__(self):
        self.parts = {}

    def add(self, p):
        """The whole packet (an IP packet without fragmentation) when p completes it."""
        key = (p.version, bytes(p.src), bytes(p.dst), p.proto if p.version == 4 else 0, p.ident)
        parts = self.parts.setdefault(key, [])
        again = overlap(parts, p)
        if again == "in part":  # nothing of such a datagram counts
            del self.parts[key]
        if again:
            return None
        parts.append(p)
        total = max((x.offset + len(x.body) for x in parts if not x.more), default=None)
        if total is None:
            return None
        data, have = bytearray(total), 0
        for x in sorted(parts, key=lambda x: x.offset):
            if x.offset > have:
                return None
            end = min(x.offset + len(x.body), total)
            data[x.offset:end] = x.body[:end - x.offset]
            have = max(have, end)
        first = next(x for x in parts if x.offset == 0)
        del self.parts[key]
        return whole(first, bytes(data))

    def forget(self, p):
        for parts in self.parts.values():
            parts[:] = [x for x in parts if x is not p]

    def waiting(self):
        return [x for parts in self.parts.values() for x in parts]


def overlap(parts, p):
    """Has what p carries come before, in these parts: "all" of it, in one run of them that came one behind the other, or "in part"?"""
    runs = []
    for x in parts:
        end = x.offset + len(x.body)
        if runs and x.offset == max(r[1] for r in runs):
            max(runs, key=lambda r: r[1])[1] = end
        else:
            runs.append([x.offset, end])
    begin, end = p.offset, p.offset + len(p.body)
    known = [r for r in runs if begin < r[1] and end > r[0]]
    return None if not known else "all" if known[0][0] <= begin and end <= known[0][1] else "in part"


def whole(first, data):
    """A frame like the first fragment, but complete."""
    f = first.frame
    if first.version == 4:
        h = bytearray(f[14:first.l4])
        h[2:4] = struct.pack("!H", len(h) + len(data))
        h[6:8] = b"\0\0"
        h[10:12] = b"\0\0"
        h[10:12] = struct.pack("!H", fr.csum(bytes(h)))
        return Packet(f[:14] + bytes(h) + data)
    h = bytearray(f[14:54])
    h[4:6] = struct.pack("!H", len(data))
    h[6] = first.proto
    return Packet(f[:14] + bytes(h) + data)
