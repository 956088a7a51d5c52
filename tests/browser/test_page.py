"""The page of `nanochat inspect`, in Chromium: views, numbers, links, keys, and hostile text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contrasts import CONTRASTS
from playwright.sync_api import Browser, Page

import nanochat
from nanochat.inspection.facts import facts as facts_of
from nanochat.inspection.page import FOLDER, SCRIPTS, page_text
from nanochat.inspection.parameter_history import history_facts
from nanochat.inspection.views import TITLES
from nanochat.model.parameters import Spec
from nanochat.training.engine import RECORDED
from nanochat.training.history import History, Table

NAMES = "anna\nbob\ncarl\ndora\nemma\nfred\nada\nbea\ncleo\ndan\nella\nfay\n"
HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--<script>", "\u2028",
    "\u202eevil\u200f", "&lt;", "a\nb", "{{script}}", '"><svg onload=alert(1)>',
]  # fmt: skip
VIEWS = (
    "loss", "forward", "gradients", "attention", "lens", "parameter", "embeddings", "importance",
    "compare", "tokenizer",
)  # fmt: skip
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}

# Every kind of operation is in one of them.
MODELS: dict[str, dict[str, Any]] = {
    "microgpt": {"mode": "scalar", "preset": "microgpt", "n_head": 2, "n_embd": 4},
    "bigram": {"mode": "scalar", "model_kind": "bigram", "n_embd": 4},
    "scalar": {
        "mode": "scalar", "model_kind": "mini-gpt", "n_layer": 2, "n_head": 2, "n_embd": 8,
        "activation": "relu2", "positions": "rope", "qk_norm": True, "tie_lm_head": True,
        "logit_softcap": 3.0, "ngram_order": 2, "output_rmsnorm": True,
    },
    "tables": {
        "mode": "tensor", "model_kind": "mini-gpt", "n_layer": 2, "n_head": 2, "n_embd": 8,
        "dtype": "float64", "activation": "relu2", "positions": "learned", "tie_lm_head": True,
        "logit_softcap": 3.0, "hash_embed_rows": 50, "prev_token_tables": 2,
    },
    "float32": {
        "mode": "tensor", "model_kind": "mini-gpt", "n_layer": 1, "n_head": 2, "n_embd": 8,
        "dtype": "float32", "positions": "rope", "tokenizer": "bpe", "vocab_size": 280,
        "output_rmsnorm": True,
    },
    "bfloat16": {
        "mode": "tensor", "model_kind": "mini-gpt", "n_layer": 1, "n_head": 2, "n_embd": 8,
        "dtype": "bfloat16",
    },
}  # fmt: skip
KINDS = {
    "lookup", "tables", "add", "rmsnorm", "linear", "rotate", "scores", "softmax", "mix", "relu",
    "relu2", "cap", "share", "nats", "mixed_nats",
}  # fmt: skip
# Of a number, relative to the largest of its terms; of a gradient, relative to their sum.
ROUNDING = {"float64": 1e-14, "float32": 4e-6, "bfloat16": 0.05}

# Recompute sampled numbers of every array: the page's, the engine's, and the size of the terms.
RECOMPUTED = """(most) => {
  const { facts, forward, gradient, passedOn } = nanochatPage, found = {};
  const largest = (numbers) => numbers.reduce((high, x) => Math.max(high, Math.abs(x)), 0);
  for (const [name, packed] of Object.entries({ ...facts.arrays, ...facts.weights })) {
    const size = packed.shape.reduce((a, b) => a * b, 1), samples = Math.min(size, most);
    found[name] = Array.from({ length: samples }, (_, sample) => {
      let rest = Math.floor(sample * size / samples);
      const index = [...packed.shape].reverse().map((n) => {
        const i = rest % n;
        rest = (rest - i) / n;
        return i;
      }).reverse();
      const value = forward(name, index), slope = gradient(name, index);
      const passed = passedOn(name, index).every((one) => gradient(one.name, one.index).terms.some(
        (term) => term.name === name && String(term.index) === String(index) && term.value === one.value));
      return {
        index, passed, value: value.value, value_engine: value.engine,
        value_size: largest([value.engine, ...value.steps.flatMap((s) => s.rows.map((r) => r.value))].filter(Number.isFinite)),
        gradient: slope.value, gradient_engine: slope.engine,
        gradient_size: slope.terms.reduce((sum, term) => sum + Math.abs(term.value), 0),
      };
    });
  }
  return JSON.parse(JSON.stringify(found), (key, x) => (x === null ? "-inf" : x));
}"""


class Visit:
    """A page in the browser, and what went wrong on it: it must stay empty."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page, self.address, self.wrong = page, path.as_uri(), []
        page.on("console", lambda message: self.wrong.append(message.text))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", lambda dialog: self.wrong.append("a dialog"))
        page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if request.url.partition("#")[0] != self.address:
            self.wrong.append(request.url)

    def open(self, fragment: str = "") -> Page:
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}#{fragment}")
        return self.page

    def title(self) -> str:
        return self.page.inner_text("main h1")

    def fragment(self) -> str:
        return self.page.evaluate("location.hash.slice(1)")


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """Write the page of some facts and visit it; afterwards, nothing must have gone wrong."""
    visits = []

    def start(facts: dict[str, Any], size: str = "desktop", theme: Any = "light") -> Visit:
        path = tmp_path / f"page{len(visits)}.html"
        path.write_text(page_text(facts), encoding="utf-8")
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme
        )
        visits.append(Visit(context.new_page(), path))
        return visits[-1]

    yield start
    for one in visits:
        one.page.context.close()
        assert one.wrong == []


