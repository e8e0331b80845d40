"""What an operator writes for an agent of kind `openai`, checked; and where its key is.

Neighbours: `agent` reads them, `agents.options` has what all agents share.
Invariant: the key is in the environment and never in a configuration, and goes to no endpoint on
this machine unless the operator named its variable.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from dispatch.agents.options import AgentOptions, Seconds, wrong_option

OPENAI_URL: Final = "https://api.openai.com/v1"
OPENAI_KEY_ENV: Final = "OPENAI_API_KEY"

# People are told the name of a variable that is not set. Keys have small letters, so none of them
# is told by mistake.
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Tokens = Annotated[int, msgspec.Meta(ge=1)]


class OpenAIOptions(AgentOptions, frozen=True):
    """`[agents.NAME]` with `kind = "openai"`.

    `model` is used unless a message names another; without it the first of `models`. `api_key_env`
    names the environment variable with the key; "" sends none, and an endpoint on this machine gets
    one only if it is set. `reasoning = false` does not show what the model thinks. `usage = false`
    does not ask for token counts, for endpoints that refuse the question (`stream_options`).
    `retry_seconds` are the waits between attempts, the last one again and again; `stall_seconds` is
    the longest silence, of which a model that thinks unseen may need minutes.
    """

    model: str | None = None
    base_url: str = OPENAI_URL
    api_key_env: str | None = None
    system_prompt: str | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    max_tokens: Tokens | None = None
    reasoning: bool = True
    usage: bool = True
    retries_max: Count = 4
    retry_seconds: tuple[Seconds, ...] = (5.0, 10.0, 30.0, 60.0)
    connect_seconds: Positive = 10.0
    stall_seconds: Positive = 300.0


def check_options(name: str, options: OpenAIOptions) -> None:
    """Raise `ConfigError` for what cannot work, though each value is of its type."""
    if not first_model(options):
        raise wrong_option(name, "model", "required, unless `models` names some")
    if options.retries_max and not options.retry_seconds:
        raise wrong_option(name, "retry_seconds", "names no wait")
    if options.api_key_env and not _VARIABLE.fullmatch(options.api_key_env):
        # It is not repeated: this is where somebody writes the key itself.
        reason = "not the name of an environment variable (upper case); the key itself stays there"
        raise wrong_option(name, "api_key_env", reason)
    _check_url(name, options.base_url)


def first_model(options: OpenAIOptions) -> str:
    """The model of messages that name none."""
    return options.model or next(iter(options.models), "")


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or not url.isprintable() or " " in url:
        raise wrong_option(name, "base_url", "not an http or https URL")
    if parts.username is not None or parts.query or parts.fragment:
        # A secret in it would be shown with it.
        raise wrong_option(name, "base_url", "has more than a scheme, a host, a port and a path")


def find_key(options: OpenAIOptions) -> tuple[str, str | None]:
    """The key, and why there is none where one is needed. It comes from the environment alone."""
    is_local = is_loopback(options.base_url)
    variable = options.api_key_env
    if variable is None:
        # The key of a provider is not for whatever listens on a port of this machine.
        variable = "" if is_local else OPENAI_KEY_ENV
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key.isascii() or not key.isprintable() or " " in key:
        return "", f"the environment variable {variable} does not hold a key"
    if variable and not key and not is_local:
        return "", f"no key: the environment variable {variable} is not set"
    return key, None


def name_of_limit(url: str) -> str:
    """What `max_tokens` is called. OpenAI's newer models refuse the old name, and Ollama, Mistral
    and others know no other.
    """
    return "max_completion_tokens" if is_openai(url) else "max_tokens"


def is_openai(url: str) -> bool:
    """Whether a URL is one of OpenAI's own endpoints, or of Azure's that serve its models."""
    host = urlsplit(url).hostname or ""
    return host.endswith((".openai.com", ".openai.azure.com"))


def is_loopback(url: str) -> bool:
    """Whether a URL leads no further than this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
