"""Texts of vocabularies and corpora in Markdown: shown as they are by real renderers, and never more than text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from flows.reports.summary import markdown_cell
from interp.display import visible

TEXTS = [
    "http://evil.example/?a=1&b=2", "HTTPS://EVIL.EXAMPLE", "ftp://evil.example", "www.evil.example/x",
    "see foo.py", "evil.com", "//evil.com/x", "a@evil.com", "mailto:a@evil.com", "xmpp:a@evil.com",
    "<http://evil.example>", "[x](http://evil.example)", "![x](http://evil.example/p.png)",
    "[x]: http://evil.example", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a | b", "`code`",
    "**bold**", "__bold__", "~~gone~~", "# head", "- item", "1. item", "&lt;b&gt;", "&#x3c;b&#x3e;", "$x$", "\\",
    "\\\\|", "a\nb", "\u202ex", "java\tscript:alert(1)", "^[^1]", "||", "<!-- x", "  outer  ", "> quote", "***",
    "===", "http:/\u2060/x", "http://1.2.3.4:80/", "hTTp://[::1]/",
]  # fmt: skip

RENDERERS = {
    "GitHub, with links": MarkdownIt("gfm-like"),
    "CommonMark with tables": MarkdownIt("commonmark").enable("table"),
    "all": MarkdownIt("js-default", {"linkify": True, "html": True}).enable("linkify"),
}


def cells(renderer: MarkdownIt, text: str) -> list[str]:
    page = f"| a | b |\n|---|---|\n| {markdown_cell(text)} | after |\n"
    return re.findall(r"<td>(.*?)</td>", renderer.render(page), re.DOTALL)


@pytest.mark.parametrize("renderer", RENDERERS.values(), ids=RENDERERS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_one_cell_of_text(text: str, renderer: MarkdownIt) -> None:
    found, after = cells(renderer, text)
    assert after == "after"
    assert "<" not in found
    assert plain(found) == visible(text).strip()


@given(st.text(max_size=40) | st.lists(st.sampled_from(TEXTS), max_size=3).map("".join))
def test_whatever_a_text_is_made_of(text: str) -> None:
    found, after = cells(RENDERERS["all"], f"x{text}x")
    assert (after, "<" in found) == ("after", False)
    assert plain(found) == visible(f"x{text}x")


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_left_that_other_renderers_would_link(text: str) -> None:
    """GitHub's and Prefect's renderers look for addresses in the text once escapes are gone."""
    shown = RENDERERS["CommonMark with tables"].renderInline(markdown_cell(text))
    assert not re.search(r"(?i)(https?|ftp)://|www\.|[\w.+-]@[\w-]", plain_but_joiners(shown))


def plain(html: str) -> str:
    return plain_but_joiners(html).replace("\u2060", "")


def plain_but_joiners(html: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        html = html.replace(entity, character)
    return html
