"""Every setting and every limit, with the reason beside the number.

Neighbours: `compose` builds the daemon from a `Settings`; `cli` loads one. Order of precedence:
flags, then environment (`settings_environment`), then the TOML file (`settings_file`, which knows
in which line something is written), then the defaults here.
Invariant: a `Settings` that exists was checked as a whole; an unknown key is an error by name.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from dispatch.errors import ConfigError
from dispatch.settings_environment import read_environment
from dispatch.settings_file import SettingsFile, complaint

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]

KIB: Final = 1024
MIB: Final = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every bound, published by `hello` and `protocol/limits.md`."""

    # A frame holds one message with pasted pictures scaled down; more is a mistake or an attack.
    frame_bytes_max: Positive = MIB
    # An HTTP body carries what a frame carries.
    body_bytes_max: Positive = MIB
    # Fragments of one message: honest clients send one; thousands are a memory attack.
    frame_fragments_max: Positive = 256
    # Deeper JSON than any tool's input that was seen; the decoder itself recurses.
    json_depth_max: Positive = 64
    # Objects and arrays of one JSON: a message has a handful; reading a million holds up others.
    json_containers_max: Positive = 10_000
    # Longer than any browser's; beyond it is a slow attack on the parser.
    head_bytes_max: Positive = 16 * KIB
    headers_max: Positive = 100
    # A request head that takes longer is a slow attack.
    head_seconds_max: Seconds = 10.0
    # A connection that must name itself in its first frame and does not.
    auth_seconds_max: Seconds = 10.0
    # Connections of one daemon: file descriptors are the bound.
    connections_max: Positive = 50_000
    connections_unauthenticated_max: Positive = 1_000
    # A page shows hundreds; the rest is a loop.
    subscriptions_max: Positive = 1_000
    # Commands of one connection that wait for storage; beyond it the connection is closed.
    commands_waiting_max: Positive = 256
    # Frames of one connection a second, and at once: a flood of tiny frames costs the loop.
    frames_per_second_max: Positive = 1_000
    frames_burst_max: Positive = 4_000
    # One turn's events: a runaway agent fills a disk otherwise.
    turn_bytes_max: Positive = 64 * MIB
    # One event of an agent, one line of a program: a tool's result fits.
    event_bytes_max: Positive = 4 * MIB
    # Tool calls and requests of one turn that are open at once: its end has to close each of them.
    turn_open_max: Positive = 1_000
    # Tool calls and steps of one turn: each is looked up among the others.
    turn_parts_max: Positive = 10_000
    # Longer than any agent that was seen to finish.
    turn_seconds_max: Seconds = 4 * 3600.0
    # The next turn waits so long for what is left of the last one's agent, and then goes on.
    agent_gone_seconds_max: Seconds = 15.0
    # Of one account, beyond which new turns are refused (retryable).
    turns_running_max: Positive = 1_000
    # Of one account, a second and at once.
    sends_per_second_max: Positive = 200
    sends_burst_max: Positive = 1_000
    # Queued turns of one conversation: nobody reads more answers than that.
    queue_turns_max: Positive = 100
    # Of one account, messages that wait for a turn, all together: a handful of the largest, and
    # more text than anybody types; each is held in memory until its turn begins.
    queue_bytes_max: Positive = 16 * MIB
    # Stretches of a conversation that truncations left behind; they are written with its row.
    truncations_max: Positive = 1_000
    # Idle conversations kept in memory after their last watcher left: a reload costs a read.
    conversations_warm_max: Positive = 1_000
    # Chunks of one page of history when the client names a limit.
    history_page_max: Positive = 10_000
    # Sealed history handed to an agent: about 250k tokens.
    history_bytes_max: Positive = MIB
    # Turns over a page of 256 KiB that are on their way to readers, all together: a turn is read as
    # a whole, and whoever wants one more waits.
    history_held_bytes_max: Positive = 128 * MIB
    # Turns of an AHP snapshot; older ones are fetched. A client draws all that it is given.
    ahp_turns_max: Positive = 200
    # Events read to show a chat's finished turns as they were watched; beyond, as they are kept.
    ahp_events_max: Positive = 10_000
    # Events of one AHP session that are replayed to who comes back; beyond, it gets snapshots.
    ahp_replay_events_max: Positive = 10_000
    # And their bytes: beyond, a snapshot is cheaper for both.
    ahp_replay_bytes_max: Positive = MIB
    # An AHP client that is gone for longer takes part in no session: a reload takes less.
    ahp_client_grace_seconds: Seconds = 30.0
    # Chats of one AHP session: all of them are in memory while somebody follows one.
    ahp_chats_max: Positive = 200
    # Conversations of one page of the list.
    list_page_max: Positive = 1_000
    # Events of a running turn kept in memory for late joiners; older ones come from the journal.
    ring_events_max: Positive = 65_536
    ring_bytes_max: Positive = 8 * MIB
    # All rings together; the oldest rings are cut first.
    rings_bytes_max: Positive = 512 * MIB
    # Adjacent deltas that wait for the same commit are one event up to this size: it must fit
    # many times into one write and once into a frame.
    delta_bytes_max: Positive = 64 * KIB
    # What an agent may be ahead of the disk before it is made to wait.
    pending_bytes_max: Positive = MIB
    # Finished chunks of a running turn are staged once they reach this, so that the seal itself
    # writes less than this and one event.
    staged_bytes_max: Positive = 256 * KIB
    # One write to a slow reader that catches up.
    catch_up_bytes_max: Positive = 256 * KIB
    # What asyncio buffers for a connection before it counts as slow.
    write_buffer_bytes_max: Positive = 64 * KIB
    # A reader that drains nothing for so long while data waits is closed (resumable).
    stall_seconds_max: Seconds = 30.0
    heartbeat_seconds: Seconds = 25.0
    heartbeat_answer_seconds: Seconds = 8.0
    # GET /conversations/:id/last and other waits for a turn's end.
    wait_seconds_max: Seconds = 60.0
    # Single-use tickets: long enough for a page to connect.
    ticket_seconds_max: Seconds = 30.0
    tickets_max: Positive = 10_000
    # Wrong credentials of one address before it must wait.
    auth_failures_max: Positive = 20
    # Titles and labels.
    title_characters_max: Positive = 200


class AuthToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One static token. `sha256` is the hex digest of the token (`dispatch token` makes both)."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    account: str = "local"
    user: str
    rights: tuple[Literal["watch", "send", "admin"], ...] = ("watch", "send")


class JwtSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """JWTs: the algorithm is fixed here, never read from the token.

    HS256 takes `secret_env` (the name of an environment variable), RS256 `public_key_file` (PEM) or
    `jwks_url` (fetched by the daemon; an operator's URL, never a client's). Claims named here give
    account, user and rights; `account` is that of tokens without the claim, which are refused where
    it is not set: people of different accounts must not meet because somebody forgot to say so.
    """

    algorithm: Literal["HS256", "RS256"]
    audience: str
    issuer: str
    secret_env: str | None = None
    public_key_file: Path | None = None
    jwks_url: str | None = None
    account_claim: str = "account"
    account: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    user_claim: str = "sub"
    rights_claim: str = "rights"
    leeway_seconds: Annotated[float, msgspec.Meta(ge=0, le=300)] = 10.0


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[auth]`: present means every request needs a credential, on loopback too."""

    tokens: tuple[AuthToken, ...] = ()
    jwt: JwtSettings | None = None
    session_seconds_max: Seconds = 30 * 86_400.0
    # Set when a TLS proxy is in front, so that the session cookie is marked Secure.
    secure_cookies: bool = False


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[agents.NAME]`: `kind` picks the adapter; what else it takes is the adapter's own."""

    kind: str
    options: dict[str, Any]


class StorageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[storage]`. `synchronous` other than `full` gives up surviving a power loss."""

    kind: Literal["sqlite", "memory"] = "sqlite"
    synchronous: Literal["full", "normal", "off"] = "full"


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[retention]`: how long journaled events of sealed turns and whole conversations are kept.

    `conversations_seconds` counts from the last activity; None keeps for ever.
    """

    events_seconds: Annotated[float, msgspec.Meta(ge=0)] = 86_400.0
    conversations_seconds: Seconds | None = None


class GroupsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[groups]`: how many turns of groups and chat sessions run at once, over all accounts."""

    runs_max: Annotated[int, msgspec.Meta(ge=1)] = 256


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a daemon is started with."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8765
    data: Path = Path("dispatch-data")
    ready_file: Path | None = None
    insecure: bool = False
    # Exact origins allowed beside same-origin and loopback, e.g. "https://chat.example".
    origins: tuple[str, ...] = ()
    # Host names this daemon answers to beside loopback and the address it is bound to.
    hosts: tuple[str, ...] = ()
    # Proxies whose X-Forwarded-* headers are believed.
    trusted_proxies: tuple[str, ...] = ()
    default_agent: str = "echo"
    agents: dict[str, AgentSettings] = {}
    auth: AuthSettings | None = None
    limits: Limits = Limits()
    groups: GroupsSettings = GroupsSettings()
    storage: StorageSettings = StorageSettings()
    retention: RetentionSettings = RetentionSettings()
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


