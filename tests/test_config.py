"""The config: every fault is found before a job runs, and the error names file, line, key and a way out."""

import os
from datetime import date
from pathlib import Path

import pytest
import yaml

from bsc.coders.binarisers.registry import REGISTRY, Entry
from bsc.config import load
from bsc.errors import UserError

CONFIGS = Path(__file__).parent.parent / "config"


def write(folder: Path, **changes: object) -> Path:
    """smoke.yaml with dotted keys changed (None removes one)."""
    raw = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        target = raw
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        if value is None:
            del target[last]
        else:
            target[last] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


SERVED = {"model": "m", "endpoint": "https://host/v1"}
HUB = {"corpus__source": "hub", "corpus__dataset": "some/set", "corpus__packages": None}
FILES = {
    "corpus__source": "files",
    "corpus__files": ["a.jsonl"],
    "corpus__packages": None,
    "corpus__ids_column": "input_ids",
}
"""Changes that make the text local files of token ids."""


@pytest.mark.parametrize("name", ["config", "smoke", "paper", "frequency", "demo-full"])
def test_shipped_configs_are_whole(name: str) -> None:
    assert load([CONFIGS / f"{name}.yaml"]).coder_ids


BIAS = {"control": "bias", "strength": 0.1}
MODEL = "models__smollm2-135m-instruct"

PROBED = {"source": "documentation", "packages": ["snakemake", "submitit"]}

TUNED = {"tokens": 2048, "warmup_steps": 1}
"""Of the smoke config, whose contexts have 64 tokens: four steps."""
FINETUNED = {"binarisers": {"topk.e2e": {"finetune": TUNED}}}

