import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_plugin_submitit.launch import KEEP
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.shape import RESERVED, ShapeError, extra_options, parameters, shape

SLURM = ExecutorSettings()


def asked(settings: ExecutorSettings = SLURM, threads: int = 1, **resources: Any) -> dict[str, Any]:
    return parameters("train", threads, {"runtime": 60, **resources}, settings, [])


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"runtime": 90}, {"timeout_min": 90}),
        ({"mem_mb": 1500}, {"mem_gb": 1500 / 1024}),
        ({"mem_mb_per_cpu": 500, "mem_mb": 9}, {"slurm_mem_per_cpu": "500MB"}),
        ({"threads": 6}, {"cpus_per_task": 6}),
        ({"threads": 6, "cpus_per_task": 4}, {"cpus_per_task": 4}),
        ({"gpus": 2}, {"gpus_per_node": 2}),
        ({"gpu": 1}, {"gpus_per_node": 1}),
        ({"gpu": 2, "gpu_model": "h100"}, {"slurm_gres": "gpu:h100:2"}),
        ({"gres": "gpu:a100:1"}, {"slurm_gres": "gpu:a100:1"}),
        ({"nodes": 2}, {"nodes": 2}),
        ({"slurm_partition": "p"}, {"slurm_partition": "p"}),
        ({"slurm_account": "a"}, {"slurm_account": "a"}),
        ({"slurm_qos": "q"}, {"slurm_qos": "q"}),
        ({"qos": "q"}, {"slurm_qos": "q"}),
        ({"constraint": "c"}, {"slurm_constraint": "c"}),
        ({"slurm_constraint": "c&d"}, {"slurm_constraint": "c&d"}),
    ],
)
def test_resources_become_parameters(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected.items() <= asked(**resources).items()


def test_what_is_not_asked_for_is_not_passed() -> None:
    given_ = asked()
    assert not {"mem_gb", "gpus_per_node", "slurm_gres", "slurm_partition", "slurm_qos"} & given_.keys()


def test_the_signal_comes_at_half_time_of_short_jobs() -> None:
    assert asked(runtime=1)["slurm_additional_parameters"]["signal"] == "B:USR2@30"
    assert asked(runtime=600)["slurm_additional_parameters"]["signal"] == "B:USR2@120"


@pytest.mark.parametrize(
    ("resources", "complaint"),
    [
        ({"runtime": None}, "no runtime"),
        ({"gpus": 1, "gres": "gpu:1"}, "name GPUs twice"),
        ({"mpi": "mpirun"}, "mpi"),
        ({"slurm_extra": "--output=x"}, "--output is set by the plugin"),
        ({"slurm_extra": "--comment x"}, "--comment is set by the plugin"),
        ({"slurm_extra": "-t 5"}, "long name"),
        ({"slurm_extra": "exclusive"}, "not an option"),
    ],
)
def test_what_cannot_be_submitted_says_why(resources: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ShapeError, match=complaint):
        asked(**resources)


def test_only_slurm_needs_a_runtime() -> None:
    assert asked(ExecutorSettings(cluster="local"), runtime=None)["timeout_min"] > 60 * 24


def test_setup_lines_go_to_the_cluster_in_use() -> None:
    assert parameters("r", 1, {"runtime": 1}, SLURM, ["module load x"])["slurm_setup"] == [KEEP, "module load x"]
    local = parameters("r", 1, {"runtime": 1}, ExecutorSettings(cluster="local"), ["module load x"])
    assert local["local_setup"] == ["module load x"]


NAMES = st.from_regex(r"[a-z][a-z-]{0,9}[a-z]", fullmatch=True).filter(lambda name: name not in RESERVED)
VALUES = st.text(min_size=1).filter(lambda text: not text.startswith("-") and "\0" not in text)


@given(st.dictionaries(NAMES, st.one_of(st.just(True), VALUES), max_size=5))
def test_extra_options_are_read_back(options: dict[str, Any]) -> None:
    text = " ".join(f"--{name}" if value is True else f"--{name}={shlex.quote(value)}" for name, value in options.items())
    assert extra_options(text) == options


def test_extra_options_of_other_spellings() -> None:
    assert extra_options("--exclusive -w node1 --mail-type 'END, FAIL'") == {
        "exclusive": True,
        "nodelist": "node1",
        "mail-type": "END, FAIL",
    }


def test_a_shape_is_a_rule_and_what_it_asks_for() -> None:
    assert shape("train", asked(mem_mb=1)) == shape("train", asked(mem_mb=1))
    assert shape("train", asked(mem_mb=1)) != shape("train", asked(mem_mb=2))
    assert shape("train", asked(mem_mb=1)) != shape("score", asked(mem_mb=1))