DEMO_AGENTS: Final = {"echo": AgentSettings(kind="echo", options={})}
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def load_settings(
    *,
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read, layer and check everything; raises `ConfigError` naming what is wrong, and where."""
    file, above = _layers(config, flags, environment)
    layered = {} if file is None else copy.deepcopy(file.table)
    _merge(layered, above)
    try:
        return _checked(layered)
    except ConfigError as error:
        if file is None:
            raise
        raise ConfigError(file.placed(error.message, above)) from error


def placed(
    message: str, *, config: Path | None = None, flags: Mapping[str, object] | None = None
) -> str:
    """What is wrong with settings that were loaded from here, and where that is written."""
    file, above = _layers(config, flags, None)
    is_setting = message.startswith(
        tuple(f"{name}{end}" for name in Settings.__struct_fields__ for end in ":.")
    )
    return file.placed(message, above) if file is not None and is_setting else message


def _layers(
    config: Path | None,
    flags: Mapping[str, object] | None,
    environment: Mapping[str, str] | None,
) -> tuple[SettingsFile | None, dict[str, object]]:
    """The file, and what goes above it."""
    environment = os.environ if environment is None else environment
    config = config or (Path(text) if (text := environment.get("DISPATCH_CONFIG")) else None)
    above = read_environment(environment, Settings.__struct_fields__)
    _merge(above, {k: v for k, v in (flags or {}).items() if v is not None})
    return SettingsFile(config) if config else None, above


def _checked(layered: dict[str, object]) -> Settings:
    layered["agents"] = agents = _agents(layered.get("agents"))
    if len(agents) == 1:
        # There is no choice to be made.
        layered.setdefault("default_agent", next(iter(agents)))
    try:
        settings = msgspec.convert(layered, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        key, reason = complaint(str(error))
        raise ConfigError(f"{key}: {reason}") from error
    check(settings)
    return settings


def check(settings: Settings) -> None:
    """How the settings relate to each other; raises `ConfigError`."""
    limits, auth = settings.limits, settings.auth
    if settings.host not in LOOPBACK_HOSTS and auth is None and not settings.insecure:
        raise ConfigError(
            f"host: {settings.host} lets others in; configure [auth] or pass --insecure"
        )
    if settings.default_agent not in settings.agents:
        raise ConfigError(
            f'default_agent: "{settings.default_agent}" is not in [agents]; '
            f"set it to one of these: {', '.join(settings.agents)}"
        )
    for name in settings.agents:
        if not name or "/" in name or not name.isprintable() or len(name) > 64:
            raise ConfigError(f'agents.{name}: a name has 1 to 64 printable characters, no "/"')
    if auth is not None and not auth.tokens and auth.jwt is None:
        raise ConfigError("auth: neither tokens nor jwt; nobody could come in")
    if auth is not None and auth.jwt is not None:
        _check_jwt(auth.jwt)
    bounds = (
        ("delta_bytes_max", limits.delta_bytes_max, "frame_bytes_max", limits.frame_bytes_max),
        ("delta_bytes_max", limits.delta_bytes_max, "ring_bytes_max", limits.ring_bytes_max),
        ("event_bytes_max", limits.event_bytes_max, "turn_bytes_max", limits.turn_bytes_max),
        ("event_bytes_max", limits.event_bytes_max, "ring_bytes_max", limits.ring_bytes_max),
        ("ring_bytes_max", limits.ring_bytes_max, "rings_bytes_max", limits.rings_bytes_max),
        ("staged_bytes_max", limits.staged_bytes_max, "turn_bytes_max", limits.turn_bytes_max),
    )
    for small_name, small, large_name, large in bounds:
        if small > large:
            raise ConfigError(f"limits.{small_name} ({small}) > limits.{large_name} ({large})")


def _check_jwt(jwt: JwtSettings) -> None:
    keys = [jwt.secret_env, jwt.public_key_file, jwt.jwks_url]
    if sum(key is not None for key in keys) != 1:
        raise ConfigError("auth.jwt: exactly one of secret_env, public_key_file, jwks_url")
    if (jwt.algorithm == "HS256") != (jwt.secret_env is not None):
        raise ConfigError(
            "auth.jwt: HS256 takes secret_env, RS256 takes public_key_file or jwks_url"
        )


def _merge(under: dict[str, object], over: Mapping[str, object]) -> None:
    for key, value in over.items():
        existing = under.get(key)
        if isinstance(existing, dict) and isinstance(value, Mapping):
            _merge(existing, value)
        else:
            under[key] = value


def _agents(table: object) -> dict[str, object]:
    if table is None or table == {}:
        return {name: {"kind": a.kind, "options": a.options} for name, a in DEMO_AGENTS.items()}
    if not isinstance(table, dict):
        raise ConfigError("agents: not a table")
    agents: dict[str, object] = {}
    for name, options in table.items():
        if not isinstance(options, dict) or "kind" not in options:
            raise ConfigError(f"agents.{name}: needs a kind")
        if not isinstance(options["kind"], str):
            got = type(options["kind"]).__name__
            raise ConfigError(f"agents.{name}.kind: Expected `str`, got `{got}`")
        rest = {key: value for key, value in options.items() if key != "kind"}
        agents[name] = {"kind": options["kind"], "options": rest}
    return agents


def _decode(kind: type, value: object) -> object:
    if kind is not Path:
        raise NotImplementedError(f"cannot read {value!r} as {kind.__name__}")
    if not isinstance(value, str | Path):
        # In msgspec's words, which adds where it is.
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    # A person's `~`; of nobody's home it stays as it is, and is not found.
    return Path(os.path.expanduser(value))
