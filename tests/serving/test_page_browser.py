"""The page in a real browser: each view does its job, hostile text stays text, nothing elsewhere is asked for.

CHAINRULE_BROWSER names the browser; where there is none these tests are skipped, and with CHAINRULE_BROWSER they fail.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if "CHAINRULE_BROWSER" not in os.environ:
    pytest.importorskip("starlette", reason="starlette is not installed: pip install 'chainrule[serve]'")
    pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'chainrule[serve]'")
    pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
import uvicorn
from conftest import random_model
from page_models import HOSTILE, PROMPT, served_in
from playwright.sync_api import Page, Route, expect, sync_playwright

from chainrule.generation.sampling import Sampling, probabilities
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.prompting.in_context import zero_shot
from chainrule.serving.app import make_app
from chainrule.serving.model_thread import ModelThread
from chainrule.serving.page_views import next_blank
from chainrule.serving.safety import Rules
from chainrule.serving.served import Served, ServedMasked
from chainrule.tasks.examples import Task
from chainrule.tokens.make import byte_tokenizer

# What each view shows when it is ready.
VIEWS = {
    "next": ".bars button", "chain": ".heat-token", "tasks": ".labels", "runs": ".chart svg", "chat": ".messages",
}  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("CHAINRULE_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")


class Server:
    """The application on a free port of this machine, in a thread of its own; it can end and come back."""

    def __init__(self, served: Served, rules: Rules = Rules()) -> None:
        self.served, self.rules, self.port = served, rules, 0
        self.start()

    def start(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        settings = uvicorn.Config(make_app(self.served, self.rules), log_level="warning", timeout_graceful_shutdown=0)
        self.server = uvicorn.Server(settings)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([listening])), daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 10
        while not self.server.started and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One server, one browser and one tab, for all tests; requests that leave the machine fail and are listed."""
    folder = tmp_path_factory.mktemp("served")
    server = Server(served_in(folder))
    elsewhere: list[str] = []
    problems: list[str] = []

    def only_loopback(route: Route) -> None:
        if re.match(rf"(http://127\.0\.0\.1:{server.port}/|blob:|data:)", route.request.url):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(20_000)
        expect.set_options(timeout=20_000)
        context.route("**/*", only_loopback)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None)
        yield SimpleNamespace(
            page=page, server=server, folder=folder, elsewhere=elsewhere, problems=problems,
            url=f"http://127.0.0.1:{server.port}/",
        )  # fmt: skip
        browser.close()
    server.stop()


@pytest.fixture
def page(opened: SimpleNamespace) -> Iterator[Page]:
    """An empty tab; after each test nothing was asked of elsewhere, and no script failed or was forbidden."""
    opened.page.goto("about:blank")
    yield opened.page
    assert opened.elsewhere == []
    assert opened.problems == []


def see(page: Page, opened: SimpleNamespace, view: str) -> None:
    """Open a view in the empty tab."""
    page.goto(f"{opened.url}#{view}")


def test_a_browser_reshapes_p_as_sampling_does(page: Page, opened: SimpleNamespace) -> None:
    """The same tokens are kept, ties included, and their probabilities agree to the rounding of float32."""
    generator = torch.Generator().manual_seed(0)
    spread = [torch.randn(300, generator=generator) * scale for scale in (0.5, 3.0, 20.0)]
    tied = [
        torch.zeros(10),
        torch.randn(40, generator=generator).round(),
        torch.tensor([2.0, -0.0, 2.0, 0.0, -0.0, -torch.inf]),
    ]
    settings = [
        Sampling(temperature, top_k, top_p, min_p)
        for temperature in (0.0, 0.3, 1.0, 1.7)
        for top_k, top_p, min_p in (
            (None, None, None), (1, None, None), (7, None, None), (500, None, None), (None, 0.5, None),
            (None, 0.9, None), (None, 1.0, None), (None, None, 0.0), (None, None, 0.1), (None, None, 1.0),
            (20, 0.8, 0.05),
        )
    ]  # fmt: skip
    cases = [(logits, sampling) for logits in spread + tied for sampling in settings]
    see(page, opened, "next")
    orders = page.evaluate(
        """async logits => {
            const { byLogit } = await import("/static/distribution.js");
            return logits.map(each => [...byLogit(Float32Array.from(each, u => u ?? -Infinity))]);
        }""",
        [[None if each == -torch.inf else each for each in logits.tolist()] for logits in spread + tied],
    )
    assert orders == [logits.argsort(descending=True, stable=True).tolist() for logits in spread + tied]
    found = page.evaluate(
        """async cases => {
            const { byLogit, reshape } = await import("/static/distribution.js");
            return cases.map(([logits, options]) => {
                const u = Float32Array.from(logits, each => each ?? -Infinity), order = byLogit(u);
                const p = reshape(u, order, options), all = new Array(u.length).fill(0);
                p.forEach((each, rank) => all[order[rank]] = each);
                return all;
            });
        }""",
        [
            [
                [None if each == -torch.inf else each for each in logits.tolist()],
                {"temperature": one.temperature, "topK": one.top_k, "topP": one.top_p, "minP": one.min_p},
            ]
            for logits, one in cases
        ],
    )
    assert len(found) == len(cases) == 6 * 44
    for (logits, sampling), p in zip(cases, found, strict=True):
        expected, actual = probabilities(logits[None], sampling)[0], torch.tensor(p, dtype=torch.float32)
        assert torch.equal(actual > 0, expected > 0), sampling
        assert torch.allclose(actual, expected, rtol=3e-6, atol=0), sampling


