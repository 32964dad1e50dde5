"""The command line: quick, helpful, and honest about errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bsc.cli import STAGES, main
from bsc.errors import UserError

ROOT = Path(__file__).parent.parent


def bsc(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bsc", *arguments], capture_output=True, text=True, cwd=ROOT)


def test_help_answers_within_half_a_second_and_names_every_stage() -> None:
    """Half a second of processor time: the wall's depends on what else the machine does."""
    times = []
    for _ in range(3):
        before = os.times()
        finished = bsc("--help")
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert finished.returncode == 0
    assert all(stage in finished.stdout for stage in STAGES)
    assert min(times) < 0.5


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m bsc estimate config/paper.yaml | head -n 1; test ${{PIPESTATUS[0]}} -le 1"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0
    assert finished.stderr == ""


def test_a_check_tells_the_keys_that_are_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    more = tmp_path / "llm.yaml"
    more.write_text("llms: {gpt: {model: m, endpoint: 'http://h/v1', key: A_KEY}}\nautointerp: {llms: [gpt]}\n")
    check = ["check", str(ROOT / "config" / "smoke.yaml"), str(more)]
    monkeypatch.delenv("A_KEY", raising=False)
    assert main(check) == 0
    said = capsys.readouterr().out
    assert "`llms.gpt.key`: A_KEY is not set here" in said
    assert "prompts" in said
    monkeypatch.setenv("A_KEY", "sk-secret")
    assert main(check) == 0
    said = capsys.readouterr().out
    assert "not set here" not in said
    assert "sk-secret" not in said


def test_a_check_refuses_what_a_run_refuses(tmp_path: Path, capsys) -> None:
    more = tmp_path / "disk.yaml"
    more.write_text("disk_gb: 0.01\n")
    assert main(["check", str(ROOT / "config" / "smoke.yaml"), str(more)]) == 1
    assert "`disk_gb` allows 0.01 GB" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["bsc.cli", "bsc.config", "bsc.stages", "bsc.check", "bsc.activations.disk"])
def test_what_the_dag_imports_is_free_of_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


_TORCH = [pytest.param(stage, marks=pytest.mark.slow) for stage in ("tokens", "trial", "latents", "probe")]  # seconds each


@pytest.mark.parametrize("stage", ["train", *_TORCH, "explain", "score", "figure"])
def test_stages_that_run_no_language_model_import_none(stage: str) -> None:
    """Importing transformers' models takes longer than most of these stages of a small run."""
    module, _, _ = STAGES[stage].code.partition(":")
    code = f"import sys, {module}; sys.exit('transformers.modeling_utils' in sys.modules or 'torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_each_stage_explains_itself(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([stage, "--help"])
    assert caught.value.code == 0
    assert STAGES[stage].spec in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config", "smoke", "paper"])
def test_check_passes_the_shipped_configs(name: str) -> None:
    finished = bsc("check", f"config/{name}.yaml")
    assert finished.returncode == 0, finished.stderr
    assert "no faults" in finished.stdout


def test_check_fails_without_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((ROOT / "config" / "smoke.yaml").read_text().replace("batch_tokens", "batch_token"))
    finished = bsc("check", str(path))
    assert finished.returncode == 1
    assert "did you mean `batch_tokens`" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_spec_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["model", "--spec", '{"kind":"hub"}', "--output", str(tmp_path)]) == 1
    assert "not a ModelSpec" in capsys.readouterr().err


def test_the_log_gets_what_the_terminal_gets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "a" / "log"
    assert main(["model", "--spec", "{}", "--output", str(tmp_path), "--log", str(log)]) == 1
    assert log.read_text() == capsys.readouterr().err
    assert "bsc: error" in log.read_text()


def test_an_error_shows_what_another_wrote_without_obeying_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = UserError("HTTP 401: \x1b]0;owned\x07\x1b[2J\u202e été", where="llms.x", fix="a line\nand another")
    assert str(error) == "llms.x: HTTP 401: \\x1b]0;owned\\x07\\x1b[2J\\u202e été\n  to do: a line\nand another"