def traced(folder: Path, name: str) -> tuple[Any, dict[str, Any]]:
    (folder / "names.txt").write_text(NAMES, encoding="utf-8")
    config = nanochat.TrainConfig(
        data=str(folder / "names.txt"), documents="line", block_size=16, batch_size=2, steps=6,
        eval_every=6, num_samples=0, lr=0.02, out=str(folder / "run"), **MODELS[name],
    )  # fmt: skip
    trace = nanochat.load(nanochat.train(config).run).trace("emma")
    return trace, facts_of(trace, run=name, step=6, arrays=True, neurons=True)


@pytest.fixture(scope="module")
def microgpt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    return traced(tmp_path_factory.mktemp("microgpt"), "microgpt")


@pytest.fixture(scope="module", params=MODELS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, dict[str, Any]]:
    return traced(tmp_path_factory.mktemp(request.param), request.param)


def size_before(facts: dict[str, Any], name: str) -> int:
    """Count the numbers of the weights before one; of all for another name."""
    weights = facts["weights"]
    before = list(weights)[: list(weights).index(name) if name in weights else None]
    return sum(weights[each]["shape"][0] * weights[each]["shape"][1] for each in before)


def with_everything(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with the history of two parameters, and of all at some steps, and a comparison."""
    steps = np.arange(1, 31)
    names = list(facts["arrays"])
    specs = [
        Spec(
            name=name,
            shape=tuple(weight["shape"]),
            std=0.1,
            group="head" if name == "lm_head" else "matrix",
        )
        for name, weight in facts["weights"].items()
    ]
    size, first = size_before(facts, ""), size_before(facts, "wte")
    columns = facts["weights"]["wte"]["shape"][1]
    rates = np.outer(steps, [0.1, 0.2, 0.3])
    line = np.repeat(0.1 * steps, len(RECORDED)).reshape(-1, len(RECORDED))
    chosen = Table(
        np.array([first + columns + 2, first]), steps, rates, np.stack([line, line[::-1]], axis=1)
    )
    numbers = np.arange(3.0 * size * len(RECORDED)).reshape(3, size, len(RECORDED))
    every = Table(np.arange(size), steps[:3], rates[:3], numbers.astype(np.float32))
    return {
        **facts,
        "history": history_facts(History(specs, chosen, every), 10**7),
        "against": {
            "what": "other step 3, scalar, float64", "first": 1,
            "rows": [
                {"name": name, "largest": 0.5 * i, "index": [0] * len(facts["arrays"][name]["shape"]) if i else None, "here": 1.0, "there": 1.0 + 0.5 * i}
                for i, name in enumerate(names)
            ] + [
                {"name": "elsewhere", "largest": None, "index": None, "here": None, "there": None}
            ],
        },
    }  # fmt: skip


# ── the file ─────────────────────────────────────────────────────────────────────────────────────


def inside(page: str, start: str, end: str) -> str:
    return page.split(start, 1)[1].split(end, 1)[0]


def data_of(page: str) -> str:
    return inside(page, '<script type="application/json" id="facts">', "</script>")


def test_every_file_of_the_folder_is_in_the_page():
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert files == {*SCRIPTS, "page.css", "page.html"}
    page = page_text({})
    for name in (*SCRIPTS, "page.css"):
        assert (FOLDER / name).read_text(encoding="utf-8") in page


def test_the_page_is_written_by_hand_in_under_1500_lines_of_at_most_100_characters():
    """Blank lines do not count."""
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(bool(line.strip()) for line in lines) < 1500
    assert max(map(len, lines)) <= 100


def test_the_policy_allows_this_script_and_this_style_only():
    page = page_text({"run": "r"})
    policy = inside(page, 'Content-Security-Policy" content="', '"')

    def hashed(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    script, style = inside(page, "<script>", "</script>"), inside(page, "<style>", "</style>")
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashed(script)}';"
        f" style-src 'sha256-{hashed(style)}'; base-uri 'none'; form-action 'none'"
    )


def test_the_page_names_no_address_but_that_of_svg():
    page = page_text({})
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@import|url\(|\bsrc=|fetch\(|innerHTML|eval\(", page)


def test_no_text_ends_the_data():
    page = page_text({"vocabulary": HOSTILE})
    assert page.count("</script>") == 2
    data = data_of(page)
    assert data.isascii()
    assert not set("<>&") & set(data)
    assert json.loads(data) == {"vocabulary": HOSTILE}


def test_a_number_that_is_not_finite_is_null():
    data = data_of(page_text({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": (2, True)}))
    assert json.loads(data) == {"a": [None, 1.5], "b": {"c": None}, "d": [2, True]}


# ── views ────────────────────────────────────────────────────────────────────────────────────────


def test_every_view_opens_from_its_link_and_one_number_leads_to_its_panel(visit, microgpt):
    _, facts = microgpt
    one = visit(with_everything(facts))
    page = one.open()
    for name in VIEWS:
        page.click(f'nav a[href="#{name}"]')
        assert page.get_attribute("nav a[aria-current=page]", "data-view") == name
        assert len(page.inner_text("main")) > 60, name
    page.click('nav a[href="#forward"]')
    page.locator("figure", has_text="layer0.attn.q").first.locator(".grid").click()
    assert one.fragment().startswith("number/layer0.attn.q/")
    assert page.inner_text(".compared dd >> nth=2") == "0"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """The trace of a model file, the gated MLP of docs/examples."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "names.txt").write_text(NAMES, encoding="utf-8")
    file = str(Path(__file__).parents[2] / "docs" / "examples" / "gated_mlp.py")
    run = nanochat.train(nanochat.TrainConfig(
        data=str(folder / "names.txt"), documents="line", block_size=16, batch_size=2, steps=6,
        eval_every=6, num_samples=0, lr=0.02, out=str(folder / "run"), model_file=file,
        **{**MODELS["microgpt"], "n_layer": 2},
    )).run  # fmt: skip
    trace = nanochat.load(run, model_file=file).trace("emma")
    return trace, facts_of(trace, run="own", step=6, arrays=True, neurons=True)


def test_a_number_of_a_model_file_leads_to_its_line(visit, own):
    _, facts = own
    one = visit(with_everything(facts))
    page = one.open()
    for name in VIEWS:
        page.click(f'nav a[href="#{name}"]')
        assert len(page.inner_text("main")) > 60, name
    page = one.open("number/layer0.mlp.gate/1/2")
    assert re.search(r"Computed by \S*gated_mlp\.py:\d+, whose formula", page.inner_text("main"))
    footer = page.inner_text("footer p >> nth=0")
    assert re.search(
        r"one operation per number, in the order in which \S*gated_mlp\.py compu", footer
    )
    page = one.open("gradient/layer0.attn.residual/1/2")
    assert "gated_mlp.py" in page.locator("table", has_text="local derivative").first.inner_text()


def test_the_gradients_of_a_model_file_sum_up_with_what_passes_through_it(visit, own):
    trace, facts = own
    found = visit(facts).open().evaluate(RECOMPUTED, 20)
    assert set(found) == {*trace, *trace.weights}
    for name, numbers in found.items():
        for n in numbers:
            if n["value"] != "-inf":
                difference = abs(n["value"] - n["value_engine"])
                assert difference <= 1e-14 * n["value_size"], (name, n)
            difference = abs(n["gradient"] - n["gradient_engine"])
            assert difference <= 1e-5 * n["gradient_size"], (name, n)


@pytest.mark.long
def test_every_number_follows_from_its_operands_and_every_gradient_from_its_consumers(visit, model):
    trace, facts = model
    found = visit(facts).open().evaluate(RECOMPUTED, 80)
    assert set(found) == {*trace, *trace.weights}
    rounding = ROUNDING[facts["dtype"]]
    for name, numbers in found.items():
        value, slope = trace, trace.gradients
        if name in trace.weights:
            value, slope = trace.weights, trace.weight_gradients
        for n in numbers:
            place = tuple(n["index"])
            if value[name][place] == -np.inf:  # JSON has no infinities
                assert n["value"] == n["value_engine"] == "-inf"
            else:
                assert n["value_engine"] == value[name][place]
                assert abs(n["value"] - n["value_engine"]) <= rounding * n["value_size"], (name, n)
            assert n["gradient_engine"] == slope[name][place]
            difference = abs(n["gradient"] - n["gradient_engine"])
            assert difference <= rounding * n["gradient_size"], (name, n)
            assert n["passed"], (name, n)


@pytest.mark.long
def test_the_models_have_every_kind_of_operation(tmp_path):
    kinds = set()
    for name in MODELS:
        (tmp_path / name).mkdir()
        kinds |= {o["kind"] for o in traced(tmp_path / name, name)[1]["operations"]}
    assert kinds == KINDS


@pytest.mark.long
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_views_fit_the_screen_and_can_be_read(visit, model, size, theme):
    _, facts = model
    one = visit(with_everything(facts), size, theme)
    last = facts["operations"][0]["name"]
    for fragment in (*VIEWS, f"number/{last}/1/1", f"gradient/{last}/1/1", "number/losses/2"):
        page = one.open(fragment)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], fragment
        low = [text for contrast, text in page.evaluate(CONTRASTS) if contrast < 4.5]
        assert low == [], fragment
    page.click("#digits")
    page.click("#digits")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], "all decimals"


