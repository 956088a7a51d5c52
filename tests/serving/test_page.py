"""The page of `nanochat serve` against a real server, in Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from contrasts import CONTRASTS
from nonempty import nonempty
from playwright.sync_api import Browser, Page
from serving.server import CHATTING, KEY, TEXT, WAIT_S, Server, until

import nanochat
from nanochat.inspection.page import FOLDER as INSPECT
from nanochat.serving.page import FOLDER, SCRIPTS

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</script><svg onload=alert(1)>",
    '"><a href=javascript:alert(1)>x</a>', "&lt;b&gt;<b>bold</b>", "{{script}}<!--",
]  # fmt: skip


def train(folder: Path, text: str, **options: Any) -> Path:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return nanochat.train(nanochat.TrainConfig(**{
        "mode": "tensor", "device": "cpu", "data": str(folder / "text.txt"), "documents": "line",
        "model_kind": "mini-gpt", "positions": "rope", "n_layer": 2, "n_head": 2, "n_embd": 16,
        "block_size": 64, "batch_size": 4, "steps": 60, "num_samples": 0,
        "out": str(folder / "run"), **options,
    })).run  # fmt: skip


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one document, which its likeliest tokens never end."""
    folder = tmp_path_factory.mktemp("endless")
    return train(folder, TEXT * 20, documents="file", block_size=32, ngram_order=0)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose name and texts are HTML and scripts, which its counts know by heart."""
    folder = tmp_path_factory.mktemp("hostile")
    out = folder / "<img src=x onerror=alert(1)>"
    return train(folder, "\n".join(HOSTILE * 20), ngram_order=8, out=str(out))


@pytest.fixture(scope="module")
def talking(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A run on conversations, whose context window holds two of them."""
    folder = tmp_path_factory.mktemp("talk")
    lines = "\n".join(f"User: {q}\nAssistant: {q}{q}\n" for q in ("an", "bo", "cy") * 9)
    return start(train(folder, lines, documents="chat", block_size=32))


class Visit:
    """The page of a server, and what went wrong on it: it must stay empty."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server, self.wrong = page, server, []
        self.refusals = 0  # requests that the server is meant to refuse, or is gone for
        page.set_default_timeout(1000 * WAIT_S)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", lambda dialog: self.wrong.append("a dialog"))
        page.on("request", self._note_request)

    def _note_message(self, message: Any) -> None:
        if message.text.startswith("Failed to load resource") and self.refusals:
            self.refusals -= 1
        else:
            self.wrong.append(message.text)

    def _note_request(self, request: Any) -> None:
        origin, address = urlsplit(self.server.url), urlsplit(request.url)
        if address.scheme != "data" and address[:2] != origin[:2]:
            self.wrong.append(request.url)

    def open(self, tab: str | None = None) -> Page:
        self.page.goto(self.server.url)
        if tab:
            self.page.click(f"#tab-{tab}")
        return self.page

    def complete(self, prompt: str, **options: Any) -> str:
        """The completion of a prompt, after its end."""
        self.options(**options)
        self.page.fill("#prompt", prompt)
        self.page.click("main .primary")
        return self.end()

    def options(self, **options: Any) -> None:
        for name, value in options.items():
            self.page.fill(f"[name={name}]", str(value))

    def end(self) -> str:
        """The newest text of the model, after its end."""
        self.page.wait_for_selector(".writing[aria-busy=true]", state="detached")
        return self.text()

    def text(self) -> str:
        return "".join(self.page.locator(".writing").last.locator(".token").all_text_contents())

    def tokens(self) -> list[Any]:
        return self.page.locator(".token").all()

    def kept(self) -> Any:
        return json.loads(self.page.evaluate("sessionStorage.nanochat"))["state"]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Visit the page of a server; afterwards, nothing must have gone wrong."""
    visits = []

    def begin(server: Server, size: str = "desktop", theme: Any = "light") -> Visit:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme
        )
        visits.append(Visit(context.new_page(), server))
        return visits[-1]

    yield begin
    for one in visits:
        one.page.context.close()
        assert (one.wrong, one.refusals) == ([], 0)


