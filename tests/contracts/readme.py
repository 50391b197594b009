"""The classes of the README and docs, executed as if they were in a user's files."""

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
for _page in [_ROOT / "README.md", *sorted(_ROOT.glob("docs/*.md"))]:
    for _text in re.findall(r"```python\n(.*?)```", _page.read_text(encoding="utf-8"), re.DOTALL):
        if re.search(r"^class ", _text, re.MULTILINE):
            exec(compile(_text, _page.name, "exec"), globals())
