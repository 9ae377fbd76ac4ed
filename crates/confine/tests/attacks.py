"""What a confined child tries. Prints one JSON object: attempt -> "" when it worked, else why not."""
import ctypes, errno, json, os, socket, struct, subprocess, sys, threading, time

given = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
port, other = given["allowed"], given["other"]
found = {}


def attempt(name):
    def run(tried):
        try:
            tried()
            found[name] = ""
        except OSError as e:
            found[name] = errno.errorcode.get(e.errno, repr(e))
        except Exception as e:
            found[name] = repr(e)
    return run


def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")


def tcp(host, to, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(5)
    s.connect((host, to))
    return s


# What must work.
@attempt("+ the allowed address")
def _():
    s = tcp("127.0.0.1", port)
    s.sendall(b"hello")
    assert s.recv(5) == b"hello"

@attempt("+ the allowed address, mapped")
def _(): tcp("::ffff:127.0.0.1", port, socket.AF_INET6)

@attempt("+ without waiting")
def _():
    import asyncio
    async def go():
        r, w = await asyncio.open_connection("127.0.0.1", port)
        w.write(b"hello")
        assert await r.readexactly(5) == b"hello"
    asyncio.run(go())

@attempt("+ a subprocess and threads")
def _():
    assert subprocess.run([sys.executable, "-c", "print(6*7)"], capture_output=True, text=True).stdout == "42\n"
    t = threading.Thread(target=lambda: None); t.start(); t.join()

@attempt("+ its own directory")
def _():
    with open(given["own"] + "/file", "w") as f: f.write("x")
    os.rename(given["own"] + "/file", given["own"] + "/renamed")
    assert open(given["own"] + "/renamed").read() == "x"

@attempt("+ a socket file of its own")
def _():
    s = socket.socket(socket.AF_UNIX); s.bind(given["own"] + "/s"); s.listen()
    c = socket.socket(socket.AF_UNIX); c.connect(given["own"] + "/s")
    a, _ = s.accept(); c.sendall(b"y"); assert a.recv(1) == b"y"

@attempt("+ a socket file that is named")
def _():
    s = socket.socket(socket.AF_UNIX); s.connect(given["named_socket"])

@attempt("+ socket pairs")
def _():
    a, b = socket.socketpair(); a.sendall(b"z"); assert b.recv(1) == b"z"

@attempt("+ interfaces")
def _(): assert any(name == "lo" for _, name in socket.if_nameindex())

@attempt("+ it reads what it may")
def _(): open(given["readable"]).read()

@attempt("+ its own limits and priority")
def _():
    import resource
    resource.prlimit(0, resource.RLIMIT_CORE, (0, 0)); os.setpriority(os.PRIO_PROCESS, 0, 1); os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

@attempt("+ names beside what is closed")
def _(): assert "closed" in os.listdir(os.path.dirname(given["readable"]))

@attempt("+ modes and times of its own files, and copies of both")
def _():
    import shutil
    mine = given["own"] + "/mode"
    with open(mine, "w") as f: f.write("x")
    os.chmod(mine, 0o755); os.utime(mine, (1, 1)); os.chown(mine, os.getuid(), -1)
    d = os.open(given["own"], os.O_RDONLY)
    os.chmod("mode", 0o755, dir_fd=d); os.fchmod(d, 0o700); os.utime("mode", dir_fd=d); os.utime(d); os.utime(mine, ns=(10**9, 10**9))
    os.symlink("mode", given["own"] + "/to-mode"); os.lchown(given["own"] + "/to-mode", -1, os.getgid())
    os.utime(given["own"] + "/to-mode", (7, 7), follow_symlinks=False); os.chmod(given["own"] + "/to-mode", 0o755)
    p = os.open(mine, os.O_PATH); os.chmod(f"/proc/self/fd/{p}", 0o750)
    os.chdir(given["own"]); os.chmod("mode", 0o750); os.chmod("./to-mode", 0o755); os.chdir("/")
    assert os.lstat(given["own"] + "/to-mode").st_mtime == 7 and os.stat(mine).st_mode & 0o7777 == 0o755
    shutil.copy2(mine, mine + "2"); shutil.copytree("/etc/ssl", given["own"] + "/tree", symlinks=True)
    assert os.stat(mine + "2").st_mtime == 1 and os.access(mine + "2", os.X_OK)

# Ways out.
@attempt("another port")
def _(): tcp("127.0.0.1", other)
@attempt("the same port of another address")
def _(): tcp("127.0.0.2", port)
@attempt("the same port, IPv6")
def _(): tcp("::1", port, socket.AF_INET6)
@attempt("UDP")
def _(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
@attempt("UDP, IPv6")
def _(): socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
@attempt("raw")
def _(): socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
@attempt("ping")
def _(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
@attempt("packet")
def _(): socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
@attempt("MPTCP")
def _(): socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
@attempt("SCTP")
def _(): socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
@attempt("vsock")
def _(): socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
@attempt("SMC")
def _(): socket.socket(43, socket.SOCK_STREAM)
@attempt("netfilter")
def _(): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
@attempt("XDP")
def _(): socket.socket(44, socket.SOCK_RAW)
@attempt("the number of the call for another machine (x32)")
def _(): call(0x40000000 + 41, 2, 1, 0)
@attempt("fast open by sendto")
def _(): socket.socket().sendto(b"x", 0x20000000, ("127.0.0.1", other))
@attempt("fast open by sendmsg")
def _(): socket.socket().sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", other))
@attempt("fast open by connect")
def _():
    s = socket.socket(); s.setsockopt(socket.IPPROTO_TCP, 30, 1); s.connect(("127.0.0.1", other)); s.send(b"x")
@attempt("a source route")
def _(): socket.socket().setsockopt(socket.IPPROTO_IP, 4, b"\x83\7\4\x7f\0\0\2\0")
@attempt("a routing header")
def _():
    route = bytes([0, 2, 4, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, "2600::1")
    socket.socket(socket.AF_INET6).setsockopt(socket.IPPROTO_IPV6, 57, route)
@attempt("a filter of its own that asks somebody else")
def _():
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FC00000))
    call(317, 1, 8, ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(program))))
