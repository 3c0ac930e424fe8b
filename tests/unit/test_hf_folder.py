"""Folders in Hugging Face's form: what their headers say, and what is wrong with them, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mpispec.compute.factory import backend_of
from mpispec.models import gguf_file, hf_folder
from mpispec.models.default import resolve
from mpispec.models.errors import ModelError
from mpispec.models.recommended import recommended

pytestmark = pytest.mark.unit

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 6}
TENSORS = {
    "model.embed_tokens.weight": (6, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.1.self_attn.q_proj.weight": (8, 8),
    "model.norm.weight": (8,),
}


def write_weights(file: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """Write float32 zeros as safetensors."""
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (at, at + size)}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / hf_folder.CONFIG).write_text(json.dumps(CONFIG))
    vocabulary = {"model": {"vocab": {"a": 0, "b": 1, "ab": 2}}, "added_tokens": [{"id": 3, "content": "<end>"}]}
    (tmp_path / hf_folder.TOKENIZER).write_text(json.dumps(vocabulary))
    write_weights(tmp_path / hf_folder.WEIGHTS, TENSORS)
    return tmp_path


def test_a_folder_says_what_it_holds(folder: Path) -> None:
    model = backend_of(folder).inspect(folder)
    assert (model.architecture, model.layers, model.width, model.vocabulary) == ("llama", 2, 8, 6)
    assert (model.layer_bytes, model.embedding_bytes, model.head_bytes, model.is_tied) == ((256, 256), 192, 192, True)
    assert model.file_bytes == 2 * 256 + 192 + 32
    assert not model.quantised


def test_layers_that_are_applied_several_times_are_counted_each_time_and_cut_between(folder: Path) -> None:
    (folder / hf_folder.CONFIG).write_text(json.dumps({**CONFIG, "model_type": "looped_llama", "num_cycles": 3}))
    model = backend_of(folder).inspect(folder)
    assert (model.layers, model.num_cycles, model.unit, model.layer_bytes) == (6, 3, 2, (256,) * 6)
    assert model.file_bytes == 2 * 256 + 192 + 32
    backend_of(folder).check_cuts(model, [range(2), range(2, 6)], insist=False)
    with pytest.raises(ModelError, match="cut at multiples of 2"):
        backend_of(folder).check_cuts(model, [range(3), range(3, 6)], insist=False)


def test_shards_are_found_through_their_index(folder: Path) -> None:
    whole = hf_folder.inspect(folder)
    names = list(TENSORS)
    (folder / hf_folder.WEIGHTS).unlink()
    for number, part in enumerate((names[:2], names[2:])):
        write_weights(folder / f"{number}.safetensors", {name: TENSORS[name] for name in part})
    index = {name: f"{int(name in names[2:])}.safetensors" for name in names}
    (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": index}))
    assert hf_folder.inspect(folder).layer_bytes == whole.layer_bytes
    (folder / "1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks 1\.safetensors, which its index names; download it again"):
        hf_folder.inspect(folder)


@pytest.mark.parametrize(
    ("head", "config", "last"),
    [
        (False, {"tie_word_embeddings": True}, {"embed_tokens", "norm"}),
        (False, {"tie_word_embeddings": False}, {"embed_tokens", "norm"}),  # there is no other head
        (True, {"tie_word_embeddings": False}, {"lm_head", "norm"}),
        (True, {}, {"lm_head", "embed_tokens", "norm"}),  # the class decides
    ],
)
def test_a_rank_needs_its_layers_and_what_its_end_of_the_model_has(
    head: bool, config: dict[str, bool], last: set[str], folder: Path
) -> None:
    saying(hf_folder.CONFIG, **config)(folder)
    further = {"model.layers.2.mlp.weight": (8,)}  # of a layer that predicts tokens ahead, which is not used
    heads = {"lm_head.weight": (6, 8)} if head else {}
    write_weights(folder / hf_folder.WEIGHTS, {**TENSORS, **further, **heads})

    def needed(layers: range) -> set[str]:
        return {name.split(".")[-2] for name in hf_folder.tensors_of(folder, layers) if ".layers." not in name}

    assert [needed(layers) for layers in (range(1), range(1, 2), range(2))] == [
        {"embed_tokens"},
        last,
        last | {"embed_tokens"},
    ]
    layers = {name for name in hf_folder.tensors_of(folder, range(1, 2)) if ".layers." in name}
    assert layers == {"model.layers.1.self_attn.q_proj.weight"}


def default_tokens() -> list[str]:
    """Return the texts of the default model's tokens."""
    raw = gguf_file.read(resolve(None)).values["tokenizer.ggml.tokens"].raw
    texts, at = [], 12
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 8], "little")
        texts.append(bytes(raw[at + 8 : at + 8 + size]).decode())
        at += 8 + size
    return texts