@pytest.mark.long
def test_a_large_model_says_why_views_are_left_out(visit, model):
    trace, _ = model
    facts = facts_of(trace, run="large", step=1, arrays=False, neurons=False)
    facts["left_out"] = {"forward": "it has 7 numbers", "neurons": "too many neurons"}
    one = visit(facts)
    assert "Left out: it has 7 numbers." in one.open("forward").inner_text("main")
    assert "too large" in one.open("gradients").inner_text("main")
    for view in ("loss", "lens", "embeddings", "tokenizer", "parameter", "compare", "importance"):
        assert len(one.open(view).inner_text("main")) > 60
    if trace.config.model_kind == "mini-gpt":
        assert "term by term" in one.open("attention/layer0/head1/token2").inner_text("main")
        assert "too large" in one.open("number/layer0.attn.q/0/0").inner_text("main")
        assert "Left out: too many neurons." in one.open("importance").inner_text("main")


@pytest.mark.long
def test_the_loss_view_shows_the_facts(visit, microgpt):
    _, facts = microgpt
    page = visit(facts).open("loss/token1")
    assert page.inner_text("h1").startswith(f"{facts['mean']:.3f} nats")
    tokens = page.locator(".token").all_inner_texts()
    assert [t.split() for t in tokens] == [
        [piece, f"{loss:.2f}"]
        for piece, loss in zip([*"emma", "end"], facts["losses"], strict=True)
    ]
    for row, likely in zip(page.locator("tbody tr").all(), facts["likeliest"][1], strict=False):
        cells = row.locator("td").all_inner_texts()
        assert cells[1].removesuffix(" came") == (facts["vocabulary"][likely["token"]] or "end")
        assert float(cells[3].removesuffix(" %")) == pytest.approx(
            100 * likely["probability"], rel=0.01
        )