# ------------------------------------------------------------------------------------- the file


def test_every_file_is_in_the_page_and_written_by_hand_in_lines_of_100(server):
    page = server.client.get("/").text
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {*SCRIPTS, "page.css", "page.html"}
    texts = [(FOLDER / name).read_text(encoding="utf-8") for name in files]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 100
    assert sum(len(text.splitlines()) for text in texts) < 1000
    for name in (*SCRIPTS, "page.css"):
        assert (FOLDER / name).read_text(encoding="utf-8") in page
    assert not re.search(r"https?://|@import|url\(|\bsrc=|innerHTML|eval\(", page)


def test_the_policy_lets_no_other_page_frame_it_and_asks_this_server_only(server):
    headers = server.client.get("/").headers
    policy = headers["content-security-policy"]
    hashes = re.findall(r"'sha256-[^']{44}'", policy)
    assert len(hashes) == 2
    assert policy == (
        f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; base-uri 'none';"
        " form-action 'none'; connect-src 'self'; img-src data:; frame-ancestors 'none'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_colors_of_a_loss_are_those_of_inspect():
    inspect = re.findall(r"\b[0-9a-f]{6}\b", (INSPECT / "dom.js").read_text(encoding="utf-8"))
    scales = re.findall(r'stops\("(.*)"\)', (FOLDER / "colors.js").read_text(encoding="utf-8"))
    assert len(scales) == 2
    for scale in scales:
        assert " ".join(scale.split()) in " ".join(inspect)


# ----------------------------------------------------------------------------------- completions


def test_a_completion_is_that_of_the_api_with_its_alternatives(server, visit):
    options = {"temperature": 1.2, "top_k": 9, "top_p": 0.95, "max_tokens": 6, "seed": 5}
    one = visit(server)
    one.open()
    (choice,) = server.post(prompt="an", nanochat={"alternatives": 8}, **options).json()["choices"]
    assert one.complete("an", **options) == choice["text"]
    assert one.page.inner_text(".given") == "an"
    assert one.page.inner_text(".about span").endswith("seed 5")
    tokens = choice["nanochat"]["tokens"]
    shown = one.tokens()
    assert len(shown) == len(nonempty(tokens))
    one.page.locator(".token").first.focus()
    for place, token in enumerate(tokens):
        if place % 2:
            shown[place].hover()
        panel = one.page.locator("#token")
        assert panel.locator("h2").inner_text() == token["token"].replace(" ", "␣")
        assert f"share of the counts {percent(token['counts_share'])}" in panel.inner_text()
        rows = [row.locator("td").all_inner_texts() for row in panel.locator("tbody tr").all()]
        likeliest = token["likeliest"]
        if token["id"] not in {each["id"] for each in likeliest}:
            likeliest = [*likeliest, token]
        assert rows == [
            [each["token"] or "end", percent(each["probability"]), "", percent(each["network"]),
             percent(each["counts"])]
            for each in likeliest
        ]  # fmt: skip
        assert panel.locator(".came").count() == 1
        one.page.keyboard.press("ArrowRight")
    one.page.keyboard.press("Home")
    assert one.page.evaluate("document.activeElement.textContent") == tokens[0]["text"]
    one.page.keyboard.press("Escape")
    assert panel.locator("table").count() == 0


def percent(p: float) -> str:
    if p < 0.0005:
        return f"{float(f'{100 * p:.2g}'):g} %"
    return f"{100 * p:.{2 if p < 0.0995 else 1}f} %"


def test_a_character_of_several_tokens_is_whole_and_shows_them_all(start, euros, visit):
    one = visit(start(euros))
    one.open()
    text = one.complete("€", temperature=0, max_tokens=15)
    assert "€" in text
    (first, *_) = [each for each in one.tokens() if len(each.inner_text().encode()) > 1]
    first.hover()
    pieces = one.page.locator("#token h2").all_inner_texts()
    assert len(pieces) == len(first.inner_text().encode())
    assert one.page.locator("#token th").all_inner_texts()[:3] == ["next", "probability", ""]


@pytest.mark.parametrize("how", ["Escape", "Stop"])
def test_stop_ends_a_stream_and_frees_its_row(how, start, endless, visit):
    server = start(endless, "--max-tokens=1000000")
    one = visit(server)
    page = one.open()
    one.options(max_tokens=1000000, top_k=3)
    page.fill("#prompt", "an")
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector(".token >> nth=50", state="attached")
    assert server.stat("texts_active") == 1
    page.keyboard.press("Escape") if how == "Escape" else page.click(".stop")
    text = one.end()
    assert until(lambda: server.stat("texts_active") == 0)
    assert 50 < len(text) < 1000000
    assert "· stopped ·" in page.inner_text(".about")
    assert one.kept()["written"]["writing"]["text"] == text


def test_regenerate_draws_another_text_and_a_seed_the_same(start, endless, visit):
    one = visit(start(endless))
    page = one.open()
    texts = [one.complete("an", max_tokens=40, top_k=3)]
    for seed in ("", "3", "3"):
        one.options(seed=seed)
        page.click("text=Regenerate")
        texts.append(one.end())
    assert len(set(texts)) == 3
    assert texts[2] == texts[3]
    assert page.inner_text(".given") == "an"


# ------------------------------------------------------------------------------------------ chat


def test_chat_is_hidden_for_a_run_without_conversations(server, visit):
    page = visit(server).open()
    assert page.locator("[role=tab]").all_inner_texts() == ["Complete", "Score"]


def test_a_message_can_be_edited_and_its_reply_written_anew(chatting, visit, names):
    one, model = visit(chatting), nanochat.load(names)
    page = one.open()
    one.options(seed=1)
    for message in ("an", "bo"):
        page.fill("#draft", message)
        page.press("#draft", "Enter")
        assert one.end() == model.generate(message, seed=1)[2:]
    assert page.locator(".message").count() == 4
    page.locator("text=Edit").first.click()
    changed = page.get_by_label("Edit the message")
    assert changed.input_value() == "an"
    changed.fill("el")
    page.click("text=Send again")
    assert one.end() == model.generate("el", seed=1)[2:]
    assert page.locator(".message").count() == 2
    assert page.locator(".said").all_inner_texts() == ["el"]
    one.options(seed=2)
    page.click("text=Regenerate")
    assert one.end() == model.generate("el", seed=2)[2:]
    page.click("text=New conversation")
    assert page.locator(".message").count() == 0


def test_the_server_gets_the_conversation_in_order(chatting, visit):
    one = visit(chatting)
    page = one.open()
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json))
    replies = []
    for message in ("an", "bo"):
        page.fill("#draft", message)
        page.press("#draft", "Enter")
        replies.append(one.end())
    assert sent[1]["messages"] == [
        {"role": "user", "content": "an"}, {"role": "assistant", "content": replies[0]},
        {"role": "user", "content": "bo"},
    ]  # fmt: skip


