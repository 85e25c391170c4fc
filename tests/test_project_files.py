"""What the project says of itself in several files is the same in all: versions, addresses, commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tritonparam import __version__

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
REPOSITORY = re.findall(r'^Homepage = "(.*)"$', PYPROJECT, re.MULTILINE)[0]
GITHUB = ROOT / ".github"
FORMS = ("bug", "feature")


def read(file: Path) -> Any:
    return pytest.importorskip("yaml").safe_load(file.read_text("utf-8"))


def workflow(name: str) -> dict[str, Any]:
    found = read(GITHUB / "workflows" / f"{name}.yml")
    assert set(found) >= {"name", "jobs", "permissions"}
    assert True in found  # `on`, as YAML 1.1 reads it
    return dict(found)


def commands(found: dict[str, Any]) -> list[str]:
    return [step["run"] for job in found["jobs"].values() for step in job["steps"] if "run" in step]


def lower_bounds(text: str) -> dict[str, str]:
    """The oldest release of each package that a list of requirements allows."""
    return dict(re.findall(r'"(\w+)>=([\d.]+)', text))


def pinned(name: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)==([\d.]+)$", (ROOT / name).read_text("utf-8"), re.MULTILINE))


DEPENDENCIES = lower_bounds(PYPROJECT.partition("\ndependencies = [")[2].partition("\n]")[0])
CPU = lower_bounds(re.findall(r"^cpu = .*$", PYPROJECT, re.MULTILINE)[0])
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)


def test_the_table_of_supported_versions_is_that_of_pyproject() -> None:
    """And its Pythons are those that CI runs, its tested releases those of the constraints."""
    table = README.partition("<!-- supported:begin -->")[2].partition("<!-- supported:end -->")[0]
    rows = {row[0]: row[1:] for row in re.findall(r"^\| (\w+) \| (.*) \| (.*) \|$", table, re.MULTILINE)}
    assert rows["Python"][0] == ", ".join(PYTHONS)
    assert f'requires-python = ">={PYTHONS[0]}"' in PYPROJECT
    jobs = workflow("check")["jobs"]
    run = {each for job in ("check", "lowest") for each in jobs[job]["strategy"]["matrix"]["python"]}
    assert run == set(PYTHONS)
    assert jobs["lowest"]["strategy"]["matrix"]["python"] == PYTHONS[:1]

    bounds = DEPENDENCIES | CPU
    for package in ("torch", "triton", "numpy", "numba"):
        assert re.match(rf"{re.escape(bounds[package])} and newer\b", rows[package][0]), package
    lowest, newest = pinned("constraints-lowest.txt"), pinned("constraints.txt")
    for package in ("torch", "numpy", "numba"):
        assert rows[package][1] == f"{lowest[package]}, {newest[package]}"
    assert "not run" in rows["Windows"][1]
    runners = {job["runs-on"].partition("-")[0] for job in jobs.values()}
    assert runners == {"ubuntu", "macos"}


def test_the_lowest_constraints_are_the_lower_bounds() -> None:
    lowest = pinned("constraints-lowest.txt")
    bounds = DEPENDENCIES | CPU
    assert set(lowest) == {*bounds, "safetensors"}
    for package, bound in bounds.items():
        assert f"{lowest[package]}.".startswith(f"{bound}."), package


def test_workflows_run_verbs_of_the_makefile() -> None:
    verbs = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    check, release = commands(workflow("check")), commands(workflow("release"))
    run = [re.match(r"make ([\w-]+) ", f"{each} ")[1] for each in check + release]  # type: ignore[index]
    assert {"check", "test", "release-check"} <= set(run)
    assert set(run) - verbs <= {"docs"}
    for path in re.findall(r"tests/\w[\w/.]*", " ".join(check)):
        assert (ROOT / path).exists()
    for path in re.findall(r"CONSTRAINTS=(\S+)", " ".join(check)):
        assert (ROOT / path).exists()


def test_a_release_is_published_by_its_tag_and_without_a_token() -> None:
    found = workflow("release")
    assert found[True] == {"push": {"tags": ["v*"]}}
    assert found["permissions"] == {"contents": "read"}
    assert commands(found)[0] == "make check PYTHON=python"
    assert 'TAG="${GITHUB_REF_NAME}"' in commands(found)[1]
    publish = found["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    text = (GITHUB / "workflows" / "release.yml").read_text("utf-8")
    assert "secrets." not in text
    assert "password" not in text


@pytest.mark.parametrize("name", FORMS)
def test_a_form_asks_for_what_is_needed(name: str) -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert set(form) == {"name", "description", "labels", "body"}
    fields = {each["id"]: each for each in form["body"] if each["type"] != "markdown"}
    assert all("label" in each["attributes"] for each in fields.values())
    required = {key for key, each in fields.items() if each.get("validations", {}).get("required")}
    assert required == ({"example", "got", "want", "versions"} if name == "bug" else {"task"})
    if name == "bug":
        assert "hexadecimal" in fields["bits"]["attributes"]["description"]


def test_every_address_is_of_one_repository() -> None:
    """pyproject.toml has it, and so do the files that GitHub reads as they are."""
    assert read(ROOT / "CITATION.cff")["repository-code"] == REPOSITORY
    (link,) = read(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["contact_links"]
    assert link["url"] == f"{REPOSITORY}/security/advisories/new"
    urls = PYPROJECT.partition("[project.urls]\n")[2].partition("\n[")[0]
    assert [url for url in re.findall(r'"(.*)"', urls) if not url.startswith(REPOSITORY)] == []


def test_the_citation_is_of_this_version_and_license() -> None:
    found = read(ROOT / "CITATION.cff")
    assert str(found["version"]) == __version__
    assert found["license"] == re.findall(r'^license = "(.*)"$', PYPROJECT, re.MULTILINE)[0]
    assert set(found) >= {"cff-version", "message", "title", "authors", "type"}


def test_conduct_and_reports_go_to_one_place() -> None:
    for name in ("CODE_OF_CONDUCT.md", "SECURITY.md"):
        assert '"Report a vulnerability"' in (ROOT / name).read_text("utf-8")