@pytest.mark.long
def test_digits_are_short_then_those_of_the_json_then_all_decimals(visit, model):
    trace, facts = model
    name = facts["operations"][0]["name"]
    number = trace[name][1, 2]
    page = visit(facts).open(f"number/{name}/1/2")
    shown = page.inner_text(".big >> nth=0")
    as_number = np.float64 if facts["dtype"] == "float64" else np.float32
    assert as_number(shown) == number
    assert len(shown) <= len(np.format_float_positional(as_number(number), unique=True)) + 4
    page.click("#digits")
    page.click("#digits")
    assert Fraction(page.inner_text(".big >> nth=0")) == Fraction(float(number))


@pytest.mark.long
def test_operands_and_gradients_lead_to_their_panels_and_back(visit, microgpt):
    trace, facts = microgpt
    one = visit(facts)
    page = one.open("number/layer0.attn.q/2/1")
    page.click("tbody tr:nth-child(3) td:nth-child(2) a")
    assert one.fragment() == "number/layer0.attn_wq/1/2"
    assert float(page.inner_text(".big >> nth=0")) == trace.weights["layer0.attn_wq"][1, 2]
    assert float(page.inner_text(".big >> nth=1")) == trace.weight_gradients["layer0.attn_wq"][1, 2]
    page.click("text=layer0.attn.q[2, 1]")
    assert one.fragment() == "gradient/layer0.attn.q/2/1"
    assert one.title() == "layer0.attn.q[2, 1]"
    page.go_back()
    page.go_back()
    assert one.fragment() == "number/layer0.attn.q/2/1"
    assert one.title() == "layer0.attn.q[2, 1]"


