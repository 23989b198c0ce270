"""What a person names (a model, a Modelfile, a GGUF) to an `OllamaModel`.

A Modelfile is read as `ollama create` would read it, without creating anything (parser.CreateRequest and
server/create.go): a FROM that exists as a path is that file, anything else is a model whose layers are inherited.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from migrate.errors import BadInput, ModelfileError, NotFound, Refused
from migrate.gguf.header import MAGIC, GGUFHeader, read_header
from migrate.ollama import manifest as manifests
from migrate.ollama import modelfile, options
from migrate.ollama.checkpoint import is_checkpoint, read_directory
from migrate.ollama.model import Layer, OllamaModel
from migrate.ollama.modelfile import Command
from migrate.ollama.names import ModelName, split_source
from migrate.ollama.store import Store, find_models_dir

_CHECKPOINT_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "adapter_config.json")
_SEMVER = re.compile(r"v?(\d+(?:\.\d+(?:\.\d+(?:[-+][0-9A-Za-z.+-]+)?)?)?)")


def load(ref: str, *, models_dir: Path | None = None, host: str | None = None) -> OllamaModel:
    """The model `ref` names.

    1. A path that says it is one (begins with `.`, `~` or `/`, or ends in `.gguf` or `Modelfile`) is a file, always.
    2. Something with a `/` in it that exists is a file, too: as Ollama does, a path shadows a model name.
    3. Anything else is a model: of the server `host` if given, else of the store (`models_dir`, OLLAMA_MODELS, the
       usual places); last, a file of that name in the current directory.

    Raises NotFound, Refused, and what reading raises (ModelfileError, StoreError, GGUFError, EngineError).
    """
    path = _expanded(ref)
    if _is_path(ref) or (_has_separator(ref) and _exists(path)):
        return load_path(path, models_dir=models_dir, host=host)
    name, source = split_source(ref)
    if source == "cloud":
        raise Refused(f"{ref} is a cloud model: it has no weights here", hint="Name a model that runs locally.")
    try:
        return load_name(name, models_dir=models_dir, host=host)
    except NotFound:
        if _exists(path):
            return load_path(path, models_dir=models_dir, host=host)
        raise


def load_name(name: str, *, models_dir: Path | None = None, host: str | None = None) -> OllamaModel:
    """A model by name: of a live server if `host` is given, else of the store."""
    if host is not None:
        from migrate.ollama.api import OllamaAPI

        with OllamaAPI(host) as api:
            return api.load_model(name, models_dir=models_dir)
    ModelName.parse(name)  # an impossible name is worth saying before looking for a store
    return Store(find_models_dir(models_dir)).load(name)


def load_path(path: Path, *, models_dir: Path | None = None, host: str | None = None) -> OllamaModel:
    """A GGUF (told by its first bytes), a Modelfile, or a directory with a Modelfile in it."""
    if not _exists(path):
        raise NotFound(f"{str(path)[:300]}: no such file")
    if path.is_dir():
        if (path / "Modelfile").is_file():
            return load_modelfile(path / "Modelfile", models_dir=models_dir, host=host)
        if is_checkpoint(path):
            return _from_checkpoint(path)
        _refuse_pickled(path)
        raise NotFound(f"{path} is a directory without a Modelfile", hint="Name the Modelfile or the GGUF in it.")
    if not path.is_file():
        raise BadInput(f"{path} is no regular file")
    if _is_gguf(path):
        return _from_gguf(path)
    _refuse_pickled(path)
    return load_modelfile(path, models_dir=models_dir, host=host)


def load_modelfile(path: Path, *, models_dir: Path | None = None, host: str | None = None) -> OllamaModel:
    """The model `ollama create -f path` would make. Files it names are looked for beside it."""
    try:
        recipe = _Recipe.of(modelfile.parse(_read(path)), path.resolve().parent)
    except ModelfileError as error:
        raise ModelfileError(f"{path}: {error}", line=error.line, hint=error.hint) from None
    if recipe.from_name is not None:
        base = _base(recipe.from_name, models_dir, host)
    else:
        base = _from_files(recipe.files)
    name = path.resolve().parent.name if path.name.lower() == "modelfile" else path.stem
    return recipe.applied_to(base, name=name)


# One file


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(modelfile.MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error
    text = modelfile.decode(data)
    if "\0" in text:
        raise BadInput(f"{path} is neither a GGUF nor a Modelfile", hint="A GGUF starts with the letters GGUF.")
    return text


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error


def _from_gguf(path: Path) -> OllamaModel:
    header = _whole(path)
    if (kind := _kind(header)) != manifests.MODEL:
        what = kind.removeprefix(manifests.IMAGE)
        hint = "Name the model; adapters and projectors belong into a Modelfile (ADAPTER, a second FROM)."
        raise Refused(f"{path.name} is not a model: it holds {what} weights", hint=hint)
    return OllamaModel(
        name=path.stem, kind="gguf", gguf=header, gguf_path=path, layers=(_layer(path, manifests.MODEL),)
    )


def _whole(path: Path) -> GGUFHeader:
    header = read_header(path)
    if not header.is_complete:
        hint = "Name the parts NAME-00001-of-0000N.gguf, or merge them: llama-gguf-split --merge FIRST-PART OUT.gguf"
        raise Refused(f"{path.name} is one of {header.split_count} parts of a split GGUF", hint=hint)
    return header


def _kind(header: GGUFHeader) -> str:
    """The media type `ollama create` gives a GGUF, by what is in it."""
    if header.kind == "adapter":
        return manifests.ADAPTER
    if header.kind in ("projector", "mmproj") or header.architecture == "clip":
        return manifests.PROJECTOR
    return manifests.MODEL


def _layer(path: Path, media_type: str) -> Layer:
    """A file that is in no store: its digest is not known, and hashing gigabytes is nobody's wish here."""
    return Layer(media_type, digest="", size=path.stat().st_size, path=path, name=path.name)