def test_the_next_word_is_chosen_reshaped_and_remembered(page: Page, opened: SimpleNamespace) -> None:
    see(page, opened, "next")
    lm = opened.server.served.models["small"].lm
    page.get_by_label("Prompt").fill(PROMPT)
    bars = page.locator(".bars button")
    expect(bars.first.locator(".word")).to_contain_text("<img")
    (_, p), (_, second) = lm.next_token(PROMPT, top=2)
    expect(bars.first.locator(".p")).to_have_text(f"{p:.4f}")
    expect(bars.nth(1).locator(".byte")).to_have_text("c3")
    rest = 1 - sum(each for _, each in lm.next_token(PROMPT, top=15))
    expect(page.locator(".bars .rest .p")).to_have_text(f"{rest:.4f}")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "/page/" in request.url else None)
    page.get_by_label("top-k", exact=True).fill("1")  # the slider's second stop: 2 tokens
    expect(bars.nth(1).locator(".p")).to_have_text(f"{second / (p + second):.4f}")
    expect(page.locator(".summary")).to_contain_text("2 of 260 tokens are kept")
    page.get_by_label("temperature, exact value").fill("0")
    expect(bars.first.locator(".p")).to_have_text("1.0000")
    assert requests == []  # all logits were there
    bars.nth(1).click()
    expect(page.locator(".tokens .new")).to_have_text("c3")
    page.keyboard.press("Backspace")
    expect(page.locator(".tokens .new")).to_have_count(0)
    bars.first.press("Enter")
    expect(page.locator(".tokens .new")).to_have_text(HOSTILE.replace(" ", "·"))
    branches = page.locator(".tree li li")
    expect(branches).to_have_count(2)  # the more probable first
    logs = [re.findall(r"−?[\d.]+$", text)[0] for text in branches.locator(".figure").all_inner_texts()]
    assert [float(text.replace("−", "-")) for text in logs] == pytest.approx(
        [float(torch.tensor(each).log()) for each in (p, second)], abs=6e-4
    )
    page.get_by_role("button", name="Draw 10").click()
    expect(page.locator(".tokens .new")).to_have_count(11)


def test_a_text_is_coloured_token_by_token_and_two_models_stand_side_by_side(
    page: Page, opened: SimpleNamespace
) -> None:
    see(page, opened, "chain")
    lm, text = opened.server.served.models["small"].lm, "cats né\n<b>"
    page.get_by_label("Text", exact=True).fill(text)
    scores = lm.score(text)
    tokens = page.locator(".heat-token")
    expect(tokens).to_have_count(len(scores))
    assert [float(each.replace("−", "-")) for each in tokens.locator("small").all_inner_texts()] == pytest.approx(
        [score.log_prob for score in scores], abs=0.051
    )
    expect(page.locator(".panel .facts")).to_contain_text(f"{abs(lm.log_prob(text)):.2f} nats in all")
    expect(page.locator(".panel .facts")).to_contain_text("bits per byte")
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    _, log_prob = scores[1].alternatives[0]
    expect(page.locator(".alternatives .bars .was").first).to_have_text(f"{log_prob:.2f}".replace("-", "−"))
    page.get_by_label("beside it").select_option("other")
    expect(page.locator(".panel")).to_have_count(2)
    expect(page.locator(".chain > .summary")).to_contain_text("0.000 bits per byte")


