"""What one dialogue, and all of them, may cost."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class RealtimeLimits:
    max_sessions: int = 32
    max_session_s: float = 3600.0
    max_idle_s: float = 600.0  # without any message of the client
    max_turn_s: float = 120.0  # of sound that is not committed; longer speech is taken as a turn
    max_message_bytes: int = 16 * MIB  # a longer one is refused, twice as long a one ends the connection with 1009
    max_unsent_bytes: int = 8 * MIB  # two minutes of speech as base64; a client so far behind is closed with 1013
    max_items: int = 512  # of a conversation; the oldest ones leave
    max_kept_characters: int = 1_000_000  # of a conversation's texts; the oldest items leave
    # The users' recordings and pictures in a conversation; the oldest ones keep their places and transcripts only.
    max_kept_audio_s: float = 600.0
    max_kept_images: int = 4  # the latest one is in view
    max_kept_pixels: int = 32_000_000  # of all pictures together, but the latest one always stays
    head_starts: bool = True  # answers are begun in pauses: sooner there, and some in vain
    max_responses: int = 4  # at a time, the ones outside the conversation included
    max_transcriptions: int = 8  # at a time; what is said meanwhile is not written down
    flush_s: float = 2.0  # how long a session that ends waits for its last events to be read
