"""For whom a parity result holds, and what the code of each kind of client has to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from migrate.parity.clients import native, openai
from migrate.parity.clients.rule import (
    Client,
    ClientRequest,
    Rule,
    asks_for_defaults,
    default_of,
    defaults_differ,
    for_this_model,
)
from migrate.parity.facts import BundleFacts
from migrate.parity.report import ClientVerdict, Verdict

RULES: Mapping[Client, tuple[Rule, ...]] = {"native": native.RULES, "openai": openai.RULES}

KINDS: Mapping[Client, str] = {"native": "native clients (/api)", "openai": "clients of Ollama's OpenAI route (/v1)"}
_SEVERE_FIRST = ("breaks", "silent")
_ROUTES: Mapping[Client, str] = {"native": "/api", "openai": "/v1"}


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that concerns this model, and the requests that show it; None: there are no requests to look at."""

    rule: Rule
    requests: tuple[ClientRequest, ...] | None


def verdicts(
    facts: BundleFacts, requests: Sequence[ClientRequest] | None = None, *, result: Verdict
) -> list[ClientVerdict]:
    """One verdict per kind of client, native first. Requests for other models are left out.

    `requests` are the user's own, with whatever paths they have: told is what they show, counted, and what no request
    can show. Without them every rule is told but the rare ones. Breaking changes come first, then the most frequent.
    """
    return [_verdict(client, facts, requests, result) for client in RULES]


def matches(client: Client, facts: BundleFacts, requests: Sequence[ClientRequest] | None) -> list[Match]:
    """The rules for `client` that apply. `requests` are those of that client."""
    found = []
    for rule in RULES[client]:
        if not rule.concerns(facts):
            continue
        if rule.sends is None or (requests is None and not rule.rare):
            found.append(Match(rule, None))
        elif shown := tuple(request for request in requests or () if rule.sends(request, facts)):
            found.append(Match(rule, shown))
    return found


def _verdict(
    client: Client, facts: BundleFacts, requests: Sequence[ClientRequest] | None, result: Verdict
) -> ClientVerdict:
    if requests is None:
        return _told(client, facts, None, result)
    theirs = [request for request in requests if request.client == client]
    own = [request for request in theirs if for_this_model(request, facts)]
    if own:
        verdict = _told(client, facts, own, result)
    else:
        none = f" None of the {len(requests)} requests that were read came to {_ROUTES[client]}."
        if theirs:
            none = f" None of the {len(theirs)} requests to {_ROUTES[client]} was for this model."
        statement = _statement(client, facts, None, result) + none
        verdict = ClientVerdict(client=client, holds=_holds(client, facts, None, result), statement=statement)
    if own and (others := len(theirs) - len(own)):
        verdict.statement += f" Left out: {others} requests for other models."
    return verdict


def _told(client: Client, facts: BundleFacts, own: Sequence[ClientRequest] | None, result: Verdict) -> ClientVerdict:
    shown = matches(client, facts, own)
    found = [match for match in shown if match.rule.severity != "fine"]
    found.sort(key=lambda m: (_SEVERE_FIRST.index(m.rule.severity), -len(m.requests or ())))
    parts = [_statement(client, facts, own, result), _not_compared(shown, facts, own or ())]
    return ClientVerdict(
        client=client,
        holds=_holds(client, facts, own, result),
        statement=" ".join(part for part in parts if part),
        changes=[describe(match, facts, len(own or ())) for match in found],
    )


def describe(match: Match, facts: BundleFacts, total: int) -> str:
    """One line: what, how often, what vLLM does, what to do."""
    rule = match.rule
    count = f" in {len(match.requests)} of {total} requests" if match.requests is not None else ""
    told = rule.detail(match.requests, facts) if rule.detail is not None and match.requests is not None else ""
    return f"{rule.field}{count}{f' ({told})' if told else ''}: vLLM {rule.vllm}. To do: {rule.change}."


def _holds(client: Client, facts: BundleFacts, own: Sequence[ClientRequest] | None, result: Verdict) -> bool:
    if result is not Verdict.PASS:
        return False
    if own is None:
        return facts.target.client == client or not defaults_differ(facts)
    return not any(asks_for_defaults(request, facts) for request in own)


def _statement(client: Client, facts: BundleFacts, own: Sequence[ClientRequest] | None, result: Verdict) -> str:
    kind = KINDS[client]
    if result is Verdict.FAIL:
        return f"Parity failed, so nothing holds for {kind} yet."
    if result is Verdict.INCONCLUSIVE:
        return f"Parity is inconclusive, so nothing is proved for {kind} yet."
    after = " once their code speaks vLLM's API, or unchanged behind `migrate gateway`" if client == "native" else ""
    if _holds(client, facts, own, result):
        why = "the bundle's temperature and top_p are those that they had"
        if facts.target.client != client and defaults_differ(facts):
            why = "each of their requests names its temperature and top_p"
        return f"The result holds for {kind}{after}: {why}."
    theirs, bundles = (_sampled(facts, kind) for kind in (client, facts.target.client))
    which = "those that leave one out"
    if own is not None:
        which += f" ({sum(asks_for_defaults(request, facts) for request in own)} of {len(own)})"
    return (
        f"Prompts and greedy answers hold for {kind}{after}; sampled answers only of requests that name temperature "
        f"and top_p: {which} had {theirs} on Ollama and get {bundles} from this bundle. Convert with "
        f"--client {client}, or send both."
    )


def _sampled(facts: BundleFacts, client: Client) -> str:
    temperature, top_p = (default_of(facts, name, client) for name in ("temperature", "top_p"))
    return f"temperature {temperature:g} and top_p {top_p:g}"


def _not_compared(shown: Sequence[Match], facts: BundleFacts, own: Sequence[ClientRequest]) -> str:
    """Requests that parity does not compare, whatever it found; "" for none."""
    found = [match for match in shown if match.requests and not match.rule.compared]
    if not found:
        return ""
    count = sum(any(m.rule.sends is not None and m.rule.sends(request, facts) for m in found) for request in own)
    names = ", ".join(f"{m.rule.field}: {len(m.requests or ())}" for m in found)
    return f"It says nothing of {count} of the {len(own)} requests, which parity does not compare ({names})."
