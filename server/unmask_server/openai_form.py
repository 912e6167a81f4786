"""A form as OpenAI's clients send it: files, and the rest as strings.

A list's name may end in `[]`; `a[b]` is the entry b of an object a.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from unmask_engine.request import RequestError
from unmask_server.errors import invalid

MAX_FILES: Final = 16
MAX_FIELDS: Final = 100
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Form:
    fields: Mapping[str, str | list[str] | dict[str, str]]  # a list where the name came with [], or more than once
    files: Mapping[str, list[bytes]]

    def read(self, model: type[Model]) -> Model:
        try:
            return model.model_validate(dict(self.fields))
        except ValidationError as error:
            raise invalid(error) from None

    def file(self, name: str) -> bytes:
        """The one file of that name; raises RequestError where there is none, or more."""
        files = self.files.get(name, [])
        if not files:
            found = "is a text, not a file" if name in self.fields else "is missing"
            message = f"{name} {found}; send it as a file of the form, in bash: -F {name}=@path."
            raise RequestError(message, param=name, code="missing_file")
        if len(files) > 1:
            message = f"{name} may be there once, not {len(files)} times."
            raise RequestError(message, param=name, code="too_many_parts")
        return files[0]


def is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_form(request: Request, max_bytes: int) -> Form:
    """`max_bytes` bounds a field: a base64 picture is far above the library's own 1 MiB."""
    fields: dict[str, str | list[str] | dict[str, str]] = {}
    files: dict[str, list[bytes]] = {}
    try:
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=max_bytes) as form:
            for sent, value in form.multi_items():
                name = sent.removesuffix("[]")
                if not isinstance(value, str):
                    files.setdefault(name, []).append(await value.read())
                elif name.endswith("]") and "[" in name:
                    whole, _, entry = name.removesuffix("]").partition("[")
                    entries = fields.get(whole)
                    fields[whole] = (entries if isinstance(entries, dict) else {}) | {entry: value}
                elif name in fields or name != sent:
                    earlier = fields.get(name, [])
                    fields[name] = [*(earlier if isinstance(earlier, list) else [str(earlier)]), value]
                else:
                    fields[name] = value
    except HTTPException as error:
        raise RequestError(f"The form cannot be read: {error.detail}", code="invalid_multipart") from None
    return Form(fields, files)
