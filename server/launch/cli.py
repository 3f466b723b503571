"""The `tinylora` command.

What a command needs is imported when that command runs, so `--help` and mistakes answer at once although serving
imports an inference engine. Flags of `serve` that are not listed here are vLLM's.
"""

from __future__ import annotations

import json
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal

import typer

from clients.cli import adapters as cli_adapters
from clients.cli import admin as cli_admin
from clients.cli import batch as cli_batch
from clients.cli import chat as cli_chat
from clients.cli import data as cli_data
from clients.cli import evaluate as cli_eval
from clients.cli import jobs as cli_jobs
from clients.cli import limits as cli_limits
from clients.cli import models as cli_models
from clients.cli import responses as cli_responses
from clients.cli import train as cli_train
from clients.cli import webhooks as cli_webhooks
from clients.cli.calls import AsJson, fail, say
from clients.cli.environment import acting_for
from server.launch import doctor_cli as cli_doctor
from server.launch import export_cli as cli_export
from server.launch import worker_cli as cli_worker

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)
cli.add_typer(cli_adapters.adapters, name="adapters")
cli.add_typer(cli_jobs.jobs, name="jobs")
cli.add_typer(cli_webhooks.webhooks, name="webhooks")
cli.add_typer(cli_batch.batches, name="batch")
cli.add_typer(cli_responses.responses, name="responses")
cli.add_typer(cli_admin.tenants, name="tenants")
cli.add_typer(cli_admin.keys, name="keys")
FLAGS_OF_VLLM = {"allow_extra_args": True, "ignore_unknown_options": True}


@cli.callback()
def tinylora(
    tenant: Annotated[
        str | None, typer.Option(envvar="TINYLORA_TENANT", help="With an admin key: act for this tenant")
    ] = None,
) -> None:
    """Serve one base model with a different TinyLoRA adapter, of 26 bytes, in every request."""
    if tenant and not (tenant.isascii() and tenant.isprintable()):
        fail(f"no tenant can be called {tenant!r}; `tinylora tenants list` names those there are")
    acting_for.set(tenant or None)


@cli.command(context_settings=FLAGS_OF_VLLM)
def serve(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="Model directory or Hugging Face id; default: embedded")] = None,
    factors_from: Annotated[
        str | None,
        typer.Option(help="For a quantised MODEL: the model it was made from, or a file of that one's factors"),
    ] = None,
) -> None:
    """Serve MODEL over OpenAI's API. Takes every flag of `vllm serve` besides: --port 9000, --max-model-len 4096, ...

    The gateway's own settings are environment variables, TINYLORA_...; see docs/configuration.md.
    """
    from server.launch.start_signals import end_on_signals

    end_on_signals()

    from pydantic import ValidationError

    from server.core.settings import Settings
    from server.core.settings_errors import explain
    from server.launch.embedded_model import ensure_embedded_model
    from server.launch.engine_output import keep_apart, others_print
    from server.launch.environment import settle_environment
    from server.launch.start_checks import CannotStart, check_libraries, check_port

    flags = context.args
    if model is not None and model.startswith("-"):
        # Without MODEL the first flag would be taken for it.
        flags, model = [model, *flags], None
    settle_environment()
    try:
        settings = Settings() if factors_from is None else Settings(factors_from=factors_from)
        check_port(flags)
        check_libraries()
        if settings.engine_log != "-":
            keep_apart(Path(settings.engine_log))
        name = model or str(ensure_embedded_model(progress=say))
        with others_print():
            from adapters.vector.errors import AdapterError
            from server.db.url import DatabaseStartError
            from server.launch.listening import OpenToOthers
            from server.launch.serve import serve as run
    except ValidationError as error:
        fail(explain(error))
    except CannotStart as error:
        fail(str(error))
    try:
        run(settings, name, flags)
    except (AdapterError, CannotStart, DatabaseStartError, OpenToOthers) as error:
        fail(str(error))
    except Exception as error:
        traceback.print_exc()
        fail(f"the server has ended by an error that was not foreseen: {type(error).__name__}: {error}")


cli.command()(cli_worker.worker)
cli.command()(cli_chat.chat)
cli.command()(cli_train.train)
cli.command()(cli_models.models)
cli.command()(cli_limits.limits)
cli.command("eval")(cli_eval.evaluate)
cli.command()(cli_data.data)
cli.command()(cli_export.export)
cli.command()(cli_doctor.doctor)


@cli.command()
def factors(
    model: Annotated[str, typer.Argument(help="Model directory or Hugging Face id")],
    rank: Annotated[int, typer.Option(envvar="TINYLORA_FACTORS_RANK", help="Singular triplets per module")] = 2,
    kind: Annotated[
        Literal["svd", "random"],
        typer.Option(envvar="TINYLORA_FACTORS_KIND", help="From the weights, or seeded random"),
    ] = "svd",
    seed: Annotated[int, typer.Option(help="Seed of random factors")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="What computes them; auto: a GPU if any")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Build the factors of MODEL beside it, if they are not there yet, and print where they are and their digest.

    Compute them once and copy the file: another machine's or device's would have another digest, by which adapters go.
    """
    import torch

    from adapters.factors.build import find_or_build_factors
    from adapters.vector.errors import AdapterError
    from server.launch.start_checks import CannotStart
    from server.launch.torch_device import torch_device

    try:
        built = find_or_build_factors(model, rank=rank, kind=kind, seed=seed, device=torch_device(device))
    except (AdapterError, CannotStart) as error:
        fail(str(error))
    except torch.OutOfMemoryError as error:
        fail(f"the GPU has too little memory for a weight; take --device cpu ({error})")
    if as_json:
        told = {"path": str(built.path), "digest": built.digest, "base_model": built.base_model, "kind": built.kind}
        print(json.dumps({**told, "rank": built.rank, "modules": len(built.modules)}))
    else:
        print(f"{built.path}\n{built.digest}")


@cli.command()
def migrate() -> None:
    """Bring the database of TINYLORA_DATABASE_URL to the tables of this version, and end.

    A server does that itself when it starts; where several share a database, this does it before the first is replaced.
    """
    from contextlib import closing

    from pydantic import ValidationError

    from server.core.settings import Settings
    from server.core.settings_errors import explain
    from server.db.database import Database
    from server.db.url import DatabaseStartError

    try:
        settings = Settings()
        with closing(Database(settings.database_url, busy_timeout_s=settings.database_busy_timeout_s)) as database:
            print(f"The database {database.url.database} has the tables of this version.")
    except ValidationError as error:
        fail(explain(error))
    except DatabaseStartError as error:
        fail(str(error))


def main() -> None:
    """Run the command. What is printed and has no place in the terminal's encoding is printed as its code."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    cli()


if __name__ == "__main__":
    main()
