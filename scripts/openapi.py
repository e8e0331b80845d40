"""Generates protocol/openapi.json: every HTTP route, with its bodies, replies and refusals.

Neighbours: `protocol` writes it, `routes` and `routes_native` have the routes, `schemas` the types.
Invariant: a stream is described by what it has many of, under `x-stream-of`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from dispatch.server.auth import SESSION_COOKIE
from dispatch.version import VERSION
from scripts.routes import JSON, STREAM, Operation
from scripts.routes_native import TEXT
from scripts.schemas import DIALECTS, GENERATED, Dialect, components, page

Object = dict[str, Any]

TAGS = {"native": "native", "groups": "groups", "chat-sessions": "chat sessions"}
# Any route may be refused for these, and any that takes a body for those.
ALWAYS = (401, 403, 421, 429, 500, 503)
OF_BODIES = (400, 408, 413)
MEANINGS = {
    400: "What was sent is not what the contract says.",
    401: "No credential, or one that is not accepted.",
    403: "The right is missing.",
    404: "There is no such thing for this user.",
    409: "Not in the present state.",
    408: "The body did not come in time.",
    410: "It was deleted.",
    413: "More than the limits allow.",
    421: "The Host header names a host that is not this daemon's.",
    429: "Too much at once; Retry-After says when to come back.",
    500: "The daemon failed; its log says why.",
    502: "A conversation could not be made.",
    503: "Not now; Retry-After says when to come back.",
}


def openapi_page() -> str:
    """The whole document."""
    paths: dict[str, Object] = {}
    responses: dict[str, Object] = {}
    for dialect in DIALECTS:
        responses |= _refused(dialect)
        for one in dialect.operations:
            shown = _operation(one, TAGS[dialect.name], dialect.refusal)
            paths.setdefault(one.path, _path(one.path))[one.method] = shown
    return page(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "dispatch over HTTP",
                "version": VERSION,
                "description": f"{GENERATED} The contract is in "
                + ", ".join(f"`{dialect.page}`" for dialect in DIALECTS)
                + ".",
            },
            "servers": [{"url": "http://127.0.0.1:8765"}],
            "security": [{}, {"bearer": []}, {"session": []}],
            "tags": [{"name": tag} for tag in TAGS.values()],
            "paths": paths,
            "components": {
                "schemas": components(DIALECTS, "#/components/schemas/{}"),
                "responses": responses,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE},
                },
            },
        }
    )


def _path(path: str) -> Object:
    parameters = []
    for name in re.findall(r"\{([a-z]+)\}", path):
        schema = {"type": "string"}
        if name == "id":
            schema["pattern"] = "^[A-Za-z0-9._:-]{1,128}$"
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    return {"parameters": parameters} if parameters else {}


def _operation(one: Operation, tag: str, refusal: type[msgspec.Struct]) -> Object:
    words = re.sub(r"[^a-z]+", "_", f"{one.method}{one.path}".lower()).strip("_")
    shown: Object = {"operationId": words, "tags": [tag], "summary": one.summary}
    if one.parameters:
        shown["parameters"] = [
            {"name": p.name, "in": p.place, "description": p.description, "schema": p.schema}
            for p in one.parameters
        ]
    if one.body is not None:
        content = {JSON: {"schema": _ref(one.body)}}
        shown["requestBody"] = {"required": one.body_is_required, "content": content}
    shown["responses"] = _responses(one, refusal)
    return shown


def _responses(one: Operation, refusal: type[msgspec.Struct]) -> Object:
    responses: Object = {}
    for status, reply in one.replies.items():
        kinds = reply if isinstance(reply, tuple) else (reply,)
        schema = _ref(kinds[0]) if len(kinds) == 1 else {"anyOf": [_ref(kind) for kind in kinds]}
        told = "Done." if status == 200 else "Made."
        responses[str(status)] = {"description": told, "content": {JSON: {"schema": schema}}}
    if one.stream is not None:
        said = (
            f"Server-sent events; each `data` is a {one.stream}."
            if one.media == STREAM
            else f"Lines of JSON; each is a {one.stream}."
        )
        ref = {"$ref": f"#/components/schemas/{one.stream}"}
        schema = {"type": "string", "contentMediaType": one.media, "x-stream-of": ref}
        responses["200"] = {"description": said, "content": {one.media: {"schema": schema}}}
    elif one.media == TEXT:
        content = {TEXT: {"schema": {"type": "string"}}}
        responses["200"] = {"description": one.summary, "content": content}
    for status in sorted(refusals_of(one)):
        responses[str(status)] = {"$ref": f"#/components/responses/{_name(refusal, status)}"}
    return responses


def refusals_of(one: Operation) -> frozenset[int]:
    """The statuses with which a route may refuse."""
    return frozenset({*one.errors, *ALWAYS, *(OF_BODIES if one.body is not None else ())})


def _refused(dialect: Dialect) -> Object:
    """What a dialect answers where it refuses."""
    content = {JSON: {"schema": _ref(dialect.refusal)}}
    statuses = {status for one in dialect.operations for status in refusals_of(one)}
    return {
        _name(dialect.refusal, status): {"description": MEANINGS[status], "content": content}
        for status in sorted(statuses)
    }


def _name(refusal: type[msgspec.Struct], status: int) -> str:
    return f"{refusal.__name__}{status}"


def _ref(kind: type[msgspec.Struct]) -> Object:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