@attempt("io_uring")
def _(): call(425, 4, ctypes.create_string_buffer(256))
@attempt("listening")
def _(): socket.socket().listen()
@attempt("binding")
def _(): socket.socket().bind(("127.0.0.1", 0))
@attempt("an abstract socket")
def _(): socket.socket(socket.AF_UNIX).connect("\0" + given["abstract"])
@attempt("a socket file outside")
def _(): socket.socket(socket.AF_UNIX).connect(given["socket"])
@attempt("a socket file by a link")
def _():
    os.symlink(given["socket"], given["own"] + "/link")
    socket.socket(socket.AF_UNIX).connect(given["own"] + "/link")
@attempt("a socket file by a linked directory")
def _():
    os.symlink(os.path.dirname(given["socket"]), given["own"] + "/dir")
    socket.socket(socket.AF_UNIX).connect(given["own"] + "/dir/" + os.path.basename(given["socket"]))
@attempt("a socket file upwards")
def _(): socket.socket(socket.AF_UNIX).connect(given["own"] + "/../" + os.path.basename(given["socket"]))
@attempt("a hard link to a socket file")
def _():
    os.link(given["socket"], given["own"] + "/hard")
    socket.socket(socket.AF_UNIX).connect(given["own"] + "/hard")
@attempt("a datagram to a socket file")
def _(): socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", given["socket"])
@attempt("a datagram pair")
def _(): socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

# Files and processes.
@attempt("a secret")
def _(): open(given["secret"]).read()
@attempt("a secret by a link")
def _():
    os.symlink(given["secret"], given["own"] + "/secret"); open(given["own"] + "/secret").read()
