"""What pyproject.toml allows is what `make test-oldest` and `make test` install."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [Requirement(one) for one in (*PROJECT["dependencies"], *EXTRAS["sweep"], *EXTRAS["report"], *EXTRAS["demo"])]
NEEDED = [one for one in NEEDED if one.name != PROJECT["name"]]  # demo names the other extras


def pinned(constraints: str) -> dict[str, Version]:
    text = (ROOT / constraints).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, flags=re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in found}


@pytest.mark.parametrize("needed", NEEDED, ids=lambda needed: needed.name)
def test_the_oldest_that_is_allowed_is_what_is_tested(needed: Requirement) -> None:
    (lowest,) = (Version(one.version) for one in needed.specifier if one.operator == ">=")
    assert pinned("constraints/oldest.txt")[canonicalize_name(needed.name)] == lowest


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints/oldest.txt"])
def test_what_is_pinned_is_allowed(constraints: str) -> None:
    versions = pinned(constraints)
    for one in (Requirement(one) for group in (PROJECT["dependencies"], *EXTRAS.values()) for one in group):
        if one.name != PROJECT["name"]:
            assert versions[canonicalize_name(one.name)] in one.specifier, str(one)


def test_versions_of_one_release_are_pinned_together() -> None:
    """The tests meet projects that are written against the other name of Lightning; s3fs asks for its own fsspec."""
    for constraints in ("constraints.txt", "constraints/oldest.txt"):
        versions = pinned(constraints)
        assert versions["pytorch-lightning"] == versions["lightning"]
        assert versions["s3fs"] == versions["fsspec"]
