"""The one table of what a server may be told, each default written once. Nothing heavy is imported for it.

What is made by `_flag` is a flag of `unmask serve`, an environment variable and a key of the configuration file;
options.py derives all three.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from unmask_server.realtime.limits import RealtimeLimits

if TYPE_CHECKING:
    from unmask_engine.media import MediaLimits

MIB = 1024 * 1024
T = TypeVar("T")


def _flag(
    default: T,
    help: str,
    *,
    flag: str | None = None,  # where it is not the field's name
    short: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    is_secret: bool = False,
) -> T:
    about = {"help": help, "flag": flag, "short": short, "min": minimum, "max": maximum, "is_secret": is_secret}
    made: Any = field(default=default, metadata=about)
    return made  # type: ignore[no-any-return]


def _media_limits() -> "MediaLimits":
    from unmask_engine.media import MediaLimits  # brings numpy

    return MediaLimits()


@dataclass(frozen=True)
class Settings:
    model: str = _flag("unmask-mini", "A bundle: its name or its directory.", short="-m")
    served_names: tuple[str, ...] = _flag(
        (), "Name that the API calls the model by, instead of its own; repeatable.", flag="served-model-name"
    )
    device: str = _flag("auto", "cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")
    tensor_parallel: int = _flag(
        1, "Processes, one a GPU, that share one engine's backbone; for models larger than a card.", minimum=1
    )
    host: str = _flag("127.0.0.1", "Address to listen on.")
    port: int = _flag(8000, "0 takes any free port.", minimum=0, maximum=65535)

    max_queue: int = _flag(64, "Requests that may wait; the next one is refused with 503.", minimum=0)
    max_batch: int = _flag(32, "Requests that are decoded at a time; the others wait.", minimum=1)
    max_batch_tokens: int = _flag(2048, "Rows of one forward pass, prompts and canvases together.", minimum=1)
    request_timeout: float = _flag(0.0, "Seconds from a request's arrival to its answer; 0 sets no limit.", minimum=0)
    receive_timeout: float = _flag(
        60.0, "Seconds within which the head of a request must arrive, and then its body.", minimum=0.1
    )

    api_keys: tuple[str, ...] = _flag(
        (), "Key that /v1 asks for as Bearer token; repeatable. None leaves it open.", flag="api-key", is_secret=True
    )
    requests_per_minute: int = _flag(0, "Of one key, or of one address without keys; 0 sets no limit.", minimum=0)
    ssl_certfile: str = _flag("", "Certificate chain in PEM; with it the server speaks TLS.")
    ssl_keyfile: str = _flag("", "Its private key in PEM, where it is not in the same file.")
    cors_origins: tuple[str, ...] = _flag(
        (), "Web origin whose pages may call this server, or *; repeatable.", flag="cors-origin"
    )
    allowed_media_domains: tuple[str, ...] = _flag(
        (),
        "Domain whose hosts media may be fetched from, where a request gives URLs; repeatable. None fetches nothing.",
        flag="allowed-media-domain",
    )

    shutdown_timeout: float = _flag(30.0, "Seconds that running requests get to finish after SIGTERM.", minimum=0)
    exit_on_engine_failure: float = _flag(
        5.0, "Seconds from the end of the engine, if it crashes, to the end of the process.", minimum=0
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = _flag("warning", "info logs each request.")
    log_format: Literal["text", "json"] = _flag("text", "Of a line of the log.")
    otlp_endpoint: str = _flag("", "OpenTelemetry collector that traces go to, http://host:4318; empty for none.")

    ray: bool = _flag(False, "Run on Ray Serve, with engines in processes of their own.")
    min_engines: int = _flag(1, "Engines that Ray keeps at the least.", minimum=1)
    max_engines: int = _flag(1, "Engines that Ray starts at the most, by the number of open requests.", minimum=1)

    max_body_bytes: int = 64 * MIB  # of a whole request, base64 included
    media: "MediaLimits" = field(default_factory=_media_limits)  # pixels, seconds and bytes of one image or sound
    max_media_threads: int = 4  # bodies whose media are decoded or encoded at a time: each may take 200 MB
    retry_after_s: int = 1  # what a refused client is told to wait
    realtime: RealtimeLimits = field(default_factory=RealtimeLimits)  # of spoken dialogues
