"""Commands that other packages bring: the server may not import `unmask_training`, which brings `eval` and `train`."""

from collections.abc import Sequence
from importlib.metadata import entry_points

from unmask_server.commands.exits import CommandError

GROUP = "unmask.commands"


def run_plugin(name: str, arguments: Sequence[str]) -> None:
    """Runs the command `name` of the entry point group `unmask.commands` with its own arguments."""
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise CommandError(f"the command {name!r} is not installed; reinstall unmask")
    found[0].load()(list(arguments))
