"""A route whose endpoint takes the request and gives the response; FastAPI is there to document it."""

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class DirectRoute(APIRoute):
    """Without dependencies and exit stacks, which take longer than all that this server does for a small request."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # tells the methods that there are
            return
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
