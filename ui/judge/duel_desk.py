"""Blind comparisons as a page asks for them. Knows nothing of Gradio.

What is told about the pair in front is a function of its prompt, its answers by place, and a random id: nothing in it,
nor when it comes, depends on who stands where. Answers are therefore shown when both are whole. The names are told in
the reply to the vote, which is on disk by then.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from lorarlhf.checkpoints import checkpoints_stamp, list_answering
from lorarlhf.errors import DataError, LoraRlhfError
from lorarlhf.evaluate.contest import Field, field_of, keep, prompts_for, today
from lorarlhf.evaluate.duel_words import counted, write_cards
from lorarlhf.evaluate.duels import SCRIPT
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.settings import SamplingSettings
from lorarlhf.store import Duel, Store
from lorarlhf.store.duels import SOURCE
from lorarlhf.types import Prompt, prompt_key, user
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.at_work import Measurement
from lorarlhf.ui.judge.duel_html import board_html, earlier_html, keep_html, machines_html, standing_html
from lorarlhf.ui.markdown import rendered, told
from lorarlhf.ui.rate.asking import Payload, reply_to
from lorarlhf.ui.rate.pairs import Tray
from lorarlhf.ui.rate.preferences import load_preferences, save_preferences
from lorarlhf.ui.rate.prompt_sources import checked
from lorarlhf.ui.rate.recipes import recipe_of
from lorarlhf.ui.rate.sheets import VERDICTS, About, Recipe, Sheet

IN_FRONT = "duel in front"
"""Name in the workspace of the duel that the page shows; 0 for none."""
LONGEST_TEXT = 200_000
Hashes = tuple[str, str]


class Prompts:
    """The prompts of a duel: what was typed and not asked yet first, then those asked least often."""

    def __init__(self, store: Store, duel: int) -> None:
        self._store, self._duel = store, duel
        self._places = {prompt_key(prompt): (prompt, i) for i, prompt in enumerate(store.duel_prompts(duel))}
        sql = "SELECT prompt FROM duel_votes WHERE duel = ? AND judge = ''"
        self.asked = Counter(row["prompt"] for row in store.query(sql, (duel,)))
        """Also by votes taken back: their pair shall not come again soon."""

    @property
    def left(self) -> int:
        """Count the prompts nobody was asked about yet."""
        return sum(not self.asked[key] for key in self._places)

    def take(self, busy: Collection[str]) -> Prompt | None:
        """Give the next prompt that is not among the busy ones."""
        free = [(self.asked[key], place, prompt) for key, (prompt, place) in self._places.items() if key not in busy]
        return min(free, key=lambda item: item[:2])[2] if free else None

    def done(self, prompt: Prompt) -> None:
        """Hear that a prompt was voted on."""
        self.asked[prompt_key(prompt)] += 1

    def add(self, prompt: Prompt) -> None:
        """Take a prompt that is to come next."""
        key = prompt_key(prompt)
        if key in self._places:
            raise DataError("this prompt is in the duel already; ask something else")
        self._store.add_duel_prompt(self._duel, prompt)
        self._places[key] = (prompt, min((place for _, place in self._places.values()), default=0) - 1)

    def turn(self, prompt: Prompt) -> int:
        """Number the showing of a prompt, so that with several adapters each pair has its turn on it."""
        key = prompt_key(prompt)
        return self._places[key][1] + self.asked[key]


def lay_out(desk: Desk, names: Sequence[str], *, teaches: bool = True) -> tuple[int, Field]:
    """Begin a blind comparison and lay it in front of the person → its prompts, and who takes part.

    Raises `LoraRlhfError` where these cannot be compared.
    """
    if not desk.fingerprint:
        raise DataError("the base is not in memory yet; one moment")
    field = field_of(desk.store, desk.workspace, names, desk.fingerprint)
    prompts = prompts_for(desk.store, field, str(desk.memory.get("base", {}).get("name", "")))
    sampling = desk.sampling().model_dump(mode="json", exclude={"batch_rows"})
    number = desk.store.start_duel(field.contestants, desk.fingerprint, prompts, sampling, teaches=teaches)
    desk.store.set_meta(IN_FRONT, number)
    return len(prompts), field


class DuelDesk:
    """The duel in front of the person, and what can be begun."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.tray = Tray(desk, self._recipe, self._take, redraws=0)
        self.duel: Duel | None = None
        self._prompts: Prompts | None = None
        self._last: dict[str, Any] = {}
        """Who wrote the answers that were voted on last; told once the vote is on disk."""
        self._voting = Measurement("is voting")
        if number := desk.store.get_meta(IN_FRONT, 0):
            self._open(number)

    # -- what pages ask ---------------------------------------------------------------------------------------

    def ask(self, payload: Payload) -> dict[str, Any]:
        """Do what a page asks for and reply with what it shows next; a refusal is said in one line."""
        if self.duel:
            self.tray.watch()
        return reply_to(payload, self)

    def do_open(self, payload: Payload) -> dict[str, Any]:
        """Tell a page everything."""
        self._follow()
        return {**self.figures(), **self.choices(), **self.view()}

    def do_look(self, payload: Payload) -> dict[str, Any]:
        """Tell a page what changed since it looked last."""
        self._follow()
        view = self.view()
        if view["stamp"] == payload.get("stamp"):
            return {"stamp": view["stamp"]}
        same = view["shelf"] == payload.get("shelf") and view["duel"] == payload.get("duel")
        return view if same else {**self.figures(), **self.choices(), **view}

    def do_begin(self, payload: Payload) -> dict[str, Any]:
        """Begin a duel between the adapters named."""
        names = [str(name) for name in payload.get("names") or []]
        prompts, field = lay_out(self._desk, names, teaches=bool(payload.get("teaches", True)))
        self._follow()
        there = f"{counted(prompts, 'prompt')} that none of them learned from"
        return self._told(". ".join([f"Begun, on {there}", *field.learned.caveats]), choices=True)

    def do_go_on(self, payload: Payload) -> dict[str, Any]:
        """Go on with an earlier duel."""
        self._show(self._desk.store.duel(int(payload.get("duel") or 0)).id)
        return self._told("", choices=True)

    def do_leave(self, payload: Payload) -> dict[str, Any]:
        """Go back to where duels begin; the votes stay, and the duel can be gone on with."""
        self._show(0)
        return self._told("", choices=True)

    def do_vote(self, payload: Payload) -> dict[str, Any]:
        """Say which answer is better: on disk, and only then who wrote which."""
        sheet, verdict = self._current(payload), str(payload.get("verdict"))
        if not sheet.whole:
            raise DataError("the answers are still being written; one moment")
        duel, prompts = self._at_work()
        said = sheet.comparison(verdict, About(rater=load_preferences(self._desk.store).rater))
        self._desk.store.add_duel_vote(duel.id, replace(said, origin=replace(said.origin, source=SOURCE)))
        self._last = {"words": VERDICTS[verdict][2], "sources": sheet.sources}
        prompts.done(sheet.prompt)
        self.tray.leave()
        return self._told(f"Saved: {VERDICTS[verdict][2]}", self._put_on_cards())

    def do_undo(self, payload: Payload) -> dict[str, Any]:
        """Take the last vote back. Its pair does not come again: its names are known by now."""
        duel, _ = self._at_work()
        store = self._desk.store
        own = [vote for vote in store.duel_votes() if vote.duel == duel.id and vote.comparison is not None]
        if not own:
            raise DataError("there is no vote to take back")
        store.undo("comparisons", own[-1].comparison or 0)
        self._last = {}
        words = "Taken back: it counts nowhere. Its pair does not come again, as you know by now which was which"
        return self._told(words, self._put_on_cards())

    def do_next(self, payload: Payload) -> dict[str, Any]:
        """Draw the answers of a pair anew that could not be drawn."""
        if not self._current(payload).problem:
            raise DataError("a pair that can be voted on stays until it is; S skips it")
        self.tray.redraw()
        return self._told("Drawing again")

    def do_type(self, payload: Payload) -> dict[str, Any]:
        """Take a prompt the person typed."""
        duel, prompts = self._at_work()
        text = payload.get("text")
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            raise DataError(f"type a prompt of at most {LONGEST_TEXT:,} letters")
        prompt = user(checked(text))
        desk = self._desk
        field_of(desk.store, desk.workspace, self._names(duel), desk.fingerprint).check(prompt)
        prompts.add(prompt)
        self.tray.changed()
        return self._told("In line; it comes after the pairs that are drawn already")

    def do_keep(self, payload: Payload) -> dict[str, Any]:
        """Make a checkpoint of this duel an adapter; the duel goes on with it, and its votes are its own."""
        self._at_work()
        saved = keep(self._desk.store, self._desk.workspace, str(payload.get("name")))
        return self._told(f"Kept as adapter {saved.name}; where you name nothing, it is the newest now", choices=True)

    def do_adopt(self, payload: Payload) -> dict[str, Any]:
        """Have an adapter of this duel answer under Rate from now on."""
        duel, _ = self._at_work()
        name = str(payload.get("name"))
        if name not in self._names(duel):
            raise DataError(f"{name} takes no part in this duel")
        store = self._desk.store
        save_preferences(store, load_preferences(store).model_copy(update={"first": name, "second": ""}))
        return self._told(f"{name} answers under Rate from now on")

    def do_judge(self, payload: Payload) -> dict[str, Any]:
        """Have a judge that is no person vote on the prompts of this duel."""
        duel, _ = self._at_work()
        by = str(payload.get("by"))
        self._voting.begin(("duel", by), lambda: self._desk.engine.duel(duel.id, by))
        return self._told("")

    def do_stop(self, payload: Payload) -> dict[str, Any]:
        """Stop the judge; what it said is kept."""
        self._voting.stop()
        return self._told("")

    # -- what pages are told ----------------------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """Describe what lies in front of the person; nothing in it says where an answer comes from."""
        with self.tray.lock:
            sheet = self.tray.front if self.duel else None
            obstacle = self._obstacle() if self.duel else ""
            whole = bool(sheet and sheet.whole)
            seen: dict[str, Any] = {
                "duel": self.duel.id if self.duel else 0,
                "sheet": None,
                "ahead": sum(other.whole for other in list(self.tray.sheets)[1:]),
                "wait": obstacle,
                "stuck": bool(obstacle),
                "job": self._job_now(),
                "shelf": self._shelf(),
            }
            if sheet:
                seen["sheet"] = {
                    "id": sheet.id,
                    "prompt": told(sheet.prompt),
                    # One that grows before the other, or faster, would tell whose it is.
                    "answers": sheet.placed if whole else [""] * len(sheet.order),
                    "html": [rendered(text) for text in sheet.placed] if whole else [],
                    "whole": whole,
                    "equal": sheet.equal,
                    "problem": sheet.problem,
                }
                if whole:
                    sheet.show()
        return {**seen, "stamp": zlib.crc32(json.dumps(seen).encode())}

    def figures(self) -> dict[str, Any]:
        """Tell what the votes come to so far."""
        store, adapters = self._desk.store, list_answering(self._desk.workspace)
        found: dict[str, Any] = {
            "board": board_html(store, adapters),
            "standing": "",
            "machines": "",
            "undoable": False,
        }
        if self.duel and self._prompts:
            votes = store.duel_votes()
            answers = recipe_of(self._desk, load_preferences(store)).adapters[0][1]
            found["standing"] = standing_html(store, adapters, self.duel, votes, self._prompts.left, answers)
            found["standing"] += keep_html(self.duel, votes, {saved.hash: saved.name for saved in reversed(adapters)})
            found["machines"] = machines_html(store, adapters, self.duel, votes)
            found["undoable"] = any(vote.duel == self.duel.id and vote.comparison is not None for vote in votes)
        return found

    def choices(self) -> dict[str, Any]:
        """Tell who can take part, who can judge, and which duels can be gone on with."""
        fitting = [saved.name for saved in self._desk.adapters() if not saved.has_head]
        newest = [found.name for stage in ("ppo", "sft") if (found := self._desk.newest(stage))]
        judges = [saved.name for saved in reversed(self._desk.adapters("reward"))]
        if self._desk.memory.get("base", {}).get("name") == "starter":
            judges.append(SCRIPT)
        return {
            "choices": {
                "contestants": [BARE, *fitting],
                "checkpoints": [saved.name for saved in reversed(self._desk.checkpoints())],
                "usual": [*newest, BARE][:2],
                "judges": judges,
                "earlier": earlier_html(self._desk.store, self._answering(), self._desk.fingerprint),
            },
            "names": self._names(self.duel) if self.duel else [],
            "teaches": bool(self.duel and self.duel.teaches),
        }

    # -- how it is done ---------------------------------------------------------------------------------------

    def _show(self, number: int) -> None:
        self._desk.store.set_meta(IN_FRONT, number)
        self._last = {}
        self._open(number)
        self.tray.clear()

    def _follow(self) -> None:
        """Take up a duel that was laid out elsewhere."""
        if (number := self._desk.store.get_meta(IN_FRONT, 0)) != (self.duel.id if self.duel else 0):
            self._last = {}
            self._open(number)
            self.tray.clear()

    def _open(self, number: int) -> None:
        store = self._desk.store
        self.duel, self._prompts = (store.duel(number), Prompts(store, number)) if number else (None, None)

    def _at_work(self) -> tuple[Duel, Prompts]:
        if self.duel is None or self._prompts is None:
            raise DataError("no duel is in front of you; begin one, or go on with an earlier one")
        return self.duel, self._prompts

    def _current(self, payload: Payload) -> Sheet:
        """Give the front sheet; refuse what another page, or a second key press, says about one that is gone."""
        sheet = self.tray.front if self.duel else None
        if sheet is None or sheet.id != payload.get("sheet"):
            raise DataError("that pair is done already, here or in another window; this is the current one")
        return sheet

    def _take(self, busy: Collection[str]) -> Prompt | None:
        return self._prompts.take(busy) if self._prompts else None

    def _recipe(self, prompt: Prompt) -> Recipe:
        """Say which two answer a prompt, and how: each pair in turn, and who stands where is dealt by the sheet."""
        duel, prompts = self._at_work()
        pairs = list(combinations(range(len(duel.contestants)), 2))
        there = self._there()
        chosen = [duel.contestants[i] for i in pairs[prompts.turn(prompt) % len(pairs)]]
        return Recipe(
            base=duel.base,
            adapters=tuple((today(one, there) if one.name else "", one.hash) for one in chosen),
            sampling=SamplingSettings.parse(duel.sampling, "sampling"),
            round=len(self._desk.adapters("ppo")),
        )

    def _answering(self) -> list[SavedAdapter]:
        return [*self._desk.adapters(), *self._desk.checkpoints()]

    def _there(self) -> dict[str, str]:
        return {saved.hash: saved.name for saved in reversed(self._answering())}

    def _shelf(self) -> str:
        """Give a text that is another one as soon as others can take part."""
        place = self._desk.workspace
        return f"{self._desk.fingerprint} {place.adapters_dir.stat().st_mtime_ns} {checkpoints_stamp(place)}"

    def _names(self, duel: Duel) -> list[str]:
        there = self._there()
        return [there.get(one.hash, one.name) or BARE for one in duel.contestants]

    def _obstacle(self) -> str:
        duel, _ = self._at_work()
        if self._desk.fingerprint and duel.base != self._desk.fingerprint:
            return "The adapters of this duel stand on another base. Load that one, and the duel goes on."
        return self.tray.obstacle() or self.tray.problem

    def _job_now(self) -> dict[str, Any]:
        now = self._voting.now()
        if not now.about:
            return {}
        told = {"by": now.about[1], "done": now.done, "total": now.total}
        return {**told, "ended": not now.at_work, "problem": now.problem}

    def _put_on_cards(self) -> str:
        """Bring the adapters' cards up to date; return what went wrong. The votes are safe whatever comes of it."""
        duel, _ = self._at_work()
        try:
            write_cards(self._desk.store, self._desk.workspace, (one.hash for one in duel.contestants))
        except LoraRlhfError as error:
            return str(error)
        return ""

    def _told(self, words: str, problem: str = "", *, choices: bool = False) -> dict[str, Any]:
        more = self.choices() if choices else {}
        said = {"said": f"{words}. But {problem}" if problem else words, "wrong": bool(problem)}
        return {**self.figures(), **more, **self.view(), "last": self._last, **said}
