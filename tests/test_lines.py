"""Lines of standard input: all of them, in order, none later than need be, in bounded memory."""

from __future__ import annotations

import io
import os
import queue
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn import lines
from minirnn.lines import LineError, batches_of, batches_of_lines

PATIENCE = 10  # seconds, after which what has not come does not come


class Dribble(io.RawIOBase):
    """A file that gives its pieces one at a time, as a pipe does."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.asked = []

    def read1(self, size):
        self.asked.append(size)
        piece = self.pieces.pop(0) if self.pieces else b""
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def fileno(self):
        raise io.UnsupportedOperation


def read(*pieces):
    return [text for batch in batches_of_lines(Dribble(*pieces)) for text in batch]


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a\r\nb\r\r\n\r\n", ["a", "b", ""]),
        (b"a\rb\nc\r", ["a\rb", "c"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
        (b"\xef\xbb\xbf", [""]),
        (b"nul \0 here\n\0\n", ["nul \0 here", "\0"]),
        ("é\u2028ü\x85\n\U0001f600".encode(), ["é\u2028ü\x85", "\U0001f600"]),
    ],
)
def test_lines_end_at_line_feeds_and_nowhere_else(content, expected):
    assert read(content) == expected
    assert read(*[content[i : i + 1] for i in range(len(content))]) == expected


@given(st.lists(st.text(st.sampled_from("aé \r\0\u2028\n"), max_size=5)), st.data())
def test_it_does_not_matter_where_reads_end(texts, data):
    content = "\n".join(texts).encode()
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=6).map(sorted))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    expected = content.decode().split("\n")
    if expected[-1] == "":
        del expected[-1]
    assert read(*filter(None, pieces)) == [line.rstrip("\r") for line in expected]


@pytest.mark.parametrize("before", [0, 1, 3, 200])
def test_lines_before_a_bad_one_are_answered(before, monkeypatch):
    good = b"".join(b"line %d\n" % k for k in range(before))
    monkeypatch.setattr(lines, "LONGEST", 1000)
    monkeypatch.setattr(lines, "CHUNK", 700)
    for bad, message in (
        (b"caf\xc3\xa9 \xff\nnext\n", f"^standard input, line {before + 1}: the byte 0xff is not"),
        (b"\xe2\x82", f"^standard input, line {before + 1}: the byte 0xe2 is not UTF-8"),
        (b"x" * 1001, f"^standard input, line {before + 1}: it is longer than 1,000 bytes"),
        (b"x" * 1001 + b"\n", f"^standard input, line {before + 1}: it is longer than 1,000 bytes"),
    ):
        for pieces in ([good + bad], [good, bad], [good + bad[:2], bad[2:]]):
            pieces = [piece for piece in pieces if piece]
            got = []
            with pytest.raises(LineError, match=message):
                for batch in batches_of_lines(Dribble(*pieces)):
                    got += batch
            assert got == [f"line {k}" for k in range(before)]


def test_the_longest_line_is_as_long_as_is_said(monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 1000)
    monkeypatch.setattr(lines, "CHUNK", 700)
    for end in (b"", b"\n"):
        assert read(b"x" * 1000 + end) == ["x" * 1000]
        assert read(b"a\n" + b"x" * 600, b"x" * 400 + end) == ["a", "x" * 1000]
        with pytest.raises(LineError, match="line 2: it is longer"):
            read(b"a\n" + b"x" * 600, b"x" * 401 + end)


def test_a_line_without_end_is_not_read_to_its_end():
    class Endless(Dribble):
        def read1(self, size):
            self.asked.append(size)
            return b"x" * size

    file = Endless()
    with pytest.raises(LineError, match="longer than 262,144 bytes"):
        list(batches_of_lines(file))
    assert sum(file.asked) <= lines.LONGEST + lines.CHUNK


def test_batches_are_bounded_in_number_and_size():
    for texts in (
        ["a"] * 1000,
        ["a" * 5000] * 200,
        ["a" * lines.LONGEST, "b", "c" * lines.LONGEST],
        ["a" * (k * k % 70_000) for k in range(300)],
    ):
        batches = list(batches_of(texts))
        assert [text for batch in batches for text in batch] == texts
        for batch in batches:
            assert 1 <= len(batch) <= 64
            assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= lines.LONGEST
    assert list(map(len, batches_of(["a"] * 130))) == [64, 64, 2]
    assert list(map(len, batches_of(["a" * 4000] * 130))) == [64, 64, 2]  # no text is this long


def test_full_batches_from_a_file(tmp_path):
    """However the reads cut it."""
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d " % k * 20 + b"\n" for k in range(10_000)))
    with open(path, "rb") as file:
        sizes = list(map(len, batches_of_lines(file)))
    assert sizes == [64] * 156 + [16]


def test_a_line_is_not_kept_waiting_for_others():
    reader, writer = os.pipe()
    answers = queue.Queue()
    with open(reader, "rb") as file, open(writer, "wb", buffering=0) as pipe:
        thread = threading.Thread(target=lambda: list(map(answers.put, batches_of_lines(file))))
        thread.start()
        try:
            for text in (b"one", b"two", b""):
                pipe.write(text + b"\n")
                assert answers.get(timeout=PATIENCE) == [text.decode()]
            pipe.write(b"three\nfour\nfi")
            assert answers.get(timeout=PATIENCE) == ["three", "four"]
            pipe.write(b"ve\n")
            assert answers.get(timeout=PATIENCE) == ["five"]
            pipe.write(b"six")
        finally:
            pipe.close()
            thread.join(PATIENCE)
    assert answers.get(timeout=PATIENCE) == ["six"] and answers.empty()


def test_a_batch_is_not_cut_short_by_a_breath():
    """So that what a fast producer's lines are answered with does not depend on the moment."""
    reader, writer = os.pipe()

    def write():
        with open(writer, "wb", buffering=0) as pipe:
            for _ in range(5):
                pipe.write(b"line\n" * 20)
                time.sleep(lines.BREATH / 20)

    thread = threading.Thread(target=write)
    with open(reader, "rb") as file:
        thread.start()
        lines_in_batches = list(map(len, batches_of_lines(file)))
        thread.join()
    assert sum(lines_in_batches) == 100
    assert len(lines_in_batches) <= 4
