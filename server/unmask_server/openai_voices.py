"""The voice. There is one, and it answers to OpenAI's names, too: clients insist on them."""

from typing import Final

from fastapi import APIRouter, Request

from unmask_engine.request import RequestError
from unmask_server.models import served_names

router = APIRouter()
VOICES: Final = (
    "default",
    *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"),
)


def check_voice(name: str, param: str) -> None:
    """Raises RequestError for a voice that is not here; `param` is where the request names it."""
    if name not in VOICES:
        message = f"There is no voice {name!r}; there is one, which answers to: {', '.join(VOICES)}."
        raise RequestError(message, param=param, code="voice_not_found")


@router.get("/v1/audio/voices")
async def voices() -> dict[str, list[dict[str, str]]]:
    """In the form that Open WebUI reads."""
    return {"voices": [{"id": name, "name": name.capitalize()} for name in VOICES]}


@router.get("/v1/audio/models")
async def models(request: Request) -> dict[str, list[dict[str, str]]]:
    return {"models": [{"id": name} for name in served_names(request)]}
