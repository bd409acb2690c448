"""Every coding gives back the bits that it was given."""

from __future__ import annotations

import heapq
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from laconic.storage import ans, codings, deflate, frequencies, groups, huffman, lac, palette, streams
from laconic.storage.bits import Reader, counted, varint
from laconic.storage.coded import Values
from laconic.storage.distinct import entropy_bits
from laconic.storage.kinds import KINDS
from laconic.storage.layout import Layout


def there_and_back(patterns: np.ndarray, kind: str, columns: int = 1) -> None:
    about = Values(KINDS[kind], len(patterns), columns)
    values = about.filled(patterns)
    for place, coding in enumerate(codings.TABLE):
        coded = coding.encode(values)
        if coded is not None:
            np.testing.assert_array_equal(codings.decode(bytes([place]) + coded.data, about), patterns, err_msg=coding.name)
            assert sum(coded.parts.values()) == len(coded.data)
    _, best = codings.encode(values)
    np.testing.assert_array_equal(codings.decode(best.data, about), patterns)
    assert len(best.data) <= 1 + patterns.nbytes


@st.composite
def tensors(draw: st.DrawFn) -> tuple[np.ndarray, str, int]:
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    book = draw(arrays.arrays(kind.pattern, draw(st.integers(1, 300))))
    patterns = book[rng.integers(len(book), size=rows * columns)]
    patterns[rng.random(len(patterns)) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))] = 0
    return patterns, kind.name, columns


@given(tensors())
@settings(max_examples=30, deadline=None)
def test_any_bits_come_back(tensor: tuple[np.ndarray, str, int]) -> None:
    there_and_back(*tensor)


ODD = np.array([0x7FC00001, 0xFFC12345, 0x7F800000, 0x80000000, 0, 1, 0x80000001, 0x7F7FFFFF], np.uint32)


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_odd_floats_come_back(n: int) -> None:
    """NaN with a payload, infinities, −0.0, subnormals."""
    there_and_back(np.resize(ODD, n), "float32")


@pytest.mark.parametrize("density", [1.0, 0.1, 0.001])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_large_tensors_come_back(kind: str, density: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(66_000).astype(np.float32)
    patterns = {
        "float32": values.view(np.uint32),
        "bfloat16": (values.view(np.uint32) >> 16).astype(np.uint16),
        "int8": np.clip(values * 30, -127, 127).astype(np.int8).view(np.uint8),
    }[kind].copy()
    patterns[rng.random(len(patterns)) > density] = 0
    there_and_back(patterns, kind, 700)


def test_float32_as_trained_is_as_small_as_its_exponents_allow() -> None:
    """Mantissas are noise: what remains is the entropy of the exponents, computed here by `frexp`."""
    weights = np.random.default_rng(0).standard_normal(200_000).astype(np.float32) * 0.05
    _, coded = codings.encode(Values(KINDS["float32"], len(weights), patterns=weights.view(np.uint32)))
    exponents = np.frexp(weights)[1]
    ideal = (24 + entropy_bits(exponents - exponents.min())) / 8 * len(weights)
    assert 0.995 * ideal < len(coded.data) < 1.003 * ideal  # the first bits of mantissas are not quite noise


@pytest.mark.parametrize("least", [0, 7])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_a_grid_costs_one_step_not_its_values(precision: type, least: int) -> None:
    """Multiples of a step are that in single and in double precision, and where none of the small ones is there."""
    steps = np.random.default_rng(0).integers(-40, 41, 30_000)
    steps[np.abs(steps) < least] = 0
    grid = (steps.astype(precision) * precision(0.0137)).astype(np.float32) + np.float32(0)
    _, coded = codings.encode(Values(KINDS["float32"], len(grid), patterns=grid.view(np.uint32)))
    assert coded.parts["codebook"] <= 8 + 8 + 2 * least


@pytest.mark.parametrize("step", [float("nan"), float("inf"), -1e308, 1e38])
def test_a_grid_without_an_end_is_refused(step: float) -> None:
    """Its largest value, 10 steps, is none of float32: written so by nobody."""
    whole = palette.written(KINDS["float32"], (np.arange(11, dtype=np.float32) * np.float32(0.3)).view(np.uint32))
    assert palette.read(Reader(varint(11) + counted(whole)), KINDS["float32"]).view("<f4")[10] == np.float32(3.0)
    with pytest.raises(ValueError, match="no grid"):
        palette.read(Reader(varint(11) + counted(whole[:1] + struct.pack("<d", step) + whole[9:])), KINDS["float32"])


def least_bits(counts: list[int]) -> int:
    """The length of a Huffman code for symbols with these counts: the sum of all inner nodes."""
    heap, total = sorted(counts), 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=200))