@pytest.mark.long
def test_arrow_keys_move_through_matrices_and_tokens_and_enter_opens(visit, microgpt):
    trace, facts = microgpt
    one = visit(facts)
    page = one.open("gradients/layer0.mlp.norm/1/1")
    page.wait_for_function("document.activeElement.className === 'grid'")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    shown = page.locator("figure", has_text="layer0.mlp.norm").locator(".readout b").inner_text()
    assert float(shown) == trace.gradients["layer0.mlp.norm"][2, 2]
    page.keyboard.press("Enter")
    assert one.fragment() == "gradient/layer0.mlp.norm/2/2"
    page.go_back()
    assert one.fragment() == "gradients/layer0.mlp.norm/2/2"
    page = one.open("loss/token0")
    page.focus(".token[aria-checked=true]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert one.fragment() == "loss/token2"
    assert page.evaluate("document.activeElement.ariaChecked") == "true"


@pytest.mark.long
def test_the_tab_key_reaches_the_skip_link_then_the_tools_then_the_views(visit, microgpt):
    page = visit(microgpt[1]).open("lens")
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    assert reached == ["skip", "digits", "theme", "Loss", "Forward"]


@pytest.mark.long
def test_a_fragment_names_a_head_a_token_and_a_key(visit, model):
    trace, facts = model
    if trace.config.model_kind != "mini-gpt":
        assert "no attention" in visit(facts).open("attention/layer0/head1").inner_text("main")
        return
    page = visit(facts).open("attention/layer0/head1/token2/key1")
    scores, weights = trace["layer0.attn.scores"][1, 2], trace["layer0.attn.weights"][1, 2]
    as_number = np.float64 if facts["dtype"] == "float64" else np.float32
    assert as_number(page.inner_text(".compared dd >> nth=1")) == as_number(scores[1])
    for row in page.locator(".panel > div").first.locator("tbody tr").all():
        cells = row.locator("td").all_inner_texts()
        key = int(cells[0].split()[0])
        assert float(cells[1]) == pytest.approx(scores[key], rel=1e-4)
        assert float(cells[3]) == pytest.approx(weights[key], rel=1e-4)


@pytest.mark.long
def test_the_lens_shows_the_top_prediction_and_contributions_that_sum_to_the_logit(visit, model):
    trace, facts = model
    page = visit(facts).open("lens/token2")
    lens, target = trace.logit_lens(), trace.targets[2]
    rows = page.locator(".stages tbody tr").all()
    for row, stage in zip(rows, lens.logits, strict=True):
        titles = [cell.get_attribute("title") for cell in row.locator("button").all()]
        for title, logits in zip(titles, stage, strict=True):
            top = trace.tokenizer.token_text(int(logits.argmax())) or "end"
            assert f": {top}; " in title.replace("␣", " ").replace("⏎", "\n")
    total = page.locator("tr.target td >> nth=1").inner_text()
    assert float(total) == pytest.approx(lens.contributions[:, 2, target].sum(), rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("fragment", [
    "nothing", "number/__proto__/0", "number/constructor/0/0", "number/losses/99", "number/losses",
    "loss/token999", "attention/layer9/head9", "%E0%A4%A", "number/losses/-1", "gradient/wte/0/0/0",
    "forward/wte/a/b", "lens/token-1", "parameter/x/0/0", "embeddings/id9999", "number/losses/0.5",
])  # fmt: skip
def test_a_wrong_fragment_shows_a_page_without_an_error(visit, microgpt, fragment):
    one = visit(with_everything(microgpt[1]))
    assert len(one.open(fragment).inner_text("main")) > 30


@pytest.mark.long
def test_hostile_text_is_shown_and_runs_nothing(visit, microgpt):
    _, facts = microgpt
    vocabulary = [*facts["vocabulary"]]
    letters = dict.fromkeys(t for t in facts["targets"] if t)
    for target, text in zip(letters, HOSTILE[:3], strict=False):
        vocabulary[target] = text
    others = [i for i in range(1, len(vocabulary)) if i not in letters]
    for token, text in zip(others, HOSTILE, strict=False):
        vocabulary[token] = text
    one = visit(with_everything({**facts, "vocabulary": vocabulary, "run": HOSTILE[0]}))
    for fragment in (*VIEWS, "number/logits/1/3", "number/wte/5/1"):
        page = one.open(fragment)
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 2
    text = one.open("loss").inner_text("main")
    assert HOSTILE[0] in text
    assert "\u202e" not in one.open("embeddings").inner_text("main")
    words = [{"word": text, "steps": [[1, 2], [3]]} for text in HOSTILE]
    page = visit({**facts, "vocabulary": vocabulary, "merges": words}).open("tokenizer/word4")
    assert "\\u{202e}evil\\u{200f}" in page.inner_text("main")


@pytest.mark.long
def test_a_loss_that_is_not_finite_is_shown_as_such(visit, microgpt):
    _, facts = microgpt
    losses = [*facts["losses"]]
    losses[1] = float("nan")
    one = visit({**facts, "losses": losses, "mean": float("nan")})
    assert "NaN nats per token" in one.open("loss").inner_text("main")


@pytest.mark.long
def test_the_theme_button_goes_from_that_of_the_system_to_light_and_dark(visit, microgpt):
    page = visit(microgpt[1], theme="dark").open("loss")
    themes = []
    for _ in range(3):
        themes.append(page.evaluate("document.documentElement.dataset.theme"))
        page.click("#theme")
    assert themes == ["dark", "light", "dark"]


@pytest.mark.long
def test_the_history_and_the_comparison_show_their_numbers(visit, microgpt):
    one = visit(with_everything(microgpt[1]))
    page = one.open("parameter/wte/0/0")
    assert page.inner_text(".chart b >> nth=0") == "0.1"
    assert page.locator(".chart").count() == len(RECORDED) + 1
    page.focus("input[type=range]")
    page.keyboard.press("Home")
    assert page.inner_text(".chart b >> nth=0") == "3"
    assert page.locator(".chart b").all_inner_texts()[-1] == "0.2"  # the rate of matrices
    page = one.open("parameter/wte/0/3")  # of the table of all: weight, gradient and rate
    of_three_steps = 2 * size_before(microgpt[1], "") + size_before(microgpt[1], "wte") + 3
    last = of_three_steps * len(RECORDED)  # as with_everything counts
    assert page.locator(".chart figcaption").all_inner_texts() == [
        f"Weight {last}", f"Gradient {last + 1}", "Learning rate 0.6",
    ]  # fmt: skip
    page.click("#digits")
    assert page.locator(".chart b").all_inner_texts()[-1] == str(3 * 0.2)
    page = one.open("compare")
    assert page.inner_text("tr.target td >> nth=0") == list(microgpt[1]["arrays"])[1]
    bare = visit(microgpt[1])
    assert "nanochat train --record" in bare.open("parameter").inner_text("main")
    assert "--against RUN" in bare.open("compare").inner_text("main")


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES)
def test_a_chart_has_the_first_middle_and_last_step_and_the_range_of_its_values(
    visit, microgpt, size
):
    page = visit(with_everything(microgpt[1]), size).open("parameter/wte/0/0")
    weight, rate = page.locator(".chart").first, page.locator(".chart").last
    assert weight.locator(".steps span").all_inner_texts() == ["step 1", "15", "30"]
    assert weight.locator(".values span").all_inner_texts() == ["3", "0.1"]
    assert rate.locator(".values span").all_inner_texts() == ["6", "0.2"]
    chart = weight.locator("svg").bounding_box()
    boxes = [span.bounding_box() for span in weight.locator(".steps span").all()]
    middle = boxes[1]["x"] + boxes[1]["width"] / 2
    assert middle == pytest.approx(chart["x"] + chart["width"] * 14 / 29, abs=4)
    for left, right in pairwise(boxes):
        assert left["x"] + left["width"] < right["x"]
    assert boxes[0]["x"] == pytest.approx(chart["x"], abs=2)
    assert boxes[2]["x"] + boxes[2]["width"] == pytest.approx(chart["x"] + chart["width"], abs=2)


@pytest.mark.long
def test_the_pointer_chooses_the_nearest_step_of_steps_at_any_distances(visit, microgpt):
    facts = with_everything(microgpt[1])
    facts["history"]["tables"][0]["steps"] = [*range(1, 30), 59]
    page = visit(facts).open("parameter/wte/0/0")
    box = page.locator(".chart svg").first.bounding_box()
    for part, step in ((14 / 58, "15"), (28 / 58, "29"), (0.7, "29"), (0.8, "59")):
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] / 2)
        assert page.inner_text(".slide b") == step


