"""The catalog's rows, the names that find them, and numbers as people write them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from localllm import units
from localllm.errors import ModelNotFoundError, UsageError
from localllm.models import catalog, catalog_file
from localllm.models.sources import parse_name
from localllm.models.sources.hub import Hub
from localllm.models.sources.pypi import Pypi
from localllm.models.sources.url import Url

ENTRIES = list(catalog.read().values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry: catalog_file.Entry) -> None:
    assert re.fullmatch(r"[a-z0-9.]+:[a-z0-9.-]+", entry.name)
    assert re.fullmatch(r"[a-z0-9.-]+-(F16|Q\d_[01]|Q\d_K(_[SML])?)\.gguf", entry.file)
    assert entry.about and len(entry.about) <= 80 and "\n" not in entry.about
    assert entry.licence in ("apache-2.0", "mit", "gemma", "llama3.2")
    assert entry.sources
    assert (entry.sha256 is None) == (entry.n_bytes is None)
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_source_of_every_entry_is_usable(entry: catalog_file.Entry) -> None:
    for source in entry.sources:
        if isinstance(source, Hub):
            assert parse_name(f"hf:{source.repo}:{source.quant}") == source
            assert source.quant and entry.file.endswith(f"-{source.quant}.gguf")
        if isinstance(source, Pypi):
            assert len(source.packages) == len(source.members)
            assert all("==" in package for package in source.packages)
            assert entry.sha256, "a package index says nothing of the file's hash"
    # pip has its own patience, so nothing may have to wait behind it.
    assert not any(isinstance(source, Pypi) for source in entry.sources[:-1])


def test_files_have_their_names_to_themselves() -> None:
    assert len({entry.file for entry in ENTRIES}) == len(ENTRIES)


def test_the_two_models_of_a_package_index() -> None:
    smollm2, gemma3 = catalog.read()["smollm2:135m"], catalog.read()["gemma3:270m"]
    assert [type(source) for source in smollm2.sources] == [Hub, Pypi]
    assert [type(source) for source in gemma3.sources] == [Pypi]
    assert smollm2.n_bytes == 98362432 and gemma3.n_bytes == 253113024


def test_the_catalog_lies_at_the_top_of_a_checkout() -> None:
    assert catalog.shipped_file() == ROOT / "models.toml"


# ---- the user's own ------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's catalog lies; nothing is there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "localllm").mkdir()
    return tmp_path / "localllm" / "models.toml"


def test_the_users_entries_go_before_ours(own: Path) -> None:
    assert catalog.own_file() is None and list(catalog.read()) == [e.name for e in ENTRIES]
    own.write_text(
        """
        [[model]]
        name = "work:7b"
        sources = ["hf:org/work-GGUF:Q4_K_M", "https://host/work.gguf"]

        [[model]]
        name = "smollm2:135m"
        about = "another one"
        sources = [{ kind = "hub", repo = "me/mine", quant = "Q8_0" }]
        """,
        encoding="utf-8",
    )
    entries = catalog.read()
    assert list(entries)[:2] == ["work:7b", "smollm2:135m"] and len(entries) == len(ENTRIES) + 1
    mine = entries["work:7b"]
    assert mine.sources == (Hub("org/work-GGUF", "Q4_K_M"), Url("https://host/work.gguf"))
    assert (mine.file, mine.licence) == ("work-7b.gguf", None)
    assert entries["smollm2:135m"].sources == (Hub("me/mine", "Q8_0"),)
    assert entries["smollm2:135m"].sha256 is None, "ours is of other bytes"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[model]", "is not TOML"),
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("[other]", "may hold [[model]] tables"),
        ("model = 5", "may hold [[model]] tables"),
        ("[[model]]\nsources = ['hf:a/b']", "name of model 1"),
        ("[[model]]\nname = 'hf:a/b'\nsources = ['hf:a/b']", "expected a name like family:size"),
        ("[[model]]\nname = 'a:1'", "sources of model 1"),
        ("[[model]]\nname = 'a:1'\nsources = []", "at least one"),
        ("[[model]]\nname = 'a:1'\nsources = [5]", "a source of model 1"),
        ("[[model]]\nname = 'a:1'\nsources = [{kind = 'ftp'}]", "hub, pypi, url"),
        ("[[model]]\nname = 'a:1'\nsources = [{kind = ['hub']}]", "hub, pypi, url"),
        ("[[model]]\nname = 'a:1'\nsources = [{kind = 'hub', repo = 5}]", "repo of a source"),
        ("[[model]]\nname = 'a:1'\nfile = '../x.gguf'\nsources = ['hf:a/b']", "file of model 1"),
        ("[[model]]\nname = 'a:1'\nn_bytes = true\nsources = ['hf:a/b']", "n_bytes of model 1"),
        ("[[model]]\nname = 'a:1'\ncolour = 1\nsources = ['hf:a/b']", "'colour'"),
        ("[[model]]\nname = 'a:1'\nsources = ['hf:a/b']\n" * 2, "'a:1' twice"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_a_users_catalog_that_is_wrong_says_where(own: Path, text: str, said: str) -> None:
    own.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as raised:
        catalog.read()
    assert said in str(raised.value) and str(own) in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [
        "'smollm2:135m'",
        "'hf:org'",
        "{kind = 'hub'}",
        "{kind = 'hub', repo = '../x'}",
        "{kind = 'hub', repo = 'a/b', colour = 'red'}",
        "{kind = 'url', url = 'file:///etc/passwd'}",
        "{kind = 'url', url = 'http://host/x.gguf'}",
        "{kind = 'pypi', packages = []}",
        "{kind = 'pypi', packages = ['good', '--index-url=x']}",
        "{kind = 'pypi', packages = ['a', 'b'], members = ['c']}",
    ],
)
def test_a_source_that_is_none_is_refused_when_it_is_asked_for(own: Path, source: str) -> None:
    own.write_text(f"[[model]]\nname = 'a:1'\nsources = [{source}]", encoding="utf-8")
    entry = catalog.read()["a:1"]
    with pytest.raises(UsageError):
        _ = entry.sources


NAMES = ["smollm2:135m", "smollm2:360m", "gemma3:270m", "gemma3:270m-it", "qwen3:4b"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("smollm2:135m", "smollm2:135m"),
        ("smollm2:1", "smollm2:135m"),
        ("SmolLM2:3", "smollm2:360m"),
        ("q", "qwen3:4b"),
        ("gemma3:270m", "gemma3:270m"),
        ("gemma3:270m-", "gemma3:270m-it"),
        ("mol", None),
        ("", None),
    ],
)
def test_a_unique_beginning_is_enough(typed: str, meant: str | None) -> None:
    assert catalog.match(typed, NAMES) == meant


def test_an_ambiguous_beginning_lists_the_candidates() -> None:
    with pytest.raises(ModelNotFoundError, match=r"smollm2:135m, smollm2:360m"):
        catalog.match("smollm2", NAMES)


def test_a_miss_suggests_the_nearest() -> None:
    error = catalog.miss("smolm2:135", NAMES)
    assert "smollm2:135m" in str(error) and error.hint == "localllm list --all"
    assert "nearest" not in str(catalog.miss("zzzzzz", NAMES))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("hf:org/repo", Hub("org/repo")),
        ("hf:org/repo.v2-x:Q4_K_M", Hub("org/repo.v2-x", "Q4_K_M")),
        ("pypi:some-package", Pypi(("some-package",))),
        ("pypi:some-package==1.0.2", Pypi(("some-package==1.0.2",))),
        ("https://host/x.gguf", Url("https://host/x.gguf")),
        ("http://127.0.0.1:80/x", Url("http://127.0.0.1:80/x")),
        ("smollm2:135m", None),
    ],
)
def test_a_name_says_its_source(name: str, source: object) -> None:
    assert parse_name(name) == source


@pytest.mark.parametrize(
    "name",
    [
        "hf:repo",
        "hf:a/b/c",
        "hf:../b",
        "hf:org/repo:Q4 K",
        "pypi:",
        "pypi:--index-url=x",
        "pypi:a b",
        "pypi:https://host/x.whl",
        "pypi:./folder",
        "http://host/x.gguf",
        "https:///x.gguf",
    ],
)
def test_a_name_that_spells_no_source_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        parse_name(name)


@pytest.mark.parametrize(
    ("text", "value"),
    [("512", 512), ("4k", 4096), ("4K", 4096), ("1.5k", 1536), ("2m", 2 << 20), (" 8 ", 8)],
)
def test_counts(text: str, value: int) -> None:
    assert units.parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1024", 1024),
        ("1b", 1),
        ("2G", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("2GB", 2_000_000_000),
        ("512 MiB", 512 << 20),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert units.parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "k", "-1", "4kk", "1e3", "1.5", "4GiB", "٤", "0x10", "1,5k"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(UsageError):
        units.parse_count(text)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (98362432, "93.8 MiB"), (1 << 40, "1.0 TiB")],
)
def test_sizes_are_readable(n_bytes: int, text: str) -> None:
    assert units.format_bytes(n_bytes) == text
