"""A live Ollama server: what it has, how it renders a prompt, what it answers.

Where the server's files are readable on this machine they are read instead (`store`): `/api/show` leaves things out.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from migrate.errors import MigrateError, ModelfileError, NotFound, ServerError, UsageError
from migrate.gguf.header import read_header
from migrate.gotemplate.literals import unquote
from migrate.ollama import manifest as manifests
from migrate.ollama import modelfile, options
from migrate.ollama.capabilities import DEFAULT_TEMPLATE
from migrate.ollama.model import Layer, Message, OllamaModel
from migrate.ollama.modelfile import Command
from migrate.ollama.names import ModelName
from migrate.ollama.store import Store, Summary, check_messages, find_models_dir

if TYPE_CHECKING:
    from migrate.ollama.transport import Client

DEFAULT_PORT = 11434
Think = bool | str | None
Json = dict[str, Any]


def base_url(text: str | None = None) -> str:
    """The URL of a server as OLLAMA_HOST writes it: `host`, `host:port`, `:port`, `[v6]:port`, `http(s)://...`.

    None or "" means OLLAMA_HOST, and if that is not set 127.0.0.1:11434. With a scheme the port is 80 or 443 unless
    given; an invalid port is replaced, and 0.0.0.0 becomes 127.0.0.1 (envconfig.ConnectableHost). Raises UsageError.
    """
    given = (text or os.environ.get("OLLAMA_HOST", "")).strip().strip("'\"").strip()
    scheme, mark, rest = given.partition("://")
    if not mark:
        scheme, rest = ("https", "ollama.com:443") if given == "ollama.com" else ("http", given)
    scheme = scheme.lower()
    if scheme not in ("http", "https"):
        raise UsageError(f"{given!r} is no address of an Ollama server", hint="Write HOST:PORT or http://HOST:PORT.")
    fallback = {"http": 80, "https": 443}[scheme] if mark or given == "ollama.com" else DEFAULT_PORT
    authority, _, path = rest.partition("/")
    host, port = _host_and_port(authority, fallback)
    if not host or re.search(r"[\s@?#%<>\"\\]", host + path):
        raise UsageError(f"{given!r} is no address of an Ollama server", hint="Write HOST:PORT or http://HOST:PORT.")
    path = path.strip("/")
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" + (f"/{path}" if path else "")


def _host_and_port(authority: str, fallback: int) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", authority)
    if bracketed:
        host, port = bracketed.group(1), bracketed.group(2)
    elif authority.startswith("["):
        host, port = "", None
    elif authority.count(":") == 1:
        host, _, port = authority.partition(":")
        host = host or "127.0.0.1"
    else:  # a name, or an IPv6 address without brackets
        host, port = authority or "127.0.0.1", None
    number = int(port) if port and re.fullmatch(r"[0-9]{1,5}", port) else fallback
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ("" if ":" in host else host), number if number <= 65535 else fallback
    loopback = "127.0.0.1" if address.version == 4 else "::1"
    return loopback if address.is_unspecified else str(address), number if number <= 65535 else fallback


class OllamaAPI:
    """One server. Every call raises ServerUnreachable or ServerError, in bounded time and memory.

    `timeout` in seconds is for one whole request; generating can be given more.
    """

    def __init__(self, host: str | None = None, *, timeout: float = 60.0) -> None:
        self.base_url = base_url(host)
        self._timeout = timeout
        self._connection: Client | None = None

    @property
    def _client(self) -> Client:
        if self._connection is None:
            from migrate.ollama.transport import Client

            self._connection = Client(self.base_url, timeout=self._timeout)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # What there is

    def version(self) -> str:
        """For example "0.33.0"."""
        version = self._client.json("GET", "/api/version").get("version")
        if not isinstance(version, str):
            raise ServerError(f"{self.base_url} does not answer like Ollama: it has no version", status=200)
        return version

    def list(self) -> list[Summary]:
        """All models, sorted by name."""
        import ollama

        models = self._client.typed(ollama.ListResponse, "/api/tags").models
        found = [_summary(model.model or "", model) for model in models if ModelName.valid(model.model or "")]
        return sorted(found, key=lambda summary: (summary.name.short.lower(), summary.name.key))

    def show(self, name: str, *, verbose: bool = False) -> Json:
        """The reply of /api/show as it is; ServerError with status 404 for an unknown model."""
        return self._client.json("POST", "/api/show", {"model": name} | ({"verbose": True} if verbose else {}))

    def ps(self) -> Sequence[Json]:
        """The loaded models: name, digest, size, size_vram (bytes), context_length (tokens) ..."""
        import ollama

        return [model.model_dump(mode="json") for model in self._client.typed(ollama.ProcessResponse, "/api/ps").models]

    # What it does

    def render(
        self, model: str, messages: Sequence[Message], *, tools: Sequence[Json] | None = None, think: Think = None
    ) -> str:
        """The prompt /api/chat makes of these messages, without BOS, images as [img-N]. Loads the model.

        Needs Ollama 0.11.5. Raises ServerError where the server refuses the request (such as tools on a model without).
        """
        reply = self._chat(model, messages, tools, think, {"_debug_render_only": True})
        info = reply.get("_debug_info")
        text = info.get("rendered_template") if isinstance(info, Mapping) else None
        if not isinstance(text, str):
            hint = "It is in Ollama since 0.11.5."
            raise ServerError(f"Ollama at {self.base_url} has no _debug_render_only", status=200, hint=hint)
        return text

    def chat(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        tools: Sequence[Json] | None = None,
        think: Think = None,
        options: Mapping[str, Any] | None = None,
        format: str | Json | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
    ) -> Json:
        """One answer, not streamed: message, done_reason, logprobs [{token, logprob, bytes, top_logprobs}], counts."""
        optional = {"options": options, "format": format, "logprobs": logprobs, "top_logprobs": top_logprobs}
        return self._chat(model, messages, tools, think, {k: v for k, v in optional.items() if v is not None})

    def _chat(
        self, model: str, messages: Sequence[Message], tools: Sequence[Json] | None, think: Think, more: Json
    ) -> Json:
        body: Json = {"model": model, "messages": [dict(message) for message in messages], "stream": False, **more}
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        if think is not None:
            body["think"] = think
        return self._client.json("POST", "/api/chat", body)

    def generate(self, model: str, prompt: str, **fields: Any) -> Json:
        """/api/generate, not streamed; `fields` as the API names them (raw, system, suffix, options ...)."""
        return self._client.json("POST", "/api/generate", {"model": model, "prompt": prompt, "stream": False, **fields})

    # A model

    def load_model(self, name: str, *, models_dir: Path | None = None) -> OllamaModel:
        """Everything the server tells of a model, and its files where they are on this machine as well.

        Raises NotFound for a name the server does not have.
        """
        wanted = ModelName.parse(name)
        summaries = self.list()
        summary = next((s for s in summaries if s.name.key == wanted.key), None)
        try:
            shown = self.show(name)
        except ServerError as error:
            if error.status != 404:
                raise
            raise self._unknown(wanted, summaries) from None
        version = self.version()
        store = _local_store(models_dir)
        if summary is not None and store is not None and (local := _same_in_store(store, summary)) is not None:
            selected = shown.get("template")
            return replace(local, kind="host", ollama_version=version, selected_template=selected or None)
        model = model_from_show(wanted.short, shown, store)
        digests = {**({"manifest": summary.digest} if summary else {}), **model.digests}
        return replace(model, ollama_version=version, digests=digests)

    def _unknown(self, wanted: ModelName, summaries: Sequence[Summary]) -> NotFound:
        shorts = [summary.name.short for summary in summaries]
        near = get_close_matches(wanted.short, shorts, n=3, cutoff=0.75)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(shorts[:10]) or 'no models'}."
        return NotFound(f"Ollama at {self.base_url} has no model {wanted.short!r}", hint=hint)


def _summary(name: str, model: Any) -> Summary:
    details = model.details
    digest, modified = model.digest or "", model.modified_at
    return Summary(
        name=ModelName.parse(name),
        digest=digest if digest.startswith("sha256:") else f"sha256:{digest}",
        size=int(model.size or 0),
        modified=modified.timestamp() if isinstance(modified, datetime) else 0.0,
        family=(details and details.family) or "",
        parameter_size=(details and details.parameter_size) or "",
        quantization=(details and details.quantization_level) or "",
        remote=False,
    )


def _local_store(models_dir: Path | None) -> Store | None:
    try:
        return Store(find_models_dir(models_dir))
    except MigrateError:
        if models_dir is not None:
            raise
        return None


def _same_in_store(store: Store, summary: Summary) -> OllamaModel | None:
    """The model from local files, if they are the server's: same name, same manifest."""
    try:
        if store.manifest(summary.name).digest == summary.digest:
            return store.load(summary.name)
    except MigrateError:
        pass  # another name, or incomplete here: the server has it all
    return None


