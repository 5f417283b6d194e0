"""A jail for a stranger's process: Linux namespaces, a root of read-only binds, no network, no privileges, limits.

Standard library only. The process calls `enter()` before it touches anything it was given; what could be switched on comes back as
words for the report. Two ways in, by who is asking:

    an ordinary user   a user namespace of its own, where it may mount; its user id stays that of the caller outside
    root               the other namespaces directly, then the user id of nobody, so that limits on processes hold

In both: new mount, process, network, IPC and host-name namespaces; a root file system in memory that holds read-only binds of what
Python needs, and two writable folders in memory, /scratch and /dev/shm; no capabilities, and none to be had by running programs or
in namespaces of its own; a filter of system calls for that, and for what no namespace divides: sockets to a virtual machine's host, and
key rings, the kernel's log, its ciphers and notes on files, where one process could leave word for the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import signal
import struct
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
ANY_NEW = NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | 0x2000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
ST_TO_MS = {1: 1, 2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # flags of statvfs -> flags of mount
MNT_DETACH, PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 2, 1, 24, 38, 4
NOBODY = 65534
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, F_SET_RW_HINT, F_SET_FILE_RW_HINT = 22, 2, 1036, 1038
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CALLS = {  # the audit system's name of the machine; add_key, request_key, keyctl, unshare, syslog, io_uring_setup; the others by name
    "x86_64": (0xC000003E, (248, 249, 250, 272, 103, 425), {"fcntl": 72, "socket": 41, "clone": 56, "clone3": 435}),
    "aarch64": (0xC00000B7, (217, 218, 219, 97, 116, 425), {"fcntl": 25, "socket": 198, "clone": 220, "clone3": 435}),
}
FAMILIES = (1, 2, 10, 16)  # of sockets that a network namespace divides: UNIX, INET, INET6, NETLINK
SYSTEM_PATHS = ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system"]
CUDA_PATHS = ["/sys", "/dev/nvidia*", "/dev/nvidia-caps", "/usr/local/cuda*", "/opt/nvidia"]
DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]

libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def call(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    call(libc.mount(*encoded, ctypes.c_ulong(flags), None if options is None else options.encode()), f"mount {target}")


def submounts(target: str) -> list[str]:
    """Mount points at and below a path, from this process's own table."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4].replace("\\040", " ") for line in file]
    return sorted(p for p in points if p == target or p.startswith(target + "/"))


def bind(source: str, root: str, at: str | None = None) -> None:
    """Show `source` read-only under the new root, at the same path or at another one."""
    target = root + (at or source)
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(source, target, None, MS_BIND | MS_REC)
    for point in submounts(target):
        flags = os.statvfs(point).f_flag
        kept = sum(to for st, to in ST_TO_MS.items() if flags & st)
        mount("none", point, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | kept)


