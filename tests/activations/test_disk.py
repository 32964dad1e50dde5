import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bsc.activations import disk
from bsc.activations.disk import check_disk, describe_disk, estimate
from bsc.config import Config
from bsc.errors import UserError

SPLITS = {"train": 6400, "evaluation": 640, "interpretation": 3200}


def config(**changes):
    model = {"source": "folder:x", "width": 64, "layers": 4, "hookpoints": ["layers.0.mlp", "layers.2.mlp"]}
    return Config.model_validate(
        {
            "models": {"tiny": model},
            "corpus": {
                "source": "files",
                "files": ["x.txt"],
                "splits": {name: {"tokens": n, "context": 32} for name, n in SPLITS.items()},
            },
            "training": {"tokens": 10_000, "batch_tokens": 100, "expansion": 4},
            "coders": [{"architectures": ["sae"], "binarisers": ["topk", "gumbel"], "k": [8], "seeds": [1, 2]}],
            **changes,
        }
    )


def test_bytes_by_kind():
    coder = 4 * (2 * 64 * 256 + 2 * 256 + 64 + 64 * 64)
    assert estimate(config()) == {
        "models": 4 * (12 * 64 * 64 * 4 + 50_000 * 64),
        "tokens": 8 * (6400 + 640 + 3200),
        "activations (train)": 2 * (2 * 6400 * 64 * 2),
        "activations (interpretation)": 2 * (2 * 3200 * 64 * 2),
        "coders": 8 * coder,
        "checkpoints": 6 * coder,
        "latents": 8 * 3200 * 8 * 12,
    }


def test_controls_add_latent_caches():
    more = config(autointerp={"controls": ["random", "binarised"]})
    random, binarised = 4, 2  # of the first seed only; binarised of the continuous ones only
    assert estimate(more)["latents"] == (8 + random + binarised) * 3200 * 8 * 12


def test_with_cohorts_every_coders_last_checkpoint_waits():
    """Besides the two of each member of the cohort that runs."""
    alone, cohort = (estimate(config(cohort=members)) for members in (1, 3))
    coders, members = 8, 2  # of a hookpoint and seed
    one = alone["checkpoints"] // 2
    assert cohort["checkpoints"] == (coders + 2 * members) * one


def test_more_than_is_allowed(tmp_path):
    with pytest.raises(UserError, match=r"`disk_gb` allows 0\.01 GB"):
        check_disk(config(disk_gb=0.01), tmp_path)


def test_more_than_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    with pytest.raises(UserError, match=r"disk has 10\.0 MB left") as caught:
        check_disk(config(), tmp_path / "not" / "there")
    assert str(tmp_path) in str(caught.value)


def test_what_is_written_already_needs_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    (tmp_path / "activations").mkdir()
    (tmp_path / "activations" / "shard").write_bytes(bytes(14_000_000))
    assert "10.0 MB left" in check_disk(config(), tmp_path)


def test_the_line_names_every_kind():
    line = describe_disk(config())
    assert all(kind in line for kind in estimate(config()))
    assert "50 GB" in line


def test_no_torch():
    code = f"import sys, {disk.__name__}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
