"""The charts: what is sent of one run or several, and what the script makes of it in a real Chromium."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

import lorarlhf.ui
from lorarlhf.store import Store
from lorarlhf.ui.train.charts import Chart, Line, as_json, overlaid, thinned
from lorarlhf.ui.train.comparing import numbers_csv, settings_rows, summary
from lorarlhf.ui.train.progress import all_charts, charts
from tests.browser import CHROMIUM

ASSETS = Path(next(iter(lorarlhf.ui.__path__))) / "assets"
HOSTILE = "<img src=x onerror=alert(1)>"


# -- what is sent -----------------------------------------------------------------------------------------------


def test_charts_of_several_runs_lie_over_each_other_by_title():
    one = [Chart("Loss", [Line("training", [(1, 2.0)]), Line("guessing", [(0, 0.5)], "limit")], 10)]
    two = [
        Chart("Loss", [Line("training", [(1, 3.0)]), Line("guessing", [(0, 0.5)], "limit")], 30),
        Chart("KL", [], 30),
    ]
    loss, kl = overlaid({"a": one, "b": two})
    assert [(line.label, line.run) for line in loss.lines] == [("a training", 0), ("a guessing", 0), ("b training", 1)]
    assert (loss.last, kl.title) == (30, "KL")
    assert [line.label for line in overlaid({"a": one})[0].lines] == ["training", "guessing"]


def test_what_is_sent_is_json_with_no_more_than_can_be_seen():
    points = [(i, math.nan if i == 5 else i / 3) for i in range(10_001)]
    sent = json.loads(as_json([Chart(HOSTILE, [Line("x", points)], 10)], all=True))
    (chart,) = sent["charts"]
    assert (chart["title"], sent["all"]) == (HOSTILE, True)
    drawn = chart["lines"][0]["points"]
    assert drawn[1] == [5 + 1, 2.0] or drawn[0] == [0, 0.0]
    assert len(drawn) <= 2001
    assert drawn[-1] == [10_000, 3333.33]
    assert thinned(points[:50], 100) == points[:50]


def test_all_metrics_are_those_of_the_stage_and_every_other_one_once(tmp_path):
    with Store(tmp_path / "workspace.db") as store:
        run = store.run(store.start_run("sft", "sft-1", "starter", {}, {}))
    series = {name: [(1, 1.0)] for name in ("loss/sft", "eval/loss", "grad_norm/sft", "time/step", "run/steps")}
    titles = [chart.title for chart in all_charts(run, series)]
    assert titles == [*(chart.title for chart in charts(run, series)), "grad_norm/sft", "time/step"]


def test_numbers_become_a_table_for_people_and_one_for_programs():
    runs = {
        "sft-1": {"loss/sft": [(1, 2.0), (2, 1.5)], "eval/loss": [(0, 3.0), (2, math.nan)], "run/steps": [(0, 9.0)]},
        "sft-2": {"loss/sft": [(1, 0.1)]},
    }
    assert list(csv.reader(io.StringIO(numbers_csv(runs)))) == [
        ["run", "step", "eval/loss", "loss/sft"],
        ["sft-1", "0", "3.0", ""],
        ["sft-1", "1", "", "2.0"],
        ["sft-1", "2", "nan", "1.5"],
        ["sft-2", "1", "", "0.1"],
    ]
    assert summary(runs["sft-1"]) == [("eval/loss", 3.0, 3.0, 3.0, 3.0), ("loss/sft", 2.0, 1.5, 1.5, 2.0)]


def test_only_settings_that_differ_are_shown_beside_each_other(tmp_path):
    with Store(tmp_path / "workspace.db") as store:

        def run(stage, parent, rows, **settings):
            parents = {"adapters": {"parent": parent}, "data": {"demonstrations": [1] * rows}, "load": {"bits": 4}}
            return store.run(store.start_run(stage, f"{stage}-1", "starter", {"parent": "", **settings}, parents))

        one = run("sft", "base", 700, rank=16, learning_rate="auto", gradient_checkpointing=False)
        two = run("sft", "sft-1", 700, rank=32, learning_rate="auto", gradient_checkpointing=True)
    assert settings_rows([one, two]) == [
        ("parent adapter", ["the base model", "sft-1"]),
        ("rank", ["16", "32"]),
        ("gradient_checkpointing", ["off", "on"]),
    ]
    assert settings_rows([one, one]) == []
    alone = dict(settings_rows([two]))
    assert alone["rows of demonstrations"] == ["700"]
    assert (alone["rank"], "learning_rate" in alone) == (["32"], False)


# -- what the script makes of it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    """A page with the panel of charts in it; `window.asked` lists what it told the server."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 900, "height": 700})
        html, style = ((ASSETS / name).read_text(encoding="utf-8") for name in ("charts.html", "train.css"))
        page.set_content(f"<style>{style}</style><div id='run-charts'>{html}</div>")
        code = "".join((ASSETS / name).read_text(encoding="utf-8") for name in ("charts_draw.js", "charts.js"))
        page.evaluate(
            """code => {
              window.asked = []; window.props = {value: ""};
              const trigger = (name, data) => asked.push(data), server = {numbers_csv: async ({runs}) => runs.join()};
              const make = new Function("element", "props", "trigger", "watch", "server",
                code + "; return {smoothed, ticks, logTicks, shown, at, layout, labels, sheet, view, find, take};");
              window.panel = make(document.querySelector("#run-charts"), props, trigger, () => {}, server);
            }""",
            code,
        )
        yield page
        browser.close()


