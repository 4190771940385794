"""A debate on a terminal, as it happens: one or two lines for each event."""

from typing import Any

from helix.debates.transcript import money, paid
from helix.debates.types import Debate, Event, EventType

__all__ = ["Teller", "closing"]

_WIDTH = 96


class Teller:
    """Turns events into lines; keeps the debate that they are about."""

    def __init__(self, debate: Debate) -> None:
        self.debate = debate

    def lines(self, event: Event) -> list[str]:
        """Return what to print for an event, perhaps nothing."""
        data = event.data
        match event.event_type:
            case EventType.STARTED:
                return [self._heading(), ""]
            case EventType.RESUMED:
                return [f"  … taken up again (attempt {data.get('attempt')})"]
            case EventType.ROUND_STARTED:
                return ["", f"Round {event.round}: {data['phase']}"]
            case EventType.BASELINE:
                return [f"  alone      {self._who(event)} → {data['answer'] or '(no answer)'}"]
            case EventType.ARGUED:
                return self._argued(event)
            case EventType.SUBSTITUTED:
                failed = ", ".join(f"{model} ({code})" for model, code in data["failed"])
                return [f"  stands in  {event.participant}: {data['by']} for {failed}"]
            case EventType.SILENT:
                return [f"  silent     {event.participant} ({data['kind']}): nobody answered"]
            case EventType.VOTED:
                return [self._voted(event)]
            case EventType.BALLOT_REFUSED:
                return [f"  refused    {event.participant}: {data['refusal']}"]
            case EventType.ROUND_ENDED:
                return [self._ended(data)]
            case EventType.VALIDATING:
                return ["", f"Checking: {', '.join(data['passes'])}"]
            case EventType.VALIDATED:
                return [self._checked(verdict) for verdict in data["verdicts"]]
            case EventType.CODE_RECORDED:
                return [f"  code       version {data['version']}: {data['hash'][:12]}"]
            case EventType.CONCLUDED | EventType.COMPLETED:
                return []
            case EventType.FAILED:
                return ["", f"It failed: {data.get('error', '')}"]
            case EventType.CANCELLED:
                return ["", "It was cancelled."]

    def _heading(self) -> str:
        spec = self.debate.spec
        members = ", ".join(f"{m.name} ({m.model})" for m in spec.participants)
        return f"{spec.topic}\n{members}\n{spec.protocol.value}, {spec.voting.method.value} vote"

    def _who(self, event: Event) -> str:
        return f"{event.participant}"

    def _argued(self, event: Event) -> list[str]:
        said = next(
            (
                a
                for a in self.debate.arguments
                if a.round == event.round and a.participant == event.participant
            ),
            None,
        )
        sure = f" ({_percent(event.data['confidence'])})" if event.data["confidence"] else ""
        head = f"  {event.participant}: {event.data['answer'] or ''}{sure}".rstrip(": ")
        return [head, *(f"      {part}" for part in _wrapped(said.text if said else ""))]

    def _voted(self, event: Event) -> str:
        if not event.data["valid"]:
            return f"  invalid    {event.participant}: the ballot could not be read"
        return f"  votes      {event.participant}: {' > '.join(event.data['ranking'])}"

    def _checked(self, verdict: dict[str, Any]) -> str:
        passed = verdict["passed"]
        found = "unreadable" if passed is None else "passed" if passed else "failed"
        return f"  {found:<10} {verdict['participant']}: {verdict['feedback']}"

    def _ended(self, data: dict[str, Any]) -> str:
        elected = data["winner"] or "nobody"
        stop = f"; no further round: {data['stop']}" if data["stop"] else ""
        return f"  elected    {elected}, agreement {_percent(data['agreement'])}{stop}"


def closing(debate: Debate, value: dict[str, Any] | None) -> list[str]:
    """Return the end of a debate as lines: conclusion, minority, and whether it paid."""
    if debate.final_conclusion is None:
        return []
    agreed = "consensus" if debate.consensus_reached else "no consensus"
    sure = ""
    if debate.confidence is not None and debate.confidence_source is not None:
        sure = f", {_percent(str(debate.confidence))} by {debate.confidence_source.value}"
    lines = ["", f"Answer: {debate.final_winner or '(nobody won)'} ({agreed}{sure})"]
    lines += [f"  {part}" for part in _wrapped(debate.final_conclusion)]
    if debate.minority_opinion:
        lines += ["Minority:", *(f"  {part}" for part in _wrapped(debate.minority_opinion))]
    if value is not None:
        lines += ["", f"Did it pay? {paid(value)}", f"All in all {money(value['cost_usd'])}."]
    return lines


def _wrapped(text: str) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < _WIDTH - 6:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _percent(share: str) -> str:
    return f"{float(share):.0%}".replace("%", " %")
