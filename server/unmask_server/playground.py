"""The playground: the page at `/`, and its files under `/playground/`.

They are static, and lie in clients/ of the repository, or in this package where it was installed from a wheel.
"""

import os
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

INSTALLED: Final = Path(__file__).parent / "static"
CLIENTS: Final = Path(__file__).parents[2] / "clients"
POLICY: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' blob: data:",
    "media-src 'self' blob: data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
HEADERS: Final = {
    "content-security-policy": "; ".join(POLICY),
    "permissions-policy": "camera=(self), microphone=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # A file's name says nothing of its version: browsers ask each time, and are told 304.
    "cache-control": "no-cache",
}


class Files(StaticFiles):
    """A folder of files with HEADERS."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


PAGE: Final = Files(directory=INSTALLED / "web" if INSTALLED.is_dir() else CLIENTS / "web")
CLIENT: Final = Files(directory=INSTALLED / "js" if INSTALLED.is_dir() else CLIENTS / "js" / "src")

router = APIRouter()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def playground(request: Request) -> Response:
    return await PAGE.get_response("index.html", request.scope)


def mount_playground(app: FastAPI) -> None:
    app.include_router(router)
    app.mount("/playground/client", CLIENT)
    app.mount("/playground", PAGE)
