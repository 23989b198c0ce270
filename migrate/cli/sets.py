"""Several models at a time: `convert`, `inspect` and `plan` with more than one REF, or `--all`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.cli.output import say
from migrate.errors import Interrupted, MigrateError, Refused, UsageError

if TYPE_CHECKING:
    from migrate.mapping.groups import Group
    from migrate.mapping.migration import Choices, Migration
    from migrate.ollama.model import OllamaModel

Choose = Callable[[str], "Choices"]
"""REF -> what the user decided about it."""
Prepare = Callable[["OllamaModel"], tuple["OllamaModel", Any]]
"""A model -> the same with its original's weights, and the proof of them."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model that is in no group, and why."""

    name: str
    error: MigrateError

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.name, "reason": str(self.error), "action": self.error.hint or ""}


@dataclass(frozen=True, slots=True)
class Found:
    groups: Sequence[Group]
    left_out: Sequence[LeftOut]


def find(
    refs: Sequence[str],
    choose: Choose,
    *,
    every: bool,
    models_dir: Path | None,
    host: str | None,
    prepare: Prepare | None = None,
) -> Found:
    """The models that are named, or all there are, by the server that each can share.

    What `every` finds and cannot be read is left out; a REF that cannot is an error.
    """
    from migrate.bundle.variants import weights_ids
    from migrate.mapping import groups
    from migrate.mapping.migration import plan
    from migrate.ollama import reference

    if every and refs:
        raise UsageError("--all is every model of the store: name none beside it")
    names = list(dict.fromkeys(_every(models_dir, host) if every else refs))
    models: list[tuple[str, OllamaModel]] = []
    left_out: list[LeftOut] = []
    for name in names:
        try:
            models.append((name, reference.load(name, models_dir=models_dir, host=host)))
        except MigrateError as error:
            if not every or isinstance(error, Interrupted):
                raise
            left_out.append(LeftOut(name, error))
    if every:
        models = _parents_first(models)
    identities = weights_ids([model for _, model in models])
    proofs: dict[str, tuple[OllamaModel, Any]] = {}
    planned: list[Migration] = []
    kept: list[str] = []
    for (name, model), identity in zip(models, identities, strict=True):
        choices = choose(name)
        if choices.merge_adapter and not model.adapters:
            choices = replace(choices, merge_adapter=False)
        try:
            if prepare is not None:
                proofs[identity] = proofs.get(identity) or prepare(model)
                original, proof = proofs[identity]
                model = replace(model, gguf=original.gguf, checkpoint=original.checkpoint)
                choices = replace(choices, original=proof)
            planned.append(plan(model, choices))
            kept.append(identity)
        except MigrateError as error:
            if not every or isinstance(error, Interrupted):
                raise
            left_out.append(LeftOut(name, error))
    return Found(groups.group(planned, kept), left_out)


def _every(models_dir: Path | None, host: str | None) -> list[str]:
    if host is not None:
        from migrate.ollama.api import OllamaAPI

        with OllamaAPI(host) as api:
            return [entry.name.short for entry in api.list()]
    from migrate.ollama.store import Store, find_models_dir

    return [name.short for name in Store(find_models_dir(models_dir)).list()]


def _parents_first(models: Sequence[tuple[str, OllamaModel]]) -> list[tuple[str, OllamaModel]]:
    """So that a group is called after the model the others were made FROM."""
    parents = {model.name: model.parent for _, model in models}

    def depth(name: str) -> int:
        seen: set[str] = set()
        while (parent := parents.get(name)) in parents and parent is not None and parent not in seen:
            seen.add(parent)
            name = parent
        return len(seen)

    return sorted(models, key=lambda pair: (depth(pair[1].name), bool(pair[1].adapters)))


# ---- convert --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WrittenGroup:
    """A bundle that was written, for one model or a set."""

    path: Path
    models: Sequence[str]
    written: Any

    def to_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "models": list(self.models), "weight_bytes": self.written.weight_bytes}


@dataclass(frozen=True, slots=True)
class Outcome:
    bundles: Sequence[WrittenGroup]
    left_out: Sequence[LeftOut]
    gateway: Path | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "bundles": [bundle.to_dict() for bundle in self.bundles],
            "left_out": [left.to_dict() for left in self.left_out],
            "gateway": str(self.gateway) if self.gateway else None,
        }


