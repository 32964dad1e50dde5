"""What docs/ says about results holds for those of a finished run: the code runs, and the map has every file."""

import re
import subprocess
import sys

import pandas as pd
import pytest
from checkouts import ROOT, Checkout

from bsc.paths import CODER

pytestmark = pytest.mark.slow

DEMO = "layers.9.mlp/skip-transcoder-binary-topk-k32/seed1"
SMOKE = "layers.0.mlp/skip-transcoder-topk-k16/seed1"


def test_looking_at_latents(finished: Checkout) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "latents.md").read_text(), re.MULTILINE | re.DOTALL)
    code = "".join(blocks)
    assert DEMO in code
    assert 'Path("results")' in code
    code = code.replace(DEMO, SMOKE).replace('Path("results")', 'Path("results/smoke")')
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=finished.folder, env=finished.environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert re.search(r"^\d+\.\d\d (test|explanation|neither): .*<<.+>>", ran.stdout, re.MULTILINE)
    assert re.search(r"^\d+ firings in \d+ contexts", ran.stdout, re.MULTILINE)


def test_every_file_of_a_run_is_on_the_map_of_the_results_with_its_columns(finished: Checkout) -> None:
    rows = re.findall(r"^\| `(\w+/[^`]+)` \| ([^|]+\|[^|]+) \|$", (ROOT / "docs" / "results.md").read_text(), re.MULTILINE)
    described = [(expression(path), set(re.findall(r"`(\w+)`", text))) for path, text in rows]
    results = finished.folder / "results" / "smoke"
    for file in sorted(path for path in results.rglob("*") if path.is_file() and path.name != "manifest.json"):
        name = file.relative_to(results).as_posix()
        name = re.sub(r"^(figures/[\w-]+)\.(png|csv)$|^(tables/\w+)\.tex$", lambda match: twin(*match.groups()), name)
        columns = next((names for pattern, names in described if pattern.fullmatch(name)), None)
        assert columns is not None, f"{name} is not on the map"
        if file.suffix == ".parquet":
            there = {re.sub("_(low|high)$", "", column) for column in pd.read_parquet(file).columns}
            assert there <= columns, f"{name}: {there - columns}"


def twin(figure: str | None, ending: str | None, table: str | None) -> str:
    """What the map has in the place of a file that it names in words."""
    return f"{figure}.pdf" if ending else f"{table}.csv"


def expression(path: str) -> re.Pattern[str]:
    """Which files a path of the map stands for."""
    whole = re.escape(path.replace("CODER", CODER))
    for found, pattern in ((r"\*\*", ".+"), (r"\*", "[^/]+")):
        whole = whole.replace(found, pattern)
    return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", whole))
