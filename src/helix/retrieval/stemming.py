"""English word forms: irregular ones by a table, regular ones by Porter's algorithm.

M. F. Porter, "An algorithm for suffix stripping", Program 14 (1980), steps 1a to 5b as published.
Words with anything but a-z in them (numbers, names with accents, other scripts) are left alone.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType

__all__ = ["stem"]

_CACHED_WORDS = 65_536

_IRREGULAR_TEXT = """
am are be been being is was were=be; began begun=begin; became=become; bought=buy; built=build;
broke broken=break; brought=bring; caught=catch; chose chosen=choose; came=come; did done does=do;
drew drawn=draw; drank drunk=drink; drove driven=drive; ate eaten=eat; fell fallen=fall; felt=feel;
fought=fight; found=find; flew flown=fly; forgot forgotten=forget; gave given=give;
went gone goes=go; got gotten=get; grew grown=grow; had has=have; heard=hear; held=hold;
kept=keep; knew known=know; led=lead; left=leave; lost=lose; made=make; meant=mean; met=meet;
paid=pay; ran=run; rode ridden=ride; rose risen=rise; said=say; saw seen=see; sold=sell; sent=send;
shook shaken=shake; showed shown=show; sang sung=sing; sat=sit; slept=sleep; spoke spoken=speak;
spent=spend; stood=stand; stole stolen=steal; swam swum=swim; took taken=take; taught=teach;
told=tell; thought=think; threw thrown=throw; understood=understand; woke woken=wake;
wore worn=wear; won=win; wrote written=write; children=child; men=man; women=woman;
feet=foot; teeth=tooth; people=person; mice=mouse; lives=life;
wives=wife; better best=good; worse worst=bad;
mom mum mommy mama=mother; dad daddy papa=father; kids kid=child; bike bikes=bicycle;
photo photos pic pics=picture; tv=television; grandma granny=grandmother; grandpa=grandfather
"""


def _irregular() -> Mapping[str, str]:
    table: dict[str, str] = {}
    for entry in _IRREGULAR_TEXT.split(";"):
        forms, _, base = entry.strip().partition("=")
        table.update(dict.fromkeys(forms.split(), base))
    return MappingProxyType(table)


_IRREGULAR = _irregular()
_PLAIN = re.compile(r"[a-z]+")
_STEP2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"),
    ("abli", "able"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"),
    ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive"),
    ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"),
)  # fmt: skip
_STEP3 = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"),
    ("ful", ""), ("ness", ""),
)  # fmt: skip
_STEP4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou",
    "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip


def _consonant(word: str, at: int) -> bool:
    if word[at] in "aeiou":
        return False
    return at == 0 or word[at] != "y" or not _consonant(word, at - 1)


def _measure(word: str) -> int:
    """Return how often a vowel is followed by a consonant in `word` (Porter's m)."""
    kinds = [_consonant(word, at) for at in range(len(word))]
    return sum(1 for before, after in pairwise(kinds) if not before and after)


def _has_vowel(word: str) -> bool:
    return any(not _consonant(word, at) for at in range(len(word)))


def _double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _consonant(word, len(word) - 1)


def _short_end(word: str) -> bool:
    last = len(word) - 1
    return (
        last >= 2
        and _consonant(word, last - 2)
        and not _consonant(word, last - 1)
        and _consonant(word, last)
        and word[last] not in "wxy"
    )


def _step1(word: str) -> str:
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        word = word[:-1] if _measure(word[:-3]) > 0 else word
    else:
        for ending in ("ed", "ing"):
            if word.endswith(ending) and _has_vowel(word[: -len(ending)]):
                word = word[: -len(ending)]
                if word.endswith(("at", "bl", "iz")):
                    word += "e"
                elif _double(word) and word[-1] not in "lsz":
                    word = word[:-1]
                elif _measure(word) == 1 and _short_end(word):
                    word += "e"
                break
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    return word


def _replace(word: str, rules: tuple[tuple[str, str], ...]) -> str:
    for ending, other in sorted(rules, key=lambda rule: -len(rule[0])):
        if word.endswith(ending):
            rest = word[: -len(ending)]
            return rest + other if _measure(rest) > 0 else word
    return word


def _step4(word: str) -> str:
    for ending in sorted(_STEP4, key=len, reverse=True):
        if word.endswith(ending):
            rest = word[: -len(ending)]
            if _measure(rest) > 1 and (ending != "ion" or rest.endswith(("s", "t"))):
                return rest
            return word
    return word


def _step5(word: str) -> str:
    if word.endswith("e"):
        rest = word[:-1]
        if _measure(rest) > 1 or (_measure(rest) == 1 and not _short_end(rest)):
            word = rest
    if word.endswith("ll") and _measure(word) > 1:
        word = word[:-1]
    return word


@lru_cache(maxsize=_CACHED_WORDS)
def stem(word: str) -> str:
    """Return the common stem of the forms of a lower-case word; pure, the last words are cached."""
    word = _IRREGULAR.get(word, word)
    if len(word) < 3 or not _PLAIN.fullmatch(word):
        return word
    return _step5(_step4(_replace(_replace(_step1(word), _STEP2), _STEP3)))
