"""What counts as a model that is here, how a name finds it, and pulls that are killed or meet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import Fault, Server, tiny_gguf, wait_until

from localllm.errors import ModelNotFoundError, NetworkError
from localllm.models import catalog, download, pull, store
from localllm.models.resolve import resolve
from localllm.models.sources import Silent

MODEL = tiny_gguf(400_000)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models' folder of an empty machine."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    models = tmp_path / "localllm" / "models"
    models.mkdir(parents=True)
    return models


def put(folder: Path, file: str, data: bytes = MODEL, **manifest: object) -> Path:
    """Lays a model into the folder, with a manifest where its fields are given."""
    path = folder / file
    path.write_bytes(data)
    if manifest:
        fields = {"n_bytes": len(data), **manifest}
        store.manifest_path(path).write_text(json.dumps(fields), encoding="utf-8")
    return path


# ---- what is here --------------------------------------------------------------------------------


def test_only_whole_models_count(folder: Path) -> None:
    put(folder, "whole.gguf", name="a:1")
    put(folder, "short.gguf", data=MODEL[:-1], name="b:1", n_bytes=len(MODEL))
    put(folder, ".hidden.gguf")
    put(folder, "notes.txt")
    store.manifest_path(folder / "gone.gguf").write_text('{"name": "c:1", "n_bytes": 1}')
    put(folder, "broken-manifest.gguf")
    store.manifest_path(folder / "broken-manifest.gguf").write_text("{")
    put(folder, "list-manifest.gguf")
    store.manifest_path(folder / "list-manifest.gguf").write_text("[1]")
    put(folder, "odd-manifest.gguf", name=7)
    (folder / "folder.gguf").mkdir()
    whole = ["a:1", "broken-manifest", "list-manifest", "odd-manifest"]
    assert list(store.stored_models()) == whole


def test_a_manifest_of_another_version_is_read(folder: Path) -> None:
    put(folder, "later.gguf", name="a:1", something="new")
    assert list(store.stored_models()) == ["a:1"]


def test_the_catalog_says_the_system_message_of_what_was_pulled_before(folder: Path) -> None:
    entry = next(entry for entry in catalog.read().values() if entry.system is not None)
    assert store.find_system(put(folder, "known.gguf", name=entry.name)) == entry.system
    assert store.find_system(put(folder, "other.gguf", name="a:1")) is None
    assert store.find_system(put(folder, "bare.gguf")) is None


def test_a_file_that_somebody_put_here_is_adopted(folder: Path) -> None:
    entry = catalog.read()["smollm2:360m"]
    put(folder, entry.file)
    put(folder, "mine.gguf")
    put(folder, catalog.read()["smollm2:135m"].file, data=b"GGUF of another size")
    models = store.stored_models()
    assert list(models) == ["mine", "smollm2-135m-instruct-Q4_1", "smollm2:360m"]
    assert models["smollm2:360m"].licence == "apache-2.0"
    assert models["mine"].sha256 is None


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["smollm2:360m", "smollm2:3", "smollm2", "SMOLLM2", "s"])
def test_a_beginning_finds_what_is_here_before_the_catalog(folder: Path, typed: str) -> None:
    path = put(folder, catalog.read()["smollm2:360m"].file)
    assert resolve(typed, offline=True) == path


def test_an_exact_name_is_never_taken_for_a_beginning(folder: Path) -> None:
    put(folder, catalog.read()["gemma3:270m-it"].file)
    with pytest.raises(ModelNotFoundError, match=r"gemma3:270m is not on this machine") as raised:
        resolve("gemma3:270m", pull=False)
    assert raised.value.hint == "localllm pull gemma3:270m"


def test_a_path_is_used_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for typed in (str(path), "model.bin", "./model.bin", "~/model.bin"):
        assert resolve(typed, offline=True).samefile(path)
        assert pull.pull_model(typed, offline=True).model.path.samefile(path)
    assert store.stored_models() == {}


def test_a_folder_called_like_a_model_is_not_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qwen3:4b").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        resolve("qwen3:4b", pull=False)


@pytest.mark.parametrize("typed", ["x" * 5000, "a\0b", "", "~nobody-of-this-name/m.gguf", "\udcff"])
def test_any_text_may_be_asked_for(typed: str) -> None:
    with pytest.raises(ModelNotFoundError):
        resolve(typed)


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for typed in (str(pipe), str(tmp_path), "./missing.gguf", "/missing.gguf"):
        with pytest.raises(ModelNotFoundError, match=r"no file|not a regular file"):
            resolve(typed)


def test_an_unknown_name_suggests_what_is_here_too(folder: Path) -> None:
    put(folder, "my-model.gguf")
    with pytest.raises(ModelNotFoundError, match="my-model"):
        resolve("my-modle")
    with pytest.raises(ModelNotFoundError, match=r"may mean .*smollm2:135m.*smollm2:360m"):
        resolve("smollm2:")


def test_offline_makes_no_call(server: Server) -> None:
    url = server.add("/m.gguf", MODEL)
    with pytest.raises(NetworkError, match="--offline"):
        pull.pull_model(url, offline=True)
    with pytest.raises(ModelNotFoundError):
        resolve(url, offline=True)
    with pytest.raises(ModelNotFoundError):
        resolve(url, pull=False)
    assert server.asked == []


def test_resolve_pulls_what_is_not_here(server: Server) -> None:
    path = resolve(server.add("/m.gguf", MODEL))
    assert path.read_bytes() == MODEL


def test_a_damaged_model_is_fetched_again(server: Server) -> None:
    url = server.add("/m.gguf", MODEL)
    path = resolve(url)
    os.truncate(path, 1000)
    assert pull.pull_model(url) == pull.Pulled(store.stored_models()[url], was_here=False)
    assert path.read_bytes() == MODEL


def test_a_file_of_somebody_else_is_never_overwritten(folder: Path, server: Server) -> None:
    mine = put(folder, "m.gguf", data=b"GGUF, but mine")
    pulled = pull.pull_model(server.add("/m.gguf", MODEL)).model
    assert pulled.path != mine and mine.read_bytes() == b"GGUF, but mine"
    assert set(store.stored_models()) == {"m", pulled.name}


def test_removing_leaves_nothing(folder: Path, server: Server) -> None:
    model = pull.pull_model(server.add("/m.gguf", MODEL)).model
    store.remove_model(model)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


# ---- killed and concurrent -----------------------------------------------------------------------

PULL = (
    "import sys; from localllm.models import pull; print(pull.pull_model(sys.argv[1]).model.path)"
)


def start_pull(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PULL, url], stdout=subprocess.PIPE, text=True)


def parts_of(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if ".part-" in path.name]


def test_a_killed_pull_leaves_nothing_under_a_final_name_and_is_resumed(
    folder: Path, server: Server
) -> None:
    hold = threading.Event()
    url = server.add("/m.gguf", MODEL, Fault(hold=hold))
    process = start_pull(url)
    # Python writes through once its buffer is full, so not all that was sent is on the disk.
    wait_until(lambda: any(part.stat().st_size > 100_000 for part in parts_of(folder)))
    process.kill()
    process.wait()
    hold.set()
    assert store.stored_models() == {} and not list(folder.glob("[!.]*"))
    (part,) = parts_of(folder)
    kept = part.stat().st_size

    # What the next pull of another model finds of this one stays as it is.
    pull.pull_model(server.add("/other.gguf", MODEL))
    assert part.exists()

    assert pull.pull_model(url).model.path.read_bytes() == MODEL
    assert server.gets("/m.gguf")[-1].headers["range"] == f"bytes={kept}-"
    assert parts_of(folder) == []


@pytest.mark.parametrize("moment", ["sync", "manifest", "rename", "after"])
def test_killed_at_every_step_of_the_end(folder: Path, server: Server, moment: str) -> None:
    """The process dies just before the bytes are synced, the manifest or the file gets its name,
    or just after: the model is whole or it is not here, and the next pull brings it."""
    steps = {
        "sync": "import os; os.fsync = die",
        "manifest": "pull.write_manifest = die",
        "rename": "import pathlib; r = pathlib.Path.replace; pathlib.Path.replace = "
        "lambda a, b: die() if str(b).endswith('.gguf') else r(a, b)",
        "after": "from localllm.models import download; download.sync_folder = die",
    }
    script = f"""
