"""The table of settings as options of `unmask serve`: a flag, else `UNMASK_...`, else the file's key, else the default.

The precedence is typer's own; a configuration file becomes its map of defaults.
"""

import inspect
import json
import tomllib
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from unmask_server.settings import Settings


def with_settings(command: Callable[[Settings, bool], None]) -> Callable[..., None]:
    """`command(settings, print_config)` as a function that typer reads: one option a setting."""

    def run(**given: Any) -> None:
        given.pop("config")  # has been read
        print_config = given.pop("print_config")
        values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        command(Settings(**values), print_config)

    config = typer.Option("--config", envvar="UNMASK_CONFIG", show_envvar=False, is_eager=True, callback=_read)
    print_config = typer.Option("--print-config", help="Print all settings as such a file, secrets hidden, and end.")
    parameters = [
        *(_parameter(setting) for setting in flags()),
        _keyword("config", Path | None, config, None),
        _keyword("print_config", bool, print_config, False),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = command.__doc__
    return run


def flags() -> list["Field[Any]"]:
    """The settings that are options."""
    return [setting for setting in fields(Settings) if setting.metadata]


def flag_name(setting: "Field[Any]") -> str:
    """As in `--max-queue`, without the dashes; also the key in a file."""
    name: str = setting.metadata["flag"] or setting.name.replace("_", "-")
    return name


def variable_name(setting: "Field[Any]") -> str:
    return "UNMASK_" + flag_name(setting).replace("-", "_").upper()


def as_toml(settings: Settings) -> str:
    """A configuration file that says the same, but for secrets."""
    lines = []
    for setting in flags():
        value = getattr(settings, setting.name)
        if setting.metadata["is_secret"]:
            value = ["***"] * len(value)
        lines.append(f"{flag_name(setting)} = {json.dumps(value)}")
    return "\n".join(lines)


def _parameter(setting: "Field[Any]") -> inspect.Parameter:
    about = setting.metadata
    is_list = get_origin(setting.type) is tuple
    names = [f"--{flag_name(setting)}", *([about["short"]] if about["short"] else [])]
    option = typer.Option(
        *names,
        envvar=variable_name(setting),
        show_envvar=False,
        help=about["help"],
        min=about["min"],
        max=about["max"],
    )
    return _keyword(setting.name, list[str] if is_list else setting.type, option, setting.default)


def _keyword(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _read(context: typer.Context, file: Path | None) -> Path | None:
    if file is None:
        return None
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file}: {error}") from None
    by_key = {flag_name(setting): setting for setting in flags()}
    for key, value in content.items():
        if key not in by_key:
            raise typer.BadParameter(f"{file}: unknown key {key!r}; it may hold {', '.join(by_key)}")
        is_list = get_origin(by_key[key].type) is tuple
        if is_list != isinstance(value, list):
            raise typer.BadParameter(f"{file}: {key} must {'' if is_list else 'not '}be a list")
    context.default_map = {by_key[key].name: value for key, value in content.items()}
    return file
