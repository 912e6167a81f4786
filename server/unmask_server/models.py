"""Which model a request may name. There is one, under the names the server was told to give it."""

from starlette.requests import Request

from unmask_engine.request import RequestError
from unmask_server.engine_client import EngineClient
from unmask_server.settings import Settings


def served_names(request: Request) -> tuple[str, ...]:
    """What the API calls the model; raises ServerError before it is loaded."""
    bridge: EngineClient = request.app.state.bridge
    settings: Settings = request.app.state.settings
    own = bridge.engine.name
    return settings.served_names or (own,)


def check_model(name: str | None, request: Request) -> str:
    """The name to answer with; raises RequestError for a model that is not here."""
    names = served_names(request)
    if name is None:
        return names[0]
    if name not in names:
        message = f"There is no model {name!r} here; this server has: {', '.join(names)}."
        raise RequestError(message, param="model", code="model_not_found")
    return name
