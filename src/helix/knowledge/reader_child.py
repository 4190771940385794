"""The process that reads one hostile document: bytes in on stdin, text out on stdout as JSON.

Run as a file, with nothing in its environment, `python -I reader_child.py KIND PAGES CHARS MEMORY
SECONDS`; KIND is pdf or html. It imports nothing of Helix, so that it starts in a moment. It may
use SECONDS of CPU and MEMORY bytes beyond what the interpreter needs, and write no file; beyond
either it ends. Answers {"text", "blocks", "page_starts", "title"} or {"error", "limit"}.
"""

import codecs
import io
import json
import logging
import re
import resource
import sys
from html.parser import HTMLParser
from pathlib import Path

import pypdf
import pypdf.errors

__all__ = ["MarkupReader", "TooMuch", "read_html", "read_pdf"]

TITLE_CHARS_MAX = 255
DROPPED = frozenset(
    {
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "canvas",
        "iframe",
        "object",
        "audio",
        "video",
    }
)
APART = frozenset(
    """address article aside blockquote body caption dd details div dl dt fieldset figcaption
    figure footer form h1 h2 h3 h4 h5 h6 header hr legend main nav ol p pre section summary
    table ul""".split()
)
LINES = frozenset({"br", "li", "tr", "option"})
CELLS = frozenset({"td", "th"})
HEADINGS = {f"h{level}": level for level in range(1, 7)}
_SPACE = re.compile(r"[ \t\n\r\f]+")
_UNKEPT = re.compile("[\0\ud800-\udfff]")
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE
)
_CHARSETS = re.compile(
    r"utf-8|ascii|iso8859-\d+|cp125\d|koi8-[ru]|shift_jis|euc_(?:jp|kr)|gbk?|gb2312|gb18030|big5"
)


class TooMuch(Exception):
    """A limit is passed; says which."""

    def __init__(self, what: str, limit: str) -> None:
        super().__init__(what)
        self.limit = limit


def kept(text: str) -> str:
    """Return text that PostgreSQL can keep: U+0000 and half surrogate pairs become U+FFFD."""
    return _UNKEPT.sub("\ufffd", text)