def tell_groups(found: Found) -> None:
    """On stderr: who shares a server, and who does not and why."""
    for group in found.groups:
        names = ", ".join(migration.model.name for migration in group.migrations)
        say(f"{names}: {group.apart}" if group.apart else f"{names}: one server")
    for left in found.left_out:
        say(f"{left.name}: left out: {left.error}")


def write_groups(found: Found, output: Path, *, every: bool, force: bool, progress: Callable[[str], Any]) -> Outcome:
    """Writes a bundle a group: the only one at `output` itself, several below it, with a gateway.yaml beside them.

    `progress`: label -> a context manager that gives the function to report bytes to. A group that is refused, or whose
    weights turn out damaged, is left out, and the others are written. Raises what the only group raises.
    """
    from migrate.bundle import variants, write

    if len(found.groups) == 1 and not every:
        (group,) = found.groups
        write.check_output(output, force=force)
        with progress(group.name) as report:
            bundle = _write(group, output, force=force, progress=report)
        made = output / variants.GATEWAY_FILE
        return Outcome([bundle], found.left_out, made if made.is_file() else None)
    _check_directory(output, force=force)
    _check_ports(found.groups)
    names = variants.directory_names([group.migrations[0] for group in found.groups])
    for name in names:
        write.check_output(output / name, force=force) if output.is_dir() else None
    made_here = not output.is_dir()
    if made_here:
        output.mkdir()
    bundles: list[WrittenGroup] = []
    left_out = list(found.left_out)
    upstreams = []
    for group, name in zip(found.groups, names, strict=True):
        group = _at_port(group, group.migrations[0].choices.port + len(bundles))
        choices = group.migrations[0].choices
        try:
            with progress(name) as report:
                bundles.append(_write(group, output / name, force=force, progress=report))
        except (UsageError, Interrupted):
            if made_here and not bundles:
                output.rmdir()
            raise
        except MigrateError as error:
            left_out += [LeftOut(migration.model.name, error) for migration in group.migrations]
            continue
        upstreams.append(variants.Upstream(name, choices.host, choices.port, f"./{name}"))
    if not bundles:
        if made_here:
            output.rmdir()
        raise _nothing(left_out)
    gateway = output / variants.GATEWAY_FILE
    write.write_text(gateway, variants.gateway_yaml(upstreams))
    return Outcome(bundles, left_out, gateway)


def _nothing(left_out: Sequence[LeftOut]) -> MigrateError:
    if not left_out:
        return Refused("there is no model to convert")
    first = left_out[0]
    more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
    return Refused(f"no model can be converted; {first.name}: {first.error}{more}", hint=first.error.hint)


def _check_directory(output: Path, *, force: bool) -> None:
    """`output` becomes a directory of bundles."""
    from migrate.bundle import format as bundle_format
    from migrate.bundle.variants import check_gateway_file
    from migrate.errors import OutputExists

    if output.exists() and not output.is_dir():
        raise OutputExists(f"{output} exists and is not a directory")
    if (output / bundle_format.FILE_NAME).is_file():
        raise OutputExists(f"{output} is a bundle, and several would be written below it", hint="choose another -o")
    if not output.resolve().parent.is_dir():
        raise UsageError(f"{output.resolve().parent} is no directory", hint="create it first")
    check_gateway_file(output, force=force)


def _check_ports(groups: Sequence[Group]) -> None:
    first = groups[0].migrations[0].choices.port if groups else 0
    if first + len(groups) - 1 > 65535:
        raise UsageError(f"--port {first}: there are not enough ports above it for {len(groups)} bundles")


def _at_port(group: Group, port: int) -> Group:
    """The same group listening elsewhere."""
    from migrate.mapping.groups import at_port

    return replace(group, migrations=tuple(at_port(migration, port) for migration in group.migrations))


def _write(group: Group, out: Path, *, force: bool, progress: Any) -> WrittenGroup:
    from migrate.bundle import variants, write
    from migrate.mapping.variants import plan_set

    models = [migration.model.name for migration in group.migrations]
    if len(group.migrations) == 1:
        written = write.write(group.migrations[0], out, force=force, progress=progress)
    else:
        written = variants.write_set(plan_set(group.migrations), out, force=force, progress=progress)
    return WrittenGroup(out, models, written)
