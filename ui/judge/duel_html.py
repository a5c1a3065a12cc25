"""Results of blind comparisons as HTML: words first, then a bar for each interval. Names are escaped; no Gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import combinations

from lorarlhf.checkpoints import is_checkpoint
from lorarlhf.evaluate.duel_words import counted, percent, stop_rule, verdict, winner
from lorarlhf.evaluate.duels import PEOPLE, Board, Result, boards, judge_name, names_of, result_of, votes_by
from lorarlhf.evaluate.sequential import ALPHA
from lorarlhf.figures import clock, figure
from lorarlhf.library import SavedAdapter
from lorarlhf.store import Duel, DuelVote, Store

EARLIER = 8
"""Earlier duels that are offered to go on with."""


def standing_html(
    store: Store, adapters: Sequence[SavedAdapter], duel: Duel, votes: Sequence[DuelVote], left: int, answers: str
) -> str:
    """Write how a duel stands by people's blind votes: each pair's win rate, and how far it is from settled.

    Of several pairs each takes its part of the error allowed, so that all that is settled holds at once (Bonferroni).
    `answers` is the hash of whoever answers under Rate now.
    """
    names, taken_back = names_of(store, adapters), store.taken_back()
    pairs = list(combinations([one.hash for one in duel.contestants], 2))
    own = [vote for vote in votes if vote.judge == PEOPLE]
    found = [result_of(own, *pair, taken_back=taken_back, alpha=ALPHA / len(pairs)) for pair in pairs]
    return "".join(_standing(one, names, left if len(pairs) == 1 else None) for one in found) + _next(
        found, names, {adapter.hash for adapter in adapters}, answers
    )


def keep_html(duel: Duel, votes: Sequence[DuelVote], there: Mapping[str, str]) -> str:
    """Offer to keep the checkpoint that is ahead of whoever it met in this duel, as it goes when its run writes others.

    `there` names who can answer, by content.
    """
    own = [vote for vote in votes if vote.judge == PEOPLE]
    hashes = [one.hash for one in duel.contestants]
    for hash in hashes:
        met = [result for other in hashes if other != hash and (result := result_of(own, hash, other)).votes]
        name = there.get(hash, "")
        if is_checkpoint(name) and met and all(result.share.value > 0.5 for result in met):
            about = f"{name} is ahead. It is a checkpoint, which goes when its run writes newer ones"
            keep = f"<button type='button' data-keep='{escape(name, quote=True)}'>Keep it as an adapter</button>"
            return f"<p class='keep'><span>{escape(about)}.</span> {keep}</p>"
    return ""


def _standing(result: Result, names: dict[str, str], left: int | None) -> str:
    said = _reveal(result, names) if result.settled else ""
    if result.votes:
        said += _bar(names[result.first], result.share.value, result.always, names[result.second])
    said += f"<p class='verdict'>{_ring(result)}{escape(verdict(result, names))}.</p>"
    about = [escape(stop_rule(result, names, left))]
    if result.taken_back:
        about.append(f"{counted(result.taken_back, 'vote')} taken back, not counted")
    if result.votes > result.prompts:
        about.append(f"the interval rests on the first vote of each of {counted(result.prompts, 'prompt')}")
    kind = "settled" if result.settled else "open"
    return f"<div class='pair {kind}'>{said}<p class='subdued'>{'. '.join(about)}.</p></div>"


def _bar(name: str, value: float, bounds: tuple[float, float], other: str) -> str:
    """Draw a bar split between two by their shares of the votes; whiskers show the interval of where it is split."""
    low, high = bounds
    words = escape(f"{name} wins {value:.0%}, interval {percent(bounds)}", quote=True)
    return (
        f"<div class='split'><span><b>{value:.0%}</b> {escape(name)}</span>"
        f"<span>{escape(other)} <b>{1 - value:.0%}</b></span>"
        f"<div class='parts' role='img' aria-label='{words}'><i class='won' style='width:{value:.2%}'></i>"
        f"<i class='half'></i><i class='whiskers' style='left:{low:.2%};right:{1 - high:.2%}'></i></div></div>"
    )


def _ring(result: Result) -> str:
    """Draw how far it is: votes cast of those it takes; nothing where no end is in sight."""
    if result.settled or not result.votes or result.more is None:
        return ""
    share = result.votes / (result.votes + result.more)
    return (
        f"<svg class='ring' viewBox='0 0 36 36' role='img' aria-label='{share:.0%} of the votes it may take'>"
        "<circle class='whole' cx='18' cy='18' r='14' pathLength='100'/>"
        f"<circle class='part' cx='18' cy='18' r='14' pathLength='100' stroke-dasharray='{share * 100:.1f} 100'/></svg>"
    )


def _reveal(result: Result, names: dict[str, str]) -> str:
    """Announce what was decided."""
    best = winner(result)
    title = f"{names[best]} is better" if best else "As good as equal"
    if best == result.second:
        result = result.swapped()
    wins = result.share.value * result.votes
    about = f"You preferred it in {figure(wins, '.1f').removesuffix('.0')} of {counted(result.votes, 'blind vote')}"
    if not best:
        about = f"After {counted(result.votes, 'blind vote')} any difference is small"
    return f"<div class='reveal' role='status'><p class='title'>{escape(title)}</p><p>{escape(about)}.</p></div>"


def _next(found: Sequence[Result], names: dict[str, str], there: set[str], answers: str) -> str:
    """Offer what to do with a decision: with whoever lost to nobody and beat somebody, if that is an adapter."""
    if not found or not all(result.settled for result in found):
        return ""
    lost = {hash for one in found if (best := winner(one)) for hash in (one.first, one.second) if hash != best}
    best = next((hash for one in found if (hash := winner(one)) and hash not in lost), "")
    if not best or best not in there or is_checkpoint(names[best]):
        more = "<button type='button' data-go='Rate' class='primary'>Rate more answers</button>"
        return f"<p class='next'>{more}<button type='button' data-go='Judge' data-section='Rounds'>Rounds</button></p>"
    name = escape(names[best], quote=True)
    adopt = f"<button type='button' class='primary' data-adopt='{name}'>Let {name} answer from now on</button>"
    rate = "<button type='button' class='primary' data-go='Rate'>Next round: rate its answers</button>"
    return (
        f"<p class='next'>{rate if best == answers else adopt}"
        "<button type='button' data-go='Compare' data-section='Chat'>Chat with it</button>"
        f"<button type='button' data-go='Models' data-adapter='{name}'>Export</button></p>"
    )


def machines_html(store: Store, adapters: Sequence[SavedAdapter], duel: Duel, votes: Sequence[DuelVote]) -> str:
    """Write what judges that are no people said about the same adapters; never mixed with what people said."""
    names, rows = names_of(store, adapters), []
    pairs = list(combinations([one.hash for one in duel.contestants], 2))
    for judge, said in votes_by(votes).items():
        for pair in pairs:
            result = result_of(said, *pair)
            if judge[0] != PEOPLE and result.votes:
                bar = _bar(names[pair[0]], result.share.value, (result.share.low, result.share.high), names[pair[1]])
                title = f"By {judge_name(judge)}: {verdict(result, names, always=False)}"
                rows.append(f"<div class='pair'><p>{escape(title)}</p>{bar}</div>")
    return "".join(rows)


def board_html(store: Store, adapters: Sequence[SavedAdapter]) -> str:
    """Write the ratings of everybody, once for each kind of judge."""
    names = names_of(store, adapters)
    tables = [_table(board, names) for board in boards(store, adapters)]
    if not tables:
        return ""
    about = (
        "Elo-style ratings from all blind comparisons of this workspace, ties half: +100 means preferred about 64 % of "
        "the time, +200 about 76 %. Intervals hold 95 %."
    )
    return f"<h3>Ratings</h3><p class='subdued'>{about}</p><div class='boards'>{''.join(tables)}</div>"


def _table(board: Board, names: dict[str, str]) -> str:
    known = [rating for _, rating in board.placed]
    low, high = min(r.low for r in known), max(r.high for r in known)
    wide = max(high - low, 1.0)

    def place(points: float) -> str:
        return f"{(points - low) / wide:.2%}"

    rows = []
    for hash, rating in board.placed:
        anchor = hash == board.anchor
        about = "reference" if anchor else f"{figure(rating.low, '+.0f')} to {figure(rating.high, '+.0f')}"
        rows.append(
            f"<tr><th scope='row'>{escape(names[hash])}</th><td class='plot'><div class='track'>"
            f"<i class='level' style='left:{place(0)}'></i><i class='range' style='left:{place(rating.low)};"
            f"right:{1 - (rating.high - low) / wide:.2%}'></i><i class='dot' style='left:{place(rating.points)}'></i>"
            f"</div></td><td class='n'>{figure(rating.points, '+.0f')} <span>({about})</span></td>"
            f"<td class='n'>{rating.games:,}</td></tr>"
        )
    rows += [
        f"<tr><th scope='row'>{escape(names[hash])}</th><td colspan='3' class='subdued'>no vote links it to "
        f"{escape(names[board.anchor])}</td></tr>"
        for hash in board.unplaced
    ]
    title = f"By {escape(judge_name(board.judge))}"
    head = "<tr><th scope='col'><span class='sr'>adapter</span></th><td></td><th scope='col'>points</th>"
    head += "<th scope='col'>votes</th></tr>"
    return (
        f"<figure><figcaption>{title}</figcaption><table class='intervals'><thead>{head}</thead>"
        f"<tbody>{''.join(rows)}</tbody></table></figure>"
    )


def earlier_html(store: Store, adapters: Sequence[SavedAdapter], fingerprint: str) -> str:
    """List the newest duels on this base, each with a button that goes on with it."""
    names, votes = names_of(store, adapters), store.duel_votes()
    there = {adapter.hash for adapter in adapters}
    rows = []
    for duel in reversed(store.duels()):
        present = all(not one.name or one.hash in there for one in duel.contestants)
        cast = sum(vote.duel == duel.id and vote.judge == PEOPLE for vote in votes)
        if duel.base == fingerprint and present and cast:
            who = escape(" against ".join(names[one.hash] for one in duel.contestants))
            when = escape(clock(duel.created, day=True))
            rows.append(
                f"<li>{who} <span class='subdued'>{counted(cast, 'vote')} of yours, begun {when}</span> "
                f"<button type='button' data-duel='{duel.id}'>Go on</button></li>"
            )
    return f"<ul class='earlier'>{''.join(rows[:EARLIER])}</ul>" if rows else ""
