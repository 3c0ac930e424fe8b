"""The page at / as a person uses it, in a browser, against a server whose engine answers at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'mpispec[browser]'")

from playwright.sync_api import BrowserContext, Locator, Page, expect
from serve_fake import FakeEngine, make_service, serving

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def answers(page: Page) -> Locator:
    return page.locator(".message.assistant .body")


def await_end(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_an_answer_is_streamed_and_kept_over_a_reload(page: Page, engine: FakeEngine) -> None:
    say(page, "wait for me")
    expect(answers(page)).to_have_text("You said: wait for me")  # while the engine still has the end to itself
    expect(page.locator("#log")).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop").click()
    engine.await_withdrawn(1)
    await_end(page)
    expect(page.locator(".message.assistant .note")).to_have_text("stopped")
    page.reload()
    expect(page.locator(".message.user .body")).to_have_text("wait for me")
    expect(answers(page)).to_have_text("You said: wait for me")
    expect(page.locator("#chat-list .chat")).to_have_text("wait for me")
    say(page, "again")
    expect(answers(page).last).to_have_text("You said: again")


def test_what_was_written_when_the_page_was_left_is_kept(page: Page, engine: FakeEngine) -> None:
    say(page, "wait")
    expect(answers(page)).to_have_text("You said: wait")
    page.reload()
    engine.await_withdrawn(1)
    expect(answers(page)).to_have_text("You said: wait")
    expect(page.locator(".message.assistant .note")).to_have_text("not answered to the end")


def test_two_tabs_keep_the_chats_of_both(page: Page, context: BrowserContext, url: str) -> None:
    other = context.new_page()
    other.goto(url)
    for tab, text in ((page, "one"), (other, "two"), (page, "three")):
        tab.get_by_role("button", name="New chat").click()
        say(tab, text)
        await_end(tab)
        for each in (page, other):
            expect(each.locator("#chat-list .chat").first).to_have_text(text)
    other.reload()
    expect(other.locator("#chat-list .chat")).to_have_text(["three", "two", "one"])
    other.get_by_role("button", name="Delete three").click()
    other.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#chat-list .chat")).to_have_text(["two", "one"])


def test_a_message_of_several_lines_is_one(page: Page) -> None:
    field = page.get_by_label("Message", exact=True)
    field.fill("write:one")
    field.press("Shift+Enter")
    field.type("two")
    field.press("Enter")
    expect(page.locator(".message.user .body")).to_have_text("write:one\ntwo")


def test_editing_a_message_forgets_what_came_after(page: Page, engine: FakeEngine) -> None:
    for text in ("first", "second"):
        say(page, text)
        await_end(page)
    page.locator(".message.user").first.hover()
    page.locator(".message.user").first.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("third")
    page.locator(".edit").get_by_role("button", name="Send").click()
    expect(answers(page)).to_have_text(["You said: third"])
    assert b"first" not in bytes(token % 256 for token in engine.generations[-1].prompt)


def test_an_answer_can_be_written_again(page: Page, engine: FakeEngine) -> None:
    say(page, "hello")
    await_end(page)
    page.get_by_role("button", name="Write again").click()
    engine.await_requests(2)
    expect(answers(page)).to_have_text(["You said: hello"])
    assert engine.generations[0].prompt == engine.generations[1].prompt


def test_an_answer_can_be_copied(page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    say(page, "write:**bold** and\n\n```py\nx = 1\n```")
    expect(page.locator(".body strong")).to_have_text("bold")
    await_end(page)
    page.locator(".message.assistant .message-tools").get_by_role("button", name="Copy").click()
    expect(page.locator("#announcer")).to_have_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == "**bold** and\n\n```py\nx = 1\n```"
    page.locator(".code").get_by_role("button", name="Copy").click()
    expect(page.locator(".code-head .drawn path")).to_have_attribute("d", "M5 13l4 4L19 7")
    assert page.evaluate("() => navigator.clipboard.readText()") == "x = 1"


HOSTILE = [
    "<script>window.hit = 1</script>",
    '<img src=x onerror="window.hit = 1">',
    "[click](javascript:window.hit=1)",
    "[click](<javascript:window.hit=1>)",
    "[click](data:text/html,<script>1</script>)",
    "![picture](javascript:window.hit=1)",
    '"><svg onload=window.hit=1>',
    "```<img src=x onerror=window.hit=1>\n<script>window.hit = 1</script>\n```",
    "| a |\n|---|\n| <img src=x onerror=window.hit=1> |",
    "- **<b onmouseover=window.hit=1>x</b>**",
    "<https://example.com/'onclick='window.hit=1>",
    "# <iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_writes_stays_text(page: Page, text: str) -> None:
    say(page, f"write:{text}")
    await_end(page)
    expect(answers(page)).not_to_be_empty()
    body = answers(page)
    assert body.locator("script, img, iframe, svg[onload], [onerror], [onmouseover], [onclick]").count() == 0
    for link in body.locator("a").all():
        assert re.match(r"(https?|mailto):", link.get_attribute("href") or "")
        assert link.get_attribute("rel") == "noopener noreferrer"
    page.get_by_role("button", name="Colour draft tokens").click()
    assert page.evaluate("() => window.hit === undefined")
    assert page.locator(".message.assistant .body").inner_text().strip() != ""


MARKDOWN = """\
# Title

