"""The card of what a policy learned: which prompts it shows, what it marks, what it says."""

from __future__ import annotations

from dataclasses import replace

from lorarlhf.store import RunRow
from lorarlhf.ui.train.end_card import card_html, examples, sentence, tinted
from lorarlhf.workspace import Workspace

HOSTILE = "<img src=x onerror=alert(1)>"


def a_run(tmp_path, **result: float) -> RunRow:
    with Workspace(tmp_path).store() as store:
        parents = {"base": {"fingerprint": "f"}, "adapters": {"sft": "sft-1", "reward": "reward-1"}}
        run = store.run(store.start_run("ppo", "ppo-1", "starter", {"kl_budget": 20.0}, parents))
    return replace(run, status="done", step=20, result=result)


def answered(gains: list[float], steps: tuple[int, ...] = (0, 10, 20)) -> list[dict]:
    return [
        {"step": at, "heldout": True, "prompt": f"p{i}", "response": f"a{at}", "score": gain * at / 20, "ended": True}
        for at in steps
        for i, gain in enumerate(gains)
    ]


def test_changed_words_are_marked_on_both_sides_and_escaped():
    before, after = tinted("go away now <b>", "please wait now <b>\n\nthanks")
    assert before == "<del>go away</del> now &lt;b&gt;"
    assert after == "<ins>please wait</ins> now &lt;b&gt;\n\n<ins>thanks</ins>"
    assert tinted("", "new") == ("", "<ins>new</ins>")
    assert tinted("same", "same") == ("same", "same")


def test_the_prompts_shown_are_the_best_a_middle_and_the_worst():
    chosen = examples(answered([0.1, 0.9, -0.5, 0.3, 0.2]), 20)
    assert [(e.prompt, e.place) for e in chosen] == [
        ("p1", "largest gain"),
        ("p4", "typical"),
        ("p2", "smallest gain"),
    ]
    # A prompt that one of the steps did not answer is left out; of three all are shown, and named nothing.
    short = [s for s in answered([0.1, 0.9, -0.5, 0.3]) if (s["prompt"], s["step"]) != ("p1", 10)]
    assert [(e.prompt, e.place) for e in examples(short, 20)] == [("p3", ""), ("p0", ""), ("p2", "")]


def test_the_sentence_compares_the_start_with_the_step_that_was_kept(tmp_path):
    run = a_run(tmp_path, **{"run/best_step": 10.0})
    series = {
        "eval/scores": [(0, -0.05), (10, 0.56), (20, 0.1)],
        "eval/length": [(0, 30.0), (10, 45.0), (20, 31.0)],
        "eval/kl": [(0, 0.0), (10, 2.2), (20, 12.0)],
    }
    assert sentence(run, series, 10) == (
        "Reward −0.05 → +0.56 on test prompts; answers 30 → 45 tokens long; still close to sft-1 (KL 2.2)."
    )
    assert sentence(run, series, 20).endswith("answers about as long; some way from sft-1 (KL 12.0).")
    assert "the start was kept" in sentence(replace(run, result={"run/best_step": 0.0}), series, 20)


def test_a_card_shows_the_kept_step_and_hides_the_others(tmp_path):
    run, samples = a_run(tmp_path, **{"run/best_step": 10.0}), answered([0.1, 0.9])
    samples[0]["prompt"] = samples[2]["prompt"] = samples[4]["prompt"] = HOSTILE
    html = card_html(run, {}, samples)
    assert HOSTILE not in html
    cut = [{**sample, "ended": sample["step"] > 0} for sample in samples]
    assert (
        card_html(run, {}, cut).count("cut off at the longest length") == 2 * 4
    )  # before, at three steps, and after step 0
    assert [html.count("data-step='10'>"), html.count("data-step='20' hidden>")] == [2, 2]
    assert "<output>step 10 · kept</output>" in html
    assert "Blind test: is it better?" in html
    assert "data-go" not in card_html(replace(run, status="running"), {}, samples)
    # One measurement is no before and after, and other stages have none.
    assert card_html(run, {}, answered([0.1], steps=(0,))) == card_html(replace(run, stage="sft"), {}, samples) == ""