def say(one: Visit, message: str) -> str:
    one.page.fill("#draft", message)
    one.page.press("#draft", "Enter")
    return one.end()


def messages_of(turns: list[str]) -> list[dict[str, str]]:
    """Messages of the user and the assistant in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


def test_a_refused_message_is_not_sent_again_with_the_next_one(talking, visit):
    one, sent = visit(talking), []
    page = one.open()
    page.on("request", lambda request: sent.append(request.post_data_json["messages"]))
    one.options(max_tokens=2)
    one.refusals = 1
    turns = ["an", say(one, "an")]
    say(one, "QQ")
    assert page.inner_text(".error").startswith("message: unknown token 'Q' at position 0")
    say(one, "bo")
    assert sent[1:] == [messages_of([*turns, "QQ"]), messages_of([*turns, "bo"])]
    assert page.locator(".said").all_inner_texts() == ["an", "QQ", "bo"]


def test_the_oldest_messages_are_left_out_of_a_conversation_that_does_not_fit(talking, visit):
    one, accepted, turns = visit(talking), [], []
    page = one.open()
    page.on("response", lambda reply: reply.ok and accepted.append(reply.request.post_data_json))
    one.options(max_tokens=3)
    notes = []
    for question in ("an", "bo", "cy", "an", "bo", "cy"):
        one.refusals = 1  # at most: the next message starts from what was left out here
        reply = say(one, question)
        one.refusals = 0
        turns += [question, reply]
        notes += re.findall(
            r"left out: the oldest (\d+) messages", page.inner_text(".about >> nth=-1")
        )
        left = int(notes[-1]) if notes else 0
        assert accepted[-1]["messages"] == messages_of(turns[left:-1])
    assert notes == sorted(notes) and int(notes[0]) == 2
    page.reload()
    assert f"left out: the oldest {notes[-1]} messages" in page.inner_text(".about >> nth=-1")
    assert page.locator(".error").count() == 0


def test_a_message_that_alone_is_too_long_is_refused_in_the_words_of_the_server(talking, visit):
    one = visit(talking)
    page = one.open()
    one.refusals = 1
    say(one, "an" * 40)
    assert page.inner_text(".error") == (
        "the conversation has 84 tokens with those of its roles, and the context window leaves 32;"
        " shorten the message"
    )


def test_only_the_last_reply_can_be_written_anew(chatting, visit):
    one = visit(chatting)
    page = one.open()
    for count, message in enumerate(("an", "bo", "el"), 1):
        say(one, message)
        assert page.locator(".message").count() == 2 * count
        assert page.locator("text=Regenerate").count() == 1
        assert page.locator(".writing").last.locator("text=Regenerate").count() == 1


def test_escape_leaves_the_edit_of_a_message_as_it_was(chatting, visit):
    one = visit(chatting)
    page = one.open()
    say(one, "an")
    page.click("text=Edit")
    changed = page.get_by_label("Edit the message")
    changed.fill("bo")
    changed.press("Escape")
    assert page.locator(".said").all_inner_texts() == ["an"]
    assert page.evaluate("document.activeElement.textContent") == "Edit"


def test_the_panel_of_a_token_closes_with_the_text_it_belongs_to(server, visit):
    one = visit(server)
    page = one.open("score")
    page.fill("#text", "anna")
    page.click("main .primary")
    page.locator(".token").first.hover()
    assert page.locator("#token h2").count() == 1
    page.mouse.move(0, 0)
    page.press("#text", "Control+Enter")
    page.wait_for_selector(".token")
    assert page.locator("#token h2").count() == 0
    page.click("#tab-complete")
    one.complete("an", temperature=0)
    one.tokens()[0].hover()
    assert page.locator("#token h2").count() == 1
    page.mouse.move(0, 0)
    page.press("#prompt", "Control+Enter")
    one.end()
    assert page.locator("#token h2").count() == 0


def test_reload_keeps_the_conversation_the_options_and_the_completion(chatting, visit):
    one = visit(chatting)
    page = one.open("complete")
    completion = one.complete("ca", top_k=7, seed=1)
    page.click("#tab-chat")
    page.fill("#draft", "an")
    page.press("#draft", "Enter")
    reply = one.end()
    page.fill("#draft", "not sent")
    page.reload()
    assert page.locator(".said").all_inner_texts() == ["an"]
    assert one.text() == reply
    assert page.input_value("#draft") == "not sent"
    assert page.input_value("[name=top_k]") == "7"
    one.tokens()[0].hover()
    assert page.locator("#token tbody tr").count() >= 8
    page.click("#tab-complete")
    assert (page.input_value("#prompt"), one.text()) == ("ca", completion)


def test_reload_while_a_text_is_written_keeps_what_has_come(start, endless, visit):
    one = visit(start(endless, "--max-tokens=1000000"))
    page = one.open()
    one.options(max_tokens=1000000, top_k=3)
    page.fill("#prompt", "an")
    page.click("main .primary")
    page.wait_for_selector(".token >> nth=50", state="attached")
    page.reload()
    assert len(one.text()) > 50
    assert "· stopped ·" in page.inner_text(".about")


# ---------------------------------------------------------------------------------------- scores


def test_the_losses_of_a_text_are_those_of_load(server, visit, names):
    text = "anna\nella"
    one, loss = visit(server), nanochat.load(names).loss(text)
    page = one.open("score")
    assert not page.is_visible("#options")
    page.fill("#text", text)
    page.click("main .primary")
    page.wait_for_selector(".token")
    assert page.inner_text(".result h2") == (
        f"{loss.mean:.4f} nats per token {loss.bpb:.4f} bits per byte"
    )
    assert page.inner_text(".tokens") == "anna∎\nella∎\n"
    page.locator(".token").first.focus()
    for label, nats in zip(loss.pieces, loss.nats.tolist(), strict=True):
        assert page.inner_text("#token h2") == (label or "end")
        assert f"{nats:.4f} nats" in page.inner_text("#token")
        assert page.locator("#token th").all_inner_texts()[-2:] == ["network", "counts"]
        assert page.locator("#token tbody tr").count() in (8, 9)  # the likeliest, and this one
        page.keyboard.press("ArrowRight")
    hardest, easiest = (
        one.tokens()[int(place)].evaluate("node => getComputedStyle(node).backgroundColor")
        for place in (loss.nats.argmax(), loss.nats.argmin())
    )
    assert sum(map(int, re.findall(r"\d+", hardest))) < sum(map(int, re.findall(r"\d+", easiest)))
    page.reload()
    assert page.locator(".token").count() == len(loss)


# ---------------------------------------------------------------------------------------- errors


def test_errors_of_the_server_are_shown_in_its_words(server, visit):
    one = visit(server)
    page = one.open()
    one.refusals = 3
    one.complete("a" * 40)
    assert page.inner_text(".error") == server.post(prompt="a" * 40).json()["error"]["message"]
    one.complete("a", temperature=-1)
    assert "temperature must be" in page.inner_text(".error")
    page.click("#tab-score")
    page.click("main .primary")
    message = server.post("/v1/score", input="").json()["error"]["message"]
    page.wait_for_selector(f"text={message}")
    page.click("#tab-complete")
    assert one.complete("an", temperature=0) == server.text(prompt="an", temperature=0)
    assert page.locator(".error").count() == 0


def test_a_server_that_is_gone_or_stopping_is_told(start, endless, visit):
    server = start(endless, "--max-tokens=1000000")
    busy, other = visit(server), visit(server)
    for one in (busy, other):
        one.open()
    busy.options(max_tokens=1000000, top_k=3)
    busy.page.fill("#prompt", "an")
    busy.page.click("main .primary")
    busy.page.wait_for_selector(".token >> nth=50", state="attached")
    server.signal()
    other.refusals = 2
    other.complete("an")
    assert other.page.inner_text(".error") == "the server is stopping; ask again later"
    server.process.kill()
    busy.refusals = 1
    assert len(busy.end()) > 50
    assert busy.page.inner_text(".error") == "The server ended the connection before the text."
    other.page.click("text=Regenerate")
    other.page.wait_for_selector(
        "text=The server does not answer. Is nanochat serve still running?"
    )
    busy.page.wait_for_timeout(100)
    busy.refusals = 0  # Chromium may or may not tell of a connection that ends


def test_the_key_is_asked_for_and_kept_in_memory_only(start, names, visit):
    server = start(names, NCLAB_API_KEY=KEY)
    one = visit(server)
    page = one.open()
    assert page.inner_text("#model") == ""
    assert names.name not in server.client.get("/").text.partition('id="facts">')[2][:400]
    one.complete("an")
    assert page.inner_text(".error") == "This server needs its API key."
    one.refusals = 1
    for key, expected in (("wrong", "This is not the API key of this server."), (KEY, None)):
        page.fill("#key input", key)
        page.press("#key input", "Enter")
        one.complete("an", max_tokens=3)
        shown = page.locator(".error").all_inner_texts()
        assert shown == ([expected] if expected else [])
    assert not page.is_visible("#key")
    kept = page.evaluate(
        "JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])"
    )
    assert KEY not in kept
    page.reload()
    assert page.is_visible("#key")


# --------------------------------------------------------------------------------- hostile texts


def test_texts_of_the_model_and_the_user_are_text_only(start, hostile, visit):
    one = visit(start(hostile, code=CHATTING))
    page = one.open()
    assert page.inner_text("#model") == hostile.name
    before = elements(page)
    for place, text in enumerate(HOSTILE):
        page.fill("#draft", text)
        page.press("#draft", "Enter")
        one.end()
        assert page.locator(".said").nth(place).inner_text() == text
        page.click("#tab-score")
        page.fill("#text", text)
        page.click("main .primary")
        page.wait_for_selector(".token")
        assert page.inner_text(".tokens") == text + "∎\n"
        page.click("#tab-chat")
    page.click("#tab-complete")
    written = []
    for text in HOSTILE:
        written.append(text[:4] + one.complete(text[:4], temperature=0))
        for token in one.tokens()[:9]:
            token.hover()
    assert len({*written} & {*HOSTILE}) >= 3  # the model writes them
    page.reload()
    assert elements(page) <= before | {"TABLE", "THEAD", "TBODY", "TR", "TH", "TD", "I", "H2"}


def elements(page: Page) -> set[str]:
    return set(page.evaluate("[...document.querySelectorAll('*')].map((one) => one.tagName)"))


def test_a_session_that_was_tampered_with_is_text_only_too(server, visit):
    one = visit(server)
    page = one.open()
    text = HOSTILE[1]
    token = {"token": text, "text": text, "id": 1, "probability": 1, "likeliest": []}
    writing = {"text": text * 2, "tokens": [token], "reason": text, "seed": text, "error": text}
    state = {"tab": "complete", "written": {"prompt": text, "writing": writing}, "prompt": text}
    page.evaluate(
        "kept => addEventListener('pagehide', () => { sessionStorage.nanochat = kept; })",
        json.dumps({"model": server.model, "state": state}),
    )
    page.reload()
    assert page.inner_text(".given") == text
    assert page.inner_text(".error") == text
    one.tokens()[0].hover()
    assert page.locator("img").count() == 0


# ---------------------------------------------------------------------------------------- screens


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_tab_fits_the_screen_and_can_be_read(size, theme, chatting, visit):
    one = visit(chatting, size, theme)
    page = one.open()
    if not page.is_visible("[name=seed]"):
        page.click("summary")
    one.options(seed=1)
    fits(page)
    page.fill("#draft", "an")
    page.press("#draft", "Enter")
    one.end()
    one.tokens()[0].click()
    fits(page)
    page.keyboard.press("Escape")
    page.click("#tab-complete")
    one.complete("an")
    one.complete("an", temperature=0)
    fits(page)
    page.click("#tab-score")
    page.fill("#text", "anna\n" * 30)
    page.click("main .primary")
    page.wait_for_selector(".token")
    one.tokens()[0].click()
    fits(page)


def fits(page: Page) -> None:
    """The page has no horizontal scroll bar, and every text a contrast of at least 4.5."""
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    low = [found for found in nonempty(page.evaluate(CONTRASTS)) if found[0] < 4.5]
    assert low == []


def test_the_theme_button_changes_the_colors(server, visit):
    page = visit(server).open()
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(color)
    page.click("#theme")
    assert page.evaluate(color) == light
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: dark"
    assert page.evaluate(color) == "rgb(21, 22, 25)"


def test_everything_can_be_done_by_keyboard(chatting, visit):
    one = visit(chatting)
    page = one.open()
    one.options(seed=1)
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-complete"
    page.focus("#prompt")
    page.keyboard.type("an")
    page.keyboard.press("Control+Enter")
    one.end()
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.className || document.activeElement.name")
        )
    assert {"primary", "temperature", "seed"} <= reached
    assert any("token" in name for name in reached)