FAULTS = [
    ({"autointerp__minimum_windows": 5000}, "autointerp.minimum_windows", "no latent fires in 5000 windows"),
    ({"training__tokens": "4e5"}, "training.tokens", "YAML reads `4e5` as text"),
    ({"autointerp__controls": ["shufled"]}, "autointerp.controls.0", "did you mean `shuffled`?"),
    ({"coders__0__seeds": [1, 1]}, "coders.0", "`seeds` names 1 twice"),
    ({"binarisers": {"nbit": {"bits": 17}}}, "binarisers.nbit.bits", "less than or equal to 16"),
    (
        {"binarisers": {"topk": {"learning_rate": {"skip_transcoder": 0.1}}}},
        "binarisers.topk.learning_rate.skip_transcoder",
        "did you mean `skip-transcoder`?",
    ),
    (
        {"llms": {"own": {"transformers": "nowhere"}}, "autointerp__llms": ["own"]},
        "llms.own.transformers",
        "`nowhere` is neither under `models` nor a folder",
    ),
    ({f"{MODEL}__hookpoints": ["layer.0.mlp"]}, f"{MODEL}.hookpoints.0".replace("__", "."), "write layers.N.mlp"),
    ({"ablation": {"sequences": 9}}, "ablation.sequences", "evaluation split has 8 contexts"),
    ({"ablation": {"sequences": 8}, "autointerp__scorers": ["detection"]}, "ablation.scorer", "not among `autointerp.scorers`"),
    ({"ablation": {"sequences": 8, "bins": 1}}, "ablation.bins", "2"),
    ({"autointerp__scorers": ["embedding"]}, "autointerp.scorers", "`embedding` has none"),
    ({"autointerp__scorers": []}, "autointerp.scorers", "`detection` or `fuzzing`"),
    ({"autointerp__scorers": ["fuzzing", "embedding"]}, "autointerp.scorers", "name one in `autointerp.embedding`"),
    ({"autointerp__negatives": "nearest"}, "autointerp.negatives", "name one in `autointerp.embedding`"),
    ({"autointerp__negatives": "hard"}, "autointerp.negatives", "'cooccurring'"),
    ({"autointerp__embedding": {"source": "pypi:a==1"}}, "autointerp.embedding", "`sha256` of its wheel"),
    ({"autointerp__embedding": {"source": "pypi:a", "sha256": "0" * 64}}, "autointerp.embedding", "a pinned PACKAGE==VERSION"),
    ({"autointerp__embedding": {"source": "hub:a/b"}}, "autointerp.embedding", "`revision`"),
    ({"autointerp__embedding": {"source": "folder:no"}}, "autointerp.embedding.source", "no modules.json in it"),
    ({"autointerp__embedding": {"source": "b/c"}}, "autointerp.embedding", "hub:OWNER/NAME"),
    ({"probing": PROBED | {"packages": ["snakemake"]}}, "probing", "two packages or more"),
    ({"probing": PROBED | {"packages": ["snakemake", "no-such"]}}, "probing.packages", "`no-such` is not installed"),
    ({"probing": PROBED | {"counts": [5, 1]}}, "probing", "must rise"),
    ({"probing": PROBED | {"counts": [577]}}, "probing.counts", "577 is more than"),
    ({"probing": {"source": "files", "files": ["nowhere.jsonl"]}}, "probing.files", "there is no file"),
    (
        {"runtime": {"binarisers": ["topkk"]}},
        "runtime.binarisers",
        "where steps are timed (did you mean `topk`",
    ),
    ({"runtime": {"k": [577]}}, "runtime.k", "577 is more than the 576 latents"),
    ({"runtime": {"binarisers": ["binary-topk"]}}, "runtime.binarisers", "`binary-topk` is not trained as skip-transcoder"),
    ({"runtime": {"k": []}}, "runtime.k", "at least 1 item"),
    ({"probing": PROBED | {"source": "hub"}}, "probing", "`packages` goes with `source: documentation`"),
    ({"training__batch_token": 64}, "training.batch_token", "did you mean `batch_tokens`"),
    ({"corpus__splits__trian": 64}, "corpus.splits.trian", "did you mean `train`"),
    ({"coders__0__seed": [1]}, "coders.0.seed", "did you mean `seeds`"),
    ({f"{MODEL}__hookpoint": []}, "models.smollm2-135m-instruct.hookpoint", "did you mean `hookpoints`"),
    ({"binarisers": {"gumbel": {"tua": 1.0}}}, "binarisers.gumbel.tua", "did you mean `tau`"),
    ({"binarisers": {"gumble": {}}}, "binarisers", "did you mean `gumbel`"),
    ({"binarisers": {"binary-topk": {"ste": "sigmoidal"}}}, "binarisers.binary-topk.ste", "'sigmoid'"),
    ({"training__tokens": "many"}, "training.tokens", "valid integer"),
    ({"training__tokens": None}, "training.tokens", "is needed"),
    ({"coders__0__k": [577]}, "coders.0.k", "more than the 576 latents"),
    ({"coders__0__k": [7]}, "coders.0.k", "not divisible by k = 7"),
    ({"coders__0__binarisers": ["topk", "binary-top-k"]}, "coders.0.binarisers", "did you mean `binary-topk`"),
    ({"coders__0__models": ["smollm2-135m"]}, "coders.0.models", "did you mean `smollm2-135m-instruct`"),
    ({"coders__1__hookpoints": ["layers.7.mlp"]}, "coders.1.hookpoints", "add it there"),
    ({"coders__1__architectures": ["skip-transcoder"], "coders__1__binarisers": ["topk"]}, "coders.1", "asked for in block 0"),
    ({f"{MODEL}__hookpoints": ["layers.30.mlp"]}, "models.smollm2-135m-instruct", "layers 0 to 29"),
    ({f"{MODEL}__hookpoints": ["layers.0.mlp", "layers.0.mlp"]}, "models.smollm2-135m-instruct", "twice"),
    ({f"{MODEL}__source": "smollm2"}, "models.smollm2-135m-instruct", "hub:OWNER/NAME"),
    ({f"{MODEL}__sha256": None}, "models.smollm2-135m-instruct", "sha256"),
    ({"cohort": 2, "gpus": 4}, "gpus", "a job of 2 coders (`cohort`) has none for some of 4 GPUs"),
    ({"gpus": 3, "parallel": "batches"}, "gpus", "has no 3 equal parts"),
    ({"gpus": 2, "parallel": "batches", "tune": {"rates": [1e-3, 1e-2], "tokens": 4096}}, "gpus", "sweep first"),
    ({"models": {"../escape": {}}}, "models", ""),
    ({"corpus__source": "files"}, "corpus", "`packages` goes with `source: documentation`"),
    ({"corpus__packages": None}, "corpus", "`packages` goes with `source: documentation`"),
    ({"corpus__ids_column": "input_ids"}, "corpus", "documentation has no token ids"),
    ({**FILES, "corpus__text_column": "body"}, "corpus", "`text_column` and `ids_column` are both there"),
    ({**FILES, "corpus__files": ["a.jsonl", "b.txt"]}, "corpus", "`b.txt` has none"),
    ({"corpus__splits__train__tokens": 32}, "corpus.splits.train", "fewer than one context"),
    ({"corpus__splits__train__tokens": 448}, "corpus.splits.train", "fewer than one batch"),
    ({"corpus__splits__evaluation__tokens": 64}, "corpus.splits.evaluation", "evaluation.sequences"),
    ({"corpus__splits__interpretation__tokens": 512}, "corpus.splits.interpretation", "windows"),
    ({"autointerp__window": 31}, "autointerp.window", "does not divide"),
    ({"activations__mode": "streamed"}, "activations.mode", "'stream'"),
    ({"cohort": 0}, "cohort", "greater than or equal to 1"),
    ({"results": ""}, "results", "is no folder"),
    ({"results": "results/{model}"}, "results", "is no folder"),
    ({**HUB, "corpus__hub_split": "train[:1%]"}, "corpus", "cannot be streamed: set `streaming: false`"),
    ({"llms": {"one": {"model": "m", "endpoint": "https://host/v1?api-key=secret"}}}, "llms.one", "ends with its path"),
    (
        {"llms": {"one": {**SERVED, "parameters": {"model": "n"}}}},
        "llms.one",
        "`parameters` cannot set `model`",
    ),
    (
        {"llms": {"one": {"transformers": "folder", "budget": 1.0, "prices": {"input": 1, "output": 1}}}},
        "llms.one",
        "are for servers",
    ),
    ({"llms": {"one": {"transformers": "folder", "temperature": None}}}, "llms.one", "needs one"),
    ({"llms": {"one": {**SERVED, "parameters": {"day": date(2026, 1, 1)}}}}, "llms.one", "no JSON"),
    ({"llms": {"one": {**SERVED, "parameters": {"top_p": float("nan")}}}}, "llms.one", "no JSON"),
    ({"figures": {"palette": ["#0072B2", "mauve"]}}, "figures.palette", "`mauve` is no colour: write #RRGGBB"),
    ({"activations__shard_tokens": 100}, "activations.shard_tokens", "no multiple"),
    ({"training__warmup_steps": 1000}, "training.warmup_steps", "no more than the warm-up"),
    ({"tune": {"rates": [0.1], "tokens": 10_240}}, "tune.rates", "at least 2"),
    ({"tune": {"rates": [0.1, 0.2], "tokens": 10_240}, "cohort": 2}, "cohort", "sweep first"),
    ({"tune": {"rates": [0.1, 0.10], "tokens": 10_240}}, "tune.rates", "twice"),
    ({"tune": {"rates": [0.1, 0.2], "tokens": 1_024}}, "tune.tokens", "no more than the warm-up"),
    ({"training__multi_topk": True}, "training.multi_topk", "continuous"),
    (
        {"training__multi_topk": True, "coders__0__binarisers": ["topk", "nbit"], "coders__1__binarisers": ["topk"]},
        "training.multi_topk",
        "`nbit`",
    ),
    ({"binarisers": {"hybrid": {"continuous": 1.0}}}, "binarisers.hybrid.continuous", "less than 1"),
    ({"coders__0__binarisers": ["hybrid"], "coders__0__k": [1]}, "coders.0.k", "needs 2 at least"),
    ({"coders__0__binarisers": ["binary-topk.capped"]}, "coders.0.binarisers", "is not under `binarisers`"),
    ({"binarisers": {"topk.Capped-k16": {}}}, "binarisers", "no name of a variant"),
    ({"binarisers": {"gumble.capped": {}}}, "binarisers", "did you mean `gumbel`"),
    ({"binarisers": {"gumbel.held": {"frequency": BIAS}}}, "binarisers.gumbel.held.frequency", "use `control: penalty`"),
    ({"binarisers": {"topk": {"frequency": {**BIAS, "cap": 1.5}}}}, "binarisers.topk.frequency.cap", "less than or equal to 1"),
    ({"binarisers": {"topk": {"frequency": {"control": "bias"}}}}, "binarisers.topk.frequency.strength", "is needed"),
    ({"binarisers": {"topk": {"frequency": {**BIAS, "power": 1}}}}, "binarisers.topk.frequency.power", "known here: cap"),
    ({"binarisers": {"topk": {"finetune": TUNED}}}, "binarisers.topk.finetune", "put it under `topk.finetuned`"),
    ({"binarisers": {"topk.e2e": {"finetune": {"warmup_steps": 2}}}}, "binarisers.topk.e2e.finetune.tokens", "is needed"),
    ({"binarisers": {"topk.e2e": {"finetune": {**TUNED, "warmup": 2}}}}, "binarisers.topk.e2e.finetune.warmup", "warmup_steps"),
    (
        {"binarisers": {"topk.e2e": {"finetune": {**TUNED, "warmup_steps": 4}}}},
        "binarisers.topk.e2e.finetune.warmup_steps",
        "has 4 steps in all",
    ),
    (
        {"binarisers": {"gumbel.e2e": {"finetune": TUNED, "tau": 1.0}}},
        "binarisers.gumbel.e2e.tau",
        "goes on with the settings of `gumbel`",
    ),
    (
        {**FINETUNED, "coders__1__binarisers": ["topk.e2e"]},
        "coders.1.binarisers",
        "sae-topk-k16/seed1`, which is not in the grid: add it",
    ),
    (
        {"binarisers": {"topk.e2e": {"finetune": {**TUNED, "others": True}}}, "coders__1__binarisers": ["topk", "topk.e2e"]},
        "coders.1.binarisers",
        "is finetuned with `smollm2-135m-instruct/layers.1.mlp/sae-topk-k16/seed1`, which is not in the grid",
    ),
    (
        {
            "binarisers": {"topk.e2e": {"finetune": {**TUNED, "others": True}}},
            f"{MODEL}__hookpoints": ["layers.0.mlp"],
            "coders__1__binarisers": ["topk", "topk.e2e"],
        },
        "coders.1.binarisers",
        "no other hookpoint: set it to false",
    ),
    ({"autointerp__llms": ["qwen"]}, "autointerp.llms", "not under `llms`"),
    ({"autointerp__judge": "qwen"}, "autointerp.judge", "nothing to judge"),
    ({"figures": {"explainer": "qwen"}}, "figures.explainer", "explains nothing here; there are ngram"),
    ({"llms": {"ngram": {"model": "m", "endpoint": "http://h/v1"}}}, "llms", "is no name"),
    ({"llms": {"../a": {"model": "m", "endpoint": "http://h/v1"}}}, "llms", "is no name"),
    ({"llms": {"a": {"model": "m"}}}, "llms.a", "exactly one of"),
    ({"llms": {"a": {"endpoint": "http://h/v1"}}}, "llms.a", "needs `model`"),
    ({"llms": {"a": {"model": "m", "endpoint": "https://me:secret@h/v1"}}}, "llms.a", "no password"),
    ({"llms": {"a": {"model": "m", "endpoint": "h:80"}}}, "llms.a.endpoint", "with its scheme"),
    ({"llms": {"a": {"model": "m", "endpoint": "http://h/v1", "key": "sk-123"}}}, "llms.a.key", "never the key itself"),
    ({"llms": {"a": {"model": "m", "endpoint": "http://h/v1", "budget": 2}}}, "llms.a", "needs `prices`"),
    ({"llms": {"a": {"model": "m", "serve": {"command": "vllm serve"}}}}, "llms.a.serve.command", "needs `{port}`"),
    ({"llms": {"a": {"model": "m", "endpont": "http://h/v1"}}}, "llms.a.endpont", "did you mean `endpoint`"),
]