def test_huffman_codes_are_the_shortest(counts: list[int]) -> None:
    bits = huffman.lengths(np.array(counts))
    assert int((bits * counts).sum()) == least_bits(counts)
    assert sum(2.0**-bits) == 1.0


def test_huffman_codes_longer_than_the_decoders_table_are_not_made() -> None:
    counts = np.array([round(1.7**k) for k in range(40)])
    bits = huffman.lengths(counts)
    assert bits.max() <= 15 < np.log2(counts.sum() / counts[0])
    assert (2.0**-bits).sum() <= 1.0
    symbols = np.repeat(np.arange(40), np.minimum(counts, 3000))
    np.testing.assert_array_equal(huffman.decode(Reader(huffman.encode(symbols, 40)), len(symbols), 40), symbols)


@pytest.mark.parametrize("count", [5000, 70_000])
def test_ans_reaches_the_entropy(count: int) -> None:
    symbols = np.random.default_rng(0).geometric(0.3, count) - 1
    data = ans.encode(symbols, 100)
    assert 8 * len(data) < 1.01 * entropy_bits(symbols) * count + 8 * 100 + 32 * ans.lanes_for(count)
    np.testing.assert_array_equal(ans.decode(Reader(data), count, 100), symbols)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=300).filter(any))
def test_frequencies_sum_to_their_scale(counts: list[int]) -> None:
    shares = frequencies.frequencies(np.array(counts))
    assert shares.sum() == 1 << 14
    assert ((shares > 0) == (np.array(counts) > 0)).all()
    np.testing.assert_array_equal(frequencies.read_table(frequencies.table(shares), len(counts)), shares)


@pytest.mark.parametrize("coder", [coder.name for coder in streams.TABLE])
@pytest.mark.parametrize("alphabet", [2, 3, 256, 4096])
def test_each_coder_of_streams_gives_back_what_it_got(coder: str, alphabet: int) -> None:
    symbols = np.minimum(np.random.default_rng(1).geometric(0.2, 3000) - 1, alphabet - 1)
    layout = Layout(alphabet, 30)
    data = streams.encode(symbols, layout, coder)
    np.testing.assert_array_equal(streams.decode(data, len(symbols), layout), symbols)
    assert streams.told(data)[0] == coder


HALVES = np.minimum(np.random.default_rng(2).geometric(0.5, 30_000) - 1, 30)  # Huffman codes of a bit more each are its entropy


