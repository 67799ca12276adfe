"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import pytest

from minirnn import set_random_seed

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_code_blocks():
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_code_block_of_the_readme_runs(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    set_random_seed(1)
    shown = {}
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), shown)
    if "model" in shown:
        assert shown["model"].predict(["Shares fall"]).shape == (1, 4)
        assert (tmp_path / "news.mrnn").is_file()
    else:
        assert shown["minirnn"].gradcheck(shown["cell"]).passed
        assert "LSTMCell" in capsys.readouterr().out