import os, signal, sys
from localllm.models import pull
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{steps[moment]}
pull.pull_model(sys.argv[1])
"""
    url = server.add("/m.gguf", MODEL)
    ended = subprocess.run([sys.executable, "-c", script, url], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(store.stored_models()) == ([url] if moment == "after" else [])
    pulled = pull.pull_model(url)
    assert pulled.was_here == (moment == "after")
    assert pulled.model.path.read_bytes() == MODEL and parts_of(folder) == []
    if moment != "sync":
        assert server.sent_bytes == len(MODEL), "whole bytes were on the disk already"


def test_two_pulls_of_one_model_make_one_transfer(server: Server) -> None:
    hold = threading.Event()
    url = server.add("/m.gguf", MODEL, Fault(hold=hold))
    first = start_pull(url)
    wait_until(lambda: len(server.gets("/m.gguf")) == 1)
    second = start_pull(url)
    heard: list[str] = []

    class Listener(Silent):
        def note(self, text: str) -> None:
            heard.append(text)
            hold.set()

    third = pull.pull_model(url, progress=Listener())
    outputs = [process.communicate(timeout=20)[0].strip() for process in (first, second)]
    assert outputs == [str(third.model.path)] * 2 and third.was_here
    assert heard == [f"another process is fetching {url}; waiting for it"]
    assert len(server.gets("/m.gguf")) == 1


def test_the_next_pull_clears_what_the_dead_left(folder: Path, server: Server) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = os.getppid()
    stale = folder / f".m.gguf.part-{dead.pid}-manifest"
    theirs = folder / f".m.gguf.part-{alive}-0123456789abcdef"
    work = folder / f".work-{dead.pid}-x"
    stale.write_bytes(b"x")
    theirs.write_bytes(b"x")
    work.mkdir()
    pull.pull_model(server.add("/m.gguf", MODEL))
    assert not stale.exists() and not work.exists() and theirs.exists()


def test_the_lock_is_not_what_keeps_bytes_right(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do nothing, three pulls at once still end with one right file."""
    monkeypatch.setattr(pull, "try_lock", lambda descriptor: True)
    hold = threading.Event()
    url = server.add("/m.gguf", MODEL, Fault(hold=hold), Fault(hold=hold))
    script = "from localllm.models import pull; pull.try_lock = lambda d: True\n" + PULL
    others = [
        subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    wait_until(lambda: len(server.gets("/m.gguf")) == 2)
    path = pull.pull_model(url).model.path
    assert path.read_bytes() == MODEL
    hold.set()
    assert [process.wait(20) for process in others] == [0, 0]
    assert path.read_bytes() == MODEL and parts_of(path.parent) == []
    assert list(store.stored_models()) == [url] and len(server.gets("/m.gguf")) == 3


def test_a_part_that_cannot_be_the_beginning_is_dropped(folder: Path, server: Server) -> None:
    url = server.add("/m.gguf", MODEL)
    part = download.claim_part(folder / "m.gguf", f'{url} "one"')
    part.write_bytes(b"x" * (len(MODEL) + 1))
    assert pull.pull_model(url).model.path.read_bytes() == MODEL