@pytest.mark.long
def test_what_is_left_out_of_a_history_is_said_with_the_way_out(visit, microgpt):
    facts = with_everything(microgpt[1])
    facts["history"]["tables"][0]["notes"] = ["3 of 9 recorded steps are shown; <b>"]
    page = visit(facts).open("parameter/wte/0/0")
    assert page.locator(".note").all_inner_texts() == ["3 of 9 recorded steps are shown; <b>"]
    page = visit(with_everything(microgpt[1])).open("parameter/wte/0/3")
    assert page.locator(".note").all_inner_texts() == [
        "Kept at some steps and rounded to float32. nanochat.load(run).history.parameter(…) also"
        " has the moments and updates."
    ]


@pytest.mark.long
def test_every_view_has_one_name_in_its_link_and_heading(visit, microgpt):
    one = visit(with_everything(microgpt[1]))
    for name in VIEWS:
        page = one.open(name)
        words = page.inner_text("nav a[aria-current=page]")
        assert words == TITLES[name]
        if name not in ("loss", "tokenizer"):  # their headings are results
            assert one.title() == words


@pytest.mark.long
def test_the_merges_of_a_word_are_shown_in_order(visit, tmp_path):
    _, facts = traced(tmp_path, "float32")
    page = visit(facts).open("tokenizer/word0")
    rows = page.locator("tbody tr").all()
    steps = facts["merges"][0]["steps"]
    assert len(rows) == len(steps)
    for row, tokens in zip(rows, steps, strict=True):
        assert row.locator(".chip small").all_inner_texts() == [str(token) for token in tokens]


@pytest.mark.long
def test_a_page_of_two_megabytes_is_painted_within_half_a_second(visit, microgpt):
    facts = {**microgpt[1], "ballast": "x" * 2_000_000}
    one = visit(facts)
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    times = []
    for _ in range(3):
        page = one.open()
        page.wait_for_function(paint)
        times.append(page.evaluate(paint))
    assert min(times) < 500
