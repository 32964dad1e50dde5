"""What a user may set: `--submitit-...` on the command line, `submitit-...:` in a profile."""

from dataclasses import dataclass, field
from pathlib import Path

from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase

CLUSTERS = ("slurm", "local", "debug")


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """The plugin's settings; Snakemake makes a command-line option of each."""

    cluster: str = field(
        default="slurm",
        metadata={
            "help": "Where jobs run: slurm; local (processes of this machine, through submitit); debug (inside Snakemake).",
            "choices": list(CLUSTERS),
        },
    )
    logs: Path = field(
        default=Path("logs/slurm"),
        metadata={"help": "Folder for the jobs' logs, one folder a rule; on a filesystem that the nodes share."},
    )
    array_size: int = field(
        default=1000,
        metadata={"help": "Most jobs in one job array; the cluster's MaxArraySize is heeded as well."},
    )
    array_running: int = field(
        default=1000,
        metadata={"help": "Most jobs of one array that Slurm runs at a time."},
    )
    longest_interval: int = field(
        default=60,
        metadata={
            "help": "Seconds between two questions to Slurm grow up to this while nothing changes; they start at "
            "--seconds-between-status-checks."
        },
    )
    signal_seconds: int = field(
        default=120,
        metadata={
            "help": "Seconds before its time is up at which a job gets SIGUSR2, to save its state and leave and be requeued."
        },
    )
    requeues: int = field(
        default=20,
        metadata={"help": "How often a job that saved its state and ran out of time is requeued before it counts as failed."},
    )
    leave_jobs: bool = field(
        default=False,
        metadata={"help": "On Ctrl-C, leave the jobs running instead of cancelling them; the next run adopts them."},
    )
    setup: str = field(
        default="",
        metadata={"help": "Shell lines run on the node before each job, such as `module load cuda`."},
    )


common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=False,  # every backend hands its environment on
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)
