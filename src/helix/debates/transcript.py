"""A debate told: as JSON for programs, as Markdown for people. Pure; any time, also half-way."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from helix.debates.policy import role_of, voters
from helix.debates.types import Argument, Debate, Vote

__all__ = ["as_json", "as_markdown", "money"]

_QUOTE_CHARS_MAX = 4_000


def as_json(debate: Debate) -> dict[str, Any]:
    """Return a debate with all that was said, voted and found, as JSON values."""
    outcome = (
        "status stop_reason final_winner final_conclusion minority_opinion consensus_reached "
        "confidence confidence_source baseline changed multipass_result error task_id request_id "
        "panel created_at started_at completed_at event_count"
    ).split()
    told = {name: msgspec.to_builtins(getattr(debate, name)) for name in outcome}
    return {
        "id": str(debate.id),
        **told,
        "spec": msgspec.to_builtins(debate.spec),
        "rounds": [msgspec.to_builtins(r) for r in debate.rounds],
        "arguments": [msgspec.to_builtins(a) for a in debate.arguments],
        "votes": [_vote_json(vote) for vote in debate.votes],
        "silent": sorted([r, k, p] for r, k, p in debate.silent),
        "code_versions": [msgspec.to_builtins(version) for version in debate.code],
    }


def _vote_json(vote: Vote) -> dict[str, Any]:
    ballot = vote.ballot
    return {
        "round": vote.round,
        "voter": vote.voter,
        "valid": ballot is not None,
        "ranking": list(ballot.ranking) if ballot is not None else [],
        "weight": str(vote.weight),
        "confidence": None if ballot is None else msgspec.to_builtins(ballot.confidence),
        "reason": None if ballot is None else ballot.reason,
        "refusal": vote.refusal,
        "is_repaired": vote.is_repaired,
        "response_id": None if vote.response_id is None else str(vote.response_id),
    }


def as_markdown(debate: Debate, value: Mapping[str, Any] | None = None) -> str:
    """Return a debate as a readable page; `value` is its row of debate_value."""
    spec = debate.spec
    parts = [f"# {_line(spec.topic)}", _facts(debate)]
    if spec.description:
        parts.append(_quoted(spec.description))
    parts.append(_people(debate))
    parts += [_version(version) for version in debate.code]
    singles = [a for a in debate.arguments if a.round == 0]
    if singles:
        parts.append("## Alone\n\nWhat each model says when asked by itself.")
        parts += [_said(a) for a in singles]
    for number in range(1, len(debate.rounds) + 1):
        parts.append(_round(debate, number))
    parts.append(_outcome(debate))
    if value is not None:
        parts.append("## Did it pay?\n\n" + paid(value))
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(debate: Debate) -> str:
    spec = debate.spec
    return (
        f"{debate.status.value} · {spec.protocol.value} · {spec.voting.method.value} vote · "
        f"{len(debate.rounds)} of at most {spec.rounds} rounds · `{debate.id}`"
    )


def _people(debate: Debate) -> str:
    lines = ["| participant | model | role | position | weight |", "|---|---|---|---|---|"]
    for n, member in enumerate(debate.spec.participants):
        weight = debate.weights.get(member.name, member.weight)
        lines.append(
            f"| {_cell(member.name)} | {_cell(member.model)} | {role_of(debate.spec, n).value} | "
            f"{_cell(member.position or '')} | {weight} |"
        )
    return "\n".join(lines)


def _version(version: Any) -> str:
    files = ", ".join(f"`{name}`" for name in version.files_changed[:20])
    tests = f" · tests {version.validation_status}" if version.test_results else ""
    return (
        f"**Code** `{version.version_hash[:12]}` on `{version.branch}`: "
        f"{_line(version.commit_message)} ({files}){tests}"
    )


def _said(argument: Argument) -> str:
    stand_in = "" if argument.is_primary else " *(standing in)*"
    sure = f" · {_percent(argument.confidence)} sure" if argument.confidence is not None else ""
    answer = f" — **{_line(argument.answer)}**" if argument.answer else ""
    checked = ""
    if argument.validation_status in {"passed", "failed"}:
        checked = (
            f"\n\n*Checking: {argument.validation_status}.* {argument.validation_feedback or ''}"
        )
    model = f"{argument.provider_name}/{argument.model_name}"
    return (
        f"**{_line(argument.participant)}** ({model}{stand_in}){answer}{sure}\n\n"
        f"{_quoted(argument.text)}{checked}"
    )


def _round(debate: Debate, number: int) -> str:
    this = debate.rounds[number - 1]
    parts = [f"## Round {number}: {this.phase}"]
    parts += [_said(a) for a in debate.arguments if a.round == number]
    parts += [
        f"*{_line(name)} was silent: no model could be had.*"
        for at, kind, name in sorted(debate.silent)
        if at == number and kind == "argue"
    ]
    votes = [vote for vote in debate.votes if vote.round == number]
    if votes:
        parts.append(_votes(votes))
    if this.ended and this.tally is not None:
        parts.append(_tally(debate, number))
    return "\n\n".join(parts)


def _votes(votes: Sequence[Vote]) -> str:
    lines = ["| voter | ballot | reason |", "|---|---|---|"]
    for vote in votes:
        if vote.ballot is None:
            lines.append(f"| {_cell(vote.voter)} | *invalid* | {_cell(vote.refusal or '')} |")
            continue
        ranking = " > ".join(_cell(name) for name in vote.ballot.ranking)
        again = " *(asked twice)*" if vote.is_repaired else ""
        lines.append(
            f"| {_cell(vote.voter)} | {ranking}{again} | {_cell(vote.ballot.reason or '')} |"
        )
    return "\n".join(lines)


def _tally(debate: Debate, number: int) -> str:
    this = debate.rounds[number - 1]
    tally = this.tally or {}
    scores = ", ".join(f"{_line(name)} {score}" for name, score in tally["scores"].items())
    elected = f"**{_line(this.winner)}** is elected" if this.winner else "nobody is elected"
    notes = [f"agreement {_percent(this.agreement)}"]
    if this.convergence is not None:
        notes.append(f"convergence {_percent(this.convergence)}")
    if tally.get("tie_break"):
        notes.append(f"tie broken by {tally['tie_break']}")
    if tally.get("completion"):
        notes.append(f"completed by {tally['completion']}")
    if tally.get("invalid"):
        notes.append(f"{tally['invalid']} of {len(voters(debate.spec))} ballots invalid")
    return f"{tally['method']}: {scores}; {elected} ({', '.join(notes)})."


def _outcome(debate: Debate) -> str:
    if debate.error is not None:
        return f"## It failed\n\n{_line(debate.error)}"
    if debate.final_conclusion is None:
        return ""
    agreed = "By consensus" if debate.consensus_reached else "Without consensus"
    sure = ""
    if debate.confidence is not None and debate.confidence_source is not None:
        sure = f", {_percent(debate.confidence)} ({debate.confidence_source.value})"
    stop = f"; it ended by {debate.stop_reason.value}" if debate.stop_reason else ""
    parts = [
        "## Conclusion",
        f"{agreed}: **{_line(debate.final_winner or 'no winner')}**{sure}{stop}.",
        _quoted(debate.final_conclusion),
    ]
    if debate.minority_opinion:
        parts.append("Minority opinion:\n\n" + _quoted(debate.minority_opinion))
    return "\n\n".join(parts)


def paid(value: Mapping[str, Any]) -> str:
    """Return in one line what a debate changed and for how much."""
    was, now = value["baseline_answer"], value["final_winner"]
    if value["changed"] is None:
        verdict = "No baseline to hold it against"
    elif value["changed"]:
        verdict = f"It changed the answer from {was!r} to {now!r}"
    else:
        verdict = f"It confirmed the plain majority, {was!r}"
    if value["debate_right"] is not None:
        right = "right" if value["debate_right"] else "wrong"
        singles = f"{value['single_right']} of {value['single_answers']} single answers"
        verdict += f"; the debate was {right}, {singles} were right"
    times = value["times_the_baseline"]
    more = f", {times} times the single answers' {money(value['baseline_cost_usd'])}" if (
        times is not None) else ""  # fmt: skip
    return (
        f"{verdict}, for {money(value['debate_cost_usd'])}{more}; "
        f"{value['calls']} calls, {value['tokens']} tokens, {value['wall_s']} s."
    )


def money(usd: Decimal) -> str:
    """Return dollars without trailing zeros."""
    text = f"{usd:f}".rstrip("0").rstrip(".") if "." in f"{usd:f}" else f"{usd:f}"
    return f"${text or '0'}"


def _percent(share: Decimal | None) -> str:
    if share is None:
        return ""
    text = f"{share * 100:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text[:_QUOTE_CHARS_MAX].splitlines())
