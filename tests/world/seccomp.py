"""System calls of a program that are answered here instead of by the kernel: seccomp filters.

For x86_64 and aarch64, Linux 5.14 or later, and processes that have CAP_SYS_ADMIN in their user
namespace. A process can have one filter that leaves calls to another (kernel/seccomp.c,
has_duplicate_listener()), and those that it starts inherit it. While a call waits for its answer, a
signal whose handler does not restart calls ends it with EINTR (seccomp_do_user_notification()).
"""

import ctypes
import fcntl
import os
import platform
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# linux/audit.h and asm/unistd.h
_MACHINES = {
    "x86_64": (0xC000003E, {"socket": 41, "setsockopt": 54, "seccomp": 317}),
    "aarch64": (0xC00000B7, {"socket": 198, "setsockopt": 208, "seccomp": 277}),
}

# linux/filter.h: load a word of the call, branch on what it equals, return.
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06
# linux/seccomp.h
_RET_ALLOW, _RET_NOTIFY, _RET_ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
_SET_MODE_FILTER, _FLAG_NEW_LISTENER = 1, 1 << 3
_NOTIF_RECV, _NOTIF_ADDFD, _ADDFD_FLAG_SEND = 0xC0502100, 0x40182103, 1 << 1
# struct seccomp_notif: id, thread, flags, number, architecture, address, arguments.
_CALL = struct.Struct("=QIIiIQ6Q")
# struct seccomp_notif_addfd: id, flags, the file here, its number there or any, its flags there.
_ADDFD = struct.Struct("=QIIII")


@dataclass(frozen=True)
class Rule:
    """What a call with these arguments, by position, returns: 0 or an error right away, or what
    the filter's listener gives; the call itself is not executed."""

    call: str
    arguments: Mapping[int, int]
    error: int | None

    def compile(self, numbers: Mapping[str, int]) -> bytes:
        # struct seccomp_data; of an argument its lower half, all that these calls look at.
        wanted = [(0, numbers[self.call])]
        wanted += [(16 + 8 * position, value) for position, value in self.arguments.items()]
        answer = _RET_NOTIFY if self.error is None else _RET_ERRNO | self.error
        program = _instruction(_RETURN, answer)
        for offset, value in reversed(wanted):
            past_the_rest = len(program) // 8
            equals = _instruction(_EQUALS, value, if_not=past_the_rest)
            program = _instruction(_LOAD, offset) + equals + program
        return program


class Filter:
    def __init__(self, *rules: Rule) -> None:
        architecture, numbers = _MACHINES[platform.machine()]
        self._seccomp = numbers["seccomp"]
        allow = _instruction(_RETURN, _RET_ALLOW)
        # Calls of another architecture have other numbers.
        program = _instruction(_LOAD, 4) + _instruction(_EQUALS, architecture, if_so=1) + allow
        program += b"".join(rule.compile(numbers) for rule in rules) + allow
        self._flags = _FLAG_NEW_LISTENER if any(rule.error is None for rule in rules) else 0
        self._program = ctypes.create_string_buffer(program, len(program))
        self._fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._program))

    def install(self) -> int | None:
        """For the calling thread and all that it starts. The file is the listener, if a rule leaves
        calls to one; it is closed at exec."""
        result = _libc.syscall(self._seccomp, _SET_MODE_FILTER, self._flags, self._fprog)
        if result < 0:
            raise OSError(ctypes.get_errno(), "seccomp")
        return result if self._flags else None


@dataclass(frozen=True)
class Call:
    """One that waits for the listener's answer, or did: a signal may have ended that."""

    ident: int
    thread: int
    arguments: tuple[int, ...]

    @classmethod
    def receive(cls, listener: int) -> Self:
        """FileNotFoundError if nobody waits any more."""
        buffer = bytearray(_CALL.size)
        fcntl.ioctl(listener, _NOTIF_RECV, buffer)
        ident, thread, _, _, _, _, *arguments = _CALL.unpack(buffer)
        return cls(ident, thread, tuple(arguments))

    def give(self, listener: int, file: socket.socket, cloexec: bool) -> None:
        """Let it return a file. FileNotFoundError if it does not wait any more."""
        flags = os.O_CLOEXEC if cloexec else 0
        request = _ADDFD.pack(self.ident, _ADDFD_FLAG_SEND, file.fileno(), 0, flags)
        fcntl.ioctl(listener, _NOTIF_ADDFD, request)


def _instruction(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    """How many instructions to skip is for branches."""
    return struct.pack("=HBBI", code, if_so, if_not, value)
