"""Fingerprints and digests: they change with what a stage computes, and with nothing else."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from bsc.coders.binarisers.registry import REGISTRY, Entry, Registry
from bsc.config import Config, load
from bsc.figures.registry import FIGURES
from bsc.figures.results import variants
from bsc.paths import CoderId
from bsc.spec import digest
from bsc.stages import FigureSpec, Plan, ReferencesSpec, Stage, coder_blocks, coders_of

ROOT = Path(__file__).parent.parent


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may edit."""
    shutil.copytree(ROOT / "bsc", tmp_path / "bsc", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "bsc"


def fingerprint(package: Path, *modules: str) -> str:
    """The fingerprint that a fresh process computes from a copy of the package."""
    code = "import sys; from bsc.spec import fingerprint; print(fingerprint(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, *modules]
    return subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True).stdout


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_comments_docstrings_and_layout_change_nothing(package: Path) -> None:
    before = fingerprint(package, "bsc.evaluation.bootstrap")
    path = package / "evaluation" / "bootstrap.py"
    path.write_text("# a comment\n\n\n" + path.read_text().replace('"""', '"""Changed. ', 1) + "\n# the end\n")
    assert fingerprint(package, "bsc.evaluation.bootstrap") == before


def test_code_changes_it_also_through_an_import(package: Path) -> None:
    before = fingerprint(package, "bsc.training.train")
    edit(package / "io.py", "indent=1", "indent=2")
    assert fingerprint(package, "bsc.training.train") != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("native.cpp", "LANES_PER_SELECTED = 8", "LANES_PER_SELECTED = 4"),
        ("screening.cpp", "MOST_AT_ONCE = 1024", "MOST_AT_ONCE = 512"),
        ("common.hpp", "AT_ONCE = 4", "AT_ONCE = 8"),
    ],
)
def test_the_compiled_kernels_are_part_of_it_without_their_comments(package: Path, file: str, old: str, new: str) -> None:
    before = fingerprint(package, "bsc.training.train")
    kernels = package / "coders" / "kernels" / file
    kernels.write_text("// another comment\n\n" + kernels.read_text())
    assert fingerprint(package, "bsc.training.train") == before
    edit(kernels, old, new)
    assert fingerprint(package, "bsc.training.train") != before


def test_one_binariser_is_no_part_of_another(package: Path) -> None:
    modules = ("bsc.training.train", "bsc.coders.binarisers.topk")
    before = fingerprint(package, *modules)
    gumbel = package / "coders" / "binarisers" / "gumbel.py"
    gumbel.write_text(gumbel.read_text() + "\nUNUSED = 1\n")
    registry = package / "coders" / "binarisers" / "registry.py"
    registry.write_text(registry.read_text() + "\nUNUSED = 1\n")
    assert fingerprint(package, *modules) == before
    assert fingerprint(package, "bsc.training.train", "bsc.coders.binarisers.gumbel") != before


def test_digest_tells_values_apart_and_not_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 1}) != digest({"a": 1.5})


@pytest.fixture
def smoke() -> Config:
    return load([ROOT / "config" / "smoke.yaml"])


def written(config: Config) -> dict[str, Any]:
    """What its file says: blocks that it lacks are not there."""
    return config.model_dump(exclude_unset=True)


def with_changes(config: Config, **changes: object) -> Plan:
    return Plan(config.model_copy(update=changes))


CODER = CoderId("smollm2-135m-instruct", "layers.0.mlp", "skip-transcoder", "gumbel", 16, 1)


def test_a_learning_rate_is_stale_only_for_its_binariser(smoke: Config) -> None:
    before, after = Plan(smoke), with_changes(smoke, binarisers={"topk": {"learning_rate": 0.5}})
    for coder in smoke.coder_ids:
        assert (before.coder(coder).digest != after.coder(coder).digest) == (coder.binariser == "topk")


def test_a_column_of_ids_is_in_the_spec_only_where_there_is_one(smoke: Config) -> None:
    name = next(iter(smoke.models))
    with_ids = with_changes(smoke, corpus=smoke.corpus.model_copy(update={"ids_column": "input_ids"}))
    assert "ids_column" not in Plan(smoke).tokens(name).json
    assert with_ids.tokens(name).digest != Plan(smoke).tokens(name).digest


