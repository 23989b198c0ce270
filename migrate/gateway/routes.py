"""The models of a configuration as far as a cut-over needs them: names, upstreams, bundles. Reads the bundles'
migration.json and nothing else, so that it works while no server does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from migrate.bundle import format as bundle_format
from migrate.errors import MigrateError, NotFound
from migrate.gateway.config import Config, Model
from migrate.gateway.routing import Route
from migrate.gateway.state import State, canonical
from migrate.ollama.names import ModelName


@dataclass(frozen=True, slots=True)
class Configured:
    """`served`: its name in vLLM. `temperature`: of requests that name none."""

    route: Route
    bundle: Path
    served: str
    temperature: float | None


def configured(config: Config) -> tuple[Configured, ...]:
    """Every model. Raises what reading a bundle raises."""
    return tuple(found for entry in config.models for found in _of_bundle(config, entry))


def known_names(config: Config, state: State) -> tuple[tuple[str, ...], list[str]]:
    """(models of the configuration that have an Ollama, what was wrong): bundles that cannot be read are told, and
    their models are known by the names that stand in the configuration or the state."""
    names: dict[str, None] = {}
    told: list[str] = []
    for entry in config.models:
        try:
            found = [c.route for c in _of_bundle(config, entry)]
        except MigrateError as error:
            told.append(str(error))
            found = [Route((name,), entry.upstream, entry.source) for name in entry.names or ()]
        names |= {route.name: None for route in found if route.source is not None}
    if told:
        names |= dict.fromkeys(state.models)
    return tuple(names), told


def _of_bundle(config: Config, entry: Model) -> list[Configured]:
    path = config.bundle_of(entry)
    manifest = bundle_format.read(path)
    parts = [(v.source, v.served_model_name) for v in manifest.variants]
    parts = parts or [(manifest.source, manifest.target.served_model_name)]
    wanted = {canonical(name) for name in entry.names} if entry.names is not None else None
    found: list[Configured] = []
    for source, served in parts:
        name = next((text for text in (source.name, served[0]) if ModelName.valid(text)), served[0])
        route = Route((name,), entry.upstream, entry.source)
        if wanted is not None and route.name not in wanted:
            continue
        parameters = {str(p.get("name")): p.get("value") for p in source.parameters}
        value = parameters.get("temperature")
        temperature = float(value) if isinstance(value, int | float) else None
        found.append(Configured(route, path, served[0], temperature))
    return found


def require(models: tuple[Configured, ...], name: str) -> Configured:
    """The model called `name`. Raises NotFound."""
    for model in models:
        if canonical(name) in {canonical(known) for known in (*model.route.names, model.served)}:
            return model
    known = ", ".join(model.route.name for model in models)
    raise NotFound(f"{name}: no such model in the configuration", hint=f"it has {known}")
