"""`Generation` -> the Response object and what it is made of."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from unmask_engine.request import Generation
from unmask_server.openai_responses_schema import ResponsesRequest
from unmask_server.openai_text import logprobs

Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(frozen=True)
class Told:
    """What stays the same over an answer."""

    wire: ResponsesRequest
    model: str
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    item_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def unfinished(self) -> dict[str, Any]:
        return self._response("in_progress", [], None)

    def finished(self, generation: Generation) -> dict[str, Any]:
        made = status(generation)
        return self._response(made, [self.item(made, [self.part(generation)])], _usage(generation))

    def item(self, status: Status, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self, generation: Generation) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": generation.text or "",
            "annotations": [],
            "logprobs": self.logprobs(generation),
        }

    def logprobs(self, generation: Generation) -> list[dict[str, Any]]:
        if not self.wire.wants_logprobs:
            return []
        return list(logprobs(generation.text_tokens, generation.text or "", self.wire.top_logprobs))

    def _response(self, status: Status, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        wire = self.wire
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.model,
            "output": output,
            "usage": usage,
            "instructions": wire.instructions,
            "max_output_tokens": wire.max_output_tokens,
            "metadata": wire.metadata,
            "temperature": wire.temperature,
            "top_p": wire.top_p,
            "top_logprobs": wire.top_logprobs,
            "text": wire.text.model_dump(exclude_unset=True, by_alias=True) or {"format": {"type": "text"}},
            "background": False,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
        }


def status(generation: Generation) -> Status:
    return "incomplete" if generation.truncated else "completed"


def _usage(generation: Generation) -> dict[str, Any]:
    num_given = sum(generation.usage.input_tokens.values())
    num_made = sum(generation.usage.output_tokens.values())
    return {
        "input_tokens": num_given,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": num_made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_given + num_made,
        "steps": generation.usage.steps,  # not OpenAI's
    }
