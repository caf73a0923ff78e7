"""Calibration text apart from tested text: what texts of one kind share by nature is no leak, what is copied is."""

import random

import pytest

from quantgate.core.errors import DataError
from quantgate.tasks.overlap import ScoredTexts, check_disjoint, covered, longest, run_hashes, texts_of, words_of

WORDS = [f"word{index}" for index in range(400)]


def text(*ranges, words=WORDS):
    return " ".join(" ".join(words[start:stop]) for start, stop in ranges)


def fresh(count, seed=0):
    return " ".join(f"other{random.Random(seed).randrange(10**6)}x{index}" for index in range(count))


def leaks(calibration, *tested):
    try:
        check_disjoint(calibration, "mine", ScoredTexts(tested))
    except DataError as error:
        return str(error)
    return ""


def test_boilerplate_inside_long_texts_is_no_leak():
    """Stock tables share 13 words in a row in PTB's train and test split: up to 4% of a segment, 27 words in a row."""
    stock = text((0, 27))
    assert not leaks([f"{fresh(300)} {stock} {fresh(80, 1)}"], ("ptb/3", f"{fresh(700, 2)} {stock} {fresh(700, 3)}"))


def test_few_words_in_many_orders_are_no_copy():
    """A toy language of twelve words: nearly every run of five occurs somewhere, and no text is another's copy."""
    drawn = random.Random(3)

    def speech(count):
        said = [drawn.randrange(12)]
        while len(said) < count:
            said.append((5 * said[-1] + drawn.choice((1, 2))) % 12 if len(said) % 12 else drawn.randrange(12))
        return " ".join(f"w{each}" for each in said)

    assert not leaks([speech(100) for _ in range(8)], *((f"q/{n}", speech(100)) for n in range(4)))


@pytest.mark.parametrize(
    ("sample", "item"),
    [
        (text((0, 300)), text((100, 130))),  # an item inside a longer sample
        (text((100, 130)), text((0, 300))),  # a sample inside a longer text that is tested
        (f"{fresh(900)} {text((0, 50))}", f"{fresh(900, 1)} {text((0, 50))}"),  # a passage in two long texts
        (f"{fresh(60)} {text((0, 20))}", f"{text((0, 20))} {fresh(60, 1)}"),  # a fifth of the item
        (text((0, 8)), text((0, 8))),  # short
        (text((0, 300)).upper(), text((100, 130)).replace(" ", ",  ")),  # case, punctuation, spaces
        (text((0, 300)), text((100, 130)).replace("word107", "else").replace("word119", "more")),  # words changed
        ("\uff37\uff2f\uff32\uff24\uff13 " + text((4, 40)), text((3, 40))),  # full-width letters
        (
            "中国的首都是北京，人口超过两千万，位于华北平原的北部。",
            "题目：中国的首都是北京，人口超过两千万。",
        ),  # no blanks
    ],
)
def test_copied_text_is_a_leak_both_ways(sample, item):
    said = leaks([fresh(40, 7), sample], ("q/1", fresh(40, 8)), ("q/7", item))
    assert "1 tested items: q/7 (" in said
    assert "text 1" in said


def test_a_short_item_is_leaked_when_its_answer_stands_close_by():
    row = ("q/2", "Is 118 even?"), ("q/2", "Yes it is."), ("q/2", "No it is not.")
    assert "q/2 (as a whole, in its text 0)" in leaks(["Tell me, is 118 even? Well: yes, it is. Thank you."], *row)
    assert not leaks(["Is 117 even? No it is not."], *row)
    far = f"Is 118 even? {fresh(40)} Yes it is."
    assert not leaks([far], *row)
    common = ("q/3", "Which of the following is true?"), ("q/3", "The sea"), ("q/3", "A ship")
    assert not leaks([f"Which of the following is true? {fresh(30)}"], *common)


def test_many_leaked_items_are_counted_and_the_first_ones_named():
    rows = [(f"q/{number}", text((20 * number, 20 * number + 20))) for number in range(9)]
    said = leaks([text((0, 400))], *rows)
    assert "in common with 9 tested items: q/0 (100% of 20 words, 20 of them in a row, in its text 0), q/1" in said
    assert "q/4" in said
    assert "q/5" not in said


def test_shares_and_stretches_are_counted_in_words():
    words = words_of("A b c d e f")
    assert words == ["a", "b", "c", "d", "e", "f"]
    assert len(run_hashes(words, 3)) == 4
    assert run_hashes(words[:2], 3) == []
    assert covered([True, False, False, True], 6, 3) == 1.0
    assert covered([True, True, False, False], 6, 3) == pytest.approx(4 / 6)
    assert (longest([True, True, False, True], 3), longest([False], 3), covered([], 0)) == (4, 0, 0.0)


def test_texts_of_nested_rows():
    assert list(texts_of({"a": "x", "b": ["y", {"c": "z"}], "n": 1})) == ["x", "y", "z"]


def test_a_leak_names_the_text_that_holds_the_item():
    tested = ScoredTexts([("q/0", text((0, 40))), ("q/1", text((100, 140)))])
    calibration = [fresh(60), f"{fresh(9, 1)} {text((100, 140))}", fresh(60, 2)]
    assert [(leak.item, leak.number) for leak in tested.leaks(calibration)] == [("q/1", 1)]
    assert tested.leaks(calibration[::2]) == []
