"""The command line. Declarations only: each command imports what it needs when it runs, so that `--help` is instant."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from unmask_server.options import as_toml, with_settings
from unmask_server.settings import Settings

app = typer.Typer(
    name="unmask",
    help="Serve and run masked discrete diffusion models: text, speech and images in, text, speech and images out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

bench = typer.Typer(help="Measure.", no_args_is_help=True)
app.add_typer(bench, name="bench")

Model = Annotated[str, typer.Option("--model", "-m", help="A bundle: its name or its directory.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
# A command of another package reads its options itself.
OWN_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


def main() -> None:
    """Exit code 0: done; 1: it failed; 2: the command cannot be right as given."""
    try:
        app()
    except Exception as error:
        from unmask_server.commands.exits import report

        sys.exit(report(error))


def serve(settings: Settings, print_config: bool) -> None:
    """Start the HTTP server.

    Each option is an environment variable too, UNMASK_MAX_QUEUE for --max-queue, and a key of the TOML file that
    --config names, max-queue. A flag goes before a variable, a variable before the file.
    """
    if print_config:
        typer.echo(as_toml(settings))
        return
    from unmask_server.commands.serve import serve

    serve(settings)


app.command(name="serve")(with_settings(serve))


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to draw, to say, or to ask.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A recording to go with the prompt.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to go with the prompt.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where the answer goes; .png, .wav, ... say what it is. Default: text."),
    ] = None,
    task: Annotated[str, typer.Option(help="asr, tts, t2i, ...; auto: from what goes in and out.")] = "auto",
    model: Model = Settings.model,
    device: Device = Settings.device,
    steps: Annotated[int | None, typer.Option(help="Decoding steps: fewer are faster.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Positions of the canvas.")] = None,
    block_size: Annotated[int | None, typer.Option(help="Decode left to right in blocks of this size.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="entropy, entropy-penalty, maskgit_plus, ...")] = None,
    temperature: Annotated[float, typer.Option(help="0: always the best token.")] = 0.0,
    top_p: Annotated[float | None, typer.Option()] = None,
    top_k: Annotated[int | None, typer.Option()] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    instructions: Annotated[str | None, typer.Option(help="A system message.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer once: text, speech or a picture, from text, speech and pictures."""
    from unmask_server.commands.generate import generate

    generate(
        prompt,
        audio=audio,
        image=image,
        output=output,
        model=model,
        device=device,
        task=task,
        instructions=instructions,
        as_json=as_json,
        decoding={
            "steps": steps,
            "max_tokens": max_tokens,
            "block_size": block_size,
            "algorithm": algorithm,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "guidance": guidance,
            "seed": seed,
        },
    )


@app.command()
def realtime(
    file: Annotated[Path, typer.Argument(help="A recording of one question.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="WAV file for the reply.")] = None,
    url: Annotated[str, typer.Option(help="A server.")] = f"http://{Settings.host}:{Settings.port}",
    api_key: Annotated[str | None, typer.Option(envvar="UNMASK_API_KEY", help="Where the server asks for one.")] = None,
) -> None:
    """Speak a recording to a server, in real time, and time its reply."""
    from unmask_server.commands.realtime import realtime

    realtime(file, url=url, api_key=api_key, output=output)


@bench.command(name="serve")
def bench_serve(
    url: Annotated[str | None, typer.Option(help="A running server; without it one is started.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="UNMASK_API_KEY", help="Where the server asks for one.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Closed loop: each asks again when it has its answer.")] = 8,
    rate: Annotated[float, typer.Option(min=0, help="Open loop: requests a second, at random times.")] = 0.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long requests are sent.")] = 20.0,
    task: Annotated[list[str] | None, typer.Option(help="t2i, tts, ...; repeatable. Default: all there are.")] = None,
    seed: Annotated[int, typer.Option(help="Of the words and of the open loop's times.")] = 0,
) -> None:
    """Load a server with requests of all tasks; latencies as a table, then one JSON line."""
    from unmask_server.commands.bench import bench_serve

    bench_serve(url=url, api_key=api_key, clients=clients, rate=rate, seconds=seconds, tasks=task or (), seed=seed)


@app.command(name="eval", add_help_option=False, context_settings=OWN_OPTIONS)
def evaluate(context: typer.Context) -> None:
    """Score a bundle on held-out data; its options: unmask eval --help."""
    from unmask_server.commands.plugin import run_plugin

    run_plugin("eval", context.args)


@app.command(add_help_option=False, context_settings=OWN_OPTIONS)
def train(context: typer.Context) -> None:
    """Make the built-in model, fine-tune a bundle, check training data; see: unmask train --help."""
    from unmask_server.commands.plugin import run_plugin

    run_plugin("train", context.args)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="A bundle with published weights, e.g. omni-diffusion.")],
    to: Annotated[Path | None, typer.Option(help="Directory of the bundle; default: the user's cache.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the backbone's repository.")] = None,
) -> None:
    """Fetch a bundle's published files; continues where it was cut off."""
    from unmask_server.commands.bundles import download

    download(name, to, revision)


@app.command()
def check(
    bundle: Annotated[str, typer.Argument(help="A bundle: its name or its directory.")], as_json: AsJson = False
) -> None:
    """Verify names, shapes and types of a bundle's weights, without loading them."""
    from unmask_server.commands.bundles import check

    check(bundle, as_json)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A downloaded bundle, or one .pt or .bin file.")],
    target: Annotated[Path | None, typer.Argument(help="For one file: the .safetensors file to write.")] = None,
) -> None:
    """Turn published .pt files into safetensors. Nothing in them is executed."""
    from unmask_server.commands.bundles import convert

    convert(source, target)


@app.command()
def health(
    port: Annotated[int, typer.Option(envvar="UNMASK_PORT", help="Of the server on this machine.")] = Settings.port,
    ssl_certfile: Annotated[
        str, typer.Option(envvar="UNMASK_SSL_CERTFILE", help="As given to the server: it is asked by TLS then.")
    ] = "",
) -> None:
    """Ask a running server whether it is ready; for health checks."""
    from unmask_server.commands.health import health

    health(port, has_tls=bool(ssl_certfile))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version

    typer.echo(version("unmask"))
