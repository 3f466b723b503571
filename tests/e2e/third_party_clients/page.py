"""Makes docs/clients.md from results.json, and from nothing else: `make client-table` runs the clients first."""

from __future__ import annotations

from collections.abc import Mapping

from tests.e2e.third_party_clients.clients import CLIENTS, FEATURES, ROOT, read_results, version_of

PAGE = ROOT / "docs" / "clients.md"
WORKS, NOT_ASKED = "yes", ""


def main() -> None:
    PAGE.write_text(page(read_results()))
    print(PAGE)


def page(results: Mapping[str, Mapping[str, bool | str]]) -> str:
    """The whole page, as Markdown."""
    notes: list[str] = []
    lines = [
        f"| Client | Version | {' | '.join(FEATURES.values())} |",
        f"|---|---|{'---|' * len(FEATURES)}",
    ]
    for client in CLIENTS:
        cells = [_cell(results.get(client.name, {}).get(feature), notes) for feature in FEATURES]
        lines.append(f"| {client.title} | {version_of(client)} | {' | '.join(cells)} |")
    fields = [f"| {client.title} | {client.adapter_field} |" for client in CLIENTS if client.adapter_field]
    parts = [
        HEAD,
        "\n".join(lines),
        "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)),
        FIELDS,
        "\n".join(("| Client | `adapter` goes into |", "|---|---|", *fields)),
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _cell(outcome: bool | str | None, notes: list[str]) -> str:
    if outcome is None:
        return NOT_ASKED
    if outcome is True:
        return WORKS
    if outcome not in notes:
        notes.append(str(outcome))
    return f"no ({notes.index(str(outcome)) + 1})"


HEAD = """\
# Clients of other projects

Each of these is used as it comes from its registry, against a server with the embedded model (`make client-table`
writes this page, and `make test` runs them again). Open WebUI and Claude Code are applications: their requests are sent
as they send them, to the header and field. The programs are in `tests/e2e/third_party_clients`, and show how each is
set up; [Recipes](recipes.md) has the shortest form.

What is asked of each: a chat whose text is known, whole and as a stream; a function that is called, run, and whose
result is sent back; an answer in a schema, read into the client's own type; the adapter's answer and not the base
model's, with the adapter as `model` and in the field `adapter`; the list of models; and an unknown model, a wrong value
and a wrong key, each told as the client's own typed error with a message that names the cause. With openai also files,
and a fine-tuning job from upload to chat."""

FIELDS = """\
## Where the field goes

Every client can give an adapter's name as `model`. A vector, a mixture, or an adapter beside the base model's name goes
into the field `adapter`:"""

LIMITS = """\
## What does not work, with any of them

- A stream of `/v1/chat/completions` or `/v1/completions` reports its usage only when asked to (`stream_options`), as
  OpenAI's does.
- Tools that a provider runs itself (web search, code execution) are not here: `/v1/chat/completions` and `/v1/messages`
  refuse a request with one, `/v1/responses` answers without it.
- Anthropic's `cache_control` is taken and has no effect: prefixes are cached by themselves, for each tenant apart.
- Images need a model that reads them, which the embedded one does not. Audio and Anthropic's `document` blocks are
  refused."""


if __name__ == "__main__":
    main()