def test_another_hookpoint_leaves_the_coders_of_the_first_fresh(smoke: Config) -> None:
    name, model = next(iter(smoke.models.items()))
    more = model.model_copy(update={"hookpoints": [*model.hookpoints, "layers.2.mlp"]})
    before, after = Plan(smoke), with_changes(smoke, models={name: more})
    assert before.coder(CODER).digest == after.coder(CODER).digest
    assert before.activations(name, "train", 0).digest != after.activations(name, "train", 0).digest


def test_what_the_text_is_reaches_the_scores(smoke: Config) -> None:
    before = Plan(smoke)
    after = with_changes(smoke, corpus=smoke.corpus.model_copy(update={"bos": True}))
    assert before.scores(CODER, "trained").digest != after.scores(CODER, "trained").digest


def test_style_is_in_figures_only(smoke: Config) -> None:
    before = Plan(smoke)
    after = with_changes(smoke, figures=smoke.figures.model_copy(update={"font_size": 9.0}))
    assert before.figure("fig1").digest != after.figure("fig1").digest
    assert before.figure("table1").digest == after.figure("table1").digest
    assert before.scores(CODER, "trained").digest == after.scores(CODER, "trained").digest


@pytest.mark.parametrize(
    ("figure", "entries"),
    [
        ("fig1", {"mine": Entry("topk:TopK", "Mine"), **REGISTRY}),  # a place in front of all others: they change their colours
        ("comparisons", {**REGISTRY, "topk": replace(REGISTRY["topk"], between=True)}),
        ("comparisons", {**REGISTRY, "topk": replace(REGISTRY["topk"], grouped=True)}),
    ],
)
def test_what_the_registry_says_is_part_of_figures_alone(
    smoke: Config, monkeypatch: pytest.MonkeyPatch, figure: str, entries: dict[str, Entry]
) -> None:
    before = Plan(smoke)
    digests = before.figure(figure).digest, before.coder(CODER).digest, before.scores(CODER, "trained").digest
    for module in ("bsc.stages", "bsc.coders.binarisers.registry"):
        monkeypatch.setattr(f"{module}.REGISTRY", Registry(entries))
    after = Plan(smoke)
    assert after.figure(figure).digest != digests[0]
    assert (after.coder(CODER).digest, after.scores(CODER, "trained").digest) == digests[1:]


def test_embeddings_and_negatives_are_part_of_scores_where_they_are_asked_for(smoke: Config) -> None:
    def planned(**changes: object) -> Plan:
        model = {"source": "pypi:some-embedder==1", "sha256": "0" * 64}
        changed = {**smoke.autointerp.model_dump(), "embedding": model, **changes}
        return Plan(Config.model_validate({**written(smoke), "autointerp": changed}))

    def same(one: Plan, other: Plan, stage: str) -> bool:
        return getattr(one, stage)(CODER, "trained").digest == getattr(other, stage)(CODER, "trained").digest

    before, unused = Plan(smoke), planned()
    assert not unused.embeds
    assert same(before, unused, "scores")
    assert before.scores(CODER, "trained").json == unused.scores(CODER, "trained").json
    scorers = planned(scorers=["detection", "fuzzing", "embedding"])
    nearest, cooccurring = planned(negatives="nearest"), planned(negatives="cooccurring")
    assert [plan.embeds for plan in (scorers, nearest, cooccurring)] == [True, True, False]
    for other in (scorers, nearest, cooccurring):
        assert not same(before, other, "scores")
        assert same(before, other, "explanations")
    for name in ("scorers", "negatives"):
        asked = {"scorers": ["detection", "embedding"]} if name == "scorers" else {"negatives": "nearest"}
        other = {"source": "pypi:some-embedder==2", "sha256": "0" * 64}
        assert not same(planned(**asked), planned(**asked, embedding=other), "scores")
    assert scorers.embeddings(CODER.model).digest == nearest.embeddings(CODER.model).digest
    assert scorers.embeddings(CODER.model).digest != planned(negatives="nearest", window=16).embeddings(CODER.model).digest


def test_joint_coders_are_those_at_every_hookpoint(smoke: Config) -> None:
    kinds = {(coder.architecture, coder.binariser) for coder in Plan(smoke).joint_coders}
    assert kinds == {("skip-transcoder", "topk"), ("skip-transcoder", "gumbel")}


def test_blocks_say_the_same_coders_in_fewer_words(smoke: Config) -> None:
    assert sorted(coders_of(coder_blocks(smoke.coder_ids))) == smoke.coder_ids


