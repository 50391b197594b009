"""Print the oldest versions that pyproject.toml allows, one `name==version` per line, for pip.

Test them in a new environment, including torch (`.ci/oldest` does so with the quick tests):

    python scripts/minimum_versions.py > oldest.txt
    pip install -c oldest.txt ".[test]" && pytest -n 2

If torch's oldest version is already installed, install the other packages into a separate folder:

    python scripts/minimum_versions.py --without torch torchvision lightning > oldest.txt
    pip install --no-deps --target oldest -r oldest.txt && PYTHONPATH=oldest:. python -m pytest tests
"""

import argparse
import re
import tomllib
from pathlib import Path


def oldest(extras: list[str]) -> dict[str, str]:
    """Return the lower bound of each dependency, including those of some extras."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    matches = (re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)(?:,<\d+)?", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def main() -> None:
    """Print the versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=["timm", "export", "test"], help="extras to include")
    parser.add_argument("--without", nargs="*", default=[], help="packages to leave out")
    args = parser.parse_args()
    for name, version in oldest(args.extras).items():
        if name not in args.without:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
