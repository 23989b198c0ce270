"""`migrate deploy BUNDLE`: files that start a bundle: Compose, nginx, systemd, Kubernetes and fleets."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from migrate.cli import options
from migrate.cli.output import hint, print_json, say


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `migrate convert` wrote.")],
    targets: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="TARGET,...",
            help="nginx,compose,systemd,kubernetes,monitoring (the default), quadlet, production-stack, kserve, ray, "
            "skypilot.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where the files go (default: BUNDLE/deploy).")
    ] = None,
    instances: Annotated[int, typer.Option("--instances", metavar="N", help="How many servers.")] = 1,
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="INDEX,...", help="GPUs over which instances are spread (not Kubernetes).")
    ] = "0",
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option("--gpu-memory-utilization", metavar="SHARE", help="Of the whole GPU, for each instance."),
    ] = None,
    kv_cache_memory_bytes: Annotated[
        int | None, typer.Option("--kv-cache-memory-bytes", metavar="BYTES", help="KV cache of each instance, exactly.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Where clients go (default: the bundle's).")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", help="Instances get the ports above it.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="IMAGE:TAG", help="Instead of vLLM's own.")] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option("--origin", metavar="ORIGIN", help="A web page that may ask, as in OLLAMA_ORIGINS (repeatable)."),
    ] = None,
    install_dir: Annotated[
        str | None,
        typer.Option("--install-dir", metavar="DIR", help="Where units find the bundle (default: /opt/NAME)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write the files that start a bundle for real. No secret is written into any of them."""
    from migrate.bundle import deploy
    from migrate.errors import UsageError

    try:
        indices = [int(part) for part in gpus.split(",")]
    except ValueError:
        raise UsageError(f"--gpus {gpus}: must be indices of GPUs, such as 0,1") from None
    asked = [name.strip() for name in targets.split(",") if name.strip()] if targets else list(deploy.FIRST_RING)
    names = list(dict.fromkeys(asked))
    out = output or bundle / deploy.DIRECTORY
    wanted = deploy.Options(
        instances=instances,
        gpu_memory_utilization=gpu_memory_utilization,
        kv_cache_memory_bytes=kv_cache_memory_bytes,
        host=host,
        port=port,
        image=image,
        gpus=indices,
        origins=tuple(origin or ()),
        install_dir=install_dir,
        bundle_path=os.path.relpath(bundle.resolve(), out.resolve()),
    )
    deployment = deploy.read(bundle, wanted)
    for part in (deployment.manifest.model_dir, "adapters"):
        if out.resolve().is_relative_to((bundle / part).resolve()):
            raise UsageError(f"-o {out}: the model lies there", hint="leave -o out: then it is BUNDLE/deploy")
    written = deploy.write(deployment, out, names, force=force)
    if as_json:
        print_json(
            {
                "schema_version": 1,
                "path": str(out),
                "name": deployment.name,
                "image": deployment.image,
                "url": deployment.url,
                "instances": [{"port": i.port, "gpu": i.gpu} for i in deployment.instances],
                "targets": names,
                "files": [str(path) for path in written],
            }
        )
        return
    for path in written:
        print(path)
    counted = f"{len(deployment.instances)} instance{'s' if len(deployment.instances) > 1 else ''}"
    say(f"{len(written)} files for {counted} of {deployment.served_name}; clients go to {deployment.url}")
    if unproved := [name for name in names if not deploy.TARGETS[name].proved]:
        say(f"checked for their structure only, nothing here could run them: {', '.join(unproved)}")
    hint("\n      ".join(deploy.TARGETS[name].start.format(dir=shlex.quote(str(out))) for name in names))
