"""What a name on the command line means."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import pytest

from migrate.errors import BadInput, ModelfileError, NotFound, Refused, UsageError
from migrate.ollama import options
from migrate.ollama.prompt_path import prompt_path
from migrate.ollama.reference import load
from migrate.ollama.store import Store
from tests.ollama.replay import recordings, replay

SOURCES = {
    "tinychat-q4_k_m.gguf": "gguf/tinychat-q4_k_m.gguf",
    "tinychat-q8_0.gguf": "gguf/tinychat-q8_0.gguf",
    "tinychat-f16.gguf": "gguf/tinychat-f16.gguf",
    "tinychat-q4_0.gguf": "gguf/tinychat-q4_0.gguf",
    "lora.gguf": "lora/adapter.gguf",
}


@pytest.fixture(scope="module")
def models_dir(shared: Path) -> Path:
    return shared / "ollama" / "store"


@pytest.fixture(scope="module")
def workshop(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Modelfiles the store was made from, beside the files they name."""
    folder = tmp_path_factory.mktemp("workshop")
    for modelfile in (shared / "ollama" / "modelfiles").iterdir():
        copyfile(modelfile, folder / modelfile.name)
    for name, source in SOURCES.items():
        (folder / name).symlink_to(_gguf(shared / "models" / "tinychat", source))
    return folder


def _gguf(folder: Path, source: str) -> Path:
    wanted = source.split("/")[-1].lower()
    return next(p for p in (folder / source).parent.iterdir() if p.name.lower() in (wanted, wanted.split("-")[-1]))


@pytest.mark.parametrize("name", ["support-bot", "legacy-bot", "child-bot", "adapter-bot", "renderer-bot"])
def test_a_modelfile_gives_what_ollama_created(workshop: Path, models_dir: Path, name: str) -> None:
    read, created = load(str(workshop / f"{name}.Modelfile"), models_dir=models_dir), Store(models_dir).load(name)
    assert (read.name, read.kind) == (name, "modelfile")
    assert (read.system, read.renderer, read.parser) == (created.system, created.renderer, created.parser)
    assert list(read.messages) == list(created.messages)
    assert read.licenses == created.licenses
    assert read.gguf is not None
    assert created.gguf is not None
    assert read.gguf.size == created.gguf.size
    assert [layer.size for layer in read.adapters] == [layer.size for layer in created.adapters]
    own = {key: value for key, value in created.parameters.items() if key in read.parameters}
    assert read.parameters == own
    assert set(created.parameters) - set(read.parameters) <= {"stop"}  # what `ollama create` adds by itself
    if name != "renderer-bot":
        assert read.template == created.template
        assert prompt_path(read).path == prompt_path(created).path


def test_a_child_inherits(workshop: Path, models_dir: Path) -> None:
    child = load(str(workshop / "child-bot.Modelfile"), models_dir=models_dir)
    parent = Store(models_dir).load("support-bot")
    assert (child.parent, child.parent_parameters) == ("support-bot:latest", parent.parameters)
    assert child.parameters["stop"] == ["<|im_end|>"]
    assert child.digests["model"] == parent.digests["model"]
    assert "system" not in child.digests
    assert "manifest" not in child.digests


def test_a_gguf(workshop: Path) -> None:
    model = load(str(workshop / "tinychat-q8_0.gguf"))
    assert (model.name, model.kind, model.template) == ("tinychat-q8_0", "gguf", None)
    decision = prompt_path(model)
    assert decision.path == "gguf_jinja"
    assert "ollama create" in decision.notes[0].reason


def test_blobs_are_ggufs(models_dir: Path) -> None:
    path = Store(models_dir).load("q4-bot").gguf_path
    assert load(str(path)).gguf is not None


def test_a_directory_with_a_modelfile(workshop: Path, tmp_path: Path, models_dir: Path) -> None:
    (tmp_path / "my-bot").mkdir()
    text = (workshop / "child-bot.Modelfile").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "my-bot" / "Modelfile").write_bytes(text)
    model = load(str(tmp_path / "my-bot"), models_dir=models_dir)
    assert (model.name, model.system, model.parent) == ("my-bot", "Answer in one word.", "support-bot:latest")


# Which wins


