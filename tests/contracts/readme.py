"""The classes of the README, docs and examples, executed as if they were in a user's files."""

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_TEXTS = [path.read_text(encoding="utf-8") for path in sorted(_ROOT.glob("examples/own_*.py"))]
for _page in [_ROOT / "README.md", *sorted(_ROOT.glob("docs/*.md"))]:
    _TEXTS += re.findall(r"```python\n(.*?)```", _page.read_text(encoding="utf-8"), re.DOTALL)
for _text in _TEXTS:
    if re.search(r"^class ", _text, re.MULTILINE):
        exec(compile(_text, __file__, "exec"), globals())