def test_a_variant_is_a_coder_of_its_binariser_and_stale_by_itself(smoke: Config) -> None:
    def planned(strength: float) -> Plan:
        held = {"frequency": {"control": "bias", "strength": strength}}
        added = {"architectures": ["sae"], "binarisers": ["topk", "topk.held"], "k": [16]}
        coders = [*written(smoke)["coders"], added]
        return Plan(Config.model_validate({**written(smoke), "binarisers": {"topk.held": held}, "coders": coders}))

    before, after = planned(0.1), planned(0.2)
    plain, held = (CoderId("smollm2-135m-instruct", "layers.0.mlp", "sae", name, 16, 1) for name in ("topk", "topk.held"))
    assert before.coder(held).spec.binariser == before.coder(plain).spec.binariser == "topk"
    assert before.coder(plain).digest == after.coder(plain).digest
    assert before.coder(held).digest != after.coder(held).digest
    figure = before.figure("fig7").spec
    assert figure.labels["topk.held"] == "TopK, held"
    assert figure.style["places"] == {"topk.held": 1}
    assert "places" not in Plan(smoke).figure("fig7").spec.style


def test_a_finetuned_coder_is_stale_with_its_settings_its_base_and_its_others(smoke: Config) -> None:
    def planned(base: dict[str, object] | None = None, sae: float = 1e-2, **settings: object) -> Plan:
        tuned = {"finetune": {"tokens": 2_048, "warmup_steps": 1, **settings}}
        coders = [{"architectures": ["sae", "transcoder"], "binarisers": ["topk", "topk.e2e"], "k": [16]}]
        rates = {"learning_rate": {"sae": sae, "transcoder": 1e-2}}
        changes = {"binarisers": {"topk": rates, "topk.e2e": tuned}, "coders": coders, "cohort": 4}
        return Plan(Config.model_validate({**written(smoke), **changes, **(base or {})}))

    def named(architecture: str, name: str, hookpoint: str = "layers.0.mlp") -> CoderId:
        return CoderId("smollm2-135m-instruct", hookpoint, architecture, name, 16, 1)

    def stale(before: Plan, after: Plan) -> set[tuple[str, str]]:
        coders = before.config.coder_ids
        changed = [coder for coder in coders if before.coder(coder).digest != after.coder(coder).digest]
        return {(coder.architecture, coder.binariser) for coder in changed}

    plan, tuned = planned(), named("sae", "topk.e2e")
    assert stale(plan, planned(learning_rate=2e-3)) == {("sae", "topk.e2e"), ("transcoder", "topk.e2e")}
    assert stale(plan, planned(sae=2e-2)) == {("sae", "topk"), ("sae", "topk.e2e")}
    assert stale(plan, planned(others=True)) == {("sae", "topk.e2e"), ("transcoder", "topk.e2e")}
    assert plan.config.base(tuned) == named("sae", "topk")
    assert plan.config.others(tuned) == []
    assert planned(others=True).config.others(tuned) == [named("sae", "topk", "layers.1.mlp")]
    spec = plan.coder(tuned).spec
    assert (spec.tokens, spec.batch_tokens, spec.learning_rate, spec.optimiser) == (2_048, 8 * 64, 1e-3, "adam")
    assert planned(others=True).coder(tuned).spec.finetune.others == ["layers.1.mlp"]
    assert {coder.binariser for coders in plan.cohorts.values() for coder in coders} == {"topk"}
    assert tuned in plan.figure_coders("fig7")
    assert tuned not in plan.figure_coders("runtime") + plan.figure_coders("fig9")
    assert "finetune" not in plan.coder(plan.config.base(tuned)).spec.model_dump()


def test_figures_of_a_scorer_that_is_not_asked_for_are_left_out(smoke: Config) -> None:
    of = {"fuzzing": {"fig2", "fig3", "fig14", "fig15"}, "detection": {"fig11", "fig12"}}
    shown = set(Plan(smoke).gallery().spec.shown)
    assert of["fuzzing"] | of["detection"] <= shown
    for asked, missing in (("detection", "fuzzing"), ("fuzzing", "detection")):
        autointerp = smoke.autointerp.model_copy(update={"scorers": [asked]})
        made = Plan(smoke.model_copy(update={"autointerp": autointerp})).gallery().spec
        assert set(made.shown) == shown - of[missing]
        assert all(made.left_out[name].endswith(f"and `{missing}` in `autointerp.scorers`") for name in of[missing])


