"""`dispatch respond`: answer what an agent asks, from any terminal.

Neighbours: `commands` lists it; `watch` and `send` show the question and the request's id.
Invariant: what is typed is one answer: an approval or an input's, never both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypedDict, Unpack

import click

from dispatch.cli.usage import ask, conversation_argument, json_option, url_option

if TYPE_CHECKING:
    from dispatch.core.events import Response

_ACTIONS: Final[dict[str, Literal["accept", "decline", "cancel"]]] = {
    "accept": "accept",
    "decline": "decline",
    "cancel": "cancel",
}


class _Typed(TypedDict):
    choice: str | None
    option: str | None
    answers: tuple[str, ...]
    reason: str | None


@click.command(short_help="Answer request REQUEST_ID of the agent in CONVERSATION.")
@conversation_argument
@click.argument("request_id")
@click.option("--approve", "choice", flag_value="approve", help="An approval: yes.")
@click.option("--deny", "choice", flag_value="deny", help="An approval: no.")
@click.option("--option", metavar="ID", help="An approval: this one of its options.")
@click.option("--accept", "choice", flag_value="accept", help="Questions: answered.")
@click.option("--decline", "choice", flag_value="decline", help="Questions: not to be answered.")
@click.option("--cancel", "choice", flag_value="cancel", help="Questions: dismissed.")
@click.option(
    "--answer",
    "answers",
    metavar="KEY=VALUE",
    multiple=True,
    help="Once for each question; true and false are yes and no. Implies --accept.",
)
@click.option("--reason", metavar="TEXT", help="For the agent to read.")
@url_option
@json_option
def respond(
    conversation: str, request_id: str, url: str, as_json: bool, **typed: Unpack[_Typed]
) -> None:
    """Answer request REQUEST_ID of the agent in CONVERSATION; the first answer counts.

    `dispatch watch` shows the request and its id.
    """
    from dispatch.cli.screen import is_text, write_json

    response = _response(request_id, typed)
    ask(url, lambda http: http.respond(conversation, response))
    if is_text(as_json):
        click.echo("answered")
    else:
        write_json({"conversationId": conversation, "requestId": request_id, "outcome": "answered"})


def _response(request_id: str, typed: _Typed) -> Response:
    import msgspec

    from dispatch.core.events import Response

    choice, option, answers = typed["choice"], typed["option"], typed["answers"]
    if not request_id:
        raise click.UsageError("the request's id is empty")
    if answers and choice is None:
        choice = "accept"
    if answers and choice != "accept":
        raise click.UsageError("--answer goes with --accept alone")
    if choice is None and option is None:
        raise click.UsageError(
            "say --approve, --deny or --option ID, or --accept, --decline or --cancel"
        )
    if option is not None and choice in _ACTIONS:
        raise click.UsageError("--option is for approvals, --accept, --decline, --cancel are not")
    approved = {"approve": True, "deny": False}.get(choice or "")
    raws = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in map(_answer, answers)}
    return Response(
        request_id,
        approved=approved,
        option_id=option,
        reason=typed["reason"],
        action=_ACTIONS.get(choice or ""),
        answers=raws or None,
    )


def _answer(text: str) -> tuple[str, str | bool]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise click.UsageError(f'"{text}" is not KEY=VALUE')
    # What asks for yes or no takes no words; nobody types these two as a text.
    return key, {"true": True, "false": False}.get(value, value)
