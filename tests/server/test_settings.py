"""The settings of `unmask serve`: one table behind flags, variables and a file."""

import json
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from unmask_server.commands.exits import UsageError
from unmask_server.commands.serve import serve
from unmask_server.options import flag_name, flags, variable_name
from unmask_server.remote_media import is_domain
from unmask_server.settings import Settings


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What `--print-config` prints with these arguments, as a dict; or the message of the refusal."""
    from unmask_server.cli import main

    def run(*arguments: object):
        monkeypatch.setattr("sys.argv", ["unmask", "serve", "--print-config", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return tomllib.loads(said.out) if not end.value.code else " ".join(said.err.split())

    return run


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(shown, monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "unmask.toml"
    file.write_text('max-queue = 3\nmax-batch = 3\nport = 3\nserved-model-name = ["a", "b"]\n')
    monkeypatch.setenv("UNMASK_CONFIG", str(file))
    monkeypatch.setenv("UNMASK_MAX_BATCH", "2")
    monkeypatch.setenv("UNMASK_PORT", "2")
    monkeypatch.setenv("UNMASK_CORS_ORIGIN", "https://a.example https://b.example")
    config = shown("--port", 1)
    assert (config["port"], config["max-batch"], config["max-queue"]) == (1, 2, 3)
    assert config["max-batch-tokens"] == Settings().max_batch_tokens
    assert config["served-model-name"] == ["a", "b"]
    assert config["cors-origin"] == ["https://a.example", "https://b.example"]


def test_what_is_printed_is_a_file_that_says_the_same(shown, tmp_path: Path) -> None:
    file = tmp_path / "unmask.toml"
    config = shown("--max-queue", 7, "--log-format", "json", "--shutdown-timeout", 2.5)
    file.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items()))
    assert shown("--config", file) == config


def test_domains_of_media_are_a_setting_like_any_other(shown, monkeypatch) -> None:
    assert shown()["allowed-media-domain"] == []
    assert shown("--allowed-media-domain", "a.example", "--allowed-media-domain", "b.example") == shown() | {
        "allowed-media-domain": ["a.example", "b.example"]
    }
    monkeypatch.setenv("UNMASK_ALLOWED_MEDIA_DOMAIN", "c.example")
    assert shown()["allowed-media-domain"] == ["c.example"]


def test_secrets_are_not_shown(shown) -> None:
    assert shown("--api-key", "one", "--api-key", "two")["api-key"] == ["***", "***"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-quue = 3", "unknown key 'max-quue'"),
        ("max_queue = 3", "it may hold model"),
        ("max-queue = -1", "greater than or equal to 0"),
        ('api-key = "one"', "api-key must be a list"),
        ("port = [1]", "port must not be a list"),
        ("port = ", "Invalid value"),
    ],
)
def test_mistakes_in_the_file(shown, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "unmask.toml"
    file.write_text(text)
    assert message in shown("--config", file).replace("│ ", "")


def test_a_file_that_is_not_there(shown, tmp_path: Path) -> None:
    assert "gone.toml" in shown("--config", tmp_path / "gone.toml").replace(" │ │ ", "")


def test_every_setting_has_its_names_and_help() -> None:
    assert [flag_name(setting) for setting in flags()][:2] == ["model", "served-model-name"]
    assert variable_name(fields(Settings)[1]) == "UNMASK_SERVED_MODEL_NAME"
    assert all(setting.metadata["help"] for setting in flags())
    assert len({variable_name(setting) for setting in flags()}) == len(flags())


def test_an_empty_key_protects_nothing() -> None:
    with pytest.raises(UsageError, match="--api-key"):
        serve(Settings(api_keys=("",)))


@pytest.mark.parametrize(
    "domain", ["https://x", "a.example/path", "a.example:443", "*.a.example", "", "bücher.example"]
)
def test_a_domain_of_media_is_a_name(domain: str) -> None:
    """Any other value would allow nothing, and nobody would know why."""
    with pytest.raises(UsageError, match=r"--allowed-media-domain: .* is no domain"):
        serve(Settings(allowed_media_domains=("a.example", domain)))


@pytest.mark.parametrize("domain", ["a.example", "Media.A.example.", ".a.example", "xn--bcher-kva.example", "10.0.0.1"])
def test_names_that_hosts_can_have(domain: str) -> None:
    assert is_domain(domain)