def test_cohorts_of_a_model_are_of_few_hookpoints(smoke: Config) -> None:
    alone, joint = (Plan(smoke.model_copy(update={"cohort": 2, "cohort_of": of})).cohorts for of in ("hookpoint", "model"))
    trained = sorted(map(str, Plan(smoke).trained_coders))
    assert sorted(str(coder) for coders in joint.values() for coder in coders) == trained
    assert all(len({coder.hookpoint for coder in coders}) == 1 for coders in alone.values())
    assert {key[1] for key in joint} == {"joint"}
    assert len(joint) == -(-len(trained) // 2)
    assert sum(len({coder.hookpoint for coder in coders}) for coders in joint.values()) == len(joint) + 1


def test_a_sweep_is_made_once_and_chooses_for_all_coders_without_a_rate(smoke: Config) -> None:
    def planned(*rates: float, tokens: int = 5_120) -> Plan:
        rate = {"learning_rate": {"skip-transcoder": 0.1}}
        added = {"tune": {"rates": rates, "tokens": tokens}, "binarisers": {"topk": rate}}
        return Plan(Config.model_validate({**written(smoke), **added}))

    plan, wider, longer = planned(0.01, 2e-5), planned(0.01, 2e-5, 0.1), planned(0.01, 2e-5, tokens=6_144)
    tuned = [coder for coder in smoke.coder_ids if coder.binariser != "topk"]
    assert {coder.binariser for coder in plan.sweeps} == {"gumbel", "binary-topk"}
    assert {coder.hookpoint for coder in plan.sweeps} == {"layers.0.mlp"}
    assert len(plan.sweeps) == 2
    for coder in smoke.coder_ids:
        spec, before = plan.coder(coder).spec, Plan(smoke).coder(coder).spec
        assert spec == before.model_copy(update={"learning_rate": None if coder in tuned else 0.1})
        for other in (wider, longer):
            assert (plan.coder(coder).digest != other.coder(coder).digest) == (coder in tuned)
    assert plan.rates == ["0.01", "2e-05"]
    sweep = plan.sweep(CODER)
    trial = plan.trial(sweep, "2e-05")
    assert trial.digest == wider.trial(sweep, "2e-05").digest != longer.trial(sweep, "2e-05").digest
    assert (trial.spec.learning_rate, trial.spec.tokens) == (2e-5, 5_120)
    assert plan.figure_coders("learning-rates") == plan.sweeps
    assert plan.figure("learning-rates").spec.sweep == {"optimiser": "adam", "tokens": 5_120, "training_tokens": 10_240}
    assert not Plan(smoke).figure_coders("learning-rates")


def test_the_figure_of_frequency_control_is_left_out_where_nothing_has_it(smoke: Config) -> None:
    assert not Plan(smoke).figure_coders("frequency-control")
    held = {"topk": {"frequency": {"control": "penalty", "cap": 0.05, "strength": 1.0}}}
    changed = Config.model_validate({**written(smoke), "binarisers": held})
    assert Plan(changed).figure_coders("frequency-control") == changed.coder_ids


def test_steps_are_timed_around_the_grids_coders(smoke: Config) -> None:
    def planned(**wanted: object) -> Plan:
        tuned = {"topk.e2e": {"finetune": {"tokens": 2048, "warmup_steps": 1}}}
        blocks = [*written(smoke)["coders"], {"architectures": ["skip-transcoder"], "binarisers": ["topk.e2e"], "k": [16]}]
        return Plan(Config.model_validate({**written(smoke), "binarisers": tuned, "coders": blocks, "runtime": wanted}))

    plan, (model,) = planned(), smoke.models
    assert not Plan(smoke).figure_coders("runtime")
    shown = plan.figure_coders("runtime")
    assert {(coder.architecture, coder.binariser) for coder in shown} == {
        ("skip-transcoder", "topk"),
        ("skip-transcoder", "gumbel"),
    }
    assert len(shown) == 2, "a hookpoint's"

    def sizes(plan: Plan, binariser: str) -> set[tuple[str, int, int, int]]:
        cases = plan.runtime(model).spec.cases
        assert all((case.coder.width, case.coder.architecture) == (576, "skip-transcoder") for case in cases)
        assert all(case.coder.tokens == 1_000 * case.coder.batch_tokens for case in cases)
        coders = [(case.varied, case.coder) for case in cases if case.binariser == binariser]
        return {(varied, coder.k, coder.batch_tokens, coder.latents) for varied, coder in coders}

    around = {("k", 16, 512, 576)}
    around |= {("batch_tokens", 16, size, 576) for size in (256, 512, 1_024)}
    around |= {("latents", 16, 512, size) for size in (576, 1_152)}
    assert sizes(plan, "gumbel") == around
    more = planned(k=[5, 32], batch_tokens=[64], expansions=[2], binarisers=["gumbel"])
    named = {
        ("batch_tokens", 16, 64, 576),
        ("batch_tokens", 16, 512, 576),
        ("latents", 16, 512, 576),
        ("latents", 16, 512, 1_152),
    }
    assert sizes(more, "gumbel") == {("k", 16, 512, 576), ("k", 32, 512, 576)} | named, "no 5 groups of 576"
    assert sizes(more, "topk") == set()
    assert plan.runtime(model).digest != more.runtime(model).digest


def test_values_of_one_bit_have_no_binarised_control(smoke: Config) -> None:
    """It would be the coder itself."""
    bits = {"nbit.b1": {"bits": 1}, "nbit.b2": {"bits": 2}}
    added = {"architectures": ["sae"], "binarisers": ["topk", *bits], "k": [16]}
    plan = Plan(
        Config.model_validate(
            {
                **written(smoke),
                "binarisers": bits,
                "coders": [added],
                "autointerp": {**smoke.autointerp.model_dump(), "controls": ["binarised"]},
            }
        )
    )
    found = {coder.binariser: plan.variants(coder) for coder in plan.config.coder_ids}
    assert found == {"topk": ["trained", "binarised"], "nbit.b1": ["trained"], "nbit.b2": ["trained", "binarised"]}


def test_local_text_that_has_changed_is_read_again(smoke: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "labelled.jsonl"):
        Path(name).write_text('{"text": "one", "label": 1}\n')
    corpus = {"source": "files", "files": ["*a.jsonl"], "splits": smoke.corpus.splits.model_dump()}
    probing = {"source": "files", "files": ["labelled.jsonl"]}

    def digests() -> tuple[str, str]:
        plan = Plan(Config.model_validate({**written(smoke), "corpus": corpus, "probing": probing}))
        return plan.tokens(CODER.model).digest, plan.labelled(CODER.model).digest

    whole = digests()
    assert digests() == whole
    Path("more-a.jsonl").write_text('{"text": "two"}\n')
    more = digests()
    assert (more[0] != whole[0], more[1] != whole[1]) == (True, False)
    Path("labelled.jsonl").write_text('{"text": "one", "label": 0, "sure": false}\n')
    assert digests()[1] != more[1]


@pytest.mark.parametrize("name", ["config", "demo-full"])
def test_figures_read_the_variants_that_are_made(name: str) -> None:
    """An nbit coder of one bit, which is binary already, is not binarised."""
    plan = Plan(load([ROOT / "config" / f"{name}.yaml"]))
    drawn = [figure for figure in FIGURES if "scores" in FIGURES[figure].needs and plan.figure_coders(figure)]
    assert {"fig2", "coders", "comparisons"} <= set(drawn)
    for figure in drawn:
        spec = cast(FigureSpec, plan.figure(figure).spec)
        for coder in plan.figure_coders(figure):
            assert variants(coder, spec) == plan.variants(coder), (figure, coder)


def test_references_are_made_once_a_model_and_do_not_know_the_grid(smoke: Config) -> None:
    """At each hookpoint and at all of them; coders in another order, or fewer of them, change nothing."""
    (name,) = smoke.models
    raw = written(smoke)

    def of(coders: list[Any]) -> Stage:
        return Plan(Config.model_validate({**raw, "coders": coders})).references(name)

    before = of(raw["coders"])
    assert list(cast(ReferencesSpec, before.spec).sites) == ["layers.0.mlp", "layers.1.mlp", "joint"]
    assert of(raw["coders"][::-1]).digest == before.digest
    assert of(raw["coders"][:1]).digest == before.digest
    train = raw["corpus"]["splits"]["train"]
    assert cast(ReferencesSpec, before.spec).fitted_contexts == train["tokens"] // train["context"], "64 d are more than it has"
    alone = cast(ReferencesSpec, of(raw["coders"][1:]).spec)
    assert (alone.sites, alone.evaluation.hookpoints) == ({"layers.0.mlp": ["layers.0.mlp"]}, ["layers.0.mlp"])
