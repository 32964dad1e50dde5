"""The answer cache: one SQLite file a model, so that no answer is lost or asked for twice. No torch.

An answer is committed, and flushed to the disk, before it is used. Answers that arrive within a fiftieth of a second, or while
one commit runs, share the next.
Several processes may read and write one file: write-ahead logging on a local disk; on a network file system, where that is not
safe between machines, and on one that is not known, a rollback journal under the file system's locks.
"""

import asyncio
import random
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from bsc.autointerp.llm.messages import Reply
from bsc.errors import CorruptFile, UserError
from bsc.io import disk_full, is_disk_full

_WAIT_SECONDS = 120
_GATHER_SECONDS = 0.02
_MOST_KEYS = 500
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals
(one INTEGER PRIMARY KEY, replies INTEGER, characters INTEGER, prompt INTEGER, completion INTEGER);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0, 0);
CREATE TABLE IF NOT EXISTS wasted (one INTEGER PRIMARY KEY, prompt INTEGER, completion INTEGER);
INSERT OR IGNORE INTO wasted VALUES (1, 0, 0);
"""
_COUNT = """UPDATE totals SET
replies = replies + ?, characters = characters + ?, prompt = prompt + ?, completion = completion + ?"""
_WASTE = "UPDATE wasted SET prompt = prompt + ?, completion = completion + ?"
_BILLED = "SELECT totals.prompt + wasted.prompt, totals.completion + wasted.completion FROM totals JOIN wasted USING (one)"
_MOUNTS = Path("/proc/mounts")
_ESCAPED = re.compile(r"\\(\d{3})")
_LOCAL = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "ufs", "xfs", "zfs")
)
"""File systems that no other machine writes to."""


_Waiting = tuple[str, Reply, "asyncio.Future[None]"]


class Totals(NamedTuple):
    """Of all the replies that ever came, those to a prompt that two processes asked at once included."""

    replies: int
    characters: int
    prompt_tokens: int
    completion_tokens: int


class AnswerCache:
    """Replies by the keys of their requests; see `Request.key`."""

    def __init__(self, path: Path) -> None:
        """Open, or begin, the cache at `path`. Raises CorruptFile when the file is something else."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with _faults(path, "does not open"):
            self._connection, self._reader = (_connected(path) for _ in range(2))
            self._connection.execute("PRAGMA synchronous=FULL")
            self._begin("WAL" if is_local(path.parent) else "DELETE")
        self._waiting: list[_Waiting] = []
        self._committing: asyncio.Task[None] | None = None
        self._writing = threading.Lock()

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._writing:
            self._reader.close()
            self._connection.close()

    def _begin(self, journal: str) -> None:
        """Whoever sets the journal of a new file has SQLite turn the others away at once, and not wait as for a lock."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                self._connection.execute(f"PRAGMA journal_mode={journal}")
                self._connection.executescript(_TABLES)
            except sqlite3.OperationalError as error:
                held = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not held or time.monotonic() > deadline or self._connection.in_transaction:
                    raise
                time.sleep(random.uniform(0.01, 0.05))
            else:
                return

    def get(self, keys: Sequence[str]) -> dict[str, Reply]:
        """The replies that are kept, by key; what is not kept is left out."""
        found: dict[str, Reply] = {}
        with _faults(self.path, "gives no answer"):
            for begin in range(0, len(keys), _MOST_KEYS):
                some = keys[begin : begin + _MOST_KEYS]
                asked = f"SELECT key, reply FROM answers WHERE key IN ({','.join('?' * len(some))})"
                found |= {key: Reply.from_json(reply) for key, reply in self._reader.execute(asked, some)}
        return found

    def put(self, answers: Sequence[tuple[str, Reply]]) -> None:
        """Keep some replies, all or none of them. Raises UserError when the disk is full."""
        with self._writing:
            self._transact(answers)

    def _transact(self, answers: Sequence[tuple[str, Reply]]) -> None:
        if not answers:
            return
        rows = [(key, reply.as_json()) for key, reply in answers]
        counted = [(1, reply.characters, reply.prompt_tokens, reply.completion_tokens) for _, reply in answers]
        with _faults(self.path, "takes no answer"):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
                self._connection.execute(_COUNT, tuple(map(sum, zip(*counted, strict=True))))
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    async def keep(self, key: str, reply: Reply) -> None:
        """Keep one reply; returns once it is on the disk."""
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, reply, kept))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        await kept

    def flush(self) -> list[_Waiting]:
        """Write what arrived, each once, whichever thread comes first; returns it. It needs no event loop."""
        with self._writing:
            batch = self._waiting[:]
            self._transact([(key, reply) for key, reply, _ in batch])
            del self._waiting[: len(batch)]
        return batch

    async def settle(self) -> None:
        """Wait until nothing that arrived is still to be written."""
        if self._committing is not None:
            await self._committing

    async def _commit(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(_GATHER_SECONDS)
                try:
                    _settled(await asyncio.to_thread(self.flush), None)
                except Exception as error:
                    failed, self._waiting = self._waiting, []
                    _settled(failed, error)
        finally:
            self._committing = None

    def totals(self) -> Totals:
        """How many answers there are and what was counted of them, by whichever process."""
        with _faults(self.path, "gives no totals"):
            return Totals(*self._reader.execute("SELECT replies, characters, prompt, completion FROM totals").fetchone())

    def charge(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Book tokens of an attempt that gave no reply."""
        with self._writing, _faults(self.path, "takes no charge"):
            self._connection.execute(_WASTE, (prompt_tokens, completion_tokens))

    def billed(self) -> tuple[int, int]:
        """Tokens in and out of all replies and of attempts that gave none."""
        with _faults(self.path, "gives no totals"):
            tokens_in, tokens_out = self._reader.execute(_BILLED).fetchone()
        return int(tokens_in), int(tokens_out)


@contextmanager
def _faults(path: Path, what: str) -> Iterator[None]:
    """What SQLite says, as an error of the user's: UserError when the file cannot be used now, CorruptFile when never."""
    try:
        yield
    except sqlite3.Error as error:
        if is_disk_full(error) or "full" in str(error):
            raise disk_full(path) from error
        if type(error) is sqlite3.DatabaseError:  # of the bytes; every other fault has a kind of its own
            fix = "move it away; its answers will be asked for again"
            raise CorruptFile(f"not an answer cache ({error})", where=str(path), fix=fix) from error
        fix = "see who holds it, and run again"
        raise UserError(f"the answer cache {what} ({error})", where=str(path), fix=fix) from error


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False, isolation_level=None)


def _settled(batch: list[_Waiting], error: Exception | None) -> None:
    for _, _, kept in batch:
        if kept.done():  # whoever waited for it was cancelled
            continue
        if error is None:
            kept.set_result(None)
        else:
            kept.set_exception(error)


def is_local(folder: Path) -> bool:
    """Whether a folder lies on a disk of this machine alone, by the mount that holds it (Linux; elsewhere it is taken to)."""
    try:
        mounts = [line.split()[1:3] for line in _MOUNTS.read_text().splitlines()]
    except OSError:
        return True
    absolute, depth, holds = folder.resolve(), 0, ""
    for escaped, kind in mounts:
        point = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), escaped))
        if absolute.is_relative_to(point) and len(point.parts) >= depth:  # of two mounts at one point the later one is seen
            depth, holds = len(point.parts), kind
    return holds in _LOCAL