@pytest.mark.parametrize(
    ("symbols", "way"),
    [
        (HALVES, "Huffman in blocks"),
        (np.random.default_rng(2).integers(0, 256, 5000), "fixed width"),
        (np.minimum(np.random.default_rng(2).geometric(np.tile(np.repeat([0.99, 0.1], 1000), 10)) - 1, 30), "adaptive contexts"),
        (np.minimum(np.random.default_rng(2).geometric(0.65, 30_000) - 1, 5), "groups in Huffman blocks"),
        (np.maximum(np.random.default_rng(2).integers(-233, 100, 600_000), 0), "interleaved ANS"),
        (np.rint(np.random.default_rng(2).standard_normal(700) * 30).astype(int) + 128, "ANS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_shortest_way_is_taken_unless_it_is_slow_and_hardly_shorter(symbols: np.ndarray, way: str) -> None:
    layout = Layout(max(2, int(symbols.max()) + 1))
    data = streams.encode(symbols, layout)
    assert streams.told(data)[0] == way
    fitting = [coder for coder in streams.TABLE if coder.fits(len(symbols), layout)]
    assert len(data) <= 1.02 * min(len(streams.encode(symbols, layout, coder.name)) for coder in fitting)


@pytest.mark.parametrize("density", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_what_is_to_be_read_fast_has_no_slow_way_and_comes_back(kind: str, density: float) -> None:
    rng = np.random.default_rng(0)
    values = np.rint(rng.standard_normal(20_000) * 5).astype(np.float32)
    values[rng.random(len(values)) > density] = 0
    patterns = {"float32": values.view(np.uint32), "int8": values.astype(np.int8).view(np.uint8)}[kind]
    about = Values(KINDS[kind], len(patterns), 100)
    names = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "encode", lambda *args: names.append(streams.told(data := encode(*args))[0]) or data)
        _, fast = codings.encode(about.filled(patterns, fast=True))
    np.testing.assert_array_equal(codings.decode(fast.data, about), patterns)
    assert set(names) <= {"fixed width", "Huffman in blocks", "groups in Huffman blocks"}
    _, small = codings.encode(about.filled(patterns))
    assert len(small.data) <= len(fast.data) <= 1.5 * len(small.data) + 100


encode = streams.encode


@pytest.mark.parametrize(("book", "coding"), [(True, "codebook"), (False, "mask")], ids=["few values", "many values"])
def test_a_mask_that_hardly_saves_is_left_out_of_what_is_to_be_read_fast(book: bool, coding: str) -> None:
    """Of few values it is two thousandths shorter than the codes; where there are many, a third."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(100_000).astype(np.float32)
    values = np.rint(values * 1.6) if book else values
    values[rng.random(len(values)) < 0.3] = 0
    about = Values(KINDS["float32"], len(values), 100).filled(values.view(np.uint32), fast=True)
    sizes = {row.name: len(coded.data) for row in codings.TABLE if (coded := row.encode(about)) is not None}
    assert min(sizes, key=sizes.__getitem__) == "mask"
    assert codings.encode(about)[0] == coding


def test_what_is_read_is_not_copied() -> None:
    data = np.arange(100, dtype=np.uint8)
    reader = Reader(data.data)
    assert all(np.shares_memory(np.frombuffer(piece, np.uint8), data) for piece in (reader.take(3), reader.counted(), reader.rest()))


def test_matches_pay_where_one_symbol_is_most_of_them() -> None:
    """zlib's own default finds them, and no code of a bit a symbol does."""
    mask = (np.random.default_rng(0).random(40_000) < 0.01).astype(np.uint8)
    assert len(deflate.encode(mask)) < 0.25 * len(mask) / 8
    np.testing.assert_array_equal(deflate.decode(Reader(deflate.encode(mask)), len(mask)), mask)


def test_no_code_with_one_table_is_shorter_than_what_says_whether_it_is_tried() -> None:
    for symbols in (HALVES, np.zeros(2000, int), np.arange(4096) % 3000):
        layout = Layout(int(symbols.max()) + 2)
        for coder in streams.TABLE:
            least = coder.least(np.bincount(symbols, minlength=layout.alphabet))
            if least:
                assert len(coder.encode(symbols, layout)) >= least


def test_blocks_that_expand_to_more_are_not_expanded() -> None:
    bomb = zlib.compress(bytes(10_000_000))[2:-4]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="do not end where"):
            deflate.decode(Reader(bomb), 100)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("change", [lambda data: data[:-5], lambda data: data + b"x", lambda data: b"\x07" + data[1:]])
def test_blocks_that_are_cut_or_altered_are_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match="its blocks"):
        deflate.decode(Reader(change(deflate.encode(HALVES))), len(HALVES))


@given(st.integers(2, 256), st.integers(0, 255), st.floats(0.02, 40), st.integers(1, 400), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_groups_give_back_symbols_and_what_a_book_has_for_them(alphabet: int, center: int, scale: float, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = np.clip(np.rint(rng.laplace(center, scale, count)), 0, alphabet - 1).astype(int)
    layout, name = Layout(alphabet), "groups in Huffman blocks"
    data = streams.encode(symbols, layout, name)
    np.testing.assert_array_equal(streams.decode(data, count, layout), symbols)
    book = rng.integers(0, 1 << 32, alphabet, dtype=np.uint32)
    np.testing.assert_array_equal(streams.decode_values(data, count, layout, book), book[symbols])


@pytest.mark.parametrize("share", [0.5, 0.3, 0.1])
def test_groups_are_near_the_entropy_where_a_symbol_is_less_than_a_bit(share: float) -> None:
    symbols = (np.random.default_rng(0).random(200_000) < share).astype(int)
    data = groups.encode(symbols, 2)
    assert data[0] == 8  # to a byte
    assert len(data) < (1.03 * entropy_bits(symbols) + 0.01) * len(symbols) / 8


def _group_bytes(size: int, first: int, width: int, others: list[int], groups_: list[int]) -> Reader:
    head = bytes([size, first, width, len(others)]) + (counted(deflate.encode(np.array(others))) if others else b"")
    return Reader(head + deflate.encode(np.array(groups_)))


@pytest.mark.parametrize(
    "data",
    [
        _group_bytes(2, 3, 15, [0], [0, 225]),  # of two symbols, one of the 15 or another: byte 225 is (15, 15)
        _group_bytes(2, 3, 15, [0, 1, 2], [0, 224]),
        _group_bytes(2, 3, 15, [5], [0, 0]),
        _group_bytes(2, 3, 15, [99], [0, 225]),
        _group_bytes(3, 3, 15, [], [0, 0]),
        _group_bytes(2, 250, 15, [], [0, 0]),
        _group_bytes(2, 3, 0, [], [0, 0]),
        _group_bytes(2, 3, 4, [], [0, 200]),
        _group_bytes(2, 3, 15, [], [0, 0, 0]),
        Reader(bytes([2, 3, 15]) + b"\xff" * 9),
    ],
)
def test_groups_that_were_not_written_are_refused(data: Reader) -> None:
    with pytest.raises(ValueError, match=r"groups|group|blocks|symbol|can stand|no end"):
        groups.decode(data, 3, 40, np.arange(40))


@pytest.mark.parametrize(("scale", "power"), [(3.0, 2.0), (30.0, 1.0), (30.0, 2.0), (100.0, 4.0), (20.0, 0.75)])
def test_the_curve_of_frequencies_is_nearly_the_likeliest(scale: float, power: float) -> None:
    """The draws are of a generalized normal distribution; a table that knows its numbers exactly is the reference."""
    heights = np.exp(-((np.abs(np.arange(256) - 120) / scale) ** power)) + 1e-12
    true = heights / heights.sum()
    counts = np.bincount(np.random.default_rng(0).choice(256, 3000, p=true), minlength=256)
    shares = frequencies.read_table(frequencies.best_table(counts)[0], 256)
    there = counts > 0
    best, ours = (float((counts[there] * np.log2(table[there])).sum()) for table in (true, shares / shares.sum()))
    assert ours > best - 0.012 * entropy_bits(np.repeat(np.arange(256), counts)) * 3000


@pytest.mark.parametrize("shape", [(3,), (2, 3), (10, 700_000), (2, 5_000_000), (5_000_000,)])
def test_a_tensor_is_cut_into_whole_rows(shape: tuple[int, ...]) -> None:
    pieces = list(lac.cut(KINDS["int8"], shape))
    assert sum(piece.count for piece in pieces) == np.prod(shape)
    assert all(piece.count <= lac.PIECE for piece in pieces)
    assert all(piece.count % piece.columns == 0 or piece.columns > lac.PIECE for piece in pieces)