@pytest.mark.parametrize(
    ("changes", "key", "message"), FAULTS, ids=lambda value: "-".join(value) if isinstance(value, dict) else None
)
def test_faults_name_file_key_and_remedy(tmp_path: Path, changes: dict[str, object], key: str, message: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load([path])
    text = str(caught.value)
    assert f"`{key}" in text
    assert message in text
    assert f"{path}:" in text
    assert "to do:" in text


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, autointerp__window=31, training__multi_topk=True)
    with pytest.raises(UserError, match="2 faults"):
        load([path])


def test_line_is_that_of_the_key(tmp_path: Path) -> None:
    path = write(tmp_path, autointerp__window=31)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if text.strip() == "window: 31")
    with pytest.raises(UserError, match=f"config.yaml:{line}: `autointerp.window`"):
        load([path])


def test_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((CONFIGS / "smoke.yaml").read_text() + "\ntraining:\n  tokens: 1\n")
    with pytest.raises(UserError, match=r"`training` stands twice, on lines \d+ and \d+"):
        load([path])


@pytest.mark.parametrize("name", ["../x", ".hidden", "a/b", "a b", "-x", "a..b", "{model}"])
def test_names_that_are_no_safe_paths_are_refused(tmp_path: Path, name: str) -> None:
    raw = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    raw["models"] = {name: raw["models"]["smollm2-135m-instruct"]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match="no safe path"):
        load([path])


