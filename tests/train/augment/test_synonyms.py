from __future__ import annotations

from pathlib import Path

import pytest
import torch

from laconic.core.errors import BadInput, CorruptFile
from laconic.core.plan import Scaled
from laconic.train.augment import Augmenter, EmbeddingNeighbors, WordNet
from tests.reference import augment as twin

LICENSE = "".join(
    f"  {line} This software and database is being provided to you, the LICENSEE, by Princeton University  \n" for line in range(1, 4)
)
# part -> the words of each synset, as the data files write them
SYNSETS = {
    "noun": [["car", "auto", "automobile", "motorcar"], ["car", "railcar", "railroad_car"], ["New_York"], ["film", "movie"]],
    "adj": [["galore(ip)", "abundant"], ["big", "large"]],
    "verb": [["film", "shoot"]],
}
WORDS = ["[PAD]", "[UNK]", "car", "auto", "railcar", "film", "movie", "shoot", "big", "Large", "abundant", "galore", "motorcar", "the"]


def write(folder: Path) -> Path:
    """WordNet files of Princeton's format, byte offsets and all."""
    for part, synsets in SYNSETS.items():
        data, senses = LICENSE, dict[str, list[str]]()
        for words in synsets:
            offset = f"{len(data):08d}"
            listed = " ".join(f"{word} 0" for word in words)
            data += f'{offset} 06 {part[0]} {len(words):02x} {listed} 001 @ 00000000 {part[0]} 0000 | what it means; "an example"  \n'
            for word in words:
                senses.setdefault(word.partition("(")[0].lower(), []).append(offset)
        index = "".join(f"{word} {part[0]} {len(at)} 1 @ {len(at)} 0 {' '.join(at)}  \n" for word, at in sorted(senses.items()))
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text(LICENSE + index)
    return folder


def test_wordnet_gives_the_words_of_all_synsets(tmp_path: Path) -> None:
    source = WordNet(write(tmp_path), WORDS)
    rows = {WORDS[index]: {WORDS[j] for j in row} - {WORDS[index]} for index, row in enumerate(source(torch.arange(len(WORDS))).tolist())}
    assert rows == {
        **{word: set() for word in ("[PAD]", "[UNK]", "the")},
        "car": {"auto", "motorcar", "railcar"},
        "auto": {"car", "motorcar"},
        "motorcar": {"car", "auto"},
        "railcar": {"car"},
        "film": {"movie", "shoot"},
        "movie": {"film"},
        "shoot": {"film"},
        "big": {"Large"},
        "Large": {"big"},
        "galore": {"abundant"},
        "abundant": {"galore"},
    }


def test_the_commonest_sense_comes_first(tmp_path: Path) -> None:
    row = WordNet(write(tmp_path), WORDS)(torch.tensor([2], dtype=torch.int32))
    assert row.dtype == torch.int32
    assert [WORDS[index] for index in row[0]] == ["auto", "motorcar", "railcar"]


def test_wordnet_augments(tmp_path: Path) -> None:
    ids = torch.tensor([[13, 4, 13, 8, 0, 0]])
    augmenter = Augmenter([Scaled("synonym", 10.0)], synonyms=WordNet(write(tmp_path), WORDS))
    assert augmenter(ids)[0].tolist() == [[13, 2, 13, 9, 0, 0]]


def test_a_folder_without_wordnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no WordNet files"):
        WordNet(tmp_path, WORDS)


@pytest.mark.parametrize(
    ("part", "old", "new"), [("index.noun", "0000", "0003"), ("data.noun", " 06 ", " 6 "), ("index.verb", " v 1 ", " v one ")]
)
def test_files_that_do_not_fit_together_are_told(tmp_path: Path, part: str, old: str, new: str) -> None:
    path = write(tmp_path) / part
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CorruptFile, match=f"data.{part.partition('.')[2]}"):
        WordNet(tmp_path, WORDS)


def test_an_empty_vocabulary_has_an_empty_table(tmp_path: Path) -> None:
    assert WordNet(write(tmp_path), [])(torch.zeros(0, dtype=torch.int64)).shape == (0, 1)


@pytest.mark.parametrize("k", [1, 4])
def test_neighbors_are_the_nearest_by_cosine(k: int) -> None:
    weight = torch.randn(40, 6, dtype=torch.float64)
    source = EmbeddingNeighbors(weight, k)
    for _ in range(2):  # looked up, then remembered
        found = source(torch.tensor([[3, 7], [39, 3]]).flatten())
        assert found.tolist() == [twin.neighbors(weight.numpy(), token, k) for token in (3, 7, 39, 3)]


def test_neighbors_do_not_move_with_training() -> None:
    weight = torch.nn.Parameter(torch.randn(30, 5))
    source, first = EmbeddingNeighbors(weight), EmbeddingNeighbors(weight.detach().clone())(torch.arange(30))
    weight.data = weight.data.normal_()
    assert torch.equal(source(torch.arange(30)), first)


@pytest.mark.parametrize("k", [0, 5])
def test_there_must_be_so_many_neighbors(k: int) -> None:
    with pytest.raises(BadInput, match="from 1 to 4"):
        EmbeddingNeighbors(torch.randn(5, 3), k)
