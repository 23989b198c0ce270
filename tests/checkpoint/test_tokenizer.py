"""Tokenizers: the ids of the originals and of llama.cpp, and what a file leaves unsaid."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from migrate.checkpoint.tokenizer import adds_bos, build_tokenizer, load_tokenizer, write_tokenizer
from migrate.errors import GGUFError, NotFound, Refused
from migrate.findings import Status
from migrate.gguf.header import GGUFHeader, read_header
from migrate.gguf.pretokenizers import PRE_TOKENIZERS
from migrate.gguf.vocab import CONTROL, USER_DEFINED, read_vocabulary
from tests.architectures.tiny import METADATA, tiny_llama
from tests.checkpoint.texts import TEXTS, random_texts
from tests.gguf.build import ARRAY, TensorSpec, build

MODELS = {
    "tinychat": "tinychat/gguf/tinychat-f16",
    "llama3rope": "llama3rope/gguf/model-bf16",
    "mistral": "mistral/gguf/model-bf16",
    "gemma4": "gemma4/gguf/model-bf16",
}
REST = ("bert", "gemma2", "phi3", "qwen3_5", "granite")


def header_of(shared: Path, model: str) -> GGUFHeader:
    return read_header(shared / "models" / f"{MODELS[model]}.gguf")


@pytest.mark.parametrize("model", ["tinychat", "llama3rope"])
def test_ids_of_the_original_tokenizer(shared: Path, model: str) -> None:
    ours = build_tokenizer(header_of(shared, model))
    original = Tokenizer.from_file(str(shared / "models" / model / "hf" / "tokenizer.json"))
    for text in [*TEXTS, *random_texts(500, specials=("<|im_start|>", "<|im_end|>"))]:
        assert ours.encode(text).ids == original.encode(text).ids, text
        assert ours.encode(text, add_special_tokens=False).ids == original.encode(text, add_special_tokens=False).ids


RECORDED = ["llama3rope", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_5", "gemma2", "gemma4", "granite", "phi3"]
RECORDED += ["gpt_oss", "deepseek_v2", "bert"]


@pytest.mark.parametrize("model", RECORDED)
def test_recorded_ids(shared: Path, model: str) -> None:
    recorded = json.loads((shared / "models" / model / "reference.json").read_text())
    header = read_header(shared / "models" / model / "gguf" / "model-bf16.gguf")
    assert build_tokenizer(header).encode(recorded["text"]).ids == recorded["token_ids"]


def test_wordpiece_is_the_original(shared: Path, tmp_path: Path) -> None:
    """Where marks without width are the only accents, llama.cpp's normalizer is BERT's."""
    ours = build_tokenizer(read_header(shared / "models" / "bert" / "gguf" / "model-bf16.gguf"))
    original = Tokenizer.from_file(str(shared / "models" / "bert" / "hf" / "tokenizer.json"))
    assert ours.get_vocab() == original.get_vocab()
    for text in ("The weather in Lima is 21 degrees.", "Éléphant, ÀÉÎ! x_y [SEP] don't", "日本語 and 中文", "a\tb\n c"):
        assert ours.encode(text).ids == original.encode(text).ids
        assert ours.decode(ours.encode(text).ids) == original.decode(original.encode(text).ids)


@pytest.mark.parametrize("model", MODELS)
def test_text_comes_back(shared: Path, model: str) -> None:
    tokenizer = build_tokenizer(header_of(shared, model))
    for text in ("Hello, world!  3+4\n", "日本語 é 🙂", " leading", "a\tb"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_written_files_load(shared: Path, tmp_path: Path) -> None:
    header = header_of(shared, "mistral")
    names, _ = write_tokenizer(header, tmp_path)
    assert names == ["tokenizer.json", "tokenizer_config.json"]
    text = "The capital <s> of Peru"
    assert load_tokenizer(tmp_path).encode(text).ids == build_tokenizer(header).encode(text).ids
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == ("<s>", "</s>", "<pad>")
    with pytest.raises(NotFound, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("model", MODELS)
def test_transformers_loads_them_as_they_are(shared: Path, tmp_path: Path, model: str) -> None:
    transformers = pytest.importorskip("transformers")
    header = header_of(shared, model)
    write_tokenizer(header, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    loaded, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), build_tokenizer(header)
    for text in TEXTS:
        assert loaded(text).input_ids == ours.encode(text).ids
        assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == ours.decode(ours.encode(text).ids)
    assert loaded.bos_token == ours.id_to_token(header.get("tokenizer.ggml.bos_token_id"))


BOS_RULES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"tokenizer.ggml.add_bos_token": False}, False),
    ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"}, True),
    ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"}, True),
    ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"}, False),
    ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "default"}, False),
    ({"tokenizer.ggml.model": "gpt2"}, False),
    ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.add_bos_token": True}, True),
]


@pytest.mark.parametrize(("metadata", "expected"), BOS_RULES)
def test_bos_is_added_when_llama_cpp_adds_it(tmp_path: Path, metadata: dict[str, Any], expected: bool) -> None:
    extra = {"tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.bos_token_id": 1}
    header = tiny_llama(tmp_path, extra | metadata)
    assert adds_bos(header) is expected
    tokenizer = build_tokenizer(header)
    alone = tokenizer.encode("a", add_special_tokens=False).ids
    assert tokenizer.encode("a").ids == ([1, *alone] if expected else alone)


def test_eos_is_added_when_the_file_says_so(tmp_path: Path) -> None:
    header = tiny_llama(tmp_path, {"tokenizer.ggml.add_eos_token": True})
    tokenizer = build_tokenizer(header)
    assert tokenizer.encode("a").ids == [1, tokenizer.token_to_id("▁"), tokenizer.token_to_id("a"), 2]


def test_no_space_in_front_when_the_file_says_so(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tiny_llama(tmp_path, {"tokenizer.ggml.add_space_prefix": False}))
    assert tokenizer.encode("a b", add_special_tokens=False).tokens == ["a", "▁", "b"]


def test_equal_scores_are_reported(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "exact").mkdir()
    _, findings = write_tokenizer(header_of(shared, "mistral"), tmp_path / "exact")
    assert findings == []
    tokens = [*METADATA["tokenizer.ggml.tokens"][:-2], "ab", "bc"]
    _, findings = write_tokenizer(tiny_llama(tmp_path, {"tokenizer.ggml.tokens": tokens}), tmp_path)
    assert [(finding.item, finding.status) for finding in findings] == [
        ("tokenizer.ggml.scores", Status.APPROXIMATE),
    ]


def test_control_and_user_defined_tokens(tmp_path: Path) -> None:
    tokens = [*METADATA["tokenizer.ggml.tokens"][:-3], "<ctl>", "<usr>", "<|im_end|>"]
    types = [*METADATA["tokenizer.ggml.token_type"][:-3], CONTROL, USER_DEFINED, 1]
    header = tiny_llama(tmp_path, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})
    tokenizer = build_tokenizer(header)
    assert tokenizer.encode("a<ctl>b<usr><|im_end|>", add_special_tokens=False).tokens == [
        *("▁", "a", "<ctl>", "▁", "b", "<usr>", "<|im_end|>")
    ]
    added = tokenizer.get_added_tokens_decoder()
    special = {token.content: token.special for token in added.values()}
    assert special == {"<unk>": True, "<s>": True, "</s>": True, "<ctl>": True, "<usr>": False, "<|im_end|>": True}


CORRECTIONS: list[tuple[list[str], int, list[int]]] = [
    (["<|im_end|>"], USER_DEFINED, [CONTROL]),
    (["<|fim_prefix|>"], 1, [CONTROL]),
    (["<|start|>", "<|channel|>"], CONTROL, [USER_DEFINED, USER_DEFINED]),
    (["<|end|>", "<|return|>", "<|call|>"], CONTROL, [USER_DEFINED, CONTROL, CONTROL]),
    (["<|end|>", "<|flush|>", "<|calls|>"], CONTROL, [USER_DEFINED, CONTROL, CONTROL]),
    (["<|end|>", "<|return|>"], CONTROL, [CONTROL, CONTROL]),
    (["something"], USER_DEFINED, [USER_DEFINED]),
]


@pytest.mark.parametrize(("texts", "type_", "expected"), CORRECTIONS)
def test_types_are_corrected_by_name(tmp_path: Path, texts: list[str], type_: int, expected: list[int]) -> None:
    tokens = [*METADATA["tokenizer.ggml.tokens"][: -len(texts)], *texts]
    types = [*METADATA["tokenizer.ggml.token_type"][: -len(texts)], *[type_] * len(texts)]
    header = tiny_llama(tmp_path, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})
    assert read_vocabulary(header).types[-len(texts) :] == expected


def test_more_tokens_than_rows_are_cut(tmp_path: Path) -> None:
    tokens = [*METADATA["tokenizer.ggml.tokens"], "<extra>"]
    rest = {"tokenizer.ggml.scores": [0.0] * 41, "tokenizer.ggml.token_type": [1] * 41}
    header = tiny_llama(tmp_path, {"tokenizer.ggml.tokens": tokens, **rest})
    vocabulary = read_vocabulary(header)
    assert len(vocabulary.tokens) == 40
    assert [finding.item for finding in vocabulary.findings] == ["tokenizer.ggml.tokens"]


def test_of_doubled_tokens_the_last_is_made(tmp_path: Path) -> None:
    tokens = list(METADATA["tokenizer.ggml.tokens"])
    tokens[-1] = "a"
    tokenizer = build_tokenizer(tiny_llama(tmp_path, {"tokenizer.ggml.tokens": tokens}))
    first = tokens.index("a")
    assert tokenizer.encode("a", add_special_tokens=False).ids[-1] == len(tokens) - 1
    assert tokenizer.id_to_token(first) == f"[DOUBLE_{first}]"
    vocabulary = read_vocabulary(tiny_llama(tmp_path, {"tokenizer.ggml.tokens": tokens}))
    assert [finding.item for finding in vocabulary.findings] == ["tokenizer.ggml.tokens"]


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"tokenizer.ggml.model": None}, GGUFError, r"no tokenizer in the file"),
    "rwkv": ({"tokenizer.ggml.model": "rwkv"}, Refused, "tokenizer 'rwkv' is not supported"),
    "unknown pre": ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "zzz"}, Refused, "pre-tokenizer 'zzz'"),
    "no merges": ({"tokenizer.ggml.model": "gpt2"}, GGUFError, r"tokenizer\.ggml\.merges is missing"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, GGUFError, r"tokenizer\.ggml\.tokens is missing"),
    "few types": ({"tokenizer.ggml.token_type": [1]}, GGUFError, "token_type does not have an element for each"),
    "no bos": (
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.add_bos_token": True},
        GGUFError,
        "adds BOS, but there is no bos_token_id",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    metadata, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        build_tokenizer(tiny_llama(tmp_path, metadata))


def llama3_header(tmp_path: Path, **metadata: Any) -> GGUFHeader:
    """A vocabulary as long as Llama 3's, with its special tokens in their places."""
    tokens = [f"t{i}" for i in range(128_256)]
    for i, text in ((128_000, "<|begin_of_text|>"), (128_001, "<|end_of_text|>"), (128_009, "<|eot_id|>")):
        tokens[i] = text
    values: dict[str, Any] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["t 1"],
        "tokenizer.ggml.bos_token_id": 128_000,
        "tokenizer.ggml.eos_token_id": 128_001,
    }
    path = tmp_path / "l3.gguf"
    path.write_bytes(build({**values, **{f"tokenizer.{k}": v for k, v in metadata.items()}}))
    return read_header(path)


