"""Start a PostgreSQL program with the right identity: a script, run by postgres_programs.

    python -I -S postgres_launch.py PARENT SIGNAL IDENTITY PROGRAM [ARGUMENT …]

PostgreSQL refuses to run as root, and as a user without a name. So this takes, as IDENTITY:

    plain               stay who we are
    namespace:UID:GID   enter a user namespace in which we are UID: the files stay ours, nothing is
                        chowned, no account is made, and nothing outside is gained or lost
    user:UID:GID        become another user; for root where user namespaces are refused

then starts a session of its own (Ctrl-C is for Helix, which stops its database last), asks the
kernel for SIGNAL when PARENT ends, however it ends, and becomes PROGRAM. It does this in a program
of its own since Python code between fork and exec is not safe in a process with threads.

The kernel watches the *thread* that started this process: start it from the main thread.

Exit statuses of its own: 71 the identity is refused, 72 the parent is gone, 126 PROGRAM may not
be run, 127 it is not there.
"""

import ctypes
import os
import sys

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1

IDENTITY_REFUSED = 71
PARENT_GONE = 72
NOT_PERMITTED = 126
NOT_FOUND = 127


def _libc_call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _take_identity(identity: str) -> None:
    kind, _, numbers = identity.partition(":")
    if kind == "plain":
        return
    uid, gid = (int(number) for number in numbers.split(":"))
    if kind == "namespace":
        outer_uid, outer_gid = os.geteuid(), os.getegid()
        _libc_call("unshare", _CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {outer_uid} 1")
        _write("/proc/self/gid_map", f"{gid} {outer_gid} 1")
    else:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def main(arguments: list[str]) -> int:
    """Become the program, or return an exit status."""
    parent, signal_number, identity, *program = arguments
    os.umask(0o077)
    os.setsid()
    try:
        _take_identity(identity)
        if sys.platform == "linux":  # after the change of identity, which clears it
            _libc_call("prctl", _PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    except OSError as exc:
        print(f"helix: cannot become {identity}: {exc}", file=sys.stderr)
        return IDENTITY_REFUSED
    if os.getppid() != int(parent):  # it ended before the kernel was asked
        return PARENT_GONE
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is meant
    except PermissionError as exc:
        print(f"helix: {program[0]}: {exc.strerror}", file=sys.stderr)
        return NOT_PERMITTED
    except OSError as exc:
        print(f"helix: {program[0]}: {exc.strerror}", file=sys.stderr)
        return NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
