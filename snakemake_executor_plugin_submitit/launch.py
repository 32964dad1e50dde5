"""Start a program with SIGUSR2 blocked, so that one which comes before its handler is there waits for it.

Run by path, as in `python -I -S launch.py program argument`, where `env` cannot do it (coreutils before 8.31). A blocked signal
stays blocked, and pending, in the program which takes this one's place; `task` unblocks it. SIGUSR2 is lost while this starts:
1 to 2 ms of `env`, 10 to 30 ms of an interpreter that imports nothing, more where its filesystem is slow. One that comes before
the batch script's first line ends the job.
"""

import os
import signal
import sys

SAVE = signal.SIGUSR2
EARLY = "SNAKEMAKE_SUBMITIT_EARLY"
"""Set in the environment of a job that got SAVE in its batch script, before Python."""

_SAVE = SAVE.name.removeprefix("SIG")
KEEP = f"trap 'export {EARLY}=1' {_SAVE}"
"""First line of a batch script: SAVE is noted, where it would have ended the script."""
IGNORE = f"trap '' {_SAVE}"
"""A line of a shell: it and what it starts go on at SAVE, unless they have a handler."""

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {SAVE})
    os.execv(sys.argv[1], sys.argv[1:])
