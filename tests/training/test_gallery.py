"""The gallery of the documentation: written by the built-in model, with every file that it shows."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from unmask_engine.request import AudioPart

DOCS = Path(__file__).parents[2] / "docs"


def test_silence_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    from gallery import Gallery

    page = Gallery(Named(), tmp_path)
    for samples in (np.zeros(0), np.zeros(8000)):
        assert page.sound("nothing", AudioPart(samples.astype(np.float32), 22_050)) == "(silence)"
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    assert 'src="gallery/noise.wav"' in page.sound("noise", AudioPart(noise, 22_050))
    assert {f.name for f in (tmp_path / "gallery").iterdir()} == {"noise.wav", "noise.png"}
    page.write()
    assert "What **a fake** makes" in (tmp_path / "gallery.md").read_text()


class Named:
    name = "a fake"


@pytest.mark.slow
def test_the_gallery_is_written_with_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import gallery

    monkeypatch.setattr(sys, "argv", ["gallery.py", "--out", str(tmp_path)])
    gallery.main()
    page = (tmp_path / "gallery.md").read_text()
    assert page.count("\n## ") == 5
    files = set(re.findall(r"gallery/[\w-]+\.(?:png|wav)", page))
    assert files == {str(f.relative_to(tmp_path)) for f in (tmp_path / "gallery").iterdir()}
    assert len(files) > 20
