"""What Linux tells of the caches, from a folder like its own."""

from __future__ import annotations

import pytest

from nbops.tuned import caches


@pytest.fixture
def folder(tmp_path, monkeypatch):
    told = [
        ("1", "Instruction", "64K"),
        ("1", "Data", "48K"),
        ("2", "Unified", "2048K"),
        ("3", "Unified", "?"),
    ]
    for number, words in enumerate(told):
        index = tmp_path / f"index{number}"
        index.mkdir()
        for name, word in zip(("level", "type", "size"), words, strict=True):
            (index / name).write_text(word + "\n")
    (tmp_path / "index9").mkdir()  # tells nothing
    monkeypatch.setattr(caches, "FOLDER", tmp_path)
    caches.cache_bytes.cache_clear()
    yield tmp_path
    caches.cache_bytes.cache_clear()


@pytest.mark.parametrize(("level", "size"), [(1, 48 << 10), (2, 2 << 20), (3, 0), (4, 0)])
def test_the_data_cache_of_a_level(folder, level, size):
    assert caches.cache_bytes(level) == size


def test_a_system_that_tells_nothing(folder, monkeypatch):
    monkeypatch.setattr(caches, "FOLDER", folder / "nowhere")
    assert caches.cache_bytes(2) == 0
