"""The report: nothing from outside, nothing unescaped, every picture drawn in a real browser, few layers and many."""

from __future__ import annotations

import html
import html.parser
import itertools
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from summands.records import RunRecord, SearchRecord, StepRecord, WeightRecord
from summands.report.axes import Scale
from summands.report.charts import limit_at, plane
from summands.report.html import page
from summands.report.markup import tag

HOSTILE = "</title><script>alert(1)</script>\"' onload='x' & <b>{other}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["background-networking", "component-update", "sync", "quic", "gpu"]
FLAGS = ["--headless", "--no-sandbox", "--no-first-run", "--enable-logging=stderr", *(f"--disable-{q}" for q in QUIET)]


def weight(name: str, size: int) -> WeightRecord:
    parts = (("codebook", size * 1.0), ("sparse", size * 0.2), ("lowrank", size * 0.05))
    facts = ({"values": 2}, {"kept": size // 50}, {"rank": 3, "view": "out"})
    return WeightRecord(name, (size // 10, 10), "Quantize(2) + Prune('auto')", parts, 0.21, facts)


def history(steps: int) -> tuple[StepRecord, ...]:
    rows = [StepRecord("direct", 0, 0.0, None, 0.4, 9.0, 900, 0.0, 1.0, 0.1, best=True)]
    rows += [StepRecord("lc", i, 0.1, 1 / (i + 1), 0.3 / (i + 1), 5 / (i + 1), 900 + i, 1, 1, 1) for i in range(steps)]
    return (*rows, StepRecord("finetune", 0, 0.0, 0.1, 0.0, 1.0, 905, 1.0, 0.0, 1.0, best=True))


def records(layers: int, runs: int = 6, name: str = "net") -> tuple[SearchRecord, list[RunRecord]]:
    names = [f"{name}.{i}.weight" for i in range(layers)]
    curve = ((1.0, 0.0), (0.5, 0.4), (0.25, 0.9), (0.1, 1.6))
    weights = tuple(weight(n, 500 * (i + 1)) for i, n in enumerate(names))
    kept = tuple(WeightRecord(f"{n}.bias", (10,), "kept", (("dense", 4.0),), 0.0, ({},)) for n in names)
    made = [
        RunRecord(f"run-{i}", ("Q + P", "P", name)[i % 3], f"{8 << i}x", 4000 >> i, "finished", "STEPS_USED",
                  1.0 + i % 4, 4000 >> i, 12.0, 7, weights + kept, history(6))
        for i in range(runs)
    ]  # fmt: skip
    made.append(RunRecord("bad", "L", "8x", 4000, "failed", f"ValueError: {name}"))
    made.append(RunRecord("late", "L", "16x", 2000, "stopped", "after 4 of 7 steps", 7.0, 1990, 5.0, 7, (), history(3)))
    return SearchRecord(name, "", 32_000, 0.9, dict.fromkeys(names, curve)), made


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text, and that every tag is closed where it should be."""

    VOID = ("meta", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open, "tags left open"
    return reader


def test_hostile_names_stay_text() -> None:
    found = read(page(*records(2, name=HOSTILE), {"run-0"}))
    assert "script" not in found.tags and "b" in found.tags  # the gauges' own <b>
    assert not any(name.startswith("on") for name, _ in found.attributes)
    assert sum(HOSTILE in text for text in found.text) >= 3, "title, heading and legend say the name as it is"


def test_nothing_is_fetched() -> None:
    text = page(*records(3), {"run-0"})
    found = read(text)
    assert not {"script", "img", "iframe", "object", "embed"} & set(found.tags)
    targets = [value or "" for name, value in found.attributes if name in ("href", "src", "xlink:href", "srcset")]
    assert targets and all(target.startswith(("#", "data:,")) for target in targets)
    assert not re.search(r"https?:|url\(|@import", text)


def test_links_lead_to_the_runs() -> None:
    found = read(page(*records(3), {"run-0"}))
    ids = {value for name, value in found.attributes if name == "id"}
    links = {(value or "")[1:] for name, value in found.attributes if name == "href" and (value or "").startswith("#")}
    assert links and links <= ids


def test_what_the_figures_say() -> None:
    text = page(*records(2, runs=1), {"run-0"})
    found = " ".join(read(text).text)
    for words in (
        "10 kept (2 %)",
        "2 values",
        "rank 3, out",
        "validation error 0.9",
        "1 finished, 1 stopped, 1 failed",
    ):
        assert words in found, words
    # The last that was kept, in the pictures of loss, error and bytes; fine-tuning has no gap.
    assert found.count(", kept") == found.count("finetune 0: ") == 2 * 3
    assert "failed: ValueError: net" in found and "stopped: after 4 of 7 steps" in found


def test_a_page_of_nothing_but_a_file() -> None:
    run = RunRecord("f", "f", "10 bytes", 10, "finished", "", None, 10, weights=(weight("w", 100),))
    found = read(page(SearchRecord("f", "", 400, None, {}), [run], set()))
    assert "Error against size" not in found.text and "Where the bytes are" in found.text


def test_small_tensors_share_a_bar() -> None:
    search, (run, *_) = records(60, runs=1)
    # All 60 biases, and the weights with less than 1/500 of 1 + 2 + ... + 60.
    assert "63 small tensors" in read(page(search, [run], set())).text


@pytest.mark.parametrize(("d", "expected"), [(2.0, 0.0), (1.0, 0.0), (0.25, 0.9), (0.05, None)])
def test_the_limit_is_read_off_its_curve(d: float, expected: float | None) -> None:
    curve = ((1.0, 0.0), (0.5, 0.4), (0.25, 0.9), (0.1, 1.6))
    found = limit_at(curve, d)
    assert found == expected and limit_at((), d) is None
    assert 0.4 < (limit_at(curve, 0.4) or 0) < 0.9


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (1.0, 1.001), (3.0, 4.5), (0.02, 900.0), (1e3, 1e8), (1e-10, 0.1)]
)
def test_scales_have_round_ticks_inside_and_keep_order(log: bool, low: float, high: float) -> None:
    scale = Scale.of([low, high], 0, 100, log=log)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 11 and all(scale.low <= t <= scale.high for t in ticks)
    places = [scale(t) for t in ticks]
    assert places == sorted(places) and places[0] >= 0 and places[-1] <= 100
    assert all(float(f"{t:.6g}") == pytest.approx(t) for t in ticks)
    assert not log or max(b - a for a, b in itertools.pairwise([0.0, *places, 100.0])) < 60


def test_an_infinite_error_has_no_place_in_the_plane() -> None:
    search, runs = records(1, runs=3)
    lost = replace(runs[0], id="lost", combination="lost", error=math.inf)
    assert "lost at" in plane(search, [*runs, replace(lost, error=2.0)], set())
    assert "lost at" not in plane(search, [*runs, lost], set())


def test_tags_escape_what_is_not_markup() -> None:
    assert tag("p", "<i>", tag("b", "&")) == "<p>&lt;i&gt;<b>&amp;</b></p>"


# What the browser is asked: is every picture laid out and has it ink, with all details open?
PROBE = """<script>
document.querySelectorAll('details').forEach(d => d.open = true);
const seen = [...document.querySelectorAll('svg.drawing')].map(s => {
  const box = s.getBoundingClientRect(), ink = s.getBBox();
  return [box.width, box.height, ink.width, ink.height, s.querySelectorAll('path, polygon, circle').length];
});
const bars = [...document.querySelectorAll('.bar')].map(b => b.getBoundingClientRect().height);
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.setAttribute('data-seen', JSON.stringify({seen, bars, wide}));
</script></body>"""


def opened(path: Path, folder: Path) -> tuple[str, list[str]]:
    """The page's elements as Chromium has them, and the lines of its console."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


@needs_chromium
@pytest.mark.parametrize("layers", [3, 60])
def test_a_browser_draws_every_picture_without_complaint(tmp_path: Path, layers: int) -> None:
    path = tmp_path / "report.html"
    text = page(*records(layers), {"run-0", "run-4"})
    path.write_text(text.replace("</body>", PROBE))
    elements, console = opened(path, tmp_path)
    assert not console
    found = re.search(r'data-seen="([^"]*)"', elements)
    assert found is not None
    seen = json.loads(html.unescape(found[1]))
    drawings = 1 + 7 * 4  # the plane, and four along each run
    assert len(seen["seen"]) == drawings and text.count('class="drawing"') == drawings
    assert all(min(w, h, iw, ih) > 100 and marks >= 3 for w, h, iw, ih, marks in seen["seen"])
    assert len(seen["bars"]) >= layers and min(seen["bars"]) > 5
    assert seen["wide"] <= 0, "the page itself does not scroll sideways"


@needs_chromium
def test_the_browser_would_have_complained(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<!doctype html><title>x</title><body><script>throw new Error('seen')</script></body>")
    _, console = opened(path, tmp_path)
    assert any("seen" in line for line in console)