Some *emphasis*, **strength**, ~~strikes~~, `code` and snake_case_name.
See [a page](https://example.com/a_(b)) or https://example.com/x.

1. one
2. two
   - nested
   - more

> quoted

| left | right |
|------|------:|
| a    | 1     |

```python
def f():
    return "<b>"
```

---
2 * 3 * 4 \\*literal\\*
"""


def test_markdown_is_shown(page: Page) -> None:
    say(page, f"write:{MARKDOWN}")
    await_end(page)
    body = answers(page)
    expect(body.locator("h3")).to_have_text("Title")
    expect(body.locator("p em")).to_have_text("emphasis")
    expect(body.locator("strong")).to_have_text("strength")
    expect(body.locator("s")).to_have_text("strikes")
    expect(body.locator("p code")).to_have_text("code")
    links = [link.get_attribute("href") for link in body.locator("a").all()]
    assert links == ["https://example.com/a_(b)", "https://example.com/x"]
    expect(body.locator("ol > li")).to_have_count(2)
    expect(body.locator("ol > li ul > li")).to_have_text(["nested", "more"])
    expect(body.locator("blockquote p")).to_have_text("quoted")
    expect(body.locator("td.right")).to_have_text("1")
    expect(body.locator("pre code")).to_have_text('def f():\n    return "<b>"')
    expect(body.locator("hr")).to_have_count(1)
    expect(body.locator("p").last).to_have_text("2 * 3 * 4 *literal*")


@pytest.mark.parametrize(
    "unit", ["*", "**a ", "_", "`", "[", "[a](", "> ", "- ", "~~", "|", "\\", "<", "((", "***a* "], ids=repr
)
def test_strange_markdown_takes_no_time_to_speak_of(page: Page, unit: str) -> None:
    """Twenty thousand characters that open and never close."""
    page.evaluate(
        """async (text) => {
            const { showMarkdown } = await import("/page/markdown.js");
            const place = document.createElement("div");
            place.id = "place";
            showMarkdown(place, text);
            document.body.append(place);
        }""",
        unit * (20_000 // len(unit)),
    )
    expect(page.locator("#place")).to_have_count(1)


def test_settings_reach_the_engine_and_survive_a_reload(page: Page, engine: FakeEngine) -> None:
    page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("System prompt").fill("Be brief.")
    dialog.get_by_label("Temperature").fill("0.5")
    dialog.get_by_label("Top-p").fill("0.9")
    dialog.get_by_label("Most tokens").fill("11")
    dialog.get_by_label("Seed").fill("7")
    offered = ["pipeinfer, as the server has it", "plain", "sync", "pipeinfer"]
    expect(dialog.get_by_label("Strategy").locator("option")).to_have_text(offered)
    dialog.get_by_label("Strategy").select_option("sync")
    dialog.get_by_label("Drafter").select_option("draft")
    dialog.get_by_role("button", name="Done").click()
    page.reload()
    say(page, "hello")
    await_end(page)
    expect(answers(page)).to_have_text("You said: h")
    (generation,) = engine.generations
    assert b"system\nBe brief." in bytes(token % 256 for token in generation.prompt)
    assert (generation.sampling.temperature, generation.sampling.top_p, generation.sampling.seed) == (0.5, 0.9, 7)
    assert (generation.max_tokens, generation.strategy, generation.drafter) == (11, "sync", "draft")


def test_chats_are_listed_deleted_exported_and_imported(page: Page, tmp_path: Path) -> None:
    for text in ("one", "two"):
        page.get_by_role("button", name="New chat").click()
        say(page, text)
        await_end(page)
    listed = page.locator("#chat-list .chat")
    expect(listed).to_have_text(["two", "one"])
    listed.last.click()
    expect(answers(page)).to_have_text("You said: one")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    assert [chat["title"] for chat in json.loads(file.read_text())["chats"]] == ["two", "one"]
    page.get_by_role("button", name="Delete one").click()
    page.get_by_role("button", name="Keep").click()
    expect(listed).to_have_count(2)
    page.get_by_role("button", name="Delete one").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(listed).to_have_text(["two"])
    page.locator("#import-file").set_input_files(file)
    expect(page.locator("#chat-list .hint")).to_have_text("1 chat was imported.")
    expect(listed).to_have_text(["two", "one"])
    bad = tmp_path / "bad.json"
    bad.write_text('{"form": "mpispec chats", "chats": [{"id": 1}]}')
    page.locator("#import-file").set_input_files(bad)
    expect(page.locator("#chat-list .hint")).to_have_text("A chat in the file is damaged; nothing was imported.")
    expect(listed).to_have_count(2)


def test_a_key_is_asked_for_and_kept_by_the_tab(context: BrowserContext) -> None:
    with serving(FakeEngine(), key="secret") as url:
        page = context.new_page()
        page.goto(url)
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Key").fill("wrong")
        dialog.get_by_role("button", name="Use it").click()
        expect(dialog.get_by_text("does not know that key")).to_be_visible()
        dialog.get_by_label("Key").fill("secret")
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator("#model")).to_have_text("toy")
        page.reload()
        expect(page.locator("#model")).to_have_text("toy")
        say(page, "hello")
        expect(answers(page)).to_have_text("You said: hello")
        assert "secret" not in page.evaluate("() => JSON.stringify(localStorage)")


def test_a_server_that_is_gone_is_named(context: BrowserContext) -> None:
    page = context.new_page()
    with serving(FakeEngine()) as url:
        page.goto(url)
        expect(page.locator("#model")).to_have_text("toy")
    gone = "The server cannot be reached. Is mpispec serve still running?"
    expect(page.get_by_role("status").filter(has_text=gone).first).to_be_visible()
    say(page, "hello")
    expect(page.get_by_role("alert")).to_contain_text(gone)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator(".message.user .body")).to_have_text("hello")


def test_an_engine_that_stops_ends_the_answer_with_its_reason(page: Page, engine: FakeEngine) -> None:
    say(page, "wait")
    expect(answers(page)).to_have_text("You said: wait")
    engine.stop()
    expect(page.get_by_role("alert")).to_contain_text("The engine has stopped; start mpispec serve again.")
    expect(answers(page)).to_have_text("You said: wait")


THINKS = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
    "{% if enable_thinking %}<think></think>{% endif %}"
)


def test_thoughts_are_folded(context: BrowserContext) -> None:
    engine = FakeEngine()
    with serving(engine, service=make_service(engine, template=THINKS)) as url:
        page = context.new_page()
        page.goto(url)
        say(page, "write:<think>Hmm, well.</think>Yes.")
        expect(answers(page)).to_have_text("Yes.")
        expect(page.locator(".thought-body")).to_be_hidden()
        page.locator("summary").click()
        expect(page.locator(".thought-body")).to_have_text("Hmm, well.")


def background(page: Page) -> str:
    return str(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))


def test_colours_follow_the_system_or_the_switch(page: Page) -> None:
    light = background(page)
    page.emulate_media(color_scheme="dark")
    dark = background(page)
    assert light != dark
    page.get_by_role("button", name="Colours: as the system").click()
    assert background(page) == light
    page.get_by_role("button", name="Colours: light").click()
    assert background(page) == dark
    page.emulate_media(color_scheme="light")
    page.reload()
    assert background(page) == dark


def test_a_phone_shows_one_thing_at_a_time_and_scrolls_down_only(page: Page) -> None:
    page.set_viewport_size(PHONE)
    expect(page.locator("#chats")).to_be_hidden()
    expect(page.locator("#pipeline")).to_be_hidden()
    say(
        page, "write:" + "long" * 40 + "\n\n```\n" + "wide " * 40 + "\n```\n\n| " + "cell | " * 20 + "\n|" + "---|" * 20
    )
    await_end(page)
    for name in ("Chats", "Pipeline"):
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("#scroller").evaluate("place => place.scrollWidth <= place.clientWidth")
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator(f"#{name.lower()}")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(f"#{name.lower()}")).to_be_hidden()


def test_all_can_be_reached_and_has_a_name(page: Page) -> None:
    say(page, "write:```\ncode\n```")
    await_end(page)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a[href], dialog, nav, aside")]
            .filter((each) => !(each.textContent.trim() || each.ariaLabel || each.labels?.length || each.title
                                || each.getAttribute("aria-labelledby")))
            .map((each) => each.outerHTML)"""
    )
    assert unnamed == []
    page.locator("body").press("Tab")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id"))
    assert {"new-chat", "export", "import", "drafts", "theme", "settings-open", "pipeline-open", "message"} <= reached