def test_old_llama3_files_are_repaired(tmp_path: Path) -> None:
    header = llama3_header(tmp_path)
    vocabulary = read_vocabulary(header)
    assert vocabulary.eos == 128_009
    assert vocabulary.pre == PRE_TOKENIZERS["llama-bpe"]
    assert adds_bos(header)
    assert {finding.item for finding in vocabulary.findings} == {"tokenizer.ggml.pre", "tokenizer.ggml.eos_token_id"}


def test_a_llama3_base_model_keeps_its_eos(tmp_path: Path) -> None:
    header = llama3_header(tmp_path, **{"ggml.pre": "llama-bpe"})
    assert (read_vocabulary(header).eos, read_vocabulary(header).findings) == (128_001, ())


def test_a_chat_template_tells_where_turns_end(tmp_path: Path) -> None:
    header = llama3_header(tmp_path, **{"ggml.pre": "llama-bpe", "chat_template": "{{ x }}<|eot_id|>"})
    assert read_vocabulary(header).eos == 128_009


def ids_by_llama_cpp(path: Path, texts: list[str]) -> list[list[int]]:
    pytest.importorskip("xllamacpp")
    script = Path(__file__).with_name("llamacpp_ids.py")
    command = [sys.executable, str(script), str(path)]
    result = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=120, check=True)
    ids: list[list[int]] = json.loads(result.stdout)
    return ids


