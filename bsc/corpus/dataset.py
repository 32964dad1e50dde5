"""Text of a data set: one document a row, from the hub or from what `datasets` reads of local files.

A network that fails is waited for. `datasets` itself asks again for a piece that it cannot get; when it gives up, the set is
taken up again at the row that comes next, some times, further and further apart. Only then does reading end, with an error.
A streamed set is taken up at the file that the row is in; what stands before the row in that file is read again and dropped.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from bsc.corpus.column import Column, Document
from bsc.errors import UserError, printable

if TYPE_CHECKING:
    from bsc.stages import TokensSpec

ATTEMPTS = 10
"""How often a row is asked for before reading ends with an error."""
BACKOFF = wait_exponential_jitter(initial=1, max=120, jitter=2)
"""Seconds between attempts: six minutes in all, beside those that `datasets` waits within one."""
_TRANSIENT = (408, 425, 429)
"""Answers of a server that are worth asking again for, beside those from 500 on."""


class NetworkFault(UserError):
    """The network has failed for so long that reading ended; what came before it is sound."""


class HubDocuments:
    """The documents of a hub data set (or of a local folder that is one), row by row, streamed if the spec says so.

    position: as the property, of the same spec. Raises UserError when the data set, its subset, split or column is not there,
    NetworkFault when it cannot be reached for long.
    """

    def __init__(self, spec: "TokensSpec", column: Column, position: dict[str, Any] | None = None) -> None:
        self._spec, self._column, self._where = spec, column, f"data set {spec.dataset}"
        start = position or {"file": 0, "row": 0, "before": 0, "revision": None}
        self._file, self._row, self._before, self._revision = (start[key] for key in ("file", "row", "before", "revision"))
        self._files: list[Any] = []
        self._rows: Iterator[dict[str, Any]] = iter(())

    def __iter__(self) -> Iterator[Document]:
        fix = f"check the network (HF_HUB_OFFLINE must not be set) and {self._where}'s subset, split and revision"
        with readable(self._where, fix):
            row = self._patiently()
            while row is not None:
                document = self._column.of(row, self._number, self._where)
                self._row += 1
                yield document
                row = self._next()

    @property
    def position(self) -> dict[str, Any]:
        """The file of the set that the next row is in, the row there, the rows before the file, and the commit on the hub."""
        return {"file": self._file, "row": self._row, "before": self._before, "revision": self._revision}

    @property
    def _number(self) -> int:
        return int(self._before + self._row)

    def _next(self) -> dict[str, Any] | None:
        """The next row, or None behind the last."""
        try:
            return self._here_or_later()
        except Exception as error:
            if not is_network_fault(error):
                raise
            return self._patiently()

    def _patiently(self) -> dict[str, Any] | None:
        """The row at the position, asked for as often as it takes and may."""
        retrying = Retrying(
            retry=retry_if_exception(is_network_fault),
            stop=stop_after_attempt(ATTEMPTS),
            wait=BACKOFF,
            before_sleep=self._report,
            reraise=True,
        )
        try:
            return retrying(self._taken_up)
        except Exception as error:
            if not is_network_fault(error):
                raise
            what = f"the network failed {ATTEMPTS} times in a row, at row {self._number} ({_words(error)})"
            raise NetworkFault(what, where=self._where, fix="run the same command again when it is back") from error

    def _taken_up(self) -> dict[str, Any] | None:
        """The row at the position, of the set opened there anew."""
        if not self._files:
            data = self._load()
            streamed = range(data.num_shards) if self._spec.streaming else ()
            self._files = [data.shard(data.num_shards, number) for number in streamed] or [data]
        self._rows = self._from(self._row)
        return self._here_or_later()

    def _here_or_later(self) -> dict[str, Any] | None:
        """The next row of this file, or of the first one after it that has any."""
        while self._file < len(self._files):
            if (row := next(self._rows, None)) is not None:
                return row
            self._before += self._row
            self._file, self._row = self._file + 1, 0
            self._rows = self._from(0)
        return None

    def _from(self, row: int) -> Iterator[dict[str, Any]]:
        """The rows of this file from one on; none behind the last file."""
        if self._file == len(self._files):
            return iter(())
        if self._spec.streaming:
            return islice(self._files[self._file], row, None)
        return iter(self._files[self._file].skip(row))

    def _load(self) -> Any:
        from datasets import load_dataset

        spec = self._spec
        self._revision = self._revision or _commit(spec)
        return load_dataset(spec.dataset, spec.subset, split=spec.hub_split, revision=self._revision, streaming=spec.streaming)

    def _report(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0
        which = f"attempt {state.attempt_number} of {ATTEMPTS} failed ({printable(_words(error))})"
        print(f"{self._where}, row {self._number}: {which}; the next in {pause:.0f} s", file=sys.stderr, flush=True)


def _commit(spec: "TokensSpec") -> str | None:
    """The commit that the revision of a hub set is now, so that a run that is taken up reads what it began with."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    if spec.dataset is None or Path(spec.dataset).exists():
        return spec.revision
    try:
        return HfApi().dataset_info(spec.dataset, revision=spec.revision).sha
    except OfflineModeIsEnabled:  # then it is in the cache or nowhere
        return spec.revision


def is_network_fault(error: BaseException) -> bool:
    """Whether an error, or one behind it, says that a server could not be reached or failed: asking again may help."""
    from aiohttp import ClientError
    from datasets import config
    from datasets.utils.file_utils import CONNECTION_ERRORS_TO_RETRY
    from huggingface_hub.errors import HfHubHTTPError

    if config.HF_HUB_OFFLINE:  # nothing was asked for
        return False
    chain = [error]
    while (behind := chain[-1].__cause__ or chain[-1].__context__) and behind not in chain:
        chain.append(behind)
    if any(isinstance(link, UserError) for link in chain):
        return False
    statuses = [_status(link) for link in chain if isinstance(link, ClientError | HfHubHTTPError)]
    if known := [status for status in statuses if status is not None]:
        return all(status >= 500 or status in _TRANSIENT for status in known)
    faults = (ConnectionError, TimeoutError, ClientError, *CONNECTION_ERRORS_TO_RETRY)
    return any(isinstance(link, faults) for link in chain)


def _status(error: Any) -> int | None:
    """The HTTP status in an error of aiohttp or of the hub's client, where a server answered at all."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    return status


def _words(error: BaseException | None) -> str:
    cause = error and (error.__cause__ or error)
    return f"{type(cause).__name__}: {cause}"


@contextmanager
def readable(where: str, fix: str) -> Iterator[None]:
    """Turn whatever `datasets` raises for a source that it cannot read into a UserError."""
    from aiohttp import ClientError
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    try:
        yield
    except UserError:
        raise
    except (DatasetGenerationError, DatasetsError, ClientError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"it cannot be read ({type(cause).__name__}: {cause})", where=where, fix=fix) from error
