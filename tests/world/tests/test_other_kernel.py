"""What a program meets on tests/world/other_kernel.py, next to what this machine's kernel says."""

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

from tests.world import other_kernel
from tests.world.other_kernel import OtherKernel
from tests.world.tests.netlink_program import (
    CHAIN,
    GETGEN,
    GETTABLE,
    NETLINK_NETFILTER,
    NEWGEN,
    NEWTABLE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    OPEN,
    TABLE,
    answers,
    attribute,
    batch,
    errors,
    message,
    opened,
    rule,
    tables,
)

pytestmark = pytest.mark.usefixtures("isolated")


def test_what_nothing_is_said_about_is_the_real_kernel_s():
    with OtherKernel() as kernel, opened(kernel) as sock:
        assert [kind for kind, _, _ in answers(sock, message(GETGEN))] == [NEWGEN]
        assert tables(sock) == 0
        assert errors(sock, batch(TABLE, CHAIN, rule(b"masq"))) == [(1, 0), (2, 0), (3, 0)]
        assert errors(sock, batch(rule(b"no such"))) == [(1, errno.ENOENT)]
        assert tables(sock) == 1
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as own:
        assert tables(own) == 0, "it is another namespace's"


def test_an_answer_in_many_pieces():
    with OtherKernel() as kernel, opened(kernel) as sock:
        names = [attribute(1, b"%d\0" % number) for number in range(5000)]
        many = [message(NEWTABLE, name, flags=NLM_F_CREATE) for name in names]
        assert answers(sock, batch(*many)) == []
        assert tables(sock) == 5000
        # A program may also end in the middle of it.
        sock.send(message(GETTABLE, flags=NLM_F_DUMP))
        assert sock.recv(8192)


def test_without_nfnetlink():
    with OtherKernel(lacks="nfnetlink") as kernel:
        route = "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); print('route')"
        argv = [sys.executable, "-uc", route + OPEN]
        done = subprocess.run(argv, preexec_fn=kernel.install, capture_output=True, check=False)
    assert done.stdout == b"route\n"
    assert done.stderr.endswith(b"OSError: [Errno 93] Protocol not supported\n")


def test_without_nf_tables():
    with OtherKernel(lacks="nf_tables") as kernel, opened(kernel) as sock:
        assert errors(sock, message(GETGEN, sequence=7)) == [(7, errno.EINVAL)]
        dump = message(GETTABLE, flags=NLM_F_DUMP | NLM_F_ACK, sequence=1)
        [(_, _, content)] = answers(sock, dump)
        assert content == struct.pack("=i", -errno.EINVAL) + dump, "it repeats the request"
        assert errors(sock, batch(TABLE)) == [(0, errno.EOPNOTSUPP)]


@pytest.mark.parametrize("nested", [0, 0x8000])
def test_without_an_expression(nested):
    with OtherKernel(lacks="nft_masq") as kernel, opened(kernel) as sock:
        refused = rule(b"masq", nested)
        asked = batch(TABLE, CHAIN, refused)
        assert errors(sock, asked) == [(1, 0), (2, 0), (3, errno.ENOENT)]
        [*_, (_, _, content)] = answers(sock, asked)
        assert refused[16:] in content, "it repeats the request"
        assert tables(sock) == 0
        assert errors(sock, batch(TABLE, CHAIN, rule(b"counter"))) == [(1, 0), (2, 0), (3, 0)]
        assert tables(sock) == 1


def test_a_kernel_that_forgets():
    with OtherKernel(forgets=True) as kernel, opened(kernel) as sock:
        assert errors(sock, batch(TABLE, CHAIN, rule(b"masq"))) == [(1, 0), (2, 0), (3, 0)]
        assert errors(sock, batch(CHAIN)) == [(1, errno.ENOENT)]
        assert tables(sock) == 0


def test_a_kernel_that_refuses_some_transactions():
    refuses = [errno.EBUSY, errno.ENOMEM]
    with OtherKernel(refuses=refuses) as kernel:
        for error in refuses:
            with opened(kernel) as sock:
                assert tables(sock) == 0
                assert errors(sock, batch(TABLE)) == [(0, error)]
                assert tables(sock) == 0
        with opened(kernel) as sock:
            assert errors(sock, batch(TABLE)) == [(1, 0)]
            assert tables(sock) == 1


# --- Ends -----------------------------------------------------------------------------------------


def test_a_program_that_ends_leaves_nothing():
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    with OtherKernel() as kernel:
        for _ in range(3):
            with opened(kernel) as sock:
                sock.send(message(GETGEN))
                assert select.select([sock], [], [], 10)[0], "what is there and never read"
        code = OPEN.rpartition("socket.send_fds")[0] + "print(flush=True); netlink.recv(1)"
        argv = [sys.executable, "-c", code]
        with subprocess.Popen(argv, preexec_fn=kernel.install, stdout=subprocess.PIPE) as program:
            program.stdout.readline()
            program.kill()
        # What is left are a pair of sockets and the epoll.
        give_up = time.monotonic() + 10
        while count() != before + 3:
            assert time.monotonic() < give_up, os.listdir("/proc/self/fd")
            time.sleep(0.01)
    assert count() == before


def test_the_kernel_ends_before_the_program():
    with contextlib.ExitStack() as stack:
        with OtherKernel() as kernel:
            sock = stack.enter_context(opened(kernel))
            argv = [sys.executable, "-c", "import sys; sys.stdin.read()\n" + OPEN, "0"]
            waiting = subprocess.Popen(
                argv, preexec_fn=kernel.install, stdin=subprocess.PIPE, stderr=subprocess.PIPE
            )
        assert sock.recv(1) == b""
        _, stderr = waiting.communicate(timeout=10)
    assert stderr.endswith(b"OSError: [Errno 38] Function not implemented\n")


def test_a_program_that_is_killed_while_it_waits(monkeypatch):
    netlink_of = other_kernel._netlink_of

    def kill_first(thread: int) -> socket.socket:
        os.kill(thread, signal.SIGKILL)
        os.waitid(os.P_PID, thread, os.WEXITED | os.WNOWAIT)
        return netlink_of(thread)

    monkeypatch.setattr(other_kernel, "_netlink_of", kill_first)
    with OtherKernel() as kernel:
        program = subprocess.Popen([sys.executable, "-c", OPEN], preexec_fn=kernel.install)
        assert program.wait(10) == -signal.SIGKILL
        monkeypatch.undo()
        with opened(kernel) as sock:
            assert tables(sock) == 0