def shown(page, *lines, runs=("sft-1",), others=(), **looks):
    """Give the panel one chart, and return what is drawn."""
    named = [[{"id": run, "name": run} for run in some] for some in (runs, others)]
    value = as_json([Chart("Loss", lines, 100, **looks)], runs=named[0], others=named[1], all=False)
    page.evaluate(
        "value => { props.value = value; panel.view.zoom = null; panel.view.log = false; panel.take() }", value
    )
    return page.locator("figure.chart")


def test_ticks_are_round_and_reach_over_the_data(page):
    assert page.evaluate("panel.ticks(0, 10)") == [0, 2.5, 5, 7.5, 10]
    assert page.evaluate("panel.ticks(-1, 2.3)") == [-1, 0, 1, 2, 3]
    assert page.evaluate("panel.logTicks(0.003, 40)") == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100])
    assert page.evaluate("panel.logTicks(3, 40)") == pytest.approx([2, 5, 10, 20, 50])
    for low, high in ((3, 3), (0, 0), (-7, -7), (1e-9, 2e-9), (0, 1e12)):
        found = page.evaluate("([low, high]) => panel.ticks(low, high)", [low, high])
        assert found[0] <= low
        assert found[-1] >= high
        assert 2 <= len(found) <= 7
    for low, high in ((1e-9, 1e9), (1, 1), (0.5, 0.5), (3e-7, 2e-3), (1.2, 1.3)):
        found = page.evaluate("([low, high]) => panel.logTicks(low, high)", [low, high])
        assert found[0] <= low * 1.001
        assert found[-1] >= high * 0.999
        assert 2 <= len(found) <= 10
    numbers = [0, 2.1504, -0.85432, 27.03, 1234.6, 0.00002, 1e6]
    said = page.evaluate("numbers => numbers.map((n) => panel.shown(n))", numbers)
    assert said == ["0", "2.15", "−0.854", "27", "1235", "2.0e−5", "1.0e+6"]


def test_an_axis_is_labelled_in_one_way(page):
    assert page.evaluate("panel.labels(panel.ticks(0, 0.002))") == ["0", "5e−4", "1e−3", "1.5e−3", "2e−3"]
    assert page.evaluate("panel.labels(panel.ticks(-1, 0.5))") == ["−1.0", "−0.5", "0.0", "0.5"]
    assert page.evaluate("panel.labels(panel.ticks(1.3205, 1.3232))") == ["1.320", "1.321", "1.322", "1.323", "1.324"]
    assert page.evaluate("panel.labels(panel.ticks(0, 1), true)") == ["0 %", "25 %", "50 %", "75 %", "100 %"]