@attempt("what is closed in a directory that it reads")
def _(): open(os.path.dirname(given["readable"]) + "/closed/key").read()
@attempt("the directory of that")
def _(): open(given["own"] + "/../scripts/closed/key").read()
@attempt("truncating")
def _(): os.truncate(given["secret"], 0)
@attempt("writing what is only read")
def _(): open(given["readable"], "a")
@attempt("making a file outside")
def _(): open(given["secret"] + ".new", "w")
@attempt("the memory of its parent")
def _(): open(f"/proc/{os.getppid()}/mem", "rb").read(1)
@attempt("the environment of its parent")
def _(): open(f"/proc/{os.getppid()}/environ", "rb").read(1)
@attempt("the root of its parent")
def _(): os.listdir(f"/proc/{os.getppid()}/root{os.path.dirname(given['secret'])}")
@attempt("tracing")
def _(): call(101, 16, os.getppid(), 0, 0)
@attempt("reading memory by process_vm_readv")
def _(): call(310, os.getppid(), 0, 0, 0, 0, 0)
@attempt("a descriptor of its parent")
def _(): call(438, os.pidfd_open(os.getppid()), 0, 0)
@attempt("a signal to its parent")
def _(): os.kill(os.getppid(), 0)
@attempt("the limits of its parent")
def _():
    import resource
    resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))
