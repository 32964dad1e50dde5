"""What the documentation quotes of a command's output, of rules and of checks is what they say."""

import re
from pathlib import Path

import pytest
import yaml

from bsc import paths
from bsc.activations.disk import describe_disk
from bsc.autointerp.estimate import report as asked
from bsc.config import load
from bsc.estimate.jobs import Jobs
from bsc.estimate.machines import MACHINES
from bsc.estimate.report import report
from bsc.figures import claims, results

ROOT = Path(__file__).parent.parent
DEMO, PAPER, SMALL = (ROOT / "config" / f"{name}.yaml" for name in ("config", "paper", "small"))


def page(name: str) -> str:
    """The text of a page of docs/."""
    return (ROOT / "docs" / name).read_text()


def blocks(name: str, opening: str) -> list[str]:
    """The code blocks of a page of docs/ whose text begins so."""
    found = re.findall(r"^```\w*\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)
    return [block for block in found if block.startswith(opening)]


@pytest.mark.parametrize(("place", "files"), [(0, [PAPER]), (1, [PAPER, SMALL])])
def test_estimates_of_the_papers_grid(place: int, files: list[Path]) -> None:
    said = report(files, MACHINES["h100"])
    _, table, totals = said.split("\n\n")
    quoted = "\n\n".join([table, "\n".join(totals.splitlines()[:2])]) + "\n"
    assert blocks("cluster.md", "rule ")[place] == quoted


@pytest.mark.parametrize(
    ("name", "mode", "cohort"),
    [
        ("stored, one by one", "store", 1),
        ("stored, cohorts of 9", "store", 9),
        ("streamed, one by one", "stream", 1),
        ("streamed, cohorts of 4", "stream", 4),
        ("streamed, cohorts of 9", "stream", 9),
        ("streamed, cohorts of 36", "stream", 36),
    ],
)
def test_ways_to_train_the_papers_grid(name: str, mode: str, cohort: int, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump({"activations": {"mode": mode}, "cohort": cohort, "disk_gb": 1_000_000}))
    config = load([PAPER, changed])
    jobs = Jobs(config, MACHINES["h100"])
    rows = {row.rule: row for row in jobs.rows()}
    training = rows["cohort" if config.in_cohorts else "train"]
    hours = [seconds / 3600 for seconds in (training.seconds, training.longest, jobs.wall_seconds(64))]
    (gigabytes,) = re.findall(r"about ([\d,.]+) GB", describe_disk(config))
    disk = float(gigabytes.replace(",", "")) / 1000
    cells = (
        name,
        f"{hours[0]:,.0f}",
        f"{training.jobs}",
        f"{hours[1]:.0f} h",
        f"{hours[2]:.0f} h",
        f"{max(row.device for row in rows.values()) / 1e9:.0f} GB",
        f"{disk:.{1 if disk > 10 else 2}f} TB",
    )
    assert f"| {' | '.join(cells)} |" in page("scale.md")


def test_rules_that_ask_for_a_day() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    rules = re.split(r"^ *(?=(?:use )?rule\b)", text, flags=re.MULTILINE)[1:]
    names = {match[1] for rule in rules if "grown(24 * 60)" in rule and (match := re.match(r"rule (\w+):", rule))}
    names |= {match[2] for match in re.finditer(r"use rule (\w+) as (\w+) with", text) if match[1] in names}
    (said,) = re.findall(r"It is 24 hours for (.*?), and 4 hours", " ".join(page("cluster.md").split()))
    assert set(re.findall(r"`(\w+)`", said)) == names


def test_the_sweep_of_a_config_with_cohorts(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(# sweep.yaml\n.*?)```", (ROOT / "config" / "README.md").read_text(), re.DOTALL)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(text)
    config = load([PAPER, sweep])
    assert {coder.binariser for coder in config.coder_ids if not config.tuned(coder)} == {"gumbel"}


def test_what_the_readmes_language_model_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    (text,) = re.findall(r"```yaml\n(llms:.*?)```", readme, re.DOTALL)
    named, all_latents = tmp_path / "named.yaml", tmp_path / "all.yaml"
    named.write_text(text)
    all_latents.write_text(text.replace("latents: 200", "latents: null"))
    (demo,) = re.findall(r"llama: ([\d,]+) prompts.* still ([\d,]+) tokens in and ([\d,]+) out, ([\d.]+)", asked([DEMO, named]))
    prompts, tokens_in, tokens_out, money = (float(number.replace(",", "")) for number in demo)
    said = f"{prompts:,.0f} prompts at the most: {tokens_in / 1e6:.0f} million tokens in, {tokens_out / 1e6:.0f} million out"
    assert f"{said}, and {money:.0f} in money" in " ".join(readme.split())
    assert "llama: 10,368,000 prompts" in asked([PAPER, named])
    assert "llama: 1,911,029,760 prompts" in asked([PAPER, all_latents])


def test_every_path_of_the_results_is_on_their_map() -> None:
    text = page("results.md")
    patterns = {
        name: value.replace(paths.CODER, "CODER")
        for name, value in vars(paths).items()
        if name.isupper() and isinstance(value, str) and (re.search(r"[/{]", value) or name in ("ANSWERS", "EMBEDDER"))
    }
    patterns.pop("CODER")
    assert len(patterns) > 20
    assert [name for name, pattern in patterns.items() if f"`{pattern}" not in text] == []
    for pattern in (paths.EXPLANATIONS, paths.SCORES):
        assert paths.interpreted(pattern, "{llm}").replace(paths.CODER, "CODER") in text


def test_the_rules_on_the_map_of_the_results_are_rules() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    named = {*re.findall(r"rule (\w+):", text), *re.findall(r"use rule \w+ as (\w+)", text), "activations_", "figure_"}
    rows = re.findall(r"^\| `[^|]+` \| (`[^|]+) \| ", page("results.md").split("**`tables/coders.csv`**")[0], re.MULTILINE)
    said = {rule.partition("{")[0] for row in rows for rule in re.findall(r"`([\w{}]+)`", row)}
    assert len(said) > 20
    assert said <= named


def test_the_columns_of_the_tables_are_on_the_map_of_the_results() -> None:
    said = set(re.findall(r"`(\w+)`", page("results.md")))
    coders = {"kind", "sequences", "documents", "tokens", "ce", "baseline_ce", "baseline_accuracy", "variance_left_out"}
    coders |= {*results.KEYS, *results.METRICS, *results.STATUSES}
    assert coders | {*claims.CELL, *claims.COLUMNS, *claims.CLAIMS.values()} <= said