def test_smoothing_weighs_older_points_ever_less(page):
    flat = page.evaluate("panel.smoothed([[0, 2], [1, 2], [2, 2]], 0.9).map(([, y]) => y)")
    assert flat == pytest.approx([2, 2, 2])  # no drag towards 0 at the start
    assert page.evaluate("panel.smoothed([[0, 0], [1, 3]], 0.5)[1]") == [1, 2]  # (0.5 × 0 + 3) / (0.5 + 1)


def test_a_chart_stays_in_its_box_and_is_told_in_words(page):
    training = Line("training", [(i, math.sin(i)) for i in range(50)])
    figure = shown(page, training, Line(HOSTILE, [(0, 0.5), (40, 0.25)], "heldout"), Line("nothing", []))
    assert page.locator("#run-charts img").count() == 0
    words = figure.locator("svg").get_attribute("aria-label")
    assert f"{HOSTILE} 0.25 at step 40" in words
    assert "nothing" not in words
    path = figure.locator("path.main:not(.faint)").get_attribute("d")
    xs = [float(pair.split(",")[0]) for pair in path[1:].split("L")]
    assert 40 <= min(xs) < max(xs) <= 40 + (340 - 50) * 0.5  # half of the steps, half of the box
    assert figure.locator("g.heldout circle").count() == 2
    shown(page)
    assert "nothing measured yet" in figure.text_content()


def test_it_is_smoothed_zoomed_and_put_on_a_log_scale(page):
    figure = shown(page, Line("training", [(i, 10.0 ** (i / 25)) for i in range(1, 101)]))
    path = figure.locator("path.main:not(.faint)")
    soft = path.get_attribute("d")
    page.locator(".smooth").fill("0")
    assert path.get_attribute("d") != soft
    assert figure.locator(".faint").count() == 0
    page.locator(".smooth").fill("0.6")
    assert path.get_attribute("d") == soft
    page.locator(".log").check()
    assert figure.locator("text.y").all_text_contents()[-1] == "10000"
    page.locator(".log").uncheck()
    # Drawn over with the pointer, or typed, a part fills the box; the whole run comes back.
    frame = figure.locator("svg").bounding_box()
    scale, middle = frame["width"] / 340, frame["y"] + frame["height"] / 2
    page.mouse.move(frame["x"] + (40 + 29) * scale, middle)
    page.mouse.down()
    page.mouse.move(frame["x"] + (40 + 145) * scale, middle)
    assert figure.locator("rect.chosen").count() == 1
    page.mouse.up()
    assert [page.locator(f".{end}").input_value() for end in ("from", "to")] == ["10", "50"]
    assert figure.locator("text.x").all_text_contents() == ["10", "step 50"]
    # Pointed at, the legend says the number there: 10 ** (50 / 25).
    assert "training 100" in " ".join(figure.inner_text().split())
    page.locator(".whole").click()
    assert figure.locator("text.x").all_text_contents() == ["0", "step 100"]
    page.locator(".from").fill("60")
    page.locator(".from").press("Enter")
    assert figure.locator("text.x").all_text_contents()[0] == "60"
    page.mouse.move(0, 0)
    # What is not above 0 has no place on a log scale: that chart stays as it is, and says so.
    figure = shown(page, Line("training", [(i, -1.0) for i in range(1, 9)]))
    page.locator(".log").check()
    assert "linear: values below 0" in figure.inner_text()
    page.locator(".log").uncheck()


def test_runs_are_laid_over_it_and_taken_off(page):
    shown(page, Line("training", [(1, 1.0)]), runs=["sft-2", "sft-1"], others=["sft-3"])
    chips = page.locator(".compare button")
    assert [chip.get_attribute("aria-pressed") for chip in chips.all()] == ["true", "true", "false"]
    assert chips.first.is_disabled()
    chips.nth(2).click()
    chips.nth(1).click()
    page.locator(".all").check()
    assert page.evaluate("asked.splice(0)") == [
        {"do": "compare", "runs": ["sft-1", "sft-3"], "all": False},
        {"do": "compare", "runs": [], "all": False},
        {"do": "compare", "runs": ["sft-1"], "all": True},
    ]


