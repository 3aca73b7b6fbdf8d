from __future__ import annotations

import pytest

from fletching.text.html import read_html
from fletching.text.passages import Heading, split_text


def read_text(page: str) -> str:
    return read_html(page)[0]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>It <b>ben</b>ds\n <a href=x>well</a>.", "It bends well."),
        ("<p>one<p>two", "one\n\ntwo"),
        ("<div>one<div>two</div>three</div>", "one\n\ntwo\n\nthree"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("&eacute;&nbsp;&lt;b&gt;&#x7BAD; &amp;amp;", "é <b>箭 &amp;"),
        ("bow&shy;string", "bowstring"),
        ("<p># no heading<p>- no item", "# no heading\n\n- no item"),
    ],
)
def test_prose_is_read(page: str, text: str) -> None:
    assert read_text(page) == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<ul><li>a<li>b</ul>c", "- a\n- b\n\nc"),
        ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b"),
        ("<ul><li>a<ol><li>b</ol><li>c</ul>", "- a\n  1. b\n- c"),
        ("<ul><li><p>a</p><p>b</p></ul>", "- a\n  b"),
        ("<ul><li></ul>a", "a"),
        ("<li>stray", "- stray"),
        ("<dl><dt>Bow<dd>It bends.</dl>", "Bow\n  It bends."),
    ],
)
def test_lists_are_read(page: str, text: str) -> None:
    assert read_text(page) == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<table><tr> <th>a</th> <th>b</th></tr> <tr><td>1</td><td>2</td></tr></table>", "a | b\n1 | 2"),
        ("<table><tr><td><p>a</p><p>b</p></td><td>c</td></tr></table>", "a b | c"),
        ("<table><caption>Bows</caption><tr><td>a</table>", "Bows\na"),
        ("<table><tr><td></td><td></td></tr><tr><td>a</table>", "a"),
    ],
)
def test_tables_are_read(page: str, text: str) -> None:
    assert read_text(page) == text


@pytest.mark.parametrize(
    "page",
    [
        "a<pre>if x:\n    y\n\nz</pre>b",
        "a<pre>\nif x:\n    y\n\n\nz\n</pre>b",
        "a<pre><code>if x:<br>    <b>y</b>\n\nz</code></pre>b",
        "a<pre><span class=linenos>1 </span>if x:\n    y\n\nz</pre>b",
    ],
)
def test_code_keeps_its_lines(page: str) -> None:
    assert read_text(page) == "a\n\nif x:\n    y\n\nz\n\nb"


@pytest.mark.parametrize(
    "page",
    [
        f"<{tag}>no</{tag}>"
        for tag in (
            "script",
            "style",
            "template",
            "noscript",
            "svg",
            "nav",
            "aside",
            "footer",
            "button",
            "p hidden",
            "p aria-hidden=true",
            "div role=navigation",
            "p style='color: red; display: none'",
            "p style=visibility:hidden",
        )
    ]
    + ["<!-- no -->", "<nav><p>no<div hidden>no</div>no</nav>", "<select><option>no</select>"],
)
def test_what_no_reader_sees_is_dropped(page: str) -> None:
    assert read_text(f"<p>a</p>{page}<p>b</p>") == "a\n\nb"


def test_aside_of_an_article_is_content() -> None:
    assert read_text("<article>a<aside>note</aside></article><aside>no</aside>") == "a\n\nnote"


def test_headings_leave_the_text() -> None:
    page = "<h1>Bow</h1>a<h2>Limb <a class=headerlink>#</a></h2><h2> Arrow \xb6</h2><p>b</p><h3>End</h3>"

    text, headings, _ = read_html(page)

    assert text == "a\n\nb"
    assert headings == (Heading(0, 1, "Bow"), Heading(3, 2, "Limb"), Heading(3, 2, "Arrow"))


def test_headings_stand_above_their_text() -> None:
    text, headings, _ = read_html("top<h1>Bow</h1><p>a<h2><div>Limb</div></h2><ul><li>b</ul><h1>Arrow</h1>c")

    passages = split_text(text, headings=headings)

    assert [(passage.heading, passage.text) for passage in passages] == [
        ("", "top"),
        ("Bow", "a"),
        ("Bow > Limb", "- b"),
        ("Arrow", "c"),
    ]


def test_heading_that_was_left_open_does_not_swallow_the_page() -> None:
    assert read_text("<h1>Bow<p>a</p>") == "a"


def test_title_is_read_once() -> None:
    page = "<head><title> Bows &amp;\n arrows</title></head><svg><title>icon</title></svg>"

    assert read_html(page)[2] == "Bows & arrows"


@pytest.mark.parametrize(
    "page", ["", " ", "<", "<!-- ", "</p></ul></td>", "<![CDATA[", "<?xml?>", "<nav>", "&#xd800"]
)
def test_broken_page_is_read(page: str) -> None:
    assert len(read_text(page)) <= 2


def test_declaration_of_xml_is_no_text() -> None:
    page = '<?xml version="1.0" encoding="latin-1"?><html><head><title/><script src="x"/></head>é</html>'

    assert read_text(page) == "é"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    [
        "<div>",
        "<ul><li>x",
        "<b>",
        "<table><tr><td>",
        "<h1>",
        "<p>",
        "<pre>",
        "<",
        "&",
        "<!--",
        "<a ",
        "<script>",
    ],
)
def test_nesting_and_length_cost_linear_time(unit: str) -> None:
    read_html(unit * (300_000 // len(unit)) + "x")


def test_deep_nesting_loses_nothing() -> None:
    assert read_text("<div>" * 10_000 + "deep" + "</div>" * 10_000) == "deep"


def test_spelled_out_control_characters_become_spaces() -> None:
    """An escape sequence would move the cursor of a terminal on which a hit is shown."""
    page = "<title>Q&#27;</title><h1>T&#27;[1m</h1><p>a&#27;[31mb</p><pre>c&#7;d&#13;e</pre>"
    text, headings, title = read_html(page)

    assert text == "a [31mb\n\nc d\ne"
    assert (headings[0].title, title) == ("T [1m", "Q")
