"""How the processes of one job learn at once that one of them has failed or died."""

import hmac
import json
import os
import secrets
import selectors
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

_LONGEST = 1 << 16  # bytes of one message
_LONGEST_ERROR = 2000  # characters, so that a message is in one piece
_PATIENCE = 10.0  # seconds until all have to be connected


@dataclass(frozen=True)
class Failure:
    """What one process of a job came to.

    Args:
        rank: Which process.
        error: Its error in words; None when it ended without a word, as a process does that is killed.
    """

    rank: int
    error: str | None

    def __str__(self) -> str:
        if self.error is None:
            return f"Process {self.rank} ended without a word, as when it is killed or runs out of memory."
        return f"Process {self.rank} failed: {self.error}"


class Companions:
    """The other processes of a job, each of which is watched by a connection that its end closes, however it comes.

    Rank zero is connected with all others and passes on what it hears. A thread waits for that without taking any time,
    also while the process is inside a collective of whatever backend. No collective is involved but one broadcast at
    the beginning, which says where rank zero listens and by which secret it knows the others.

    Args:
        rank: This process.
        count: How many processes there are.
        host: Where all reach rank zero.
        broadcast: Gives everyone the value that rank zero passes.
        on_failure: Called once, in the thread, when a process has failed or died, or this one is asked to end.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        host: str,
        broadcast: Callable[[Any], Any],
        on_failure: Callable[[Failure], None],
    ) -> None:
        self._rank = rank
        self._on_failure = on_failure
        self._leaving, self._left = socket.socketpair()
        self._leaving.setblocking(False)
        self._connections = (
            _await_others(host, count, broadcast) if rank == 0 else _connect(rank, host, *broadcast(None))
        )
        self.missing = sorted(set(range(count) if rank == 0 else (0,)) - {rank, *self._connections})
        _OPEN.add(self)
        self._thread = threading.Thread(target=self._watch, name="lightning-soups-companions", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Where numbers of signals can be written, for :func:`signal.set_wakeup_fd`; SIGTERM and SIGINT are heeded.

        Their Python handlers wait for as long as the main thread is inside a collective.
        """
        return self._leaving.fileno()

    def leave(self, error: BaseException | None) -> None:
        """Say how this process's part of the job ended, and stop watching."""
        failure = None if error is None else Failure(self._rank, in_words(error))
        self._tell(failure)
        self._leaving.close()
        self._thread.join()
        self.close()

    def close(self) -> None:
        """Close this process's ends, which says nothing to the others while another process has the same ones."""
        for end in (*self._connections.values(), self._leaving, self._left):
            end.close()

    def _watch(self) -> None:
        received = dict.fromkeys(self._connections, b"")
        with selectors.DefaultSelector() as selector:
            selector.register(self._left, selectors.EVENT_READ)
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while True:
                for key, _ in selector.select():
                    rank = key.data
                    if rank is None:
                        signals = _received(self._left)
                        if not signals:
                            return
                        failure = _asked_to_end(signals, self._rank)
                    else:
                        more = _received(self._connections[rank])
                        received[rank] += more
                        if more and b"\n" not in received[rank] and len(received[rank]) < _LONGEST:
                            continue
                        selector.unregister(key.fileobj)  # there is one message, which is the last
                        failure = _read(received[rank], rank)
                    if failure is not None:
                        self._tell(failure, but=rank)
                        self._on_failure(failure)
                        return

    def _tell(self, failure: Failure | None, but: int | None = None) -> None:
        message = json.dumps(None if failure is None else asdict(failure)).encode() + b"\n"
        for rank, connection in self._connections.items():
            if rank != but:
                with suppress(OSError):  # it has gone
                    connection.sendall(message)


def in_words(error: BaseException) -> str:
    """An error in one line or several, of bounded length."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]} …"


def _await_others(host: str, count: int, broadcast: Callable[[Any], Any]) -> dict[int, socket.socket]:
    secret, found = secrets.token_hex(), dict[int, socket.socket]()
    with _listen(host) as server:
        broadcast((server.getsockname()[1], secret))
        deadline = time.monotonic() + _PATIENCE
        while len(found) < count - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with suppress(OSError, ValueError):  # whoever else may have called
                connection, _ = server.accept()
                connection.settimeout(left)
                given, rank = connection.makefile().readline(_LONGEST).split()
                if hmac.compare_digest(given.encode(), secret.encode()):
                    connection.sendall(b"\n")
                    connection.settimeout(None)
                    found[int(rank)] = connection
    return found


def _listen(host: str) -> socket.socket:
    """At the host's address if that is this machine's, else at all addresses: it may be known by another outside."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], 0), family=family)
    except OSError:
        return socket.create_server(("", 0))


def _connect(rank: int, host: str, port: int, secret: str) -> dict[int, socket.socket]:
    try:
        connection = socket.create_connection((host, port), timeout=_PATIENCE)
        connection.sendall(f"{secret} {rank}\n".encode())
        if not connection.recv(1):
            return {}
    except OSError:
        return {}
    connection.settimeout(None)
    return {0: connection}


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_LONGEST)
    except OSError:
        return b""


def _read(message: bytes, rank: int) -> Failure | None:
    """What a process said at its end; None when all was well."""
    try:
        found = json.loads(message)
        return None if found is None else Failure(**found)
    except (ValueError, TypeError):
        return Failure(rank, None)


def _asked_to_end(signals: bytes, rank: int) -> Failure | None:
    for number in (signal.SIGTERM, signal.SIGINT):
        if number in signals and signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL):
            return Failure(rank, f"asked to end by {number.name}")
    return None


def _close_copies() -> None:
    for companions in list(_OPEN):
        companions.close()
    _OPEN.clear()


_OPEN: "weakref.WeakSet[Companions]" = weakref.WeakSet()
if hasattr(os, "register_at_fork"):  # the dataloaders' workers would keep a dead process's connections open
    os.register_at_fork(after_in_child=_close_copies)