def test_a_task_is_edited_measured_and_saved(page: Page, opened: SimpleNamespace, tmp_path: Path) -> None:
    see(page, opened, "tasks")
    panels = page.locator(".tasks .panel")
    expect(panels.first.locator("tbody tr")).to_have_count(2)
    page.get_by_label("Template").fill("{text} So: {label}")
    page.get_by_label("Label word of good").fill("fun")
    expect(panels.first.locator(".prompt")).to_contain_text("So:")
    expect(panels.first.locator("tbody")).to_contain_text("fun")
    page.get_by_role("button", name="Add one of each label").click()
    shots = page.locator(".shots li")
    expect(shots).to_have_count(2)
    expect(panels.nth(1).locator(".prompt")).to_contain_text("fun")
    _, second = shots.all_inner_texts()
    page.get_by_role("button", name=re.compile("Move demonstration 1.* down")).press("Enter")
    expect(shots.nth(0)).to_contain_text(second.split("\n")[0])
    page.get_by_label("Calibration").select_option("content-free")
    expect(panels.nth(1).locator("thead")).to_contain_text("bias")
    after = panels.nth(1).locator("tbody tr td:last-child .p").all_inner_texts()
    assert sum(map(float, after)) == pytest.approx(1, abs=2e-4)
    page.get_by_role("button", name="Measure", exact=True).click()
    expect(page.locator(".tasks .summary")).to_contain_text(
        re.compile("On 32 test rows zero-shot .* paired difference")
    )
    page.get_by_role("button", name="Make the files").click()
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download films.toml").click()
    downloading.value.save_as(tmp_path / "films.toml")
    task = Task.load(tmp_path / "films.toml")
    assert (
        task.prompt is not None and task.prompt.template == "{text} So: {label}" and task.prompt.word("good") == "fun"
    )
    page.get_by_label("Task", exact=True).select_option("pasted rows")
    expect(page.get_by_label("Label word of positive")).to_be_visible()
    rows = page.get_by_label("Rows").first
    rows.fill("no tab here")
    expect(page.locator(".tasks .problem")).to_contain_text("line 1: wanted a text, a tab and a label")
    expect(panels).to_have_count(0)  # not those of rows that are there no more
    page.get_by_role("button", name="Next row").click()
    page.get_by_label("Template").fill("{text} So: {label}")
    rows.fill("".join(f"film {number} fine\tgood\nfilm {number} dull\tbad\n" for number in range(9)))
    expect(panels.first.locator(".prompt")).to_contain_text("So:")  # what was written about the rows stays


def test_a_free_answer_stands_beside_the_expected_one(opened: SimpleNamespace, tmp_path: Path) -> None:
    rows = "".join(f"a {('fine', 'grim')[n % 2]} day {n}\tday {n}\n" for n in range(20))
    (tmp_path / "days.tsv").write_text(f"text\tanswer\n{rows}")
    (tmp_path / "days.toml").write_text(
        'kind = "free"\ntrain = "days.tsv"\ntext = "text"\nlabel = "answer"\n[prompt]\ntemplate = "{text}: {label}"\n'
    )
    task, model = Task.load(tmp_path / "days.toml"), opened.server.served.models["small"]
    server = Server(Served({"small": model}, tasks={"days": task}))
    page = opened.page.context.browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{server.port}/#tasks")
    panel = page.locator(".tasks .panel").first
    page.get_by_label("Task", exact=True).select_option("pasted rows")
    page.get_by_label("Calibration").select_option("content-free")
    expect(panel.locator("thead")).to_contain_text("bias")
    page.get_by_label("Task", exact=True).select_option("days")  # calibration is left behind
    shown = zero_shot(model.lm, task).show(task.test.rows[0])
    expect(panel.locator("dd").nth(1)).to_have_text(task.test.labels[0])
    expect(panel.locator("dd").first).to_contain_text((shown.answer.split() or ["nothing"])[0])
    expect(panel).to_contain_text("it counts as wrong")
    expect(page.get_by_label("Calibration")).to_be_hidden()
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".tasks .panel dl")).to_have_count(2)
    page.get_by_role("button", name="Measure", exact=True).click()
    expect(page.locator(".tasks .summary")).to_contain_text(re.compile("On 4 test rows .* 1 demonstration on"))
    page.context.close()
    server.stop()


