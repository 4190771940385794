"""Cutting: what chunks promise, on texts made by chance."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from helix.knowledge.chunking import CODE_WHOLE_TIMES, count_tokens, cut
from helix.knowledge.reading import read_markdown
from helix.knowledge.types import BlockKind, Chunking, Reading

WORDS = st.sampled_from(
    ["a", "pump", "Überdruck", "unconstitutionally", "漢字", "😀", "x1", "-", "`b`"]
)
SENTENCE = st.lists(WORDS, min_size=1, max_size=25).map(lambda words: " ".join(words) + ". ")
PARAGRAPH = st.lists(SENTENCE, min_size=1, max_size=6).map("".join)
HEADING = st.tuples(st.integers(1, 6), WORDS).map(lambda h: "#" * h[0] + " " + h[1])
CODE = st.lists(SENTENCE, max_size=8).map(lambda lines: "```\n" + "\n".join(lines) + "\n```")
ROW = SENTENCE.map(lambda text: f"| {text}|")
PART = st.one_of(
    PARAGRAPH, HEADING, CODE, ROW, st.text(max_size=60), st.just("x" * 3_000), st.just("\r\n \t")
)
TEXT = st.lists(PART, max_size=12).map("\n\n".join)
CHUNKING = st.tuples(st.integers(4, 80), st.integers(0, 40)).map(
    lambda n: Chunking(n[0], min(n[1], n[0] // 2))
)


@given(TEXT, CHUNKING)
def test_chunks_cover_the_text_in_order_and_keep_to_their_size(
    text: str, chunking: Chunking
) -> None:
    reading = read_markdown(text)
    pieces = cut(reading, chunking)
    covered = bytearray(len(text))
    for piece in pieces:
        assert 0 <= piece.start < piece.end <= len(text)
        covered[piece.start : piece.end] = b"\1" * (piece.end - piece.start)
        assert piece.tokens == count_tokens(text[piece.start : piece.end])
    assert not [c for c, done in zip(text, covered, strict=True) if not done and not c.isspace()]
    for before, after in pairwise(pieces):
        assert before.start < after.start
        assert before.end < after.end
    code = [block for block in reading.blocks if block.kind is BlockKind.CODE]
    for piece in pieces:
        in_code = any(b.start < piece.end and piece.start < b.end for b in code)
        most = chunking.tokens * (CODE_WHOLE_TIMES if in_code else 1)
        assert piece.tokens <= most


@given(TEXT, CHUNKING)
def test_no_chunk_reaches_over_a_heading_that_has_text_before_it(
    text: str, chunking: Chunking
) -> None:
    reading = read_markdown(text)
    headings = [block for block in reading.blocks if block.kind is BlockKind.HEADING]
    for piece in cut(reading, chunking):
        for heading in headings:
            if piece.start < heading.start < piece.end:
                before = text[piece.start : heading.start]
                assert all(
                    any(h.start <= piece.start + at < h.end for h in headings)
                    for at, char in enumerate(before)
                    if not char.isspace()
                )


def test_code_is_kept_whole_and_stands_under_its_headings() -> None:
    code = "```python\n" + "\n".join(f"line_{n} = {n}" for n in range(20)) + "\n```"
    text = f"# Pumps\n\nSome words here.\n\n## Start\n\nPrime it.\n\n{code}\n\n# Valves\n\nOpen.\n"
    pieces = cut(read_markdown(text), Chunking(60, 10))
    found = [(p.headings, text[p.start : p.end]) for p in pieces]
    assert (("Pumps", "Start"), code) in found
    assert found[0] == (("Pumps",), "# Pumps\n\nSome words here.")
    assert found[-1] == (("Valves",), "# Valves\n\nOpen.")


def test_chunks_of_a_section_repeat_whole_sentences() -> None:
    text = " ".join(f"Sentence number {n} stands here." for n in range(12))
    pieces = cut(Reading(text), Chunking(30, 10))
    for before, after in pairwise(pieces):
        assert text[after.start : before.end].startswith("Sentence number")
        assert count_tokens(text[after.start : before.end]) <= 10


def test_pages_are_those_the_chunk_begins_and_ends_on() -> None:
    text = "One page.\n\n" + "Two page.\n\n" + "Three page."
    pieces = cut(Reading(text, page_starts=(0, 11, 22)), Chunking(7, 0))
    assert [(p.first_page, p.last_page) for p in pieces] == [(1, 2), (3, 3)]


def test_markdown_headings_of_both_kinds_are_found_and_code_hides_its_own() -> None:
    text = "Top\n===\n\n```\n# no\n```\n\nSub\n---\n\n### Deep ###\n\n~~~\nopen to the end\n# no"
    reading = read_markdown(text)
    assert reading.title == "Top"
    headings = [b for b in reading.blocks if b.kind is BlockKind.HEADING]
    assert [(text[b.start : b.end].strip(), b.level) for b in headings] == [
        ("Top\n===", 1),
        ("Sub\n---", 2),
        ("### Deep ###", 3),
    ]
    assert text[reading.blocks[-1].start : reading.blocks[-1].end].endswith("# no")
