"""The engine that settings describe. Torch comes in here, while the server listens already."""

from pathlib import Path

from unmask_engine.bundle import find_bundle
from unmask_server.engine_protocol import GenerationEngine
from unmask_server.settings import Settings


def load_engine(settings: Settings, folder: Path | None = None) -> GenerationEngine:
    """`folder` is where the bundle has been found, if it has been looked for. Raises BundleError, UsageError."""
    from unmask_engine.engine import Engine
    from unmask_engine.scheduler import Policy
    from unmask_server.commands.device import pick_device

    policy = Policy(token_budget=settings.max_batch_tokens)
    device = pick_device(settings.device)
    return Engine.load(folder or find_bundle(settings.model), device, policy, settings.tensor_parallel)