def test_a_run_is_followed_while_it_trains_and_a_report_runs_apart(page: Page, opened: SimpleNamespace) -> None:
    os.utime(opened.folder / "runs" / "books" / "first" / "log.jsonl")
    see(page, opened, "runs")
    expect(page.locator("tbody tr")).to_contain_text("29 of 60")
    expect(page.locator(".runs > .summary")).to_contain_text("Training now: books/first")
    drawn = page.locator(".chart polyline").first.get_attribute("points")
    with (opened.folder / "runs" / "books" / "first" / "log.jsonl").open("a") as log:
        log.write('ens": 0}\n' + json.dumps({"step": 31, "tokens": 3100, "loss": 0.1}) + "\n")
    expect(page.locator("tbody tr")).to_contain_text("31 of 60")
    assert page.locator(".chart polyline").first.get_attribute("points") != drawn
    expect(page.locator(".reports .advice")).to_contain_text(f"Take zero-shot. {HOSTILE}")
    page.get_by_role("button", name="Open the report").click()
    expect(page.frame_locator("iframe").locator("#told")).to_have_text("ran")


def test_runs_are_not_asked_for_once_their_view_is_left(opened: SimpleNamespace) -> None:
    tab = opened.page.context.new_page()
    tab.add_init_script("const real = setTimeout; window.setTimeout = (call, after) => real(call, after / 20)")
    asked: list[Route] = []

    def hold(route: Route) -> None:
        asked.append(route)  # no answer comes before the view is left

    tab.route("**/page/runs", hold)
    with tab.expect_request("**/page/runs"):
        see(tab, opened, "runs")
    tab.evaluate("location.hash = 'next'")
    expect(tab.locator(VIEWS["next"]).first).to_be_visible()
    tab.wait_for_timeout(400)
    assert len(asked) == 1
    tab.close()


@contextmanager
def slowed(opened: SimpleNamespace) -> Iterator[None]:
    """Within, each step of the model takes a while."""
    model = opened.server.served.models["small"].lm.model
    features = model.features

    def slow(*args: object, **options: object) -> torch.Tensor:
        time.sleep(0.05)
        return features(*args, **options)

    model.features = slow
    yield
    del model.features


def say(page: Page, text: str) -> None:
    page.locator(".chat form textarea").fill(text)
    page.keyboard.press("Enter")


def test_a_chat_is_streamed_stopped_and_gone_on_with(page: Page, opened: SimpleNamespace) -> None:
    see(page, opened, "chat")
    page.locator(".chat summary").click()
    page.get_by_label("At most tokens").fill("20")
    answers = page.locator(".message.assistant .content")
    say(page, f"Hello {HOSTILE}")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".message.user .content")).to_have_text(f"Hello {HOSTILE}")
    expect(answers.first).not_to_have_text("")
    page.get_by_label("At most tokens").fill("200")
    with slowed(opened):
        say(page, "And now?")
        expect(answers.nth(1)).not_to_have_text("")
        page.get_by_role("button", name="Stop").click()
        expect(answers.nth(1)).to_contain_text("(not complete)")
    engine = opened.server.served.models["small"].thread.engine
    deadline = time.monotonic() + 5
    while engine and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not engine  # what was stopped is generated no further
    assert page.locator("main img").count() == 0


def test_a_new_conversation_has_nothing_of_the_old_one(page: Page, opened: SimpleNamespace) -> None:
    see(page, opened, "chat")
    with slowed(opened):
        say(page, "the first")
        expect(page.locator(".message.assistant .content")).not_to_be_empty()
        page.get_by_role("button", name="New conversation").click()
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        with page.expect_request("**/v1/chat/completions") as sent:
            say(page, "the second")
        page.get_by_role("button", name="Stop").click()
    body = sent.value.post_data_json
    assert body is not None and body["messages"] == [{"role": "user", "content": "the second"}]


def test_a_key_is_asked_for_and_sent(page: Page, opened: SimpleNamespace) -> None:
    sent: list[str | None] = []

    def locked(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] is None:
            route.fulfill(status=401, json={"error": {"message": "wanted a key"}})
        else:
            route.continue_()

    page.route("**/page/about", locked)
    see(page, opened, "chain")
    page.get_by_label("This server wants its API key").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator(".heat-token").first).to_be_visible()
    assert sent == [None, "Bearer secret"]
    page.unroute("**/page/about")
    page.evaluate("() => sessionStorage.clear()")


