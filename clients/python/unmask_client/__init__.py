"""A client of Unmask. No torch; numpy, Pillow and soxr only for arrays, pictures and resampling."""

from unmask_client.async_client import AsyncClient
from unmask_client.client import Client
from unmask_client.errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    RateLimitError,
    ServerError,
    UnmaskError,
)
from unmask_client.generation import Edit, Generation, Span, Word
from unmask_client.media import Audio, Image
from unmask_client.realtime import AsyncRealtimeSession, RealtimeSession, Reply

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncRealtimeSession",
    "Audio",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "Edit",
    "Generation",
    "Image",
    "NotFoundError",
    "RateLimitError",
    "RealtimeSession",
    "Reply",
    "ServerError",
    "Span",
    "UnmaskError",
    "Word",
]