def test_charts_are_saved_as_a_picture_and_numbers_as_a_table(page, tmp_path):
    shown(page, Line("training", [(1, 1.0), (50, 2.0)]), runs=["sft-2", "sft-1"])
    for kind in ("png", "csv"):
        with page.expect_download() as waiting:
            page.locator(f"[data-save={kind}]").click()
        assert waiting.value.suggested_filename == f"sft-2-sft-1.{kind}"
        waiting.value.save_as(tmp_path / kind)
    assert (tmp_path / "csv").read_text() == "sft-2,sft-1"
    picture = (tmp_path / "png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(picture[16:20], "big") == 2 * (340 + 2 * 12)  # one column, drawn at twice its size
    # The line is really in it, in its own colour.
    assert (
        page.evaluate("""async () => {
      const image = await createImageBitmap(await panel.sheet());
      const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
      const pen = canvas.getContext("2d");
      pen.drawImage(image, 0, 0);
      const {data} = pen.getImageData(0, 110, image.width, image.height - 110);
      let found = 0;
      for (let i = 0; i < data.length; i += 4) found += data[i] === 15 && data[i + 1] === 118 && data[i + 2] === 110;
      return found;
    }""")
        > 100
    )


def test_the_browser_notifies_once_for_each_run_that_ends_and_only_if_asked_to(page):
    """A stand-in for Notification: a real one is shown by the desktop, where no test can see it."""
    found = page.evaluate(
        """async code => {
          const told = [], box = document.createElement("div");
          let look, asked = 0;
          window.Notification = class { constructor(words) { told.push(words) } };
          Notification.permission = "default";
          Notification.requestPermission = async () => { asked += 1; Notification.permission = "granted" };
          const bell = (ended, words) => `<div class="bell" data-ended="${ended}" data-words="${words}" data-about="">`
            + '<button hidden=""></button><span role="status"></span></div>';
          const props = {
            get value() { return this.html },
            set value(html) { this.html = box.innerHTML = html; look?.() },
          };
          const ends = async (ended, words) => {
            props.value = bell(ended, words);
            await new Promise((done) => setTimeout(done, 5));
          };
          let answered = "";
          const server = { ended: async () => answered || props.value };
          document.body.append(box);
          await ends("sft-1 1", "sft-1 done");
          code = code.replace("2000", "5");
          new Function("element", "watch", "props", "server", code)(box, (_, call) => { look = call }, props, server);
          await ends("sft-2 2", "sft-2 done");  // nobody asked for it yet
          const offered = !box.querySelector("button").hidden;
          box.querySelector("button").click();
          await new Promise((done) => setTimeout(done, 5));
          await ends("sft-2 2", "sft-2 done");
          await ends("ppo-1 3", "ppo-1 failed");
          await ends("ppo-1 3", "ppo-1 failed");
          answered = bell("sft-4 4", "sft-4 done");  // which only the server knows: the tab is out of sight
          await new Promise((done) => setTimeout(done, 50));
          return [offered, asked, told, box.querySelector("button").hidden, box.textContent];
        }""",
        (ASSETS / "bell.js").read_text(encoding="utf-8"),
    )
    told = ["ppo-1 failed", "sft-4 done"]
    assert found == [True, 1, told, True, "This browser notifies you when a run ends"]


def test_a_panel_ticks_as_it_comes_into_sight_and_with_every_new_stamp(page):
    found = page.evaluate(
        """async code => {
          const box = document.createElement("div"), ticks = [];
          let stamp = "a", asked = 0;
          const server = { stamp: async () => { asked += 1; return stamp } };
          const rest = () => new Promise((done) => setTimeout(done, 100));
          document.body.append(box);
          new Function("element", "trigger", "server", code)(box, (name) => ticks.push(name + stamp), server);
          await rest();
          stamp = "b";
          await rest();
          box.style.display = "none";
          stamp = "c";
          await rest();
          const before = [ticks.length, asked];
          await rest();
          const idle = before[0] === ticks.length && before[1] === asked;
          box.style.display = "";
          await rest();
          box.remove();
          return [ticks, idle];
        }""",
        (ASSETS / "beat.js").read_text(encoding="utf-8").replace("SECONDS", "0.01"),
    )
    assert found == [["ticka", "tickb", "tickc"], True]
