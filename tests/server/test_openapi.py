"""Whatever /openapi.json allows, and what it does not: never a 500, never a status that it does not list."""

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import status_code_conformance

few = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def operations(client: httpx.Client) -> Iterator[APIOperation]:
    for found in schemathesis.openapi.from_url(f"{client.base_url}/openapi.json").get_all_operations():
        yield found.ok()


@pytest.mark.parametrize("num_cases", [10, pytest.param(100, marks=pytest.mark.slow)])  # of each operation
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_any_request_gets_a_listed_answer(client: httpx.Client, mode: GenerationMode, num_cases: int) -> None:
    for operation in operations(client):
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing that could be wrong

        @settings(few, max_examples=num_cases)
        @given(operation.as_strategy(generation_mode=mode))
        def check(case: Case) -> None:
            response = case.call(timeout=60)
            case.validate_response(response, checks=[not_a_server_error, status_code_conformance])

        check()
    assert client.get("/health").status_code == 200
