import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bsc.activations import extract as module
from bsc.activations.extract import extract
from bsc.activations.writer import PARTIAL, ShardWriter
from bsc.corpus.store import read_tokens
from bsc.errors import UserError
from bsc.io import read_json, write_json
from bsc.models.hooks import capture
from bsc.models.load import load_model
from bsc.stages import ActivationsSpec

HOOKPOINTS = ["layers.0.mlp", "layers.1.mlp"]
SPEC = ActivationsSpec(split="train", first=3, contexts=10, hookpoints=HOOKPOINTS, batch_contexts=2, dtype="float32")

KILLED = """
import os, signal, sys
from pathlib import Path
from bsc.activations import writer
from bsc.activations.extract import extract
from bsc.stages import ActivationsSpec

left, written = int(sys.argv[1]), writer.ShardWriter._write

def write(*arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    written(*arguments)

writer.FLUSH_SECONDS, writer.ShardWriter._write = 0.0, write
extract(ActivationsSpec.model_validate_json(sys.argv[2]), *map(Path, sys.argv[3:]))
"""
HEADERS, WRITES_A_BATCH = 2, 4


def contents(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def forwards(monkeypatch):
    """Counts the batches that go through the model."""
    seen = []

    def loaded(*arguments, **options):
        model = load_model(*arguments, **options)
        model.register_forward_hook(lambda *_: seen.append(1))
        return model

    monkeypatch.setattr(module, "load_model", loaded)
    return seen


@pytest.fixture(scope="module")
def whole(tiny_model, tiny_tokens, tmp_path_factory):
    """The files of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "shard0"
    extract(SPEC, tiny_model, tiny_tokens, folder)
    return contents(folder)


def test_rows_are_what_the_whole_model_computes(tiny_model, tiny_tokens, tmp_path, whole):
    model = load_model(tiny_model, torch.float32)
    tokens = read_tokens(tiny_tokens, "train").tokens[3:13]
    with capture(model, HOOKPOINTS) as captured, torch.inference_mode():
        model(input_ids=torch.as_tensor(tokens).long())
    assert sorted(whole) == [f"{hookpoint}.safetensors" for hookpoint in HOOKPOINTS]
    for hookpoint, pair in captured.items():
        (tmp_path / "shard").write_bytes(whole[f"{hookpoint}.safetensors"])
        stored = load_file(tmp_path / "shard")
        for name, activations in zip(("input", "output"), pair, strict=True):
            assert stored[name].dtype == torch.bfloat16
            torch.testing.assert_close(stored[name].float(), activations.flatten(0, 1), rtol=2**-8, atol=1e-5)


@pytest.fixture(scope="module")
def killed(tiny_model, tiny_tokens, tmp_path_factory):
    """What a run leaves that was killed (-9) in the middle of writing its third batch of five."""
    folder = tmp_path_factory.mktemp("killed") / "shard0"
    writes = HEADERS + 2 * WRITES_A_BATCH + 3
    command = [sys.executable, "-c", KILLED, str(writes), SPEC.model_dump_json(), *map(str, (tiny_model, tiny_tokens, folder))]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    return folder


@pytest.fixture
def left_over(killed, tmp_path):
    """A copy of it, to go on from."""
    return Path(shutil.copytree(killed, tmp_path / "shard0"))


def test_killed_and_run_again_gives_the_same_bytes(tiny_model, tiny_tokens, whole, forwards, left_over):
    assert [path.name for path in left_over.iterdir()] == [PARTIAL]
    assert read_json(left_over / PARTIAL / "progress.json")["rows"] == 2 * 2 * 16
    extract(SPEC, tiny_model, tiny_tokens, left_over)
    assert contents(left_over) == whole
    assert len(forwards) == 3


def test_a_partial_shard_of_another_spec_is_not_gone_on_with(tiny_model, tiny_tokens, tmp_path, forwards, left_over):
    other = SPEC.model_copy(update={"first": 4})
    extract(other, tiny_model, tiny_tokens, left_over)
    assert len(forwards) == 5
    extract(other, tiny_model, tiny_tokens, tmp_path / "fresh")
    assert contents(left_over) == contents(tmp_path / "fresh")


def test_a_partial_shard_of_another_model_is_not_gone_on_with(tiny_model, tiny_tokens, tmp_path, forwards, left_over):
    other = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    manifest = read_json(other / "manifest.json")
    write_json(other / "manifest.json", {**manifest, "source": "elsewhere"})
    extract(SPEC, other, tiny_tokens, left_over)
    assert len(forwards) == 5


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink])
def test_a_damaged_partial_shard_is_not_gone_on_with(tiny_model, tiny_tokens, whole, forwards, left_over, damage):
    damage(left_over / PARTIAL / "layers.1.mlp.safetensors")
    extract(SPEC, tiny_model, tiny_tokens, left_over)
    assert contents(left_over) == whole
    assert len(forwards) == 5


class FullDisk:
    """A file on a disk that takes `left` more bytes."""

    def __init__(self, file, left):
        self.file, self.left = file, left

    def write(self, data):
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.left])
        self.left -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_disk_full_leaves_no_file_and_the_rerun_goes_on(tiny_model, tiny_tokens, tmp_path, whole, forwards, monkeypatch):
    class Writer(ShardWriter):
        def __enter__(self):
            super().__enter__()
            self._files["layers.1.mlp"] = FullDisk(self._files["layers.1.mlp"], 3 * 2 * 2 * 16 * 32 * 2 + 100)
            return self

    output = tmp_path / "shard0"
    monkeypatch.setattr("bsc.activations.writer.FLUSH_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "ShardWriter", Writer)
        with pytest.raises(UserError, match="disk is full"):
            extract(SPEC, tiny_model, tiny_tokens, output)
    assert [path.name for path in output.iterdir()] == [PARTIAL]
    assert len(forwards) == 5  # the fourth batch was being written meanwhile
    extract(SPEC, tiny_model, tiny_tokens, output)
    assert contents(output) == whole
    assert len(forwards) == 5 + 2


def test_disk_found_full_at_the_flush(tiny_model, tiny_tokens, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("bsc.activations.writer.os.fsync", fsync)
    with pytest.raises(UserError, match="disk is full"):
        extract(SPEC, tiny_model, tiny_tokens, tmp_path / "shard0")


def test_last_shard_may_end_in_a_smaller_batch(tiny_model, tiny_tokens, tmp_path, whole):
    extract(SPEC.model_copy(update={"first": 12, "contexts": 1}), tiny_model, tiny_tokens, tmp_path / "shard1")
    last = load_file(tmp_path / "shard1" / "layers.1.mlp.safetensors")["output"]
    (tmp_path / "whole").write_bytes(whole["layers.1.mlp.safetensors"])
    torch.testing.assert_close(last.float(), load_file(tmp_path / "whole")["output"][-16:].float(), rtol=2**-7, atol=1e-5)


def test_more_contexts_than_there_are(tiny_model, tiny_tokens, tmp_path):
    with pytest.raises(UserError, match="contexts 20 to 29 are asked for and the split has 24"):
        extract(SPEC.model_copy(update={"first": 20}), tiny_model, tiny_tokens, tmp_path)
