"""The engine that settings describe. Torch comes in here, while the server listens already."""

import gc
from pathlib import Path
from typing import Final

from unmask_engine.bundle import find_bundle
from unmask_server.engine_protocol import GenerationEngine
from unmask_server.settings import Settings

YOUNG_OBJECTS: Final = 10_000  # new ones that the garbage collector looks through; a hundred requests have fewer


def load_engine(settings: Settings, folder: Path | None = None) -> GenerationEngine:
    """`folder` is where the bundle has been found, if it has been looked for. Raises BundleError, UsageError."""
    from unmask_engine import heap
    from unmask_engine.engine import Engine
    from unmask_engine.scheduler import Policy
    from unmask_server.commands.device import pick_device

    heap.keep()
    policy = Policy(token_budget=settings.max_batch_tokens)
    device = pick_device(settings.device)
    engine = Engine.load(folder or find_bundle(settings.model), device, policy, settings.tensor_parallel)
    spare_collector()
    return engine


def spare_collector() -> None:
    """What the process has loaded stays: garbage collections pass it by, which took a tenth of small requests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