# /api/show


def model_from_show(name: str, shown: Mapping[str, Any], store: Store | None = None) -> OllamaModel:
    """An `OllamaModel` out of a reply of /api/show.

    RENDERER, PARSER, FROM, ADAPTER and DRAFT are only in its `modelfile` text. That text shows `{{ .Prompt }}` where
    there is no TEMPLATE; the two cannot be told apart and mean the same. `store` finds blobs by digest.
    """
    commands = _commands(_text(shown, "modelfile"))
    last = {command.name: command.args for command in commands}
    template = last.get("template")
    template = None if template in (None, "", DEFAULT_TEMPLATE) else template
    selected = _text(shown, "template") or None
    files = [_blob(c.args, manifests.MODEL, store) for c in commands if c.name == "model"]
    weights = files[0] if files else None
    projectors = [replace(layer, media_type=manifests.PROJECTOR) for layer in files[1:]]
    details = _object(shown, "details")
    info = {key: value for key, value in _object(shown, "model_info").items() if value is not None}
    jinja = selected not in (None, "", DEFAULT_TEMPLATE, template) and not (last.get("renderer") or last.get("parser"))
    if jinja:  # the server leaves the GGUF's template out of model_info, but it is the one it has selected
        info["tokenizer.chat_template"] = selected
    path = weights.path if weights else None
    remote = {key: _text(shown, key) for key in ("remote_host", "remote_model") if shown.get(key)}
    adapters = [_blob(c.args, manifests.ADAPTER, store) for c in commands if c.name == "adapter"]
    drafts = [_blob(c.args, manifests.DRAFT, store) for c in commands if c.name == "draft"][-1:]
    layers = [*([weights] if weights else []), *adapters, *projectors, *drafts]
    return OllamaModel(
        name=name,
        kind="host",
        gguf=read_header(path) if path else None,
        gguf_path=path,
        template=template,
        system=_text(shown, "system") or None,
        messages=check_messages(shown.get("messages"), "/api/show"),
        parameters=parse_parameters(_text(shown, "parameters")),
        renderer=last.get("renderer") or None,
        parser=last.get("parser") or None,
        requires=_text(shown, "requires") or None,
        licenses=tuple(filter(None, [_text(shown, "license")])),
        adapters=adapters,
        projectors=projectors,
        drafts=drafts,
        layers=layers,
        config={
            "model_format": _text(details, "format"),
            "model_family": _text(details, "family"),
            "model_families": list(_texts(details, "families")),
            "model_type": _text(details, "parameter_size"),
            "file_type": _text(details, "quantization_level"),
            **remote,
        },
        digests={"model": weights.digest} if weights and weights.digest else {},
        parent=_text(details, "parent_model") or None,
        model_info=info,
        selected_template=selected,
        capabilities=_texts(shown, "capabilities"),
    )