def write_tokens(folder: Path, texts: list[str]) -> None:
    """Write a tokenizer and no other file."""
    vocabulary = {"model": {"vocab": {text: token for token, text in enumerate(texts)}}}
    (folder / hf_folder.TOKENIZER).write_text(json.dumps(vocabulary))


def embed(folder: Path, num_tokens: int) -> None:
    """Let config and embedding have that many tokens."""
    saying(hf_folder.CONFIG, vocab_size=num_tokens)(folder)
    write_weights(folder / hf_folder.WEIGHTS, {**TENSORS, "model.embed_tokens.weight": (num_tokens, 8)})


def test_the_list_of_tokens_has_the_digest_of_the_same_list_in_a_gguf_file(folder: Path) -> None:
    write_tokens(folder, default_tokens())
    embed(folder, len(default_tokens()))
    file = backend_of(resolve(None)).inspect(resolve(None))
    assert hf_folder.inspect(folder).vocabulary_digest == file.vocabulary_digest


@pytest.mark.parametrize(("first", "is_shared"), [("", True), ("another", False)])
def test_models_of_either_form_share_tokens_where_one_list_is_the_beginning_of_the_other(
    first: str, is_shared: bool, folder: Path
) -> None:
    tokens = default_tokens()
    write_tokens(folder, [first or tokens[0], *tokens[1:], "<padding>"])
    embed(folder, len(tokens) + 1)
    models = [backend_of(path).inspect(path) for path in (folder, resolve(None))]
    for one, other in (models, models[::-1]):
        assert bool(backend_of(one.path).num_shared_tokens(one, other)) == is_shared


def test_what_its_authors_recommend_is_taken_as_far_as_it_makes_sense(folder: Path) -> None:
    assert recommended(folder).source == "llama.cpp"
    said = {"temperature": 0.6, "top_k": 20, "top_p": 7.0, "repetition_penalty": 1.05, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(said))
    values = recommended(folder).values
    assert (values["temperature"], values["top_k"], values["repeat_penalty"]) == (0.6, 20, 1.05)
    assert values["top_p"] == 0.95


def test_code_of_a_folder_is_allowed_or_refused(folder: Path) -> None:
    hf_folder.check_code(folder, runs_code=False)
    saying(hf_folder.CONFIG, auto_map={"AutoModelForCausalLM": "own.Model"})(folder)
    hf_folder.check_code(folder, runs_code=True)
    with pytest.raises(ModelError, match="brings model code of its own .*; read it, and add --trust-remote-code, or"):
        hf_folder.check_code(folder, runs_code=False)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def saying(name: str, **values: object) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(json.dumps({**CONFIG, **values}))  # type: ignore[func-returns-value]


def cut_short(folder: Path) -> None:
    file = folder / hf_folder.WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])


def pickled(folder: Path) -> None:
    (folder / hf_folder.WEIGHTS).rename(folder / "pytorch_model.bin")


def without_a_layer(folder: Path) -> None:
    write_weights(folder / hf_folder.WEIGHTS, {name: shape for name, shape in TENSORS.items() if ".1." not in name})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without(hf_folder.CONFIG), "holds no config.json; name a folder as Hugging Face publishes it"),
        (without(hf_folder.WEIGHTS), "holds no model.safetensors; download the model again"),
        (without(hf_folder.TOKENIZER), "holds no tokenizer.json"),
        (saying(hf_folder.CONFIG, model_type=None), "names no model_type"),
        (saying(hf_folder.CONFIG, hidden_size="8"), "does not say hidden_size"),
        (saying(hf_folder.TOKENIZER), "lists no tokens"),
        (lambda folder: (folder / hf_folder.CONFIG).write_text("{"), "cannot be read"),
        (lambda folder: (folder / hf_folder.WEIGHTS).write_bytes(b"\xff" * 40), "is no safetensors file"),
        (cut_short, "is cut short"),
        (pickled, "holds pickled weights, which can run code"),
        (without_a_layer, "lacks tensors of layer 1"),
        (saying(hf_folder.CONFIG, vocab_size=7), "embeds 6 tokens, but its config.json says 7; download it again"),
        (lambda folder: write_tokens(folder, list("abcdefg")), "has 6 tokens, but its tokenizer.json lists 7"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_a_sentence(
    spoil: Callable[[Path], object], sentence: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ModelError) as refused:
        hf_folder.inspect(folder)
    text = str(refused.value)
    assert sentence in text
    assert text.endswith(".")
    assert "\n" not in text