def check_against_llama_cpp(path: Path, count: int, without: str = "") -> None:
    tokenizer = build_tokenizer(read_header(path))
    specials = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values())
    texts = [text for text in (*TEXTS, *random_texts(count, specials=specials)) if not set(without) & set(text)]
    for text, expected in zip(texts, ids_by_llama_cpp(path, texts), strict=True):
        assert tokenizer.encode(text).ids == expected, ascii(text)


@pytest.mark.live
@pytest.mark.parametrize("model", MODELS)
def test_ids_of_llama_cpp(shared: Path, model: str) -> None:
    check_against_llama_cpp(shared / "models" / f"{MODELS[model]}.gguf", 1000)


@pytest.mark.live
@pytest.mark.parametrize("model", REST)
def test_ids_of_llama_cpp_for_other_kinds(shared: Path, model: str) -> None:
    """Without what tokenizer.json has no words for.

    In WordPiece a "▁" of the text that stands beside something unknown makes a larger unknown word of it; behind
    Phi-3's special tokens llama.cpp drops ASCII white space only.
    """
    without = {"bert": "▁", "phi3": "\u3000\xa0\x85\u2028"}.get(model, "")
    check_against_llama_cpp(shared / "models" / model / "gguf" / "model-bf16.gguf", 600, without)


