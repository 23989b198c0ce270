"""A bundle of several models on disk: complete, deterministic, never half written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import resources
from migrate.bundle import deploy, variants
from migrate.bundle import format as bundle_format
from migrate.chat_template.combine import combine
from migrate.errors import OutputExists, Refused, StoreError
from migrate.gateway.config import load as load_gateway
from migrate.mapping.migration import Migration, plan
from migrate.mapping.variants import VariantSet, plan_set
from migrate.ollama.reference import load
from migrate.ollama.store import Store
from migrate.parity.facts import read_bundle
from tests.bundle.test_write import tree

DEMO = Store(resources.directory("demo-store"))
THIRD = 'FROM support-bot\nSYSTEM Rhyme.\nLICENSE Mine.\nPARAMETER num_ctx 512\nPARAMETER stop "."\n'


def planned(directory: Path, store: Path = DEMO.path) -> VariantSet:
    path = directory / "third.Modelfile"
    path.write_text(THIRD)
    models = [Store(store).load("support-bot"), Store(store).load("child-bot"), load(str(path), models_dir=store)]
    return plan_set([plan(model) for model in models])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    variants.write_set(planned(root), root / "out")
    return root / "out"


def read(bundle: Path, name: str) -> Any:
    return json.loads((bundle / name).read_text())


def test_one_checkpoint_and_a_template_each(bundle: Path) -> None:
    assert set(tree(bundle)) == {
        "LICENSE",
        "MIGRATION.md",
        "gateway.yaml",
        "migrate_defaults.py",
        "migration.json",
        "ollama_penalties.py",
        "model/chat_template.jinja",
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "ollama_show.json",
        "request_defaults.json",
        "serve.sh",
        "serve.yaml",
        "variants/child-bot/chat_template.jinja",
        "variants/support-bot/chat_template.jinja",
        "variants/third/chat_template.jinja",
    }
    own = {name: (bundle / f"variants/{name}/chat_template.jinja").read_text() for name in names(bundle)}
    assert (bundle / "model/chat_template.jinja").read_text() == combine(own)


def names(bundle: Path) -> list[str]:
    return [variant.name for variant in bundle_format.read(bundle).variants]


def test_each_variant_is_recorded_as_it_would_be_alone(bundle: Path, tmp_path: Path) -> None:
    from migrate.bundle import write

    manifest = bundle_format.read(bundle)
    assert names(bundle) == ["support-bot", "child-bot", "third"]
    assert manifest.source == manifest.variants[0].source
    for name in ("support-bot", "child-bot"):
        alone = write.write(plan(DEMO.load(name)), tmp_path / name).manifest
        variant = manifest.variant(f"{name}:latest")
        assert variant is not None
        assert variant.source == alone.source
        assert variant.eos_token_id == alone.target.eos_token_id
        assert variant.served_model_name == alone.target.served_model_name
        assert variant.max_model_len == alone.target.max_model_len
        assert (bundle / (variant.chat_template or "")).read_text() == (
            tmp_path / name / "model/chat_template.jinja"
        ).read_text()
        items = [finding.item for finding in variant.findings]
        assert [f.item for f in alone.findings if f.item not in items] == []
    third = manifest.variant("third")
    assert third is not None
    assert third.source.system == "Rhyme."
    assert third.source.blobs["model"] == manifest.source.blobs["model"]
    assert third.source.licenses == ["MIT License\nCopyright (c) Example Shop", "Mine."]
    assert manifest.variant("nobody") is None


def test_the_target_is_the_server(bundle: Path) -> None:
    manifest = bundle_format.read(bundle)
    serve = yaml.safe_load((bundle / "serve.yaml").read_text())
    served = [name for variant in manifest.variants for name in variant.served_model_name]
    assert manifest.target.served_model_name == serve["served-model-name"] == served
    assert manifest.target.max_model_len == serve["max-model-len"] == 1024
    first = manifest.variants[0].request_defaults
    assert manifest.target.request_defaults == {
        "stop": ["User:"],
        "seed": 42,
        "vllm_xargs": {
            "repeat_penalty": 1.1,
            "repeat_last_n": 64,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        },
    }
    assert manifest.target.request_defaults.items() <= first.items()
    assert serve["logits-processors"] == ["ollama_penalties:OllamaPenalties"]
    assert serve["middleware"] == ["migrate_defaults.RequestDefaults"]
    defaults = read(bundle, "request_defaults.json")
    assert {v.name: v.request_defaults for v in manifest.variants}.items() <= defaults["variants"].items()


def test_what_the_gateway_reads(bundle: Path) -> None:
    assert yaml.safe_load((bundle / "gateway.yaml").read_text()) == {
        "listen": "127.0.0.1:11434",
        "upstreams": {"support-bot": {"url": "http://127.0.0.1:8000"}},
        "models": [{"bundle": ".", "upstream": "support-bot"}],
    }
    config = load_gateway(bundle / "gateway.yaml")
    assert [(str(model.bundle), model.upstream) for model in config.models] == [(".", "support-bot")]
    assert "gateway.yaml" not in bundle_format.read(bundle).files, "a configuration, which people edit"
    shown = bundle_format.read_show(bundle)
    assert list(shown) == names(bundle)
    assert shown["third"] == shown["support-bot"]


def test_addresses_that_are_no_address_to_call() -> None:
    text = variants.gateway_yaml([variants.Upstream("a", "0.0.0.0", 1, "./a"), variants.Upstream("b", "::1", 2, "./b")])
    assert [u["url"] for u in yaml.safe_load(text)["upstreams"].values()] == ["http://127.0.0.1:1", "http://[::1]:2"]


def test_the_licences_of_all(bundle: Path) -> None:
    assert (bundle / "LICENSE").read_text() == "MIT License\nCopyright (c) Example Shop\n\nMine.\n"


def test_same_input_same_bytes(bundle: Path, tmp_path: Path) -> None:
    variants.write_set(planned(tmp_path), tmp_path / "again")
    assert tree(tmp_path / "again") == tree(bundle)


def test_the_runbook_lists_them(bundle: Path) -> None:
    text = (bundle / "MIGRATION.md").read_text()
    assert "## The models on this server" in text
    for name in names(bundle):
        assert f"| {name}, {name}:latest |" in text
    assert "--variant NAME" in text


def test_deployment_files_are_for_the_set(bundle: Path) -> None:
    deployment = deploy.read(bundle)
    assert deployment.served_names[:3] == ["support-bot", "support-bot:latest", "child-bot"]
    assert deployment.middleware
    assert deployment.max_model_len == 1024
    assert deployment.environment["VLLM_MAX_STOP_STRINGS"] == "16"
    assert "chat_template_kwargs, by which support-bot, child-bot, third differ," in deployment.lost


def test_deployment_files_take_the_stops_of_all(tmp_path: Path) -> None:
    path = tmp_path / "many.Modelfile"
    path.write_text("FROM support-bot\n" + "\n".join(f'PARAMETER stop "s{i}"' for i in range(20)))
    models = [DEMO.load("support-bot"), load(str(path), models_dir=DEMO.path)]
    variants.write_set(plan_set([plan(model) for model in models]), tmp_path / "out")
    assert deploy.read(tmp_path / "out").environment["VLLM_MAX_STOP_STRINGS"] == "20"
    assert "VLLM_MAX_STOP_STRINGS:-20" in (tmp_path / "out" / "serve.sh").read_text()


def test_parity_sees_each_model_in_it(bundle: Path) -> None:
    child = read_bundle(bundle, "child-bot:latest")
    assert child.facts.source.name == "child-bot:latest"
    assert child.facts.target.served_model_name == ["child-bot", "child-bot:latest"]
    assert child.root_json("request_defaults.json").get("stop") is None
    assert 732 not in child.eos_ids
    first = read_bundle(bundle)
    assert first.facts.source.name == "support-bot:latest"
    assert first.root_json("request_defaults.json")["stop"] == ["User:"]
    assert 732 in first.eos_ids


def test_a_damaged_adapter_is_found_before_anything_is_written(shared: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(shared / "ollama/store", store)
    models = [Store(store).load(name) for name in ("native-bot", "adapter-bot")]
    found = plan_set([plan(model) for model in models])
    blob = models[1].adapters[0].path
    assert blob is not None
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        variants.write_set(found, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_an_adapter_beside_its_base(shared: Path, tmp_path: Path) -> None:
    store = Store(shared / "ollama/store")
    found = plan_set([plan(store.load(name)) for name in ("native-bot", "adapter-bot")])
    written = variants.write_set(found, tmp_path / "out")
    files = written.manifest.files
    assert {"adapters/adapter-bot/adapter_config.json", "adapters/adapter-bot/adapter_model.safetensors"} <= set(files)
    assert written.weight_bytes == files["model/model.safetensors"].size
    assert [v.adapter for v in written.manifest.variants] == [None, "adapters/adapter-bot"]


def test_a_refused_model_is_named(tmp_path: Path) -> None:
    found = planned(tmp_path)
    refuse(found.variants[1].migration)
    with pytest.raises(Refused, match="child-bot:latest: TEMPLATE: no"):
        variants.write_set(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def refuse(migration: Migration) -> None:
    from migrate.findings import Status

    migration.ledger.add("TEMPLATE", Status.REFUSED, "", "", "no")


def test_nothing_is_overwritten(bundle: Path, tmp_path: Path) -> None:
    before = tree(bundle)
    with pytest.raises(OutputExists):
        variants.write_set(planned(tmp_path), bundle)
    assert tree(bundle) == before


def test_directories_have_different_names() -> None:
    support, child = (plan(DEMO.load(name)) for name in ("support-bot", "child-bot"))
    assert variants.directory_names([support, child, support]) == ["support-bot", "child-bot", "support-bot-2"]
