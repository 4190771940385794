"""Reading: what comes out of each format, and what hostile files get."""

import time

import pytest

from helix.knowledge.errors import DocumentTooLarge, UnreadableDocument
from helix.knowledge.reading import Reader, ReadLimits, media_type_of
from helix.knowledge.types import BlockKind, MediaType
from tests.knowledge.support import LIMITS, pdf, zeros_packed

GUIDE_AS_TEXT = b"# Pumps are primed first."


async def read(content: bytes, kind: MediaType, limits: ReadLimits = LIMITS):  # type: ignore[no-untyped-def]
    return await Reader(limits).read(content, kind)


async def test_a_pdf_gives_its_text_by_page() -> None:
    reading = await read(pdf(["Prime the pump.", "Clean the filter."]), MediaType.PDF)
    first, second = reading.page_starts
    assert reading.text[first:second].strip() == "Prime the pump."
    assert reading.text[second:].strip() == "Clean the filter."


async def test_html_loses_scripts_and_styles_and_keeps_headings_and_code() -> None:
    page = (
        b"<html><head><title> My  garden </title><style>p{color:red}</style></head><body>"
        b"<h1>Roses &amp; more</h1><p>Prune <b>in</b>\n March.<script>steal()</script></p>"
        b"<ul><li>one<li>two</ul><h2>Soil</h2><pre>ph  = 6.5\n  clay</pre>"
        b"<table><tr><td>a</td><td>b</td></tr></table>&#0;&#xD800;</body>"
    )
    reading = await read(page, MediaType.HTML)
    assert reading.title == "My garden"
    assert reading.text.rstrip() == (
        "Roses & more\n\nPrune in March.\n\none\ntwo\n\nSoil\n\nph  = 6.5\n  clay\n\na | b\n\n"
        "\ufffd\ufffd"
    )
    marked = [(b.kind, b.level, reading.text[b.start : b.end]) for b in reading.blocks]
    assert marked == [
        (BlockKind.HEADING, 1, "Roses & more"),
        (BlockKind.HEADING, 2, "Soil"),
        (BlockKind.CODE, 0, "ph  = 6.5\n  clay"),
    ]


async def test_html_says_its_charset_itself() -> None:
    page = '<meta charset="iso-8859-1"><p>Überdruck</p>'.encode("latin-1")
    assert (await read(page, MediaType.HTML)).text.strip() == "Überdruck"


async def test_a_stream_that_unpacks_beyond_the_memory_is_refused_within_five_seconds() -> None:
    bomb = pdf(["", ""], packed=zeros_packed(400))
    assert len(bomb) < 2_000_000
    started = time.monotonic()
    with pytest.raises(UnreadableDocument) as told:
        await read(bomb, MediaType.PDF, ReadLimits(seconds=4.5))
    assert told.value.status == 422
    assert time.monotonic() - started < 5


async def test_what_takes_too_long_is_ended() -> None:
    slow = b"<b>x" * 4_000_000  # honest work, for longer than a moment
    with pytest.raises(UnreadableDocument, match=r"more than 0\.5 s"):
        await read(slow, MediaType.HTML, ReadLimits(seconds=0.5, chars_max=10**8))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", MediaType.PDF),
        (b"%PDF-1.4 nothing else", MediaType.PDF),
        (GUIDE_AS_TEXT, MediaType.PDF),
        (b"\xff\xfe\x00", MediaType.TEXT),
        (b"caf\xe9", MediaType.MARKDOWN),
        (b"a\0b", MediaType.TEXT),
    ],
)
async def test_bytes_that_are_not_what_they_are_said_to_be_are_refused(
    content: bytes, kind: MediaType
) -> None:
    with pytest.raises(UnreadableDocument) as told:
        await read(content, kind)
    assert told.value.status == 422


async def test_each_limit_is_named() -> None:
    small = ReadLimits(bytes_max=2_000, pages_max=2, chars_max=1_000, seconds=60)
    for content, kind, name in [
        (b"x" * 2_001, MediaType.TEXT, "knowledge_file_bytes_max"),
        (b"x" * 1_001, MediaType.TEXT, "knowledge_chars_max"),
        (b"<p>" + b"x" * 1_001, MediaType.HTML, "knowledge_chars_max"),
        (pdf(["a", "b", "c"]), MediaType.PDF, "knowledge_pages_max"),
    ]:
        with pytest.raises(DocumentTooLarge, match=name) as told:
            await read(content, kind, small)
        assert told.value.status == 413


def test_endings_tell_the_type() -> None:
    assert media_type_of("a/b.README.MD") is MediaType.MARKDOWN
    assert media_type_of("x.pdf") is MediaType.PDF
    assert media_type_of("x.exe") is None
    assert media_type_of("noending") is None