@attempt("the priority of its parent")
def _(): os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
@attempt("the priority of all of this user")
def _(): os.setpriority(os.PRIO_USER, 0, 19)
@attempt("the scheduling of its parent")
def _(): os.sched_setscheduler(os.getppid(), os.SCHED_BATCH, os.sched_param(0))
@attempt("the priority of its parent at disks")
def _(): call(251, 1, os.getppid(), 3 << 13)
@attempt("the processors of its parent")
def _(): os.sched_setaffinity(os.getppid(), {0})
@attempt("the pages of its parent")
def _(): call(256, os.getppid(), 64, ctypes.create_string_buffer(8), ctypes.create_string_buffer(8))
@attempt("shared memory")
def _(): call(29, 0, 4096, 0o1600)
@attempt("shared memory of somebody else, by its number")
def _(): call(30, 0, None, 0o10000)
@attempt("message queues")
def _(): call(68, 0, 0o1600)
@attempt("semaphores")
def _(): call(64, 0, 1, 0o1600)
@attempt("message queues of POSIX")
def _(): call(240, b"outrigger-test", 0o102, 0o600, None)
for way, tried in {
    "chmod": lambda f: os.chmod(f, 0o4755),
    "fchmod": lambda f: os.fchmod(os.open(f, os.O_RDONLY), 0o2755),
    "fchmodat2": lambda f: call(452, -100, f.encode(), 0o4755, 0),
    "open": lambda f: os.open(f + "1", os.O_CREAT | os.O_WRONLY, 0o4755),
    "openat2": lambda f: call(437, -100, (f + "2").encode(), struct.pack("@QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0), 24),
    "a file without a name": lambda f: os.open(given["own"], os.O_TMPFILE | os.O_WRONLY, 0o4755),
    "mknod": lambda f: os.mknod(f + "3", 0o104755),
}.items():
    @attempt(f"a program that runs as its user for others: {way}")
    def _():
        own = given["own"] + "/setid"
        with open(own, "w") as f: f.write("x")
        tried(own)
@attempt("an attribute of what it reads")
def _(): os.setxattr(given["readable"], "user.outrigger", b"x")
@attempt("attributes of what it reads, by ioctl")
def _():
    import fcntl
    fcntl.ioctl(os.open(given["readable"], os.O_RDONLY), 0x40086602, struct.pack("@l", 0x40))
def others():
    own, it = given["own"], given["readable"]
    os.symlink(it, own + "/to-readable"); os.symlink(os.path.dirname(it), own + "/to-directory")
    fd, d, i = os.open(it, os.O_RDONLY), os.open(own, os.O_RDONLY), os.stat(it)
    name = os.path.basename(it)
    return {
        "its mode": lambda: os.chmod(it, 0o777),
        "its mode by a descriptor": lambda: os.fchmod(fd, 0o777),
        "its mode by /proc": lambda: os.chmod(f"/proc/self/fd/{fd}", 0o777),
        "its mode by the thread in /proc": lambda: os.chmod(f"/proc/thread-self/fd/{fd}", 0o777),
        "its mode by a link": lambda: os.chmod(own + "/to-readable", 0o777),
        "its mode by a linked directory": lambda: os.chmod(own + "/to-directory/" + name, 0o777),
        "its mode from below": lambda: os.chmod("../scripts/" + name, 0o777, dir_fd=d),
        "its mode by fchmodat2": lambda: call(452, fd, b"", 0o777, 0x1000),
        "the mode of what cannot be read": lambda: os.chmod(given["secret"], 0o777),
        "the mode of a device": lambda: os.chmod("/dev/null", 0o600),
        "its owner": lambda: os.chown(it, i.st_uid, i.st_gid),
        "its owner by a descriptor": lambda: os.fchown(fd, i.st_uid, i.st_gid),
        "the owner of a link outside": lambda: os.lchown("/proc/self", -1, -1),
        "its times": lambda: os.utime(it, (1, 1)),
        "its times by a descriptor": lambda: os.utime(fd),
        "its times by utime": lambda: call(132, it.encode(), None),
        "its times by futimesat": lambda: call(261, -100, it.encode(), None),
        "the mode of memory": lambda: os.fchmod(os.memfd_create("x"), 0o777),
    }
for way, tried in others().items(): attempt(f"what is only read: {way}")(tried)
@attempt("a path that changes while it is looked at")
def _():
    for name, to in (("a", "mode"), ("b", given["secret"])): os.symlink(to, f"{given['own']}/to-{name}")
    memory, stop, seen = ctypes.create_string_buffer(f"{given['own']}/to-a".encode()), [], set()
    def swap():
        while not stop: memory[-2] = b"b"; time.sleep(0); memory[-2] = b"a"; time.sleep(0)
    t = threading.Thread(target=swap); t.start()
    for tried in range(20000):
        seen.add(libc.syscall(90, memory, 0o777))
        if tried >= 300 and len(seen) == 2: break
    stop.append(1); t.join()
    # That the other one did not change is seen from outside.
    raise PermissionError(errno.EPERM, "") if len(seen) == 2 else RuntimeError(f"always {seen}")
@attempt("giving a file away")
def _():
    if os.getuid() != 0: raise PermissionError(errno.EPERM, "no root")
    os.chown(given["readable"], 65534, 65534)
@attempt("giving away what it may write")
def _():
    if os.getuid() != 0: raise PermissionError(errno.EPERM, "no root")
    os.chown(given["own"] + "/mode", 65534, 65534)
@attempt("the mode of what is another's, where it may write")
def _():
    if os.getuid() != 0: raise PermissionError(errno.EPERM, "no root")
    os.chmod(given["own"] + "/another's", 0o777)
@attempt("a namespace of its own")
def _(): call(272, 0x10000000)
@attempt("a cloned namespace of its own")
def _(): call(56, 0x10000000 | 17, 0, 0, 0, 0)
@attempt("mounting")
def _(): call(165, b"none", given["own"].encode(), b"tmpfs", 0, None)
@attempt("another user")
def _(): os.setuid(1 if os.getuid() == 0 else 0)
@attempt("a device")
def _(): open("/dev/kmsg", "w") if os.path.exists("/dev/kmsg") else os.mknod(given["own"] + "/null", 0o20666, os.makedev(1, 3))
@attempt("a name of the outside, without hanging")
def _():
    begin = time.monotonic()
    try: socket.getaddrinfo("secret.data.example.com", 443)
    except socket.gaierror as e:
        assert time.monotonic() - begin < 10
        raise OSError(errno.EACCES, "") from e

# The address changes while it is looked at: nothing must arrive at the other one.
def flip():
    good = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton("127.0.0.1"))
    evil = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton("127.0.0.2"))
    memory = ctypes.create_string_buffer(good, 16)
    stop = []
    def swap():
        while not stop:
            ctypes.memmove(memory, evil, 16); ctypes.memmove(memory, good, 16)
    t = threading.Thread(target=swap); t.start()
    refused = reached = 0
    sys.setswitchinterval(1e-6)
    for tried in range(20000):
        if tried >= 400 and reached and refused: break
        s = socket.socket()
        if libc.connect(s.fileno(), memory, 16) == 0: reached += 1
        else: refused += 1
        s.close()
    stop.append(1); t.join()
    found["race"] = f"{reached} {refused}"
flip()
print(json.dumps(found))