def build_root(root: str, readable: list[str], folder: str, scratch_bytes: int, cuda: bool) -> list[str]:
    """Make the new root in memory and move there. Returns what could not be had."""
    lacking = []
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=755")
    patterns = SYSTEM_PATHS + (CUDA_PATHS if cuda else [])
    for path in sorted({path for pattern in patterns for path in glob.glob(pattern)}):  # a folder before what is in it
        if os.path.lexists(root + path):  # shown with its folder; a bind below one that covers it could not be made read-only
            continue
        if os.path.islink(path):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.symlink(os.readlink(path), root + path)
        else:
            bind(path, root)
    for path in readable:
        if not any(path == p or path.startswith(p + "/") for p in ("/usr", "/lib", "/lib64")):
            bind(path, root)
    for path in DEVICES:
        bind(path, root)
    bind(folder, root, "/submission")
    for path in ("/scratch", "/dev/shm"):
        os.makedirs(root + path, exist_ok=True)
        mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV, f"size={scratch_bytes},mode=1777")
    os.makedirs(root + "/tmp", exist_ok=True)
    os.makedirs(root + "/proc")
    try:
        mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:
        lacking.append("no /proc inside (this system does not let one be mounted)")
    else:  # numbers of the whole machine, some of which one process could leave to the next
        mount("none", root + "/proc/sys", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555")
    os.makedirs(root + "/old")
    call(libc.syscall(PIVOT_ROOT[os.uname().machine], root.encode(), (root + "/old").encode()), "pivot_root")
    os.chdir("/")
    call(libc.umount2(b"/old", MNT_DETACH), "umount /old")
    os.rmdir("/old")
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    return lacking


def drop_privileges(root_outside: bool) -> None:
    """No capabilities, none to be gained, no core dumps that show memory."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # those that do not exist give an error, which is fine
    if root_outside:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, empty = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    call(libc.capset(header, empty), "capset")
    call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def forbid_calls() -> None:
    """From now on, in this process and all it starts: no key rings, which belong to a user and outlive a process, and no hints on how
    long a file lives, which stay with the file. No reading of the kernel's log, in which a crash leaves the name and the address of one's
    choice. No further namespaces: whoever may have a user namespace has all capabilities in it again. clone3, whose flags a filter cannot
    see, is said not to exist, as on older kernels, and clone is used for it. No sockets to a virtual machine's host, which no network
    namespace holds, nor to the kernel's ciphers, of which it lists each ever used; and no rings of calls, which no filter sees. Nor system
    calls of another kind of machine, whose numbers differ. Raises OSError."""
    arch, denied, other = CALLS[os.uname().machine]
    load, equal, at_least, some_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06  # the kernel's packet filter: opcode, jump if so, if not, operand
    rows = [(load, 0, 0, 4), (equal, 0, "deny", arch), (load, 0, 0, 0), (at_least, "deny", 0, 0x40000000)]
    rows += [(equal, "deny", 0, number) for number in denied]
    rows += [(equal, "unknown", 0, other["clone3"]), (equal, 0, 2, other["clone"]), (load, 0, 0, 16), (some_bit, "deny", "allow", ANY_NEW)]
    rows += [(equal, 0, len(FAMILIES) + 1, other["socket"]), (load, 0, 0, 16)]
    rows += [(equal, "allow", "deny" if family == FAMILIES[-1] else 0, family) for family in FAMILIES]
    rows += [(equal, 0, "allow", other["fcntl"]), (load, 0, 0, 24)]
    rows += [(equal, "deny", 0, F_SET_RW_HINT), (equal, "deny", 0, F_SET_FILE_RW_HINT)]
    rows += [(end, 0, 0, 0x7FFF0000), (end, 0, 0, 0x50000 | errno.EPERM), (end, 0, 0, 0x50000 | errno.ENOSYS)]
    ends = {"allow": len(rows) - 3, "deny": len(rows) - 2, "unknown": len(rows) - 1}
    jumps = [[ends[j] - i - 1 if isinstance(j, str) else j for j in row[1:3]] for i, row in enumerate(rows)]
    code = b"".join(struct.pack("=HBBI", row[0], *jump, row[3]) for row, jump in zip(rows, jumps))
    program = ctypes.create_string_buffer(code, len(code))
    whole = ctypes.create_string_buffer(struct.pack("@HP", len(rows), ctypes.addressof(program)))
    call(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, whole, 0, 0), "seccomp")


def set_limits(limits: dict[str, int]) -> None:
    import resource

    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name, None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (value, value))


def unshare_all() -> bool:
    """Enter new namespaces; whether the caller is root outside. Raises OSError."""
    if libc is None or os.uname().machine not in CALLS:
        raise OSError(f"the jail knows Linux on {' and '.join(CALLS)}, and this is {sys.platform} on {os.uname().machine}")
    root_outside = os.geteuid() == 0
    uid, gid = os.geteuid(), os.getegid()
    flags = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | (0 if root_outside else NEWUSER)
    call(libc.unshare(flags), "unshare")
    if not root_outside:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    return root_outside


def enter(spec: dict) -> list[str]:
    """Put this process behind everything the system offers. Returns what is active, and `no …` for what is not.

    spec: root (an empty folder to mount on), folder (shown as /submission), readable (paths), scratch_bytes, cuda, limits (names of
    RLIMIT_* -> values), isolate. With `isolate` the caller goes on as process 1 of a new process namespace, and whatever it leaves
    behind ends with it. Raises OSError when isolation was asked for and the system refuses it.
    """
    active = []
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, this process goes first
    if spec["isolate"]:
        root_outside = unshare_all()
        inner = os.fork()
        if inner:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # should the referee be killed, nothing stays behind
            for fd in (0, 1):
                os.close(fd)
            _, status = os.waitpid(inner, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 255)
        lacking = build_root(spec["root"], spec["readable"], spec["folder"], spec["scratch_bytes"], spec["cuda"])
        set_limits(spec["limits"])
        drop_privileges(root_outside)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # changing user made /proc/self unreadable; nobody else is in here to read it
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after changing user, which takes it away
        forbid_calls()
        who = "user id of nobody" if root_outside else "user namespace"
        active += [
            f"namespaces: mount, process, network, IPC, host name; {who}",
            "read-only files, only what Python needs",
            "no capabilities, no key rings, no further namespaces",
        ]
        active += lacking
    else:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        set_limits(spec["limits"])
        active.append("no namespaces: the process sees this machine's files and network with the rights of whoever started it")
    active.append("limits: " + ", ".join(f"{name} {value}" for name, value in spec["limits"].items()))
    return active