def _from_checkpoint(directory: Path) -> OllamaModel:
    checkpoint, header = read_directory(directory)
    name = directory.resolve().name
    return OllamaModel(name=name, kind="checkpoint", gguf=header, gguf_path=None, checkpoint=checkpoint)


def _refuse_pickled(path: Path) -> None:
    """Checkpoints that are no directory of safetensors."""
    if path.suffix in (".safetensors", ".bin", ".pth") or any((path / name).is_file() for name in _CHECKPOINT_FILES):
        raise Refused(
            f"{path} is a checkpoint, but not a directory with config.json and model*.safetensors",
            hint="Name the directory; pickled weights (.bin, .pth) have to be saved as safetensors first.",
        )


# FROM


def _base(name: str, models_dir: Path | None, host: str | None) -> OllamaModel:
    base, source = split_source(name)
    if source == "cloud":
        raise Refused(f"FROM {name} is a cloud model: it has no weights here", hint="Use a model that runs locally.")
    if not base or not ModelName.valid(base):
        hint = "Paths are relative to the Modelfile." if base else 'Write "FROM name" or "FROM ./file".'
        if manifests.digest_hex(re.split(r"[/\\]", name)[-1]):
            hint = (
                "It is a blob of another machine's store (`ollama show --modelfile` writes such paths): name the model."
            )
        raise NotFound(f"FROM {name[:200]}: no such file, and not a model name", hint=hint)
    try:
        return load_name(base, models_dir=models_dir, host=host)
    except NotFound as error:
        hint = f"`ollama pull {base}` fetches it, if it is public. {error.hint or ''}".strip()
        raise NotFound(f"FROM {name}: {error}", hint=hint) from error


def _from_files(paths: Sequence[Path]) -> OllamaModel:
    """Several FROM lines name the parts of one model: weights, a projector, an adapter, told apart by their content."""
    layers = []
    for path in paths:
        if path.is_dir() and is_checkpoint(path):
            if len(paths) > 1:
                raise BadInput(f"FROM {path}: a checkpoint directory stands alone; there are {len(paths)} FROM lines")
            return replace(_from_checkpoint(path), name="", kind="modelfile")
        _refuse_pickled(path)
        if path.is_dir() or not _is_gguf(path):
            raise BadInput(
                f"FROM {path}: not a GGUF file", hint="Ollama imports GGUF files and checkpoint directories."
            )
        layers.append(_layer(path, _kind(_whole(path))))
    weights = next((layer.path for layer in reversed(layers) if layer.media_type == manifests.MODEL), None)
    if weights is None:
        raise BadInput(f"FROM {paths[-1]}: there are no model weights in it")
    return OllamaModel(
        name="",
        kind="modelfile",
        gguf=read_header(weights),
        gguf_path=weights,
        adapters=[layer for layer in layers if layer.media_type == manifests.ADAPTER],
        projectors=[layer for layer in layers if layer.media_type == manifests.PROJECTOR],
        layers=layers,
    )


