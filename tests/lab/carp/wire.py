"""Looks at CARP without pen's code: a second opinion, from the standard library only.

  wire.py watch IFACE PASSWORD VIP,VIP...   prints what passes, a JSON object a line
  wire.py send IFACE                        sends what the lines on its input describe, as JSON
  wire.py ask IFACE MS OWN-IP VIP           asks for the VIP's MAC all the time

The digest is HMAC-SHA1 over version, type, vhid, the addresses in ascending order, and the counter.
"""

import fcntl
import hashlib
import hmac
import ipaddress
import json
import socket
import struct
import sys
import time

ETH_ALL, ETH_IP, ETH_ARP, ETH_IP6 = 0x0003, 0x0800, 0x0806, 0x86DD
SO_TIMESTAMPNS = 35
PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 1, 1


def open_socket(name, protocol=ETH_ALL):
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    found.bind((name, protocol))
    return found


def mac_of(found, name):
    return fcntl.ioctl(found, 0x8927, struct.pack("256s", name.encode()))[18:24]


def text_mac(raw):
    return ":".join("%02x" % byte for byte in raw)


def raw_mac(text):
    return bytes(int(part, 16) for part in text.split(":"))


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def digest(password, vhid, vips, counter):
    addresses = [ipaddress.ip_address(vip) for vip in vips]
    fours = sorted(one.packed for one in addresses if one.version == 4)
    sixes = sorted(one.packed for one in addresses if one.version == 6)
    message = bytes([2, 1, vhid]) + b"".join(fours + sixes) + counter
    return hmac.new(password.encode(), message, hashlib.sha1).digest()


# --- watch ---


def advert(carp, seen, password, vips):
    seen["kind"] = "advert"
    seen["vhid"], seen["advskew"] = carp[1], carp[2]
    seen["demote"], seen["advbase"] = carp[4], carp[5]
    counter = carp[8:16]
    seen["counter"] = counter.hex()
    seen["extra"] = len(carp) - 36
    seen["good"] = (
        carp[0] == 0x21
        and carp[3] == 7
        and checksum(carp[:36]) == 0
        and seen["ttl"] == 255
        and hmac.compare_digest(carp[16:36], digest(password, carp[1], vips, counter))
    )


def describe(frame, password, vips):
    kind = struct.unpack("!H", frame[12:14])[0]
    seen = {"dst": text_mac(frame[0:6]), "src": text_mac(frame[6:12]), "hex": frame.hex()}
    body = frame[14:]
    if kind == ETH_ARP and len(body) >= 28:
        seen["kind"] = "arp"
        seen["op"] = struct.unpack("!H", body[6:8])[0]
        seen["mac"] = text_mac(body[8:14])
        seen["ip"] = str(ipaddress.ip_address(body[14:18]))
        seen["target_mac"] = text_mac(body[18:24])
        seen["target"] = str(ipaddress.ip_address(body[24:28]))
        return seen
    if kind == ETH_IP and len(body) >= 56 and body[9] == 112:
        length = (body[0] & 15) * 4
        total = struct.unpack("!H", body[2:4])[0]
        seen["ip"] = str(ipaddress.ip_address(body[12:16]))
        seen["to"] = str(ipaddress.ip_address(body[16:20]))
        seen["ttl"] = body[8]
        advert(body[length:total], seen, password, vips)
        seen["good"] = seen["good"] and checksum(body[:length]) == 0
        return seen
    if kind == ETH_IP6 and len(body) >= 76 and body[6] == 112:
        total = struct.unpack("!H", body[4:6])[0]
        seen["ip"] = str(ipaddress.ip_address(body[8:24]))
        seen["to"] = str(ipaddress.ip_address(body[24:40]))
        seen["ttl"] = body[7]
        advert(body[40 : 40 + total], seen, password, vips)
        return seen
    if kind == ETH_IP6 and len(body) >= 64 and body[6] == 58 and body[40] in (135, 136):
        seen["kind"] = {135: "ns", 136: "na"}[body[40]]
        seen["ip"] = str(ipaddress.ip_address(body[8:24]))
        seen["to"] = str(ipaddress.ip_address(body[24:40]))
        seen["ttl"] = body[7]
        seen["flags"] = body[44] >> 5
        seen["target"] = str(ipaddress.ip_address(body[48:64]))
        seen["mac"] = text_mac(body[66:72]) if len(body) >= 72 else None
        return seen
    return None


