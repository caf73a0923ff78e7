"""Steps that consist of parts report one progress."""

from __future__ import annotations

from quantgate.core.progress import Share, Silent


class Seen(Silent):
    def __init__(self):
        super().__init__()
        self.steps = []

    def step(self, what, done, total):
        self.steps.append((what, done, total))


def test_a_part_is_reported_as_a_share_of_the_whole():
    seen = Seen()
    second = Share(seen, start=128, count=64, whole=256)
    second.step("generating", 0, 1000)
    second.step("generating", 500, 1000)
    second.step("generating", 1000, 1000)
    assert seen.steps == [("generating", 128, 256), ("generating", 160, 256), ("generating", 192, 256)]


def test_a_part_without_work_is_done_at_once():
    seen = Seen()
    Share(seen, 0, 4, 8).step("scoring", 0, 0)
    assert seen.steps == [("scoring", 4, 8)]


def test_notes_of_a_part_are_passed_on():
    seen = Seen()
    Share(seen, 0, 1, 1).note("resumed")
    assert seen.notes == ["resumed"]