@pytest.fixture(scope="module")
def crossing_merges() -> tuple[list[str], list[str]]:
    """A byte-level vocabulary trained without splitting: its merges cross every boundary, so a wrong one shows."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [text[i : i + 8] for text in TEXTS for i in range(0, len(text), 3)]
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=12,
        show_progress=False,
    )
    trained.train_from_iterator([*TEXTS * 3, *pieces * 2, *random_texts(8000, seed=5)], trainer)
    model = json.loads(trained.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [" ".join(merge) for merge in model["merges"]]


PRE_SAMPLES = ["default", "llama-bpe", "dbrx", "tekken", "qwen2", "qwen35", "gpt-4o", "gpt-2", "starcoder", "falcon"]
PRE_SAMPLES += ["deepseek-llm", "deepseek-coder", "deepseek-v3", "bloom", "viking", "bailingmoe", "seed-coder"]
PRE_SAMPLES += ["minicpm5", "laguna", "granite-embed-multi-97m", "tiny_aya", "afmoe", "youtu", "exaone-moe", "jais-2"]
PRE_SAMPLES += ["kimi-k2", "superbpe", "chameleon"]
RAW_SAMPLES = ["gemma4"]
"""Not byte-level: held to llama.cpp with a real model."""


def test_the_samples_cover_the_table() -> None:
    assert {PRE_TOKENIZERS[name] for name in (*PRE_SAMPLES, *RAW_SAMPLES)} == set(PRE_TOKENIZERS.values())


@pytest.mark.live
@pytest.mark.parametrize("pre", PRE_SAMPLES)
def test_pre_tokenizers_cut_as_llama_cpp(
    tmp_path: Path, crossing_merges: tuple[list[str], list[str]], pre: str
) -> None:
    tokens, merges = crossing_merges
    path = tmp_path / "pre.gguf"
    path.write_bytes(_small_llama([*tokens, "<|a|>", "<|b|>"], merges, pre))
    check_against_llama_cpp(path, 800)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A SentencePiece unigram model with XLM-RoBERTa's normalisation, trained on the texts."""
    sentencepiece = pytest.importorskip("sentencepiece")
    directory = tmp_path_factory.mktemp("unigram")
    lines = [line.strip() for text in TEXTS for line in text.splitlines() if line.strip() and "\0" not in line]
    (directory / "lines.txt").write_text("\n".join(lines * 3), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "lines.txt"),
        model_prefix=str(directory / "m"),
        model_type="unigram",
        vocab_size=480,
        character_coverage=0.98,
        normalization_rule_name="nmt_nfkc",
        pad_id=3,
        minloglevel=5,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "m.model"))


