"""What a user reads of a failed job, once: which it was, where it ran, why it failed, and the end of its log."""

import re
from pathlib import Path
from typing import Any

from .verdict import Verdict

LINES = 20
TAIL_BYTES = 16_384
NAME_LENGTH = 150


def tail(path: Path, lines: int = LINES) -> str:
    """The last lines of a file, "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def wildcards_text(job: Any) -> str:
    """`model=a, k=32`; "" for a job without wildcards, and for a group."""
    wildcards = {} if job.is_group() else job.wildcards_dict
    return ", ".join(f"{name}={value}" for name, value in wildcards.items())


def log_name(job: Any) -> str:
    """A file name that tells one job of a rule from another."""
    name = re.sub(r"[^\w.=-]+", "_", wildcards_text(job)) or job.name
    return f"{name[:NAME_LENGTH]}.log"


def failure(job: Any, job_id: str, cluster: str, verdict: Verdict, log: Path) -> str:
    """The message for Snakemake's error block. log: the scheduler's; the rule's own log is shown instead where it has lines."""
    shown = next((path for path in (*map(Path, job.log), log) if tail(path)), log)
    wildcards = wildcards_text(job)
    which = f"{'group' if job.is_group() else 'rule'} {job.name}" + (f" ({wildcards})" if wildcards else "")
    where = f" on {verdict.node}" if verdict.node else ""
    head = f"{which}: {cluster} job {job_id}{where} failed: {verdict.reason}. Its log is {log}"
    end = "\n".join(f"        {line}" for line in tail(shown).splitlines())
    return f"{head}; the last lines of {shown}:\n{end}" if end else f"{head} (empty)"
