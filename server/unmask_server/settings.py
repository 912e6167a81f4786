"""What a server may be told, each default written once."""

from dataclasses import dataclass, field

from unmask_engine.media import MediaLimits

MIB = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    max_body_bytes: int = 64 * MIB  # of a whole request, base64 included
    media: MediaLimits = field(default_factory=MediaLimits)  # pixels, seconds and bytes of one image or sound
    max_media_threads: int = 4  # bodies whose media are decoded or encoded at a time: each may take 200 MB
    max_waiting: int = 64  # requests in the queue; the next one is refused with 503
    max_batch: int = 32  # requests that are decoded at a time; the others wait
    retry_after_s: int = 1  # what a refused client is told to wait