def unigram_gguf(processor: Any, *, base64_letters: bool = False) -> bytes:
    size = processor.get_piece_size()
    from sentencepiece import sentencepiece_model_pb2 as pb

    model: Any = vars(pb)["ModelProto"]()
    model.ParseFromString(processor.serialized_model_proto())
    charsmap = model.normalizer_spec.precompiled_charsmap
    letters: Any = tuple(base64.b64encode(charsmap).decode())
    if not base64_letters:
        letters = struct.pack("<IIQ", ARRAY, 0, len(charsmap)) + charsmap  # an array of bytes
    kinds = {1: 1, 2: 2, 3: CONTROL, 4: USER_DEFINED, 6: 6}
    extra = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [float(processor.get_score(i)) for i in range(size)],
        "tokenizer.ggml.token_type": [kinds[model.pieces[i].type] for i in range(size)],
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.precompiled_charsmap": letters,
    }
    return _small_llama(extra["tokenizer.ggml.tokens"], [], "default", extra)


@pytest.mark.live
def test_unigram_as_llama_cpp(tmp_path: Path, unigram: Any) -> None:
    path = tmp_path / "unigram.gguf"
    path.write_bytes(unigram_gguf(unigram))
    # tokenizers' normalizer drops a mark behind a letter that it replaces; the original tokenizer.json does the same.
    check_against_llama_cpp(path, 800, without="\u1e9b\u05b0")


def test_unigram_as_sentencepiece(tmp_path: Path, unigram: Any) -> None:
    path = tmp_path / "unigram.gguf"
    path.write_bytes(unigram_gguf(unigram))
    tokenizer = build_tokenizer(read_header(path))
    for text in ("Hello, world!", "  two  spaces ", "ＡＢＣ１２３ ﬁ", "日本語のテキスト。", "Русский текст"):
        assert tokenizer.encode(text, add_special_tokens=False).ids == unigram.encode(text)
        assert tokenizer.encode(text).ids[-1] == unigram.eos_id()


def test_the_charsmap_as_base64_letters(tmp_path: Path, unigram: Any) -> None:
    """As in Ollama's snowflake-arctic-embed2."""
    for name, letters in (("a", False), ("b", True)):
        (tmp_path / name).write_bytes(unigram_gguf(unigram, base64_letters=letters))
    a, b = (read_vocabulary(read_header(tmp_path / name)).charsmap for name in "ab")
    assert a == b
    assert len(a) > 100_000


def _small_llama(tokens: list[str], merges: list[str], pre: str, extra: dict[str, Any] | None = None) -> bytes:
    size = 64
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 128,
        "llama.embedding_length": size,
        "llama.feed_forward_length": size,
        "llama.attention.head_count": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 2) + [CONTROL, USER_DEFINED],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens) - 2,
        "tokenizer.ggml.eos_token_id": len(tokens) - 2,
    }
    vectors = [f"blk.0.{name}.weight" for name in ("attn_norm", "ffn_norm")] + ["output_norm.weight"]
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    matrices = [TensorSpec(f"blk.0.{name}.weight", (size, size), "F16") for name in parts]
    embedding = TensorSpec("token_embd.weight", (size, len(tokens)), "F16")
    return build(metadata | (extra or {}), [embedding, *(TensorSpec(name, (size,)) for name in vectors), *matrices])
