"""Blind comparisons as rows, on cards, in exports, and by judges that are no people; which prompts are new to whom."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter

import pytest

from lorarlhf.data.everyday import everyday
from lorarlhf.engine import dueling
from lorarlhf.engine.core import Engine
from lorarlhf.engine.dueling import judge_duel
from lorarlhf.engine.training import train
from lorarlhf.errors import AdapterError, DataError, StoreError
from lorarlhf.evaluate.contest import field_of, prompts_for
from lorarlhf.evaluate.duel_words import as_json, card_entries, write_cards
from lorarlhf.evaluate.duels import boards
from lorarlhf.evaluate.heldout import trained_on
from lorarlhf.export.origin import origin_of
from lorarlhf.export.readme import Export, write_readme
from lorarlhf.library import list_saved, read_saved, rename_saved, revise_card
from lorarlhf.settings import PPOSettings, RewardSettings, SamplingSettings, SFTSettings
from lorarlhf.starter import judge as script
from lorarlhf.store import Contestant, Store
from lorarlhf.store.migrations import MIGRATIONS
from lorarlhf.types import Comparison, Origin, Outcome, is_heldout, prompt_key, user
from lorarlhf.workspace import Workspace
from tests.small_work import open_small, teach

SMALL = {"rank": 4, "alpha": 8, "micro_batch_tokens": 512, "heldout_share": 0.5, "batch_size": 4}
X, Y = Contestant("ppo-1", "hash x"), Contestant("", "base print")


def said(i: int, outcome: Outcome = Outcome.A, first: Contestant = X, second: Contestant = Y) -> Comparison:
    origin = Origin(
        source="duel", rater="me", adapters=(first.name, second.name), adapter_hashes=(first.hash, second.hash)
    )
    return Comparison(user(f"question {i}?"), f"one {i}", f"other {i}", outcome, origin=origin)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "workspace.db") as store:
        yield store


# -- rows -------------------------------------------------------------------------------------------------------


def test_a_vote_is_a_comparison_and_a_row_that_says_it_was_blind(store, tmp_path):
    duel = store.start_duel((X, Y), "base print", [user("question 0?"), user("later?")], {"seed": 1})
    row = store.add_duel_vote(duel, said(0))
    with Store(tmp_path / "workspace.db") as other:  # on disk when it returns
        assert [v.comparison for v in other.duel_votes()] == [row]
        assert other.comparisons()[0].value == said(0)
        assert other.duel(duel) == store.duel(duel)
        assert other.duel_prompts(duel) == [user("question 0?"), user("later?")]
    with pytest.raises(StoreError, match="no duel 7"):
        store.duel(7)


def test_all_of_a_vote_or_nothing(store):
    with pytest.raises(StoreError):
        store.add_duel_vote(7, said(0))  # there is no such duel
    assert store.counts()["comparisons"] == 0


def test_what_is_taken_back_or_changed_once_names_are_known_is_no_blind_vote_any_more(store):
    duel = store.start_duel((X, Y), "base print", [], {})
    rows = [store.add_duel_vote(duel, said(i)) for i in range(3)]
    store.undo("comparisons", rows[0])
    store.replace("comparisons", rows[1], said(1, Outcome.B))
    assert [vote.comparison for vote in store.duel_votes()] == [rows[2]]
    assert store.taken_back() == [(X.hash, Y.hash)] * 2
    result = boards(store)[0].results[0]
    assert (result.votes, result.taken_back, result.share.hits) == (1, 2, 1.0)
    assert len(store.comparisons()) == 2  # the changed one is a vote still, which was not cast blind


def test_judges_stand_apart_from_people_and_teach_nobody(store):
    duel = store.start_duel((X, Y), "base print", [], {})
    store.add_duel_vote(duel, said(0))
    store.add_judged(duel, "script", "", [said(i, Outcome.B) for i in range(5)])
    store.add_judged(duel, "reward-1", "abc", [said(i, Outcome.TIE) for i in range(4)])
    assert store.counts()["comparisons"] == 1
    shares = {board.judge: (board.results[0].share.hits, board.results[0].votes) for board in boards(store)}
    assert shares == {("", ""): (1.0, 1), ("script", ""): (0.0, 5), ("reward-1", "abc"): (2.0, 4)}
    found = as_json(store, [])
    assert [one["judge"] for one in found] == ["people", "reward-1", "the scripted judge"]
    assert {one["anchor"] for one in found} == {"base"}
    assert json.loads(json.dumps(found))[0]["results"][0]["win_rate"] == 1.0


def test_whether_votes_may_teach_is_chosen_by_duel_and_no_policy_practises_on_their_prompts(store):
    plain = store.add_comparison(Comparison(user("plain?"), "yes", "no", Outcome.A))
    teaching = store.add_duel_vote(store.start_duel((X, Y), "b", [], {}, teaches=True), said(1))
    kept = store.add_duel_vote(store.start_duel((X, Y), "b", [], {}, teaches=False), said(2))
    assert [row.id for row in store.lessons("reward")] == [plain, teaching]
    assert [row.id for row in store.lessons("ppo")] == [plain]
    assert [row.id for row in store.kept_for_measuring()] == [kept]


def test_a_database_of_before_gets_the_tables(tmp_path):
    path = tmp_path / "workspace.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE migrations (name TEXT PRIMARY KEY, applied TEXT, program TEXT)")
        for name, statements in MIGRATIONS[:3]:
            for statement in statements:
                db.execute(statement)
            db.execute("INSERT INTO migrations VALUES (?, 'then', '0.1.0')", (name,))
    with Store(path) as store:
        assert store.duels() == store.duel_votes() == []


# -- with models ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    """A workspace with demonstrations, votes and prompts, and all three stages trained on them."""
    engine = open_small(tmp_path_factory.mktemp("dueling"))
    teach(engine.store)
    train(engine, "sft", SFTSettings(**SMALL, epochs=0.5, learning_rate=0.05))
    train(engine, "reward", RewardSettings(**SMALL, epochs=0.5))
    ppo = {**SMALL, "steps": 1, "batch_size": 2, "answers_per_prompt": 2, "max_new_tokens": 4, "value_warmup_steps": 0}
    train(engine, "ppo", PPOSettings(**ppo, eval_prompts=2, learning_rate=0.05))
    engine.store.close()
    return engine.workspace


def kinds(place: Workspace, store: Store, name: str) -> dict[str, set[bool]]:
    """By kind of prompt: whether those on the training side of the split count as learned from, and no others do."""
    learned = trained_on(store, [read_saved(place.adapters_dir / name)])
    found: dict[str, set[bool]] = {}
    for kind in ("shown", "voted", "asked"):
        prompts = [user(f"{kind} {i}?") for i in range(12)]
        assert not any(learned.about(prompt) for prompt in prompts if is_heldout(prompt, 0.5))
        found[kind] = {learned.about(prompt) for prompt in prompts if not is_heldout(prompt, 0.5)}
    return found


def test_a_prompt_is_new_if_neither_an_adapter_nor_its_parents_learned_from_it(place, engine, monkeypatch):
    store = engine.store
    assert kinds(place, store, "sft-1") == {"shown": {True}, "voted": {False}, "asked": {False}}
    # The reward model was made from the SFT adapter; the policy from both.
    assert kinds(place, store, "reward-1") == {"shown": {True}, "voted": {True}, "asked": {False}}
    assert kinds(place, store, "ppo-1") == {"shown": {True}, "voted": {True}, "asked": {True}}
    field = field_of(store, place, ["base", "sft-1"], engine.base.identity["fingerprint"])
    asked = {f"asked {i}?" for i in range(12)}
    # So few settle nothing: everyday questions join them, unless the starter is asked, which has its own.
    everybody = {p[0]["content"] for p in prompts_for(store, field, "tiny")}
    assert asked < everybody == asked | {p[0]["content"] for p in everyday()}
    assert not {p[0]["content"] for p in prompts_for(store, field, "starter")} & {p[0]["content"] for p in everyday()}
    monkeypatch.setattr("lorarlhf.evaluate.heldout.FEWEST_NEW", 12)
    assert {p[0]["content"] for p in prompts_for(store, field, "tiny")} == asked
    with pytest.raises(DataError, match="may have learned from this prompt"):
        field.check(next(user(f"shown {i}?") for i in range(12) if not is_heldout(user(f"shown {i}?"), 0.5)))
    field.check(user("never seen?"))


def test_a_deleted_parent_is_known_from_its_run_and_what_came_from_elsewhere_by_the_hash(place, engine, tmp_path):
    sft = place.adapters_dir / "sft-1"
    sft.rename(tmp_path / "aside")
    try:
        assert kinds(place, engine.store, "ppo-1")["shown"] == {True}
    finally:
        (tmp_path / "aside").rename(sft)
    with Store(tmp_path / "elsewhere.db") as other:
        learned = trained_on(other, [read_saved(place.adapters_dir / "ppo-1")])
        assert learned.caveats
        assert all(learned.about(p) != is_heldout(p, 0.5) for p in (user(f"anything {i}") for i in range(20)))


def test_who_cannot_take_part_is_told_why(place, engine):
    base = engine.base.identity["fingerprint"]
    for names, words in (
        (["sft-1"], "takes 2 to 6 adapters, not 1"),
        (["base", "ghost"], "no adapter ghost"),
        (["base", "reward-1"], "is a reward model, which gives no answers"),
        (["sft-1", "sft-1"], "the same weights"),
    ):
        with pytest.raises(AdapterError, match=words):
            field_of(engine.store, place, names, base)
    with pytest.raises(AdapterError, match="not the one in memory"):
        field_of(engine.store, place, ["base", "sft-1"], "another")
    field = field_of(engine.store, place, ["base", "ppo-1"], base)
    learned = [p for p in (user(f"shown {i}?") for i in range(12)) if not is_heldout(p, 0.5)]
    with pytest.raises(DataError, match="no prompt here"):
        prompts_for(engine.store, field, "tiny", learned)


def begin(engine: Engine, names: list[str], count: int = 6) -> int:
    base = engine.base.identity
    field = field_of(engine.store, engine.workspace, names, base["fingerprint"])
    prompts = prompts_for(engine.store, field, base["name"], [user(f"new {i}?") for i in range(count)])
    sampling = SamplingSettings(max_new_tokens=4, seed=3).model_dump(mode="json")
    return engine.store.start_duel(field.contestants, base["fingerprint"], prompts, sampling)


def test_a_reward_model_votes_by_its_scores_once_and_a_stopped_job_goes_on(place, engine, monkeypatch):
    duel = begin(engine, ["base", "sft-1", "ppo-1"])
    monkeypatch.setattr(dueling, "CHUNK", 2)

    def stop(done: int, total: int) -> None:
        assert total in (18, 12)
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_duel(engine, duel, "reward-1", stop)
    before = [vote for vote in engine.store.duel_votes() if vote.duel == duel]
    assert len(before) == 2 * 3  # two prompts, three pairs
    result = judge_duel(engine, duel, "reward-1")
    votes = [vote for vote in engine.store.duel_votes() if vote.duel == duel]
    assert Counter((prompt_key(v.prompt), v.first, v.second) for v in votes).most_common(1)[0][1] == 1
    assert len(votes) == 18
    assert [one["votes"] for one in result["results"]] == [6, 6, 6]
    rows = engine.store.query("SELECT * FROM live_duel_votes WHERE duel = ?", (duel,))
    for row in rows[:6]:
        prompt = tuple(json.loads(row["messages"]))
        a, b = engine.score("reward-1", [(prompt, row["a"]), (prompt, row["b"])])
        assert row["outcome"] == ("tie" if a == b else "a" if a > b else "b")
    assert judge_duel(engine, duel, "reward-1")["results"] == result["results"]
    with pytest.raises(AdapterError, match="sft-1 is no reward model, so it cannot judge"):
        judge_duel(engine, duel, "sft-1")
    with pytest.raises(AdapterError, match="knows the starter's help desk alone"):
        judge_duel(engine, duel, "script")


def test_the_scripted_judge_says_what_it_says_elsewhere(place, engine, monkeypatch):
    monkeypatch.setitem(engine.base.identity, "name", "starter")
    duel = begin(engine, ["base", "sft-1"], 4)
    judge_duel(engine, duel, "script")
    for row in engine.store.query(
        "SELECT * FROM duel_votes JOIN conversations ON key = prompt WHERE duel = ?", (duel,)
    ):
        prompt = tuple(json.loads(row["messages"]))
        assert row["outcome"] == script.compare(prompt, row["a"], row["b"]).outcome.value
        assert row["judge"] == "script"


def test_the_card_says_how_it_did_and_so_does_the_export_and_its_hashes_hold(place, engine):
    duel = begin(engine, ["base", "sft-1"])
    base, sft = engine.store.duel(duel).contestants
    for i in range(20):
        first, second = (sft, base) if i % 2 else (base, sft)
        better = Outcome.A if first is sft else Outcome.B
        engine.store.add_duel_vote(duel, said(100 + i, better if i < 18 else better.swap(), first, second))
    before = read_saved(place.adapters_dir / "sft-1")
    write_cards(engine.store, place, [base.hash, sft.hash])
    saved = read_saved(place.adapters_dir / "sft-1")
    own = next(one for one in saved.card["duels"] if one["by"] == "people")
    assert (own["against"]["name"], own["votes"], own["win_rate"]) == ("base", 20, 0.9)
    assert own["settled"] == "first"
    assert {k: v for k, v in saved.card.items() if k != "duels"} == {
        k: v for k, v in before.card.items() if k != "duels"
    }
    assert saved.content("adapter")  # raises where the file is not the one the card describes
    assert not list(saved.path.glob(".*"))
    engine.generate([user("still loads?")], 1, SamplingSettings(max_new_tokens=2), "sft-1")
    origin = origin_of(saved, engine.base.folder)
    readme = write_readme(Export(saved.card, saved.name, "out", origin, (), None))
    assert "## Blind comparisons" in readme
    assert "| against base, by people | wins 90% of 20 votes (95 % interval " in readme
    renamed = rename_saved(place.adapters_dir, "sft-1", "helpful")
    try:
        names = [
            one["name"] for board in as_json(engine.store, list_saved(place.adapters_dir)) for one in board["ratings"]
        ]
        assert "helpful" in names
        assert card_entries(engine.store, list_saved(place.adapters_dir), renamed.hash)
    finally:
        rename_saved(place.adapters_dir, "helpful", "sft-1")


def test_what_an_adapter_is_cannot_be_changed_on_its_card(place):
    saved = read_saved(place.adapters_dir / "sft-1")
    with pytest.raises(AdapterError, match="cannot be changed"):
        revise_card(saved, {"hashes": {}})
    gone = saved.path.with_name("gone")
    saved.path.rename(gone)
    try:
        with pytest.raises(AdapterError, match="no adapter sft-1"):
            revise_card(saved, {"duels": []})
    finally:
        gone.rename(saved.path)


# -- the commands -----------------------------------------------------------------------------------------------


def test_the_commands_tell_in_words_and_as_json(lorarlhf_there, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*(f"fresh {i}?" for i in range(5)), *(f"shown {i}?" for i in range(12))]))
    status, out, _ = lorarlhf_there(
        "judge",
        "duel",
        "base",
        "sft-1",
        "--by",
        "reward",
        "reward-1",
        "--prompts",
        str(file),
        "--max-new-tokens",
        "4",
        "--json",
    )
    told = json.loads(out)
    kept = sum(is_heldout(user(f"shown {i}?"), 0.5) for i in range(12))
    assert status == 0
    assert (told["judge"], told["prompts"], told["left_out"]) == ("reward-1", 5 + kept, 12 - kept)
    assert told["results"][0]["first"]["name"] == "base"
    status, out, _ = lorarlhf_there("judge", "duel", "base", "sft-1", "--prompts", "3", "--max-new-tokens", "4")
    assert status == 0
    assert out.startswith("base wins ")
    assert "of 3 against sft-1 (95 % interval" in out
    status, out, _ = lorarlhf_there("judge", "ratings", "--json")
    assert "reward-1" in [board["judge"] for board in json.loads(out)]
    status, out, _ = lorarlhf_there("judge", "ratings")
    assert "by reward-1; points above base" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("base", "ghost"), "no adapter ghost"),
        (("base", "sft-1", "--by", "script"), "the scripted judge knows the starter's help desk alone"),
        (("base", "sft-1", "--by", "ppo-1"), "ppo-1 is no reward model"),
        (("base", "sft-1", "--prompts", "nowhere.txt"), "nowhere.txt"),
        (("base",), "takes 2 to 6 adapters"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_leaves_nothing(lorarlhf_there, place, arguments, words):
    with place.store() as store:
        before = len(store.duels())
    status, out, err = lorarlhf_there("judge", "duel", *arguments)
    assert (status, out) == (1, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    with place.store() as store:
        assert len(store.duels()) == before
