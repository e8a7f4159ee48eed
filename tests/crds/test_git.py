"""Which addresses and refs are handed to git."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from claude_crds import git
from claude_crds.git import GitSource, parse

CRDS = Path(__file__).resolve().parents[2] / "crds"


@pytest.mark.parametrize(
    ("text", "url", "ref", "host"),
    [
        ("https://github.com/o/r", "https://github.com/o/r", "", "github.com"),
        ("https://github.com/o/r.git#main", "https://github.com/o/r.git", "main", "github.com"),
        ("https://Git.Example.com:8443/a/b/c/", "https://Git.Example.com:8443/a/b/c/", "", "git.example.com:8443"),
        ("https://h/~u/r#feature/x-1_2.3", "https://h/~u/r", "feature/x-1_2.3", "h"),
        ("https://10.0.0.1/r#v1.0+2", "https://10.0.0.1/r", "v1.0+2", "10.0.0.1"),
    ],
)
def test_what_is_taken(text: str, url: str, ref: str, host: str) -> None:
    found = parse(text)
    assert (found.url, found.ref, found.host, str(found)) == (url, ref, host, text)


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "--upload-pack=x", "http://h/r", "ssh://git@h/r", "git@h:o/r", "git://h/r", "file:///etc", "/etc",
        "ext::sh -c id", "https://h", "https://h/", "https:///r", "https://u@h/r", "https://u:p@h/r", "https://-h/r",
        "https://h/r?x=1", "https://h/a b", "https://h/a\nb", "https://h/r\n", "https://h/r\x00", "https://h/ü",
        "https://h:port/r", "https://h:123456/r", "https://h/r#", "https://h/r#-x", "https://h/r#--upload-pack=x",
        "https://h/r#a..b", "https://h/r#a b", "https://h/r#a\n", "https://h/r#a#b", "https://h/r#a:b", "https://h//r",
        "https://h/r#/a", "https://h/r#+a:b", "https://h/" + "a" * 2048, "https://h/r#" + "a" * 251, "https://h\\@e/r",
        "HTTPS://h/r", " https://h/r",
    ],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        parse(text)
    assert len(text) < 4 or text not in str(caught.value)


@given(st.text(max_size=60))
def test_whatever_is_taken_is_no_option_and_has_no_user(text: str) -> None:
    for given_ in (text, f"https://h/{text}", f"https://h/r#{text}", f"https://{text}/r"):
        try:
            found = parse(given_)
        except ValueError:
            continue
        assert found.url.startswith("https://")
        assert not found.ref.startswith("-")
        assert "@" not in found.host
        assert not re.search(r"\s", given_)


def test_a_list_of_hosts() -> None:
    source = GitSource("https://Git.example.com/x")
    assert source.within(["a.example.com", "git.example.com"])
    assert not source.within(["example.com", "git.example.com:8443", ""])
    assert git.hosts().parse(" GitHub.com, git.example.com:8443 ") == ("github.com", "git.example.com:8443")
    assert not any(map(git.is_host, ("https://github.com", "Github.com", "a b", "-a", "a/b", "a:", "", "*")))


@pytest.mark.parametrize(("ref", "commit"), [("a" * 40, True), ("0" * 64, True), ("a" * 39, False), ("main", False)])
def test_a_commit_is_told_from_a_name(ref: str, commit: bool) -> None:
    assert GitSource("https://h/r", ref).is_commit == commit


@pytest.mark.parametrize("plural", ["claudepools", "claudesessions"])
def test_the_definitions_say_the_same(plural: str) -> None:
    [version] = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())["spec"]["versions"]
    spec: Any = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    workspace = spec["properties"]["workspace"]["properties"]
    fields = workspace["git"]["properties"]
    rules = {name: fields[name]["x-kubernetes-validations"][0]["rule"] for name in ("url", "ref")}
    assert f"self.matches('{git.URL}')" in rules["url"]
    assert f"self.matches('{git.REF}')" in rules["ref"]
    if plural == "claudepools":
        assert (
            f"self.all(host, host.matches('{git.HOST}'))"
            == workspace["gitHosts"]["x-kubernetes-validations"][0]["rule"]
        )
