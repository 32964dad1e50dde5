"""The stage `bsc cohort`: several coders of a hookpoint trained in one process, on activations that are read or made once.

It leaves the files of coders alone. It takes each coder that is not finished to its last step and keeps that state as a
checkpoint, where `bsc train`, which comes after it, finds nothing left to do but to write the coder. So a coder's files belong
to one rule, with or without a cohort, and a coder that is missing or stale is trained without touching the others.
"""

import sys
from pathlib import Path
from typing import Any

from bsc.activations.recipe import KEY
from bsc.errors import UserError
from bsc.io import MANIFEST, read_json, read_manifest, write_json
from bsc.ranks import joined
from bsc.shares import Parallel
from bsc.stages import CohortSpec, MemberSpec
from bsc.training.loop import Task, run


def train_cohort(
    spec: CohortSpec,
    indices: list[Path],
    coders: Path,
    output: Path,
    *,
    parallel: Parallel | None = None,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Bring every member of a cohort to the end of its training, and then write `output`, a list of them.

    indices: of the activations of the members' hookpoints, in any order. coders: the folder that the members' folders are
    relative to. A member whose manifest has its digest, and whose files are whole, is finished. Members with a checkpoint go
    on from it, together or one by one; so a cohort that was stopped goes on. parallel: what the ranks of the job share, if
    torchrun started several; see `bsc.ranks`.

    A member that diverges is reported, and left to its own `bsc train`, which goes on from before, meets the same and fails
    alone: one bad learning rate holds up no other coder.

    Raises as `bsc.training.loop.run` does, and UserError when a member's hookpoint has no index, or two.
    """
    waiting = [member for member in spec.members if not _is_finished(coders / member.folder, member.digest)]
    with joined(parallel or "coders") as ranks:
        if ranks.rank == 0:
            print(f"{len(waiting)} of {len(spec.members)} coders are to be trained", file=sys.stderr, flush=True)
        if waiting:
            found = _by_hookpoint(indices)
            trained = run([_task(member, coders, found) for member in waiting], checkpoint_seconds, ranks)
            for one in trained:
                one.leave()
                if one.error:
                    print(one.error, file=sys.stderr, flush=True)
            ranks.any(False)  # all have saved theirs
        if ranks.rank == 0:
            write_json(output, [{"folder": member.folder, "digest": member.digest} for member in spec.members])


def _by_hookpoint(indices: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for index in indices:
        facts: dict[str, Any] = read_json(index)
        hookpoint = str(facts.get(KEY, facts)["hookpoint"])
        if hookpoint in found:
            what = f"{found[hookpoint]} and {index} are both of {hookpoint}"
            raise UserError(what, where="--activations", fix="give one index of each hookpoint")
        found[hookpoint] = index
    return found


def _task(member: MemberSpec, coders: Path, indices: dict[str, Path]) -> Task:
    if member.hookpoint not in indices:
        what = f"no index is of {member.hookpoint}, which {member.folder} is trained at"
        raise UserError(what, where="--activations", fix="give the index of each member's hookpoint")
    return Task(member.spec, coders / member.folder, indices[member.hookpoint], member.digest)


def _is_finished(folder: Path, digest: str) -> bool:
    if not (folder / MANIFEST).exists():
        return False
    try:
        return bool(read_manifest(folder).get("digest") == digest)
    except UserError:
        return False