@dataclass(frozen=True, slots=True)
class _Recipe:
    """A Modelfile with its values checked and its paths found."""

    from_name: str | None
    files: Sequence[Path]
    adapter: Path | None
    drafts: Sequence[Path]
    texts: Mapping[str, str]
    """template, system, renderer, parser, requires: only what is given and not empty."""
    parameters: Mapping[str, Any]
    licenses: Sequence[str]
    messages: Sequence[Mapping[str, str]]

    @classmethod
    def of(cls, commands: Iterable[Command], directory: Path) -> _Recipe:
        from_name: str | None = None
        files: list[Path] = []
        adapter: Path | None = None
        drafts: list[Path] = []
        texts: dict[str, str] = {}
        parameters: dict[str, Any] = {}
        licenses: list[str] = []
        messages: list[dict[str, str]] = []
        for command in commands:
            name, value = command.name, command.args
            if name == "model":
                path = expand(value, directory)
                if value and _exists(path):
                    files.append(path)
                else:
                    from_name = value
            elif name == "adapter":
                adapter = _existing(name, value, directory)
            elif name == "draft":
                drafts.append(_existing(name, value, directory))
            elif name == "license":
                licenses.append(value)
            elif name == "message":
                role, _, content = value.partition(": ")
                messages.append({"role": role, "content": content})
            elif name in ("template", "system", "renderer", "parser"):
                texts[name] = value
            elif name == "requires":
                texts[name] = _version(value)
            elif (checked := options.check(name, value)) is not None:
                parameters[name] = [*parameters.get(name, ()), checked] if name == "stop" else checked
            else:
                parameters[name] = value  # deprecated: `ollama create` drops it, and the ledger says so
        given = {name: text for name, text in texts.items() if text}
        return cls(from_name, files, adapter, drafts, given, parameters, licenses, messages)

    def applied_to(self, base: OllamaModel, *, name: str) -> OllamaModel:
        """The child: its own layers over the base's, parameter by parameter, MESSAGEs and stop lists as a whole."""
        inherited = base.kind != "modelfile"
        added = [*self._adapter_layer(), *(_layer(path, manifests.DRAFT) for path in self.drafts)]
        overridden = {*self.texts, "manifest", "config"}
        overridden |= {"params"} if self.parameters else set()
        overridden |= {"messages"} if self.messages else set()
        model = replace(
            base,
            name=name,
            kind="modelfile",
            template=self.texts.get("template", base.template),
            system=self.texts.get("system", base.system),
            renderer=self.texts.get("renderer", base.renderer),
            parser=self.texts.get("parser", base.parser),
            requires=self.texts.get("requires", base.requires),
            parameters={**base.parameters, **self.parameters},
            messages=tuple(self.messages) or base.messages,
            licenses=(*base.licenses, *self.licenses),
            adapters=(*base.adapters, *(layer for layer in added if layer.media_type == manifests.ADAPTER)),
            drafts=tuple(layer for layer in added if layer.media_type == manifests.DRAFT)[-1:] or base.drafts,
            layers=(*base.layers, *added),
            digests={role: digest for role, digest in base.digests.items() if role not in overridden},
            parent=base.name if inherited else None,
            parent_parameters=base.parameters if inherited else None,
        )
        return _architecture_defaults(model, own_stop="stop" in self.parameters)

    def _adapter_layer(self) -> list[Layer]:
        if self.adapter is None:
            return []
        path = self.adapter
        if path.suffix == ".safetensors" and not _is_gguf(path):
            path = path.parent  # Ollama reads the configuration beside it, too
        if not path.is_dir() and not _is_gguf(path):
            raise Refused(f"ADAPTER {path} is neither a GGUF nor a PEFT directory")
        return [_layer(path, manifests.ADAPTER)]


def _architecture_defaults(model: OllamaModel, *, own_stop: bool) -> OllamaModel:
    """What `ollama create` sets for three families when RENDERER or PARSER is missing."""
    architecture = model.gguf.architecture if model.gguf else ""
    names = {"gemma4": ("gemma4", "gemma4"), "laguna": ("laguna", "laguna")}.get(architecture)
    if architecture in ("nemotron_h", "nemotron_h_moe", "nemotron_h_omni"):
        names = ("nemotron-3-nano", "nemotron-3-nano")
    if names is None or (model.renderer and model.parser):
        return model
    stop = {"stop": ["<turn|>"]} if architecture == "gemma4" and not own_stop else {}
    return replace(
        model,
        renderer=model.renderer or names[0],
        parser=model.parser or names[1],
        parameters={**model.parameters, **stop},
    )


def _version(value: str) -> str:
    found = _SEMVER.fullmatch(value)
    if found is None:
        raise ModelfileError(f"REQUIRES {value!r} is no version", hint="Write one such as 0.14.0.")
    return found.group(1)


# Paths


def expand(value: str, directory: Path) -> Path:
    """A path in a Modelfile: absolute, `~`, `~user`, or relative to the Modelfile's directory."""
    if value.startswith("~"):
        try:
            return Path(value).expanduser()
        except RuntimeError:
            raise ModelfileError(f"{value!r}: no such user") from None
    return directory / value


def _exists(path: Path) -> bool:
    """Also for what no file system could hold, such as a name of 5,000 letters."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _expanded(ref: str) -> Path:
    try:
        return Path(ref).expanduser()
    except RuntimeError:  # ~nobody
        return Path(ref)


def _existing(command: str, value: str, directory: Path) -> Path:
    path = expand(value, directory)
    if not value or not _exists(path):
        raise NotFound(f"{command.upper()} {value}: no such file", hint=f"It was looked for at {path}.")
    return path


def _has_separator(ref: str) -> bool:
    return "/" in ref or os.sep in ref


def _is_path(ref: str) -> bool:
    return ref.startswith((".", "~", "/", os.sep)) or Path(ref).is_absolute() or bool(_FILE_NAME.search(ref))


_FILE_NAME = re.compile(r"\.gguf$|(?:^|[/\\.])modelfile$|(?:^|[/\\])modelfile\.", re.IGNORECASE)