def test_names_that_differ_by_case_only_are_refused(tmp_path: Path) -> None:
    raw = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    model = raw["models"]["smollm2-135m-instruct"]
    raw["models"] = {"a": model, "A": model}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match="same folder"):
        load([path])


def test_files_that_cannot_hold_the_tokens_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a few words")
    path = write(tmp_path, corpus__source="files", corpus__files=["short.txt"], corpus__packages=None)
    with pytest.raises(UserError, match="the files hold 11 bytes"):
        load([path], root=tmp_path)
    path = write(tmp_path, corpus__source="files", corpus__files=["missing.txt"], corpus__packages=None)
    with pytest.raises(UserError, match=r"no file matches `missing.txt`"):
        load([path], root=tmp_path)


@pytest.mark.parametrize("block", ["ablation", "probing", "runtime", "tune"])
def test_a_block_with_nothing_under_it_is_not_taken_for_one_that_is_not_there(tmp_path: Path, block: str) -> None:
    path = write(tmp_path)
    path.write_text(f"{path.read_text()}{block}:\n")
    with pytest.raises(UserError, match=f"write `{block}: {{}}` for its defaults, or leave it out"):
        load([path])


def test_a_model_folder_of_other_sizes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"hidden_size": 7, "num_hidden_layers": 30}')
    local = {"source": "folder:model", "width": 576, "layers": 30, "hookpoints": ["layers.0.mlp"]}
    with pytest.raises(UserError) as error:
        load([write(tmp_path, models={"local": local})], root=tmp_path)
    assert "`models.local.width`: the model at" in str(error.value)
    assert "has 7 (`hidden_size` in its config.json)" in str(error.value)
    assert "models.local.layers" not in str(error.value)


