"""Errors of the command line: one clear line on stderr, and the exit code that goes with it."""

import os
import sys
import traceback

from unmask_engine.bundle import BundleError
from unmask_engine.request import RequestError

FAILED, USAGE = 1, 2


class CommandError(Exception):
    """The command failed; the message says why and what to do."""


class UsageError(CommandError):
    """The command cannot be right as given."""


def report(error: Exception) -> int:
    """Says what happened, returns the exit code. `UNMASK_DEBUG=1` shows where an unexpected error came from."""
    if isinstance(error, (UsageError, RequestError, BundleError)):
        code, message = USAGE, str(error)
    elif isinstance(error, CommandError):
        code, message = FAILED, str(error)
    else:
        code, message = FAILED, f"unexpected {type(error).__name__}: {error} (UNMASK_DEBUG=1 shows where)"
    if os.environ.get("UNMASK_DEBUG"):
        traceback.print_exception(error)
    print(f"unmask: {message}", file=sys.stderr)
    return code