class MarkupReader(HTMLParser):
    """Collects the text of HTML with its headings and preformatted blocks."""

    def __init__(self, chars_max: int) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, int, int, int]] = []
        self.title: str | None = None
        self._chars_max = chars_max
        self._parts: list[str] = []
        self._length = 0
        self._newlines = 2  # at the end of the text so far; the beginning needs none
        self._space = False
        self._dropping = 0
        self._in_title = False
        self._preformatted = 0
        self._open: tuple[str, int, int] | None = None  # kind, start, level

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    def _put(self, text: str) -> None:
        self._length += len(text)
        if self._length > self._chars_max:
            raise TooMuch(f"more than {self._chars_max} characters", "knowledge_chars_max")
        self._parts.append(text)
        ends = len(text) - len(text.rstrip("\n"))
        self._newlines = self._newlines + ends if ends == len(text) else ends

    def _break(self, newlines: int) -> None:
        self._space = False
        if self._newlines < newlines:
            self._put("\n" * (newlines - self._newlines))

    def _begin(self, kind: str, level: int) -> None:
        self._end_block()
        self._break(2)
        self._open = (kind, self._length, level)

    def _end_block(self) -> None:
        if self._open is not None:
            kind, start, level = self._open
            if self._length > start:
                self.blocks.append((kind, start, self._length, level))
            self._open = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an element."""
        if tag in DROPPED:
            self._dropping += 1
        elif self._dropping:
            return
        elif tag == "title":
            self._in_title = self.title is None
        elif tag in HEADINGS:
            self._begin("heading", HEADINGS[tag])
        elif tag == "pre":
            self._begin("code", 0)
            self._preformatted += 1
        elif tag in APART:
            self._break(2)
        elif tag in LINES:
            self._break(1)
        elif tag in CELLS and not self._newlines:
            self._space = False
            self._put(" | ")

    def handle_endtag(self, tag: str) -> None:
        """End an element."""
        if tag in DROPPED:
            self._dropping = max(0, self._dropping - 1)
        elif self._dropping:
            return
        elif tag == "title":
            self._in_title = False
        elif tag in HEADINGS or tag == "pre":
            self._preformatted = max(0, self._preformatted - (tag == "pre"))
            self._end_block()
            self._break(2)
        elif tag in APART:
            self._break(2)

    def handle_data(self, data: str) -> None:
        """Take text: as it is where it is preformatted, else with single spaces."""
        if self._dropping:
            return
        data = kept(data)
        if self._in_title:
            self.title = ((self.title or "") + _SPACE.sub(" ", data))[:TITLE_CHARS_MAX]
            return
        if self._preformatted:
            self._put(data)
            return
        plain = _SPACE.sub(" ", data)
        if self._newlines:
            plain = plain.lstrip(" ")
        elif self._space and not plain.startswith(" "):
            plain = f" {plain}"
        self._space = plain.endswith(" ")
        plain = plain.rstrip(" ")
        if plain:
            self._put(plain)

    def finish(self) -> None:
        """End what is still open."""
        self.close()
        self._end_block()


def decoded(content: bytes) -> str:
    """Return the text of an HTML file: by its mark, what it says itself, UTF-8, or Windows-1252."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(name, "replace")
    told = _CHARSET.search(content[:4096])
    if told is not None:
        try:
            name = codecs.lookup(told[1].decode()).name
        except LookupError:
            name = ""
        if _CHARSETS.fullmatch(name) and name != "utf-8":
            return content.decode(name, "replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def read_html(content: bytes, *, chars_max: int) -> dict[str, object]:
    """Return text, blocks and title of HTML. Raises TooMuch."""
    reader = MarkupReader(chars_max)
    reader.feed(decoded(content))
    reader.finish()
    title = (reader.title or "").strip() or None
    return {"text": reader.text, "blocks": reader.blocks, "page_starts": [], "title": title}


def read_pdf(content: bytes, *, pages_max: int, chars_max: int) -> dict[str, object]:
    """Return text, beginnings of pages and title of a PDF. Raises TooMuch, or what pypdf raises."""
    reader = pypdf.PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("it is locked with a password")
    count = len(reader.pages)
    if count > pages_max:
        raise TooMuch(f"{count} pages", f"knowledge_pages_max ({pages_max})")
    texts: list[str] = []
    starts: list[int] = []
    length = 0
    for page in reader.pages:
        text = kept(page.extract_text()).strip() + "\n\n"
        starts.append(length)
        length += len(text)
        if length > chars_max:
            raise TooMuch(f"more than {chars_max} characters", "knowledge_chars_max")
        texts.append(text)
    meta = reader.metadata
    title = kept(str(meta.title)).strip()[:TITLE_CHARS_MAX] if meta and meta.title else None
    return {"text": "".join(texts), "blocks": [], "page_starts": starts, "title": title or None}


def confine(memory_bytes: int, seconds: int) -> None:
    """Bind this process to its limits: memory beyond what it has now, CPU, no files, no core."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    unpacked = memory_bytes // 4
    pypdf.overwrite_configuration(
        maximum_declared_stream_length=unpacked,
        array_based_stream_maximum_output_length=unpacked,
        lzw_maximum_output_length=unpacked,
        run_length_maximum_output_length=unpacked,
        zlib_maximum_output_length=unpacked,
        jbig2dec_binary=None,
        disable_legacy_handling=True,
    )


def main(args: list[str]) -> None:
    """Read one document and answer."""
    kind = args[0]
    pages_max, chars_max, memory_bytes, seconds = map(int, args[1:])
    logging.disable()
    answer: dict[str, object]
    try:
        confine(memory_bytes, seconds)
        content = sys.stdin.buffer.read()
        if kind == "pdf":
            answer = read_pdf(content, pages_max=pages_max, chars_max=chars_max)
        else:
            answer = read_html(content, chars_max=chars_max)
    except TooMuch as exc:
        answer = {"error": str(exc), "limit": exc.limit}
    except (MemoryError, pypdf.errors.LimitReachedError):
        answer = {"error": f"it unpacks to more than {memory_bytes} bytes", "limit": "memory"}
    except RecursionError:
        answer = {"error": "it is nested too deeply"}
    except Exception as exc:  # noqa: BLE001 - the edge of this process: a hostile file raises anything
        reason = str(exc) if isinstance(exc, ValueError | pypdf.errors.PyPdfError) else ""
        answer = {"error": (reason or type(exc).__name__)[:200]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