def test_with_a_key_a_report_is_shown_too(opened: SimpleNamespace) -> None:
    server = Server(opened.server.served, Rules(key="secret"))
    page = opened.page.context.browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{server.port}/#runs")
    page.get_by_label("This server wants its API key").fill("secret")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Open the report").click()
    expect(page.frame_locator("iframe").locator("#told")).to_have_text("ran")
    with page.context.expect_page() as opening:
        page.get_by_role("link", name="Open it alone").click()
    expect(opening.value.locator("#told")).to_have_text("ran")
    page.context.close()
    server.stop()


def test_a_masked_model_fills_blanks(opened: SimpleNamespace) -> None:
    lm = MaskedLanguageModel(random_model("bert", 258, 64), byte_tokenizer(mask=True), "bert")
    server = Server(Served({}, masked={"bert": ServedMasked("bert", lm, ModelThread("bert"))}))
    mask = lm.tokenizer.named["mask_token"]
    page = opened.page.context.browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    expect(page.get_by_label("Prompt")).to_have_value(re.compile(re.escape(mask)))
    expect(page.get_by_role("link", name="Chain rule")).to_have_count(0)
    page.get_by_label("Prompt").fill(f"a {mask} d{mask}y")
    (_, p), *_ = lm.fill(f"a {mask} d{mask}y")[0]
    (best, *_) = next_blank(lm, f"a {mask} d{mask}y", [])["best"]
    bars = page.locator(".bars button")
    expect(bars.first.locator(".p")).to_have_text(f"{p:.4f}")
    expect(page.locator(".next .equation")).to_contain_text("all other tokens that are not masked")
    bars.first.click()
    (second, *_) = next_blank(lm, f"a {mask} d{mask}y", [best["id"]])["best"]
    expect(page.locator(".tokens").get_by_text(mask)).to_have_count(1)
    expect(bars.first).to_have_attribute("aria-label", re.compile(re.escape(second["text"])))
    bars.first.click()
    expect(page.locator(".next .problem")).to_contain_text("all of them are filled")
    page.context.close()
    server.stop()


def test_hostile_text_stays_text_in_every_view(page: Page, opened: SimpleNamespace) -> None:
    see(page, opened, "next")
    for view, shown in (
        ("next", ".bars .word"), ("chain", ".heat-token"), ("tasks", ".tokens.prompt"), ("runs", ".reports .advice"),
    ):  # fmt: skip
        see(page, opened, view)
        if view in ("next", "chain"):
            page.get_by_label("Prompt" if view == "next" else "Text", exact=True).fill(f"{HOSTILE} {PROMPT}")
        expect(page.locator(shown).first).to_be_visible()
        page.wait_for_timeout(400)
        assert page.locator("main img, main script").count() == 0
        assert "hostile" not in page.title()


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1200, "dark")])
def test_no_view_is_wider_than_the_screen(page: Page, opened: SimpleNamespace, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    for view, shown in VIEWS.items():
        see(page, opened, view)
        expect(page.locator(shown).first).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, view
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
    page.set_viewport_size({"width": 1200, "height": 900})
    page.emulate_media(color_scheme="light")


def test_every_control_has_a_name(page: Page, opened: SimpleNamespace) -> None:
    for view, shown in VIEWS.items():
        see(page, opened, view)
        expect(page.locator(shown).first).to_be_visible()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, a, input, select, textarea, [role=group], [role=log]")]
                .filter(each => each.checkVisibility() && !(each.getAttribute("aria-label") || each.textContent.trim()
                    || each.labels?.length || each.title)).map(each => each.outerHTML)"""
        )
        assert nameless == []


def test_a_server_that_ends_is_said_and_so_is_its_return(page: Page, opened: SimpleNamespace) -> None:
    see(page, opened, "chat")
    with slowed(opened):
        say(page, "Hello")
        expect(page.locator(".message.assistant .content")).not_to_have_text("")
        opened.server.stop()
    expect(page.locator(".chat .problem")).to_contain_text("The connection was lost")
    expect(page.locator(".message.assistant")).to_contain_text("(not complete)")
    page.get_by_role("link", name="Next word").click()
    expect(page.get_by_role("alert").first).to_contain_text("The server does not answer")
    expect(page.locator(".next .problem")).to_contain_text("does not answer")
    opened.server.start()
    expect(page.get_by_role("alert").first).to_contain_text("answers again")
    page.get_by_label("Prompt").fill(PROMPT)
    expect(page.locator(".tokens .given")).to_have_count(1 + len(PROMPT))
