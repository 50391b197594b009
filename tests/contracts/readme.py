"""The classes that README shows, as if each stood in a file of the reader's."""

import re
from pathlib import Path

_README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
for _text in re.findall(r"```python\n(.*?)```", _README, re.DOTALL):
    if re.search(r"^class ", _text, re.MULTILINE):
        exec(compile(_text, "README.md", "exec"), globals())