def test_a_path_shadows_a_name(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ns").mkdir()
    for name in ("ns/q4-bot", "q4-bot", "only-here"):
        write(tmp_path, "FROM support-bot", name)
    assert load("ns/q4-bot", models_dir=models_dir).kind == "modelfile"
    assert load("./q4-bot", models_dir=models_dir).kind == "modelfile"
    assert load("q4-bot", models_dir=models_dir).kind == "store"
    assert load("only-here", models_dir=models_dir).kind == "modelfile"


def test_a_from_that_exists_is_a_file(workshop: Path, models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "q4-bot").symlink_to((workshop / "tinychat-f16.gguf").resolve())
    (tmp_path / "Modelfile").write_text("FROM q4-bot")
    assert load(str(tmp_path / "Modelfile"), models_dir=models_dir).parent is None
    (tmp_path / "q4-bot").unlink()
    assert load(str(tmp_path / "Modelfile"), models_dir=models_dir).parent == "q4-bot:latest"


def test_a_server_is_asked_for_names(shared: Path, models_dir: Path, workshop: Path) -> None:
    with replay(recordings(shared / "ollama" / "recordings.jsonl")) as url:
        assert load("child-bot", models_dir=models_dir, host=url).kind == "host"
        assert load(str(workshop / "child-bot.Modelfile"), models_dir=models_dir, host=url).kind == "modelfile"


# Modelfiles


def test_a_blob_of_another_machine(tmp_path: Path, models_dir: Path) -> None:
    with pytest.raises(NotFound) as caught:
        load(write(tmp_path, f"FROM /elsewhere/blobs/sha256-{'0' * 64}"), models_dir=models_dir)
    assert "another machine" in (caught.value.hint or "")


def write(folder: Path, text: str, name: str = "x.Modelfile") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_several_from_lines(workshop: Path, models_dir: Path) -> None:
    text = "FROM ./tinychat-q4_0.gguf\nFROM ./lora.gguf\n"
    model = load(write(workshop, text), models_dir=models_dir)
    assert model.gguf_path is not None
    assert model.gguf_path.name == "tinychat-q4_0.gguf"
    assert [layer.name for layer in model.adapters] == ["lora.gguf"]


def test_a_name_beside_a_file_wins(workshop: Path, models_dir: Path) -> None:
    text = "FROM ./tinychat-f16.gguf\nFROM q4-bot\n"
    assert load(write(workshop, text), models_dir=models_dir).parent == "q4-bot:latest"


def test_empty_texts_clear_nothing(workshop: Path, models_dir: Path) -> None:
    model = load(write(workshop, 'FROM support-bot\nSYSTEM ""\nTEMPLATE """"""\n'), models_dir=models_dir)
    parent = Store(models_dir).load("support-bot")
    assert (model.system, model.template) == (parent.system, parent.template)


def test_messages_replace_and_deprecated_parameters_have_no_effect(workshop: Path, models_dir: Path) -> None:
    text = "FROM support-bot\nMESSAGE user a: b\nPARAMETER mirostat 2\nPARAMETER top_k 1\nPARAMETER top_k 2\n"
    model = load(write(workshop, text + "REQUIRES v0.14.0\nLICENSE mine"), models_dir=models_dir)
    assert model.messages == ({"role": "user", "content": "a: b"},)
    assert model.parameters["top_k"] == 2
    assert "mirostat" not in {p.name for p in options.effective(model)}
    assert [f.item for f in options.ignored(model)] == ["PARAMETER mirostat"]
    assert model.requires == "0.14.0"
    assert model.licenses[-1] == "mine"


def test_what_create_sets_for_gemma4(shared: Path, tmp_path: Path) -> None:
    gguf = shared / "models" / "gemma4" / "gguf" / "model-bf16.gguf"
    model = load(write(tmp_path, f"FROM {gguf}"))
    assert (model.renderer, model.parser, model.parameters) == ("gemma4", "gemma4", {"stop": ["<turn|>"]})
    assert load(write(tmp_path, f"FROM {gguf}\nPARAMETER stop x")).parameters == {"stop": ["x"]}


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("FROM ./missing.gguf", NotFound, "no such file, and not a model name"),
        ("FROM ", NotFound, "not a model name"),
        ("FROM nobody-has-this", NotFound, "no model 'nobody-has-this:latest'"),
        ("FROM big:cloud", Refused, "cloud model"),
        ("FROM " + "x" * 5000, NotFound, "not a model name"),
        ("FROM support-bot\nADAPTER ./missing.gguf", NotFound, "ADAPTER ./missing.gguf: no such file"),
        ("FROM support-bot\nPARAMETER temprature 1", ModelfileError, "unknown parameter"),
        ("FROM support-bot\nREQUIRES soon", ModelfileError, "is no version"),
        ("FROM ./text.txt", BadInput, "not a GGUF"),
        ("FROM ./checkpoint", Refused, "is a checkpoint, but not a directory with"),
        ("FROM ./lora.gguf", BadInput, "no model weights"),
        ("FROM support-bot\nADAPTER ./text.txt", Refused, "neither a GGUF nor a PEFT"),
        ("FROM ~nobody-of-this-name/x", ModelfileError, "no such user"),
    ],
)
def test_modelfiles_that_cannot_be_meant(
    workshop: Path, models_dir: Path, text: str, error: type[Exception], words: str
) -> None:
    (workshop / "text.txt").write_text("hello")
    (workshop / "checkpoint").mkdir(exist_ok=True)
    (workshop / "checkpoint" / "config.json").write_text("{}")
    with pytest.raises(error, match=words):
        load(write(workshop, text), models_dir=models_dir)


@pytest.mark.parametrize(
    ("ref", "error", "words"),
    [
        ("nope", NotFound, "no model 'nope:latest'"),
        ("a/b/c/d", UsageError, "too many slashes"),
        ("../../etc/no-such", NotFound, "no such file"),
        ("./nope.gguf", NotFound, "no such file"),
        ("nope.gguf", NotFound, "no such file"),
        ("big:cloud", Refused, "cloud model"),
        ("", UsageError, "not a model name"),
        ("~nobody-of-this-name/x", NotFound, "no such file"),
        ("a/" + "x" * 5000, UsageError, "not a model name"),
        ("./" + "x" * 5000, NotFound, "no such file"),
        ("x" * 5000, UsageError, "not a model name"),
        ("a\0b", UsageError, "not a model name"),
    ],
)
def test_references_that_mean_nothing(models_dir: Path, ref: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(ref, models_dir=models_dir)


def test_files_of_other_kinds(shared: Path, tmp_path: Path) -> None:
    assert load(str(shared / "models" / "tinychat" / "hf")).kind == "checkpoint"
    with pytest.raises(Refused, match="holds adapter weights"):
        load(str(shared / "models" / "tinychat" / "lora" / "adapter.gguf"))
    (tmp_path / "x.gguf").write_bytes(b"\x7fELF\0\0\0")
    with pytest.raises(BadInput, match="neither a GGUF nor a Modelfile"):
        load(str(tmp_path / "x.gguf"))
    with pytest.raises(NotFound, match="without a Modelfile"):
        load(str(tmp_path))
