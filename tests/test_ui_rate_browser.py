"""Rating in a real browser, on the shipped app and the starter base: by keys alone, and with hostile answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from lorarlhf.store import Store
from lorarlhf.types import Comparison, Origin, Outcome, user
from lorarlhf.ui.rate.vote_history import History
from lorarlhf.workspace import Workspace
from tests.browser import App, open_tab

HOSTILE = """Look:
```html
<script>window.hacked = 1</script>
```
<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>
![pixel](http://evil.example/pixel.png) {{constructor}} ${window.hacked = 1} <b>bold</b>"""
RIGHT_TO_LEFT = "שלום! ההזמנה בדרך.\n\u202eThis line is turned around.\n" + "x" * 20_000 + "\n" + "word " * 8_000


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Start the app on a workspace whose last vote was about hostile answers: undoing shows them."""
    folder = tmp_path_factory.mktemp("rate") / "work"
    with Workspace(folder).open().store() as store:
        said = Comparison(user("<i>How</i>?"), HOSTILE, RIGHT_TO_LEFT, Outcome.A, origin=Origin(source="app"))
        History(store).add([said])
    with App(folder) as started:
        yield started


@pytest.fixture
def store(app: App) -> Iterator[Store]:
    with Store(Workspace(app.workspace).db) as opened:
        yield opened


def settle(page: Page) -> str:
    """Wait for a pair that can be rated; return its id."""
    page.wait_for_selector(".rate[data-state=ready]", timeout=120_000)
    return str(page.get_attribute(".rate", "data-sheet"))


def press(page: Page, key: str) -> None:
    """Press a key and wait until another pair can be rated."""
    before = settle(page)
    page.keyboard.press(key)
    page.wait_for_function("id => document.querySelector('.rate').dataset.sheet !== id", arg=before)
    settle(page)


def told(page: Page, words: str) -> None:
    """Wait until the page says something."""
    page.wait_for_function("w => document.querySelector('.said .words').textContent.includes(w)", arg=words)


def unfold(page: Page) -> None:
    """Open the sheet behind the pill, where it is not open yet."""
    if page.locator(".pill").get_attribute("aria-expanded") == "false":
        page.locator(".pill").click()


def choose(page: Page, name: str, value: str) -> None:
    unfold(page)
    page.locator(f"[data-choice={name}]").select_option(value)
    page.locator(f"[data-choice={name}]").evaluate("node => node.blur()")


def ranked(page: Page) -> str:
    """Read the ranking off the strip."""
    marks = """nodes => nodes.map(n => n.matches('.level')
      ? [...n.querySelectorAll('b')].map(b => b.textContent).join('=') : n.textContent).join('')"""
    return str(page.locator(".ranks > li").evaluate_all(marks))


def answers(page: Page) -> list[str]:
    return page.locator(".answer .text").all_inner_texts()


def test_a_session_without_the_mouse(app: App, store: Store):
    with app.page() as page:
        replies: list[str] = []
        page.on("response", lambda r: "component_server" in r.url and replies.append(r.text()))
        settle(page)
        keys = ("1", "ArrowLeft", "t", "4", "Shift+ArrowRight", "b", "s")
        for key in keys:
            press(page, key)
        told(page, "Saved: Skipped")
        rows = [row.value for row in store.comparisons()][1:]
        outcomes = [(row.outcome if row.left == "a" else row.outcome.swap()).value for row in rows]
        assert [o + ("2" if row.strength == 2 else "") for o, row in zip(outcomes, rows, strict=True)] == [
            *("a2", "a", "tie", "b", "b2", "both_bad", "skip")
        ]
        assert all(row.origin.seconds and row.origin.sampling["temperature"] == 0.7 for row in rows)
        assert not [reply for reply in replies if "adapter_hashes" in reply or '"sources"' in reply]

        shown = answers(page)
        page.keyboard.press("v")
        told(page, "A: base · B: base")
        for _ in range(len(keys)):
            press(page, "u")
        assert store.counts()["comparisons"] == 1
        for _ in range(len(keys)):
            press(page, "n")
        assert answers(page) == shown  # what was drawn ahead is still there, in its order

        # A second press, keys with Ctrl, keys typed into a field and keys on another tab are no votes.
        settle(page)
        page.keyboard.press("2")
        page.keyboard.press("2")
        told(page, "Saved: A better")
        page.keyboard.press("Control+3")
        unfold(page)
        page.locator("[data-choice=rater]").click()
        page.keyboard.type("11 bus")
        page.keyboard.press("Escape")
        open_tab(page, "Compare")
        page.keyboard.press("4")
        open_tab(page, "Rate")
        settle(page)
        assert [row.value.outcome for row in store.comparisons()[1:]] in ([Outcome.A], [Outcome.B])

        before, shown = settle(page), answers(page)
        page.reload()
        assert (settle(page), answers(page)) == (before, shown)
        assert page.input_value("[data-choice=rater]") == "11 bus"


def test_writing_a_better_answer_ranking_and_the_history(app: App, store: Store):
    with app.page() as page:
        settle(page)
        shown = answers(page)
        page.keyboard.press("Shift+E")
        page.keyboard.press("Control+A")
        page.keyboard.type("1 better answer, without a vote by its digits")
        page.keyboard.press("Control+Enter")
        told(page, "Saved: your answer: yours > B > A")
        assert store.demonstrations()[-1].value.response.startswith("1 better answer")
        assert list(store.rankings()[-1].value.completions[1:]) == shown

        page.locator(".modes label", has_text="Rank").click()
        choose(page, "answers", "3")
        page.wait_for_function("document.querySelectorAll('.answer').length === 3")
        settle(page)
        page.locator("[data-choice=answers]").evaluate("node => node.blur()")
        for key in ("3", "=", "1"):
            page.keyboard.press(key)
        assert ranked(page) == "3=1"
        assert page.locator(".answer header .medal").all_inner_texts() == ["1st", "1st"]
        assert page.locator(".ranks .first").first.inner_text() == " ".join(answers(page)[2].split()[:3])
        page.locator(".answer").nth(1).locator("header").drag_to(page.locator(".ranks .gap").first)
        assert ranked(page) == "2>3=1"
        page.locator(".ranks [data-place='0']").press("ArrowRight")
        assert ranked(page) == "2>3>1"
        page.locator(".ranks [data-place='0']").press("=")
        page.evaluate("document.activeElement.blur()")
        press(page, "Enter")
        assert page.locator(".medal").all_inner_texts() == []
        told(page, "Saved: 2 > 1 = 3")
        assert store.rankings()[-1].value.ranks == (2, 1, 2)

        page.locator(".modes label", has_text="Compare").click()
        page.wait_for_function("document.querySelectorAll('.answer').length === 2")
        page.keyboard.press("Escape")
        press(page, "1")
        page.keyboard.press("h")
        row = page.locator(".history tbody tr").first
        row.locator("select").select_option("b1")
        told(page, "Changed")
        changed = store.comparisons()[-1].value
        assert (changed.outcome if changed.left == "a" else changed.outcome.swap()) is Outcome.B


def test_a_chat_goes_on_with_the_preferred_answer(app: App, store: Store):
    with app.page() as page:
        settle(page)
        page.locator(".modes label", has_text="Chat").click()
        page.wait_for_selector(".composer textarea:focus, .composer textarea")
        page.locator(".composer textarea").click()
        page.keyboard.type("How do I cancel order 12?")
        page.keyboard.press("Enter")
        settle(page)
        right = answers(page)[1]
        page.keyboard.press("4")
        # The field has the focus at once: the person writes on.
        page.wait_for_selector(".composer textarea:focus")
        assert page.locator(".prompt .turn").nth(1).inner_text().endswith(right)
        page.keyboard.type("And if it was sent?")
        page.keyboard.press("Enter")
        settle(page)
        page.keyboard.press("1")
        told(page, "Saved: A much better")
        assert [turn["content"] for turn in store.comparisons()[-1].value.prompt][1:] == [right, "And if it was sent?"]
        page.keyboard.press("Escape")
        page.locator(".modes label", has_text="Compare").click()
        expect(page.locator(".pill .sum")).to_have_text("Starter set · 2 answers by current model (base)")
        settle(page)


def test_whoever_types_several_prompts_never_votes_by_it(app: App, store: Store):
    with app.page() as page:
        settle(page)
        choose(page, "source", "typed")
        page.locator(".composer textarea").click()
        before = (store.counts()["comparisons"], store.counts()["undone"])
        for text in ("Where is my parcel? 1", "Then an unusual one, 2"):
            page.keyboard.type(text)
            page.keyboard.press("Enter")
            told(page, "Queued")
        settle(page)
        assert (store.counts()["comparisons"], store.counts()["undone"]) == before
        assert [row.value[0]["content"] for row in store.prompts("typed")][-2:] == [
            "Where is my parcel? 1",
            "Then an unusual one, 2",
        ]
        page.keyboard.press("Escape")
        page.keyboard.press("3")
        told(page, "Saved: Tie")
        choose(page, "source", "starter")
        settle(page)


def test_the_engine_may_die_while_one_rates(app: App, store: Store):
    with app.page() as page:
        press(page, "n")
        votes = store.counts()["comparisons"]
        app.engine().kill()
        settle(page)
        page.keyboard.press("3")
        told(page, "Saved: Tie")
        for _ in range(5):  # more than were drawn ahead: the engine is back
            press(page, "3")
        assert store.counts()["comparisons"] == votes + 6
        page.get_by_role("button", name="Dismiss").click()
        page.wait_for_selector("#notice", state="hidden")


@pytest.mark.parametrize(("wide", "high", "theme"), [(1280, 800, "dark"), (390, 844, "light")])
def test_hostile_answers_show_as_text_and_move_nothing(app: App, store: Store, wide: int, high: int, theme: str):
    with app.page(wide=wide, high=high, theme=theme) as page:
        settle(page)
        if "<i>How</i>?" not in page.inner_text(".prompt"):
            while "<i>How</i>?" not in page.inner_text(".prompt"):
                press(page, "u")
        assert page.evaluate("window.hacked") is None
        assert page.locator(".answers").locator("img, script, b, iframe").count() == 0
        assert not [a for a in page.locator(".answers a").all() if not a.get_attribute("href").startswith("http")]
        assert "<script>window.hacked = 1</script>" in page.locator(".answer pre").inner_text()
        assert "<img src=x" in answers(page)[0]
        assert page.evaluate("document.documentElement.scrollWidth") <= wide
        verdicts = page.locator(".verdicts").bounding_box()
        assert verdicts
        assert verdicts["y"] + verdicts["height"] <= high
        # A card is as tall as its text: nothing is cut, the verdicts stay in sight, and what lies below them is told.
        assert page.locator(".answer .text").nth(1).evaluate("node => node.scrollHeight <= node.clientHeight + 1")
        expect(page.locator(".rate .beyond")).to_contain_text("more line")
        if wide < 700:
            first, second = (page.locator(".answer").nth(i).bounding_box() for i in (0, 1))
            assert first
            assert second
            assert second["y"] >= first["y"] + first["height"]


SYNTHETIC = """([key, code, keyCode]) => document.activeElement.dispatchEvent(
  new KeyboardEvent('keydown', {key, code, keyCode, bubbles: true, cancelable: true}))"""


def pair(page: Page) -> None:
    """Go on to a pair of two answers, from whatever the tests before left there."""
    settle(page)
    while page.locator(".rate [data-do=a1]").count() == 0 or "<i>How</i>?" in page.inner_text(".prompt"):
        press(page, "n")


def key(page: Page, name: str, code: str, number: int = 0) -> None:
    """Send a key as another layout, number pad or input method does."""
    page.evaluate(SYNTHETIC, [name, code, number])


@pytest.mark.parametrize("pause", [0.04, 0.2, 0.45])
def test_a_double_click_votes_once(app: App, store: Store, pause: float):
    with app.page() as page:
        pair(page)
        votes = store.counts()["comparisons"]
        box = page.locator(".rate [data-do=a1]").bounding_box()
        assert box
        page.mouse.move(box["x"] + 9, box["y"] + 9)
        for count in (1, 2):
            page.mouse.down(click_count=count)
            page.mouse.up(click_count=count)
            page.wait_for_timeout(1000 * pause)
        told(page, "Saved: A better")
        page.wait_for_timeout(900)
        assert store.counts()["comparisons"] == votes + 1
        pair(page)
        # Nor do the keys that press a button in focus, or scroll the page.
        settle(page)
        for name in ("Space", "Enter"):
            page.keyboard.press(name)
        page.wait_for_timeout(300)
        assert store.counts()["comparisons"] == votes + 1
        # A touch screen counts no clicks; the second tap is as close.
        pair(page)
        before = settle(page)
        page.evaluate("""() => { const b = document.querySelector('.rate [data-do=a1]');
          const tap = () => b.dispatchEvent(new MouseEvent('click', {detail: 1, bubbles: true}));
          tap(); setTimeout(tap, 350); }""")
        page.wait_for_function("id => document.querySelector('.rate').dataset.sheet !== id", arg=before)
        page.wait_for_timeout(900)
        assert store.counts()["comparisons"] == votes + 2


def test_a_key_that_is_held_down_on_a_button_votes_once(app: App, store: Store):
    with app.page() as page:
        pair(page)
        votes = store.counts()["comparisons"]
        page.locator(".rate [data-do=tie]").focus()
        page.keyboard.down("Enter")
        for _ in range(12):  # as an operating system repeats it
            page.wait_for_timeout(60)
            page.keyboard.down("Enter")
        page.keyboard.up("Enter")
        page.wait_for_timeout(300)
        assert store.counts()["comparisons"] == votes + 1


def test_keys_of_other_layouts_and_number_pads(app: App, store: Store):
    with app.page() as page:
        pair(page)

        def voted(name: str, code: str) -> str:
            pair(page)
            before = settle(page)
            page.evaluate("document.querySelector('.said .words').textContent = ''")
            key(page, name, code)
            page.wait_for_timeout(700)
            now = settle(page)
            return page.inner_text(".said .words") if now != before else ""

        assert "Both bad" in voted("и", "KeyB")  # Cyrillic
        assert "Skipped" in voted("σ", "KeyS")  # Greek
        assert "B better" in voted("4", "Numpad4")
        # Without NumLock the pad's 4 is Left, which stands for the answer on the left.
        assert "A better" in voted("ArrowLeft", "Numpad4")
        for name, code in (("PageDown", "Numpad3"), ("End", "Numpad1"), ("Clear", "Numpad5"), ("ArrowDown", "Numpad2")):
            assert voted(name, code) == ""


def test_enter_that_confirms_a_word_of_an_input_method_sends_nothing(app: App, store: Store):
    with app.page() as page:
        settle(page)
        choose(page, "source", "typed")
        page.locator(".composer textarea").fill("にほん")
        page.locator(".composer textarea").focus()
        key(page, "Enter", "Enter", 229)  # Safari's order of events
        page.wait_for_timeout(300)
        assert page.input_value(".composer textarea") == "にほん"
        assert page.get_attribute(".composer textarea", "dir") == "auto"
        page.locator(".composer textarea").fill("")
        page.keyboard.press("Escape")
        choose(page, "source", "starter")
        settle(page)