def parse_parameters(text: str) -> dict[str, Any]:
    """`parameters` of /api/show: a line per value, the name padded to 30, texts quoted as Go does, lists repeated."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        name, _, literal = line.strip().partition(" ")
        value = _go_value(literal.strip())
        option = options.OPTIONS.get(name)
        if (option and option.kind == "strings") or (isinstance(value, str) and name in found):
            found[name] = [*found.get(name, ()), value]
        elif name:
            found[name] = options.stored(name, value)
    return found


def _go_value(literal: str) -> Any:
    if literal.startswith('"') and literal.endswith('"') and len(literal) > 1:
        try:
            return unquote(literal)
        except ValueError:
            return literal[1:-1]
    if literal in ("true", "false"):
        return literal == "true"
    try:
        return int(literal) if re.fullmatch(r"[+-]?[0-9]{1,19}", literal) else float(literal)
    except ValueError:
        return literal


_SINGLE_LINE = re.compile(r"^(FROM|ADAPTER|DRAFT|RENDERER|PARSER) (.*)$", re.MULTILINE)


def _commands(text: str) -> list[Command]:
    """The commands of the shown Modelfile; where a text in it breaks the quoting, what a single line tells."""
    try:
        return modelfile.parse(text)
    except ModelfileError:
        names = {"FROM": "model"}
        return [Command(names.get(m[1], m[1].lower()), m[2].strip()) for m in _SINGLE_LINE.finditer(text)]


def _blob(path: str, media_type: str, store: Store | None) -> Layer:
    """A blob the server names by its own path: the same file here, the same digest in our store, or only a digest."""
    name = re.split(r"[/\\]", path)[-1]
    digest = f"sha256:{hexadecimal}" if (hexadecimal := manifests.digest_hex(name)) else ""
    candidates = [Path(path), *([blob] if store and (blob := store.blob(digest)) else [])]
    local = next((c for c in candidates if digest and c.name.startswith("sha256") and os.access(c, os.R_OK)), None)
    return Layer(media_type, digest=digest, size=local.stat().st_size if local else 0, path=local)


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key) or ""
    if not isinstance(value, str):
        raise ServerError(f"/api/show: {key} is not a text", status=200)
    return value


def _texts(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = content.get(key) or []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ServerError(f"/api/show: {key} is not a list of texts", status=200)
    return tuple(value)


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, Mapping):
        raise ServerError(f"/api/show: {key} is not an object", status=200)
    return value
