"""Redirection in network namespaces: a pod with a sidecar and a server, and a world outside. Needs root.

    redirect.py PATH-OF-outrigger-sidecar nft|iptables
"""
import json, os, shutil, socket, ssl, subprocess, sys, tempfile, threading, time

SIDECAR, BACKEND = sys.argv[1:3]
POD, WORLD = f"ox-pod-{os.getpid()}", f"ox-world-{os.getpid()}"
ALLOWED, OTHER = "20.20.20.10", "20.20.20.66"
ALLOWED6, OTHER6 = "2600:1f00::10", "2600:1f00::66"
TMP = tempfile.mkdtemp()


def run(*command, check=True, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done


def inside(namespace, *command, **options):
    return run("ip", "netns", "exec", namespace, *command, **options)


ORIGIN = r"""
import json, socket, ssl, sys, threading
out = threading.Lock()
def tell(**what):
    with out: print(json.dumps(what), flush=True)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + "/c.pem", sys.argv[1] + "/c.key")
def one(c, port):
    at = c.getsockname()[0].removeprefix("::ffff:")
    tell(at=at, port=port)
    try:
        c.settimeout(5)
        if port == 443: c = context.wrap_socket(c, server_side=True)
        c.recv(4096)
        body = at.encode()
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        c.close()
    except OSError: pass
def listen(port):
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        c, _ = s.accept()
        threading.Thread(target=one, args=(c, port), daemon=True).start()
def datagrams(port):
    u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.setsockopt(41, 26, 0); u.bind(("::", port))
    while True: tell(udp=port, said=u.recv(2000).decode("latin1"))
for port in (80, 443, 853): threading.Thread(target=listen, args=(port,), daemon=True).start()
for port in (53, 443): threading.Thread(target=datagrams, args=(port,), daemon=True).start()
tell(ready=True)
threading.Event().wait()
"""

CLIENT = r"""
import encodings.idna, json, os, socket, ssl, sys  # before it loses the right to read them
os.setgroups([]); os.setgid(65534); os.setuid(65534)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
def tls(address, name):
    with socket.create_connection((address, 443), 8) as s, context.wrap_socket(s, server_hostname=name) as t:
        t.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (name or "x").encode())
        return text(t)
def plain(address, host):
    with socket.create_connection((address, 80), 8) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host.encode())
        return text(s)
def text(s):
    s.settimeout(8); got = b""
    while True:
        d = s.recv(65536)
        if not d: break
        got += d
    head, _, body = got.partition(b"\r\n\r\n")
    return head.split(b" ")[1].decode() + " " + body.decode()
def udp(address, port, family):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(1); s.connect((address, port)); s.send(b"secret"); s.recv(100)
    return "answered"
def tcp(address, port):
    with socket.create_connection((address, port), 8) as s:
        s.sendall(b"\0secret"); s.settimeout(8)
        return "open" if s.recv(10) else "closed"
def ask(name, kind, server, over=socket.SOCK_DGRAM):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    query = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1"
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, over) as s:
        s.settimeout(8 if over == socket.SOCK_STREAM else 2); s.connect((server, 53))
        if over == socket.SOCK_STREAM:
            s.sendall(len(query).to_bytes(2, "big") + query)
            reply = s.recv(2000)[2:]
        else:
            s.send(query); reply = s.recv(2000)
    if not reply: return "closed"
    if reply[3] & 15: return "code %d" % (reply[3] & 15)
    size = 16 if kind == 28 else 4
    return "no address" if not reply[7] else socket.inet_ntop(socket.AF_INET6 if size == 16 else socket.AF_INET, reply[-size:])
found = {}
for name, tried in eval(sys.argv[1]):
    try: found[name] = tried()
    except OSError as e: found[name] = "refused: " + type(e).__name__
print(json.dumps(found))
"""

TRIES = f"""[
 ("allowed", lambda: tls({ALLOWED!r}, "allowed.test")),
 ("allowed, IPv6", lambda: tls({ALLOWED6!r}, "allowed6.test")),
 ("allowed, in the clear", lambda: plain({ALLOWED!r}, "allowed.test")),
 ("allowed name at another address", lambda: tls({OTHER!r}, "allowed.test")),
 ("another name", lambda: tls({OTHER!r}, "other.test")),
 ("another name, IPv6", lambda: tls({OTHER6!r}, "other.test")),
 ("another name at an allowed address", lambda: tls({ALLOWED!r}, "other.test")),
 ("no name", lambda: tls({ALLOWED!r}, None)),
 ("another host in the clear", lambda: plain({OTHER!r}, "other.test")),
 ("another port", lambda: tcp({OTHER!r}, 853)),
 ("another port, IPv6", lambda: tcp({OTHER6!r}, 853)),
 ("QUIC", lambda: udp({ALLOWED!r}, 443, socket.AF_INET)),
 ("QUIC, IPv6", lambda: udp({ALLOWED6!r}, 443, socket.AF_INET6)),
 ("a name", lambda: ask("Allowed.test", 1, {OTHER!r})),
 ("a name, IPv6", lambda: ask("allowed6.test", 28, {OTHER6!r})),
 ("a name over TCP", lambda: ask("allowed.test", 1, {OTHER!r}, socket.SOCK_STREAM)),
 ("a name, the other family", lambda: ask("allowed.test", 28, {OTHER!r})),
 ("a service of the mesh", lambda: ask("inventory.mesh", 1, {OTHER!r})),
 ("a service of the mesh, IPv6", lambda: ask("inventory.mesh", 28, {OTHER6!r})),
 ("another service of the mesh", lambda: ask("other.mesh", 1, {OTHER!r})),
 ("a request to a service of the mesh", lambda: plain("127.150.0.1", "inventory.mesh")),
 ("a request to another service of the mesh", lambda: plain("127.150.0.1", "other.mesh")),
 ("data in a name", lambda: ask("c2VjcmV0.other.test", 1, {OTHER!r})),
 ("data below an allowed name", lambda: ask("c2VjcmV0.allowed.test", 1, {OTHER!r})),
 ("text of an allowed name", lambda: ask("allowed.test", 16, {OTHER!r})),
 ("a name that leads inside", lambda: ask("rebound.test", 1, {OTHER!r})),
 ("DNS", lambda: udp({OTHER!r}, 53, socket.AF_INET)),
 ("DNS, IPv6", lambda: udp({OTHER6!r}, 53, socket.AF_INET6)),
]"""


def client(tries):
    return json.loads(inside(POD, sys.executable, "-c", CLIENT, tries).stdout)


# What the sidecar says last must arrive, although it has closed by then.
LAST_WORDS = f"""
import encodings.idna, os, socket
os.setgroups([]); os.setgid(1337); os.setuid(1337)
s = socket.create_connection(({OTHER!r}, 444)); s.setblocking(False); sent = 0
try:
    while True: sent += s.send(b"x" * 65536)
except BlockingIOError: print(sent)
s.close()
"""
PATIENT = f"""
import socket, time
with socket.create_server(({OTHER!r}, 444)) as s:
    print("ready", flush=True)
    c, _ = s.accept(); c.settimeout(8); time.sleep(0.5); got = 0
    try:
        while d := c.recv(65536): got += len(d)
        print(got)
    except OSError as e: print(e)
"""
# A resolver on loopback, of the machine or of a container engine, asks others.
LOOPBACK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.53", 53)); s.settimeout(1)
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.connect(("127.0.0.53", 53))
try: c.send(b"secret"); print(s.recv(100))
except OSError: print("refused")
"""
# Who asks from a port that the sidecar has just asked from is redirected all the same, and the other way round.
SAME_PORT = f"""
import os, socket
def ask(port, user):
    if os.fork() == 0:
        os.setgroups([]); os.setgid(user); os.setuid(user)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(2); s.bind(("20.20.20.1", port)); s.connect(({OTHER!r}, 53))
            try:
                s.send(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\7allowed\\4test\\0\\0\\1\\0\\1")
                said = "the sidecar" if user and s.recv(100)[-4:] == socket.inet_aton({ALLOWED!r}) else "?"
            except OSError as e: said = repr(e)
        print(user, "sent" if user == 0 else said, flush=True)
        os._exit(0)
    os.wait()
ask(40053, 0); ask(40053, 65534); ask(40054, 65534); ask(40054, 0)
"""


def rules_without_names():
    install = ("redirect", "install", "--uid", "1337", "--backend", BACKEND)
    inside(POD, SIDECAR, *install)
    patient = start(WORLD, sys.executable, "-c", PATIENT)
    running.append(patient)
    patient.stdout.readline()
    sent = inside(POD, sys.executable, "-c", LAST_WORDS).stdout.strip()
    got = patient.stdout.readline().strip()
    assert got == sent, f"{BACKEND}: of {sent} bytes arrived: {got}"
    heard = inside(POD, sys.executable, "-c", LOOPBACK).stdout.strip()
    assert heard == "refused", f"{BACKEND}: a resolver on loopback heard {heard}"
    inside(POD, SIDECAR, *install, "--dns-port", "15053")
    # Whoever removes need not know by what it was installed.
    inside(POD, SIDECAR, "redirect", "remove")
    rules = inside(POD, "nft", "list", "ruleset").stdout
    assert "outrigger" not in rules.lower(), rules


def network():
    for namespace in (POD, WORLD):
        run("ip", "netns", "add", namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
    run("ip", "link", "add", "ox0", "netns", POD, "type", "veth", "peer", "name", "ox1", "netns", WORLD)
    for namespace, link, addresses in (
        (POD, "ox0", ["20.20.20.1/24", "2600:1f00::1/64"]),
        (WORLD, "ox1", [f"{ALLOWED}/24", f"{OTHER}/24", f"{ALLOWED6}/64", f"{OTHER6}/64"]),
    ):
        for address in addresses:
            extra = ["nodad"] if ":" in address else []
            run("ip", "-n", namespace, "addr", "add", address, "dev", link, *extra)
        run("ip", "-n", namespace, "link", "set", link, "up")
    # What `ip netns exec` shows as /etc/hosts inside.
    os.makedirs(f"/etc/netns/{POD}")
    with open(f"/etc/netns/{POD}/hosts", "w") as f:
        f.write(f"127.0.0.1 localhost\n::1 localhost\n{ALLOWED} allowed.test\n{ALLOWED6} allowed6.test\n{OTHER} other.test\n127.0.0.1 rebound.test\n")
    with open(f"/etc/netns/{POD}/resolv.conf", "w") as f:
        f.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")


def start(namespace, *command, **env):
    return subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, **env})


def main():
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=origin",
        "-keyout", f"{TMP}/c.key", "-out", f"{TMP}/c.pem")
    network()
    origin = start(WORLD, sys.executable, "-c", ORIGIN, TMP)
    running.append(origin)
    assert json.loads(origin.stdout.readline())["ready"]
    reached = []
    threading.Thread(target=lambda: reached.extend(map(json.loads, origin.stdout)), daemon=True).start()
    report = f"{TMP}/report"
    sidecar = start(POD, SIDECAR, "--egress-only", OUTRIGGER_EGRESS_ALLOW="allowed.test,allowed6.test,allowed.test:80,rebound.test,inventory.mesh",
                    OUTRIGGER_EGRESS_LISTEN="127.0.0.1:15001", OUTRIGGER_EGRESS_TRANSPARENT="true", OUTRIGGER_EGRESS_DNS_LISTEN="127.0.0.1:15053", OUTRIGGER_REPORT=report)
    running.append(sidecar)
    end = time.monotonic() + 20
    while not os.path.exists(report):
        if sidecar.poll() is not None or time.monotonic() > end:
            sidecar.kill()
            sys.exit(f"the sidecar does not start: {sidecar.communicate()}")
        time.sleep(0.05)

    rules_without_names()
    direct = client(TRIES)
    assert direct["another name"] == f"200 {OTHER}", f"without rules all is open: {direct}"

    for _ in range(2):  # again is the same
        inside(POD, SIDECAR, "redirect", "install", "--uid", "0", "--dns-port", "15053", "--backend", BACKEND)
    del reached[:]
    heard = inside(POD, sys.executable, "-c", SAME_PORT).stdout.split("\n")
    assert heard[:4] == ["0 sent", "65534 the sidecar", "65534 the sidecar", "0 sent"], f"{BACKEND}: {heard}"
    end = time.monotonic() + 10
    while len(asked := [hit for hit in reached if "udp" in hit]) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(asked) == 2, f"{BACKEND}: of the sidecar's two questions arrived {asked}"
    del reached[:]
    found = client(TRIES)
    expected = {
        "allowed": f"200 {ALLOWED}",
        "allowed, IPv6": f"200 {ALLOWED6}",
        "allowed, in the clear": f"200 {ALLOWED}",
        "allowed name at another address": f"200 {ALLOWED}",
        "a name": ALLOWED,
        "a name, IPv6": ALLOWED6,
        "a name over TCP": ALLOWED,
        "a name, the other family": "no address",
        "a service of the mesh": "127.150.0.1",
        "a service of the mesh, IPv6": "no address",
        "another service of the mesh": "code 3",
        "data in a name": "code 3",
        "data below an allowed name": "code 3",
        "text of an allowed name": "no address",
        "a name that leads inside": "no address",
    }
    wrong = {n: got for n, got in found.items() if (got != expected[n] if n in expected else got.startswith("200") or got in ("open", "answered"))}
    assert not wrong, f"{BACKEND}: {wrong}"
    assert found["another host in the clear"].startswith("403"), found
    # This half runs by itself and has no certificate of a mesh: that it says so shows where the request arrived.
    assert found["a request to a service of the mesh"].startswith("503") and "no_service" in found["a request to a service of the mesh"], found
    assert found["a request to another service of the mesh"].startswith("403"), found
    time.sleep(0.2)
    assert reached, "the origin was reached"
    strayed = [hit for hit in reached if "udp" in hit or hit["at"] not in (ALLOWED, ALLOWED6)]
    assert not strayed, f"{BACKEND}: arrived outside: {strayed}"

    # Whoever is the sidecar is not redirected, and a dead sidecar lets nothing out.
    sidecar.terminate()
    sidecar.wait(15)
    closed = client(TRIES)
    assert all(got.startswith(("refused", "closed")) for got in closed.values()), f"{BACKEND}: {closed}"

    for _ in range(2):
        inside(POD, SIDECAR, "redirect", "remove", "--backend", BACKEND)
    assert client(TRIES)["another name"] == f"200 {OTHER}", "removed"
    rules = inside(POD, "nft", "list", "ruleset").stdout
    assert "outrigger" not in rules.lower(), rules


running = []
if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft", "iptables-restore", "openssl"))):
    sys.exit("this test needs root and: apt-get install -y nftables iptables iproute2 openssl")
try:
    main()
finally:
    for process in running:
        process.kill()
    for namespace in (POD, WORLD):
        run("ip", "netns", "del", namespace, check=False)
    shutil.rmtree(f"/etc/netns/{POD}", ignore_errors=True)
    shutil.rmtree(TMP, ignore_errors=True)