def test_the_home_folder_may_be_written_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("config.json", "modules.json"):
        (tmp_path / name).write_text("{}")
    local = {"source": "folder:~/.", "width": 576, "layers": 30, "hookpoints": ["layers.0.mlp"]}
    path = write(tmp_path, models={"local": local}, autointerp__embedding={"source": "folder:~"})
    config = load([path], root=tmp_path / "elsewhere")
    assert config.models["local"].source == f"folder:{tmp_path}/."
    assert config.autointerp.embedding.source == f"folder:{tmp_path}"


@pytest.mark.parametrize(
    ("content", "message"), [(b"- a\n", "not a mapping of keys"), (b"\xff\xfe", "not a text file"), (None, "not a text file")]
)
def test_files_that_are_no_config_are_refused_by_name(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "config.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load([path])
    assert error.value.where == str(path)


def test_a_file_is_read_once_so_that_it_may_be_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"evaluation: {sequences: 2}")
    os.close(writing)
    assert load([write(tmp_path), Path(f"/dev/fd/{reading}")]).evaluation.sequences == 2
    os.close(reading)


def test_files_are_found_by_absolute_patterns_too(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/00.parquet").write_bytes(b"PAR1")
    for pattern in ("shards/*.parquet", f"{tmp_path}/*/*.parquet", f"{tmp_path}/shards/00.parquet"):
        load([write(tmp_path, **{**FILES, "corpus__files": [pattern]})], root=tmp_path)
    path = write(tmp_path, **{**FILES, "corpus__files": [f"{tmp_path}/*.parquet"]})
    with pytest.raises(UserError, match="no file matches"):
        load([path], root=tmp_path)


def test_merged_values_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    merged = yaml.safe_load(path.read_text())
    merged["training"]["tokens"] = 20480
    assert load([path], merged).training.tokens == 20480
    merged["training"]["tokens"] = -1
    with pytest.raises(UserError, match="greater than 0"):
        load([path], merged)


def test_a_servers_command_may_hold_braces_of_its_own(tmp_path: Path) -> None:
    command = """serve {model} --port {port} --config '{"temperature": 0}' '{{ messages }}'"""
    config = load([write(tmp_path, llms={"a": {"model": "m", "serve": {"command": command}}})])
    assert config.llms["a"].serve.command == command


def test_learning_rate_may_differ_by_architecture(tmp_path: Path) -> None:
    path = write(tmp_path, binarisers={"topk": {"learning_rate": {"sae": 0.1}}})
    assert load([path]).settings("topk") == {"learning_rate": {"sae": 0.1}}


def test_a_finetuned_variant_has_its_binarisers_settings(tmp_path: Path) -> None:
    rate = {"topk": {"learning_rate": 0.1}}
    both = {"binarisers": {**rate, **FINETUNED["binarisers"]}, "tune": {"rates": [0.1, 0.2], "tokens": 10_240}}
    config = load([write(tmp_path, **both, coders__1__binarisers=["topk", "topk.e2e"])])
    assert list(config.finetunes) == ["topk.e2e"]
    assert config.finetunes["topk.e2e"].learning_rate == 1e-3
    assert config.settings("topk") == {"learning_rate": 0.1}
    assert "finetune" in config.settings("topk.e2e")
    assert not any(config.tuned(coder) for coder in config.coder_ids if coder.binariser == "topk.e2e")


def test_a_variant_has_its_binarisers_settings_but_for_its_own(tmp_path: Path) -> None:
    binarisers = {
        "binary-topk": {"learning_rate": 0.1, "temperature": 3.0},
        "binary-topk.held_back": {"temperature": 1.0, "frequency": BIAS},
        "binary-topk.free": None,
    }
    config = load([write(tmp_path, binarisers=binarisers, coders__1__binarisers=list(binarisers))])
    plain, held, free = (config.settings(name) for name in binarisers)
    assert plain == free == {"learning_rate": 0.1, "ste": "sigmoid", "temperature": 3.0, "threshold": 0.004}
    assert held == {**plain, "temperature": 1.0, "frequency": {"cap": 0.1, "memory_tokens": 65_536, **BIAS}}
    assert [coder.binariser for coder in config.coder_ids if coder.architecture == "sae"] == sorted(binarisers)


def test_a_binariser_that_is_registered_wrongly_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "mine", Entry("mine:Mine", "Mine"))
    with pytest.raises(UserError, match=r"`mine` is registered wrongly .* there is no bsc/coders/binarisers/mine.py"):
        load([write(tmp_path, coders__0__binarisers=["mine"])])


def test_an_empty_block_is_a_fault_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((CONFIGS / "smoke.yaml").read_text() + "\nablation:\n")
    with pytest.raises(UserError, match=r"config.yaml:\d+: `ablation`: nothing is under it: write `ablation: {}`"):
        load([path])