def watch(name, password, vips):
    found = open_socket(name)
    found.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    index = socket.if_nametoindex(name)
    promiscuous = struct.pack("iHH8s", index, PACKET_MR_PROMISC, 0, b"")
    found.setsockopt(263, PACKET_ADD_MEMBERSHIP, promiscuous)
    print(json.dumps({"kind": "ready", "at": time.time()}), flush=True)
    while True:
        frame, more, _, _ = found.recvmsg(2048, 64)
        at = time.time()
        for _, what, data in more:
            if what == SO_TIMESTAMPNS:
                seconds, nanos = struct.unpack("ll", data)
                at = seconds + nanos / 1e9
        seen = describe(frame, password, vips)
        if seen:
            seen["at"] = at
            print(json.dumps(seen), flush=True)


# --- send ---


def build(wish):
    """The frame of an advertisement that is right but for what the wish says."""
    vhid, counter = wish.get("vhid", 42), bytes.fromhex(wish.get("counter", "00" * 8))
    vips = wish["vips"]
    head = bytes(
        [
            wish.get("version", 2) << 4 | wish.get("type", 1),
            vhid,
            wish.get("advskew", 0),
            wish.get("authlen", 7),
            0,
            wish.get("advbase", 1),
        ]
    )
    tail = counter + digest(wish.get("password", "love"), vhid, vips, counter)
    carp_sum = checksum(head + b"\0\0" + tail) ^ wish.get("carp_xor", 0)
    carp = head + struct.pack("!H", carp_sum) + tail
    group = ipaddress.ip_address(wish.get("group", "224.0.0.18")).packed
    start = struct.pack("!BBHHHBB", 0x45, 0x10, 56, 7, wish.get("frag", 0x4000), wish.get("ttl", 255), 112)
    addresses = ipaddress.ip_address(wish["src"]).packed + group
    ip_sum = checksum(start + b"\0\0" + addresses) ^ wish.get("ip_xor", 0)
    packet = start + struct.pack("!H", ip_sum) + addresses + carp
    stations = raw_mac("01:00:5e:00:00:12") + raw_mac(wish.get("smac", "00:00:5e:00:00:2a"))
    return (stations + struct.pack("!H", ETH_IP) + packet)[: wish.get("length", 70)]


def send(name):
    found = open_socket(name)
    own = mac_of(found, name)
    print(json.dumps({"kind": "ready", "at": time.time()}), flush=True)
    for line in sys.stdin:
        wish = json.loads(line)
        if "hex" in wish:
            frame = rewritten(bytearray.fromhex(wish["hex"]), wish)
        elif "solicit" in wish:
            frame = solicitation(own, wish["src"], wish["solicit"])
        else:
            frame = build(wish)
        for number in range(wish.get("times", 1)):
            if wish.get("count_up"):
                wish["counter"] = struct.pack("!Q", int(wish.get("from", 1)) + number).hex()
                frame = build(wish)
            found.send(frame)
            time.sleep(wish.get("gap", 0))
        print(json.dumps({"kind": "sent", "at": time.time()}), flush=True)


def rewritten(frame, wish):
    """What a man in the middle can change without the password: checksums are set right again."""
    if "src" in wish:
        frame[26:30] = ipaddress.ip_address(wish["src"]).packed
        frame[24:26] = b"\0\0"
        frame[24:26] = struct.pack("!H", checksum(bytes(frame[14:34])))
    if "advbase" in wish:
        frame[39], frame[36] = wish["advbase"], wish["advskew"]
        frame[40:42] = b"\0\0"
        frame[40:42] = struct.pack("!H", checksum(bytes(frame[34:70])))
    return bytes(frame)


def solicitation(own, source, target):
    source, target = ipaddress.ip_address(source).packed, ipaddress.ip_address(target).packed
    to = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + target + b"\1\1" + own
    pseudo = source + to + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + to
    return b"\x33\x33\xff" + target[13:] + own + struct.pack("!H", ETH_IP6) + head + body


# --- ask ---


def ask(name, gap, own_ip, vip):
    found = open_socket(name)
    own = mac_of(found, name)
    pair = ipaddress.ip_address(own_ip).packed, ipaddress.ip_address(vip).packed
    request = struct.pack("!HHBBH", 1, ETH_IP, 6, 4, 1) + own + pair[0] + b"\0" * 6 + pair[1]
    frame = b"\xff" * 6 + own + struct.pack("!H", ETH_ARP) + request
    print(json.dumps({"kind": "ready", "at": time.time()}), flush=True)
    while True:
        found.send(frame)
        time.sleep(gap / 1000)


if __name__ == "__main__":
    verb, interface, *rest = sys.argv[1:]
    if verb == "watch":
        watch(interface, rest[0], rest[1].split(","))
    elif verb == "send":
        send(interface)
    elif verb == "ask":
        ask(interface, float(rest[0]), rest[1], rest[2])
    else:
        sys.exit("unknown verb")
