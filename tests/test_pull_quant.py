"""`pull` of split models, of a quant that is there or must be made, and of what fits a budget.

All against a Hub on this machine, with real tiny models that the gguf package has written.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from conftest import ROOT
from golden.tiny_models import TINY_MODELS, TinyModel, write_gguf
from hollow_models import Hollow, write_hollow
from local_server import COMMIT, Fault, Server

from localllm import engines
from localllm.cli import app
from localllm.cli.pull import command as pull_command
from localllm.convert import from_checkpoint
from localllm.engines.base import EngineOptions
from localllm.errors import (
    DoesNotFitError,
    IntegrityError,
    ModelNotFoundError,
    NetworkError,
    UsageError,
)
from localllm.memory import choose_quant, need
from localllm.models import download, pull, store
from localllm.models.resolve import resolve
from localllm.models.sources import Progress, Silent

REPO = "org/tiny"
PLAIN = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 5000,
    "pytorch_model.bin": b"pickle",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One model whole and in three or more files, another that is larger."""
    folder = tmp_path_factory.mktemp("tiny")
    by_size = {}
    for model in TINY_MODELS:
        write_gguf(model, folder / f"{model.name}.gguf")
        by_size[(folder / f"{model.name}.gguf").stat().st_size] = model
    small, large = by_size[min(by_size)], by_size[max(by_size)]
    write_gguf(small, folder / "tiny-Q8_0.gguf", split_tensors=7)
    files = {path.name: path.read_bytes() for path in folder.glob("tiny-*.gguf")}
    assert len(files) > 2
    return files | {
        "small": (folder / f"{small.name}.gguf").read_bytes(),
        "large": (folder / f"{large.name}.gguf").read_bytes(),
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty machine whose Hub is a server on it."""
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    server = Server()
    server.become_hub(monkeypatch)
    yield server
    server.close()


class Notebook:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.starts: list[tuple[int | None, int]] = []

    def start(self, label: str, total: int | None, done: int = 0) -> None:
        self.starts.append((total, done))

    def advance(self, n_bytes: int) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None: ...


def split_files(tiny: dict[str, bytes]) -> dict[str, bytes]:
    return {f"Q8_0/{name}": data for name, data in sorted(tiny.items()) if name.startswith("tiny-")}


def left() -> list[str]:
    """What lies in the models' folder beside locks."""
    return sorted(p.name for p in store.models_folder().iterdir() if not p.name.endswith(".lock"))


def file_bytes_sent(hub: Server, pulls: int) -> int:
    """Bytes of files, without the list that each pull reads first."""
    return hub.sent_bytes - pulls * len(hub.pages[f"/api/models/{REPO}"].data)


# ---- split models --------------------------------------------------------------------------------


def test_a_split_model_is_one_model(hub: Server, tiny: dict[str, bytes]) -> None:
    files = split_files(tiny)
    hub.add_repository(REPO, files | {"tiny-Q4_0.gguf": tiny["small"]})
    notebook = Notebook()
    model = pull.pull_model(f"hf:{REPO}", quant="q8_0", progress=notebook).model
    assert (model.name, model.verified, model.revision) == (f"hf:{REPO}:Q8_0", True, COMMIT)
    assert {path.name: path.read_bytes() for path in model.paths} == {
        name.split("/")[1]: data for name, data in files.items()
    }
    assert [p.sha256 for p in model.parts] == [
        hashlib.sha256(d).hexdigest() for d in files.values()
    ]
    total = sum(map(len, files.values()))
    assert model.n_bytes == total and {start[0] for start in notebook.starts} == {total}
    assert [done for _, done in notebook.starts] == sorted({done for _, done in notebook.starts})
    assert store.stored_models() == {model.name: model}
    assert resolve(f"hf:{REPO}", offline=True) == model.path
    assert pull.pull_model(f"hf:{REPO}:Q8_0").was_here
    engines.open_model(model.path).close()

    model.paths[1].unlink()
    assert store.stored_models() == {}
    assert not pull.pull_model(f"hf:{REPO}:Q8_0").was_here
    first = next(iter(files))
    assert len(hub.gets(f"/far/{REPO}/{first}")) == 1, "what was here is not sent again"
    store.remove_model(model)
    assert left() == []


def test_a_cut_split_pull_goes_on_where_it_stopped(hub: Server, tiny: dict[str, bytes]) -> None:
    files = split_files(tiny)
    hub.add_repository(REPO, files)
    first, second, *_ = files
    hub.pages[f"/far/{REPO}/{second}"].faults = [Fault(cut_at=50)] * download.ATTEMPTS
    with pytest.raises(NetworkError):
        pull.pull_model(f"hf:{REPO}:Q8_0")
    assert store.stored_models() == {}
    assert pull.pull_model(f"hf:{REPO}:Q8_0").model.n_bytes == sum(map(len, files.values()))
    assert len(hub.gets(f"/far/{REPO}/{first}")) == 1
    assert file_bytes_sent(hub, pulls=2) == sum(map(len, files.values()))
    assert not [name for name in left() if name.startswith(".")]


def test_a_wrong_part_is_removed_and_fetched_again(hub: Server, tiny: dict[str, bytes]) -> None:
    files = split_files(tiny)
    hub.add_repository(REPO, files)
    far = hub.pages[f"/far/{REPO}/{list(files)[1]}"]
    right, far.data = far.data, bytes(len(far.data))
    with pytest.raises(IntegrityError, match="sha256"):
        pull.pull_model(f"hf:{REPO}:Q8_0")
    assert store.stored_models() == {}
    far.data = right
    assert pull.pull_model(f"hf:{REPO}:Q8_0").model.verified


def test_parts_that_do_not_belong_together_are_not_kept(
    hub: Server, tiny: dict[str, bytes]
) -> None:
    names = list(split_files(tiny))
    files = split_files(tiny) | {names[1]: split_files(tiny)[names[2]]}
    hub.add_repository(REPO, files)
    with pytest.raises(IntegrityError, match=r"00002-of-.*split.no is 2, but 1 is expected"):
        pull.pull_model(f"hf:{REPO}:Q8_0")
    assert left() == []


@pytest.mark.parametrize("n_moved", [0, 1, 2, 3])
def test_killed_while_the_files_get_their_names(
    hub: Server, tiny: dict[str, bytes], n_moved: int
) -> None:
    """The process dies just before the manifest, or after some files: not here until all are."""
    script = f"""
import os, pathlib, signal, sys
from localllm.models import pull, store
move, moved = pathlib.Path.replace, []
def counting(path, target):
    if pathlib.Path(target).parent == store.models_folder() and str(target).endswith(".gguf"):
        moved.append(target)
        if len(moved) > {n_moved}: os.kill(os.getpid(), signal.SIGKILL)
    return move(path, target)
pathlib.Path.replace = counting
pull.pull_model("hf:{REPO}:Q8_0")
os.kill(os.getpid(), signal.SIGKILL)
"""
    files = split_files(tiny)
    assert len(files) == 3
    hub.add_repository(REPO, files)
    environment = os.environ | {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, check=False, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    assert bool(store.stored_models()) == (n_moved == 3)
    pulled = pull.pull_model(f"hf:{REPO}:Q8_0")
    assert pulled.was_here == (n_moved == 3)
    assert [path.read_bytes() for path in pulled.model.paths] == list(files.values())
    assert all(len(hub.gets(f"/far/{REPO}/{name}")) == 1 for name in files)
    assert not [name for name in left() if name.startswith(".")]


def test_a_repository_that_lacks_a_part(hub: Server, tiny: dict[str, bytes]) -> None:
    files = split_files(tiny)
    gone = list(files)[1]
    del files[gone]
    hub.add_repository(REPO, files)
    with pytest.raises(IntegrityError, match=f"lacks 1 of the .* files of this model: {gone}"):
        pull.pull_model(f"hf:{REPO}:Q8_0")


def test_two_repositories_with_one_split_name(hub: Server, tiny: dict[str, bytes]) -> None:
    for repo in (REPO, "other/tiny"):
        hub.add_repository(repo, split_files(tiny))
        engines.open_model(pull.pull_model(f"hf:{repo}").model.path).close()
    assert len(store.stored_models()) == 2


def test_split_files_that_somebody_put_here(hub: Server, tiny: dict[str, bytes]) -> None:
    folder = store.models_folder()
    folder.mkdir(parents=True)
    files = {name.split("/")[1]: data for name, data in split_files(tiny).items()}
    for name, data in list(files.items())[:-1]:
        (folder / name).write_bytes(data)
    assert store.stored_models() == {}
    name, data = list(files.items())[-1]
    (folder / name).write_bytes(data)
    (model,) = store.stored_models().values()
    assert (model.name, model.n_bytes) == ("tiny-Q8_0", sum(map(len, files.values())))
    # Any file's path stands for the whole.
    local = pull.pull_model(str(folder / name)).model
    assert local.n_bytes == model.n_bytes
    store.remove_model(model)
    assert left() == []


@pytest.mark.parametrize("file", ["../out.gguf", ".hidden.gguf", "a/b.gguf", "", 7, None])
def test_a_manifest_never_leads_out_of_the_folder(hub: Server, file: object) -> None:
    """The file that it names is there and has the right size: only its name speaks against it.

    Such a manifest counts as none, so the model is the one file beside it.
    """
    path = store.models_folder() / "m.gguf"
    (path.parent / "a").mkdir(parents=True)
    path.write_bytes(b"GGUF")
    named = path.parent / str(file)
    if not named.is_dir():
        named.write_bytes(b"GGUF")
    fields = {"name": "other", "n_bytes": 4, "parts": [{"file": file, "n_bytes": 4}]}
    store.manifest_path(path).write_text(json.dumps(fields))
    assert store.stored_models()["m"].paths == [path]
    assert "other" not in store.stored_models()


# ---- a quant that nobody published ---------------------------------------------------------------


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch, tiny: dict[str, bytes]) -> list[dict[str, Any]]:
    """A stand-in for the converter: what it was called with, and a model where it should be."""
    calls: list[dict[str, Any]] = []

    def convert_checkpoint(
        folder: Path, out: Path, quant: str, *, name: str, progress: object
    ) -> None:
        files = {p.name: p.read_bytes() for p in folder.iterdir()}
        calls.append({"files": files, "quant": quant, "name": name, "folder": folder})
        out.write_bytes(tiny["small"])

    monkeypatch.setattr(from_checkpoint, "convert_checkpoint", convert_checkpoint)
    return calls


@pytest.mark.parametrize("quant", ["Q4_K_M", "BF16"])
def test_a_checkpoint_becomes_the_quant_that_was_asked_for(
    hub: Server, tmp_path: Path, quant: str
) -> None:
    folder = checkpoints.write_tiny(TINY_MODELS[0], tmp_path / "plain", "BF16", n_shards=2)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add_repository("org/Plain", files | {"pytorch_model.bin": b"pickle"})
    model = pull.pull_model("hf:org/Plain", quant=quant).model
    from_checkpoint.convert_checkpoint(folder, tmp_path / "own.gguf", quant, name="Plain")
    assert model.path.read_bytes() == (tmp_path / "own.gguf").read_bytes()
    assert model.path.name == f"Plain-{quant}.gguf"
    assert hub.gets("/far/org/Plain/pytorch_model.bin") == []
    assert not any((tmp_path / "cache").rglob("*.safetensors"))


def test_convert_takes_a_repository(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoints.write_tiny(TINY_MODELS[3], tmp_path / "plain", "BF16")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add_repository("org/Plain", files | {"Plain-Q8_0.gguf": b"GGUF"})
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert app.main(["convert", "hf:org/Plain", "-q"]) == 0
    assert capfd.readouterr().out == "Plain-BF16.gguf\n"
    engines.open_model(here / "Plain-BF16.gguf").close()
    assert not any((tmp_path / "cache").rglob("*.safetensors")), "the checkpoint is gone"
    assert app.main(["convert", "hf:org/Plain:Q8_0"]) == 2
    assert app.main(["convert", "hf:org/other"]) == 3
    hub.add_repository("org/gguf", {"m-Q8_0.gguf": b"GGUF"})
    assert app.main(["convert", "hf:org/gguf"]) == 3
    assert "holds no checkpoint" in capfd.readouterr().err


def test_a_quant_that_is_there_is_never_converted(
    hub: Server, tiny: dict[str, bytes], converter: list[dict[str, Any]]
) -> None:
    hub.add_repository(REPO, PLAIN | {"tiny-Q4_K_M.gguf": tiny["small"]})
    assert pull.pull_model(f"hf:{REPO}", quant="Q4_K_M").model.path.name == "tiny-Q4_K_M.gguf"
    assert converter == []


@pytest.mark.parametrize(("name", "quant"), [(f"hf:{REPO}", "q4_k_m"), (f"hf:{REPO}:Q4_K_M", None)])
def test_a_quant_that_is_not_there_is_made(
    hub: Server,
    tiny: dict[str, bytes],
    converter: list[dict[str, Any]],
    name: str,
    quant: str | None,
) -> None:
    hub.add_repository(REPO, PLAIN | {"tiny-Q8_0.gguf": tiny["large"]})
    notebook = Notebook()
    model = pull.pull_model(name, quant=quant, progress=notebook).model
    assert model.path.name == "tiny-Q4_K_M.gguf" and model.path.read_bytes() == tiny["small"]
    assert model.name == f"hf:{REPO}:Q4_K_M" and model.origin == f"hf:{REPO}, converted"
    assert model.sha256 == hashlib.sha256(tiny["small"]).hexdigest() and not model.verified
    (call,) = converter
    assert call["quant"] == "Q4_K_M" and call["name"] == "tiny"
    assert call["files"] == {n: d for n, d in PLAIN.items() if n != "pytorch_model.bin"}
    assert "no GGUF file of quant Q4_K_M: fetching its safetensors" in notebook.notes[0]
    assert not call["folder"].exists(), "the checkpoint is gone"
    assert pull.pull_model(f"hf:{REPO}:Q4_K_M").was_here


def test_a_cut_checkpoint_is_resumed_and_a_failed_conversion_keeps_it(
    hub: Server, converter: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repository(REPO, PLAIN)
    page = hub.pages[f"/far/{REPO}/model.safetensors"]
    page.faults = [Fault(cut_at=100)] * download.ATTEMPTS
    with pytest.raises(NetworkError):
        pull.pull_model(f"hf:{REPO}", quant="Q8_0")
    works = from_checkpoint.convert_checkpoint

    def fails(*_: object, **__: object) -> None:
        raise IntegrityError("model.safetensors: the tensor x holds a NaN")

    monkeypatch.setattr(from_checkpoint, "convert_checkpoint", fails)
    with pytest.raises(IntegrityError, match="holds a NaN"):
        pull.pull_model(f"hf:{REPO}", quant="Q8_0")
    assert left() == [] and converter == []
    monkeypatch.setattr(from_checkpoint, "convert_checkpoint", works)
    pull.pull_model(f"hf:{REPO}", quant="Q8_0")
    assert file_bytes_sent(hub, pulls=3) == sum(
        len(d) for n, d in PLAIN.items() if n != "pytorch_model.bin"
    )


@pytest.mark.parametrize(
    ("files", "quant", "said", "hint"),
    [
        (PLAIN, None, "holds no GGUF file, only a checkpoint", "--quant Q4_K_M, which converts"),
        (PLAIN, "Q9_9", "no file of quant Q9_9; it holds no GGUF file", "Q4_K_M"),
        (PLAIN | {"t-Q8_0.gguf": b""}, "IQ1_S", "no file of quant IQ1_S: t-Q8_0.gguf", "Q4_K_M"),
        ({"t-Q8_0.gguf": b""}, "Q4_K_M", "no file of quant Q4_K_M: t-Q8_0.gguf", None),
        ({"pytorch_model.bin": b""}, None, "holds no GGUF file", None),
    ],
)
def test_what_is_there_is_said(
    hub: Server,
    files: dict[str, bytes],
    quant: str | None,
    said: str,
    hint: str | None,
    converter: list[dict[str, Any]],
) -> None:
    hub.add_repository(REPO, files)
    with pytest.raises(ModelNotFoundError, match=said) as raised:
        pull.pull_model(f"hf:{REPO}", quant=quant)
    assert (hint or "") in (raised.value.hint or "") and (hint is None) == (not raised.value.hint)


@pytest.mark.parametrize(
    ("name", "quant", "said"),
    [
        ("smollm2:135m", "Q8_0", "is one model"),
        ("./m.gguf", "Q8_0", "is one model"),
        (f"hf:{REPO}:Q4_0", "Q8_0", "names another quant"),
        (f"hf:{REPO}", "a b", "not of the form"),
    ],
)
def test_a_quant_that_cannot_be_meant(hub: Server, name: str, quant: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pull.pull_model(name, quant=quant)
    assert hub.asked == []


def test_offline_asks_nobody(hub: Server) -> None:
    for settings in ({"quant": "Q8_0"}, {"budget": 1 << 30}):
        with pytest.raises(NetworkError, match="--offline"):
            pull_command(f"hf:{REPO}", offline=True, **settings)  # type: ignore[arg-type]
    assert hub.asked == []


# ---- a budget ------------------------------------------------------------------------------------


def pull_within(name: str, budget: int, progress: Progress | None = None) -> pull.Pulled:
    """As `localllm pull --budget` does it."""
    progress = progress or Silent()
    return pull.pull_model(choose_quant.within_budget(name, budget, progress), progress=progress)


def need_of(data: bytes, folder: Path) -> int:
    """What a run of a model takes, by the engine's plan of the whole file."""
    path = folder / "whole.gguf"
    path.write_bytes(data)
    return need_of_file(path)


def need_of_split(files: dict[str, bytes], folder: Path) -> int:
    for name, data in files.items():
        (folder / Path(name).name).write_bytes(data)
    return need_of_file(folder / Path(min(files)).name)


def need_of_file(path: Path) -> int:
    file = engines.open_model(path)
    n_ctx = min(choose_quant.CONTEXT, file.info["n_ctx_train"])
    n_bytes = need.need_of(file, EngineOptions(n_ctx=n_ctx)).touched()
    file.close()
    return n_bytes


def offered(tiny: dict[str, bytes]) -> dict[str, bytes]:
    """The better the quant the larger the file; the best one is of a kind no engine knows."""
    return split_files(tiny) | {
        "tiny-F16.gguf": tiny["large"],
        "tiny-UD-Q4_K_XL.gguf": tiny["small"],
        "tiny-unnamed.gguf": tiny["large"],
        "tiny-Q2_K-00001-of-00002.gguf": tiny["small"],
    }


def test_the_best_quant_that_fits_is_taken(
    hub: Server, tiny: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add_repository(REPO, offered(tiny))
    large, small = need_of(tiny["large"], tmp_path), need_of_split(split_files(tiny), tmp_path)
    assert small < large
    for amount, quant in ((large, "F16"), (large - 1, "Q8_0"), (small, "Q8_0")):
        notebook = Notebook()
        model = pull_within(f"hf:{REPO}", amount, notebook).model
        assert model.name == f"hf:{REPO}:{quant}"
        (why,) = [note for note in notebook.notes if note.startswith("chose")]
        assert why.startswith(f"chose {quant} needs") and "the budget is" in why
        assert ("F16 needs" in why.partition(";")[2]) == (quant != "F16")


def test_a_budget_too_small_for_any(hub: Server, tiny: dict[str, bytes], tmp_path: Path) -> None:
    hub.add_repository(REPO, offered(tiny))
    small = need_of(tiny["small"], tmp_path)
    with pytest.raises(DoesNotFitError, match=f"no quant of hf:{REPO} fits: the smallest"):
        pull_within(f"hf:{REPO}", small - 1)
    assert left() == []


def test_a_quant_that_this_engine_does_not_run_is_passed_over(
    hub: Server, tiny: dict[str, bytes]
) -> None:
    odd = tiny["large"].replace(b"general.architecture", b"general.architecturf")
    hub.add_repository(REPO, {"tiny-F16.gguf": odd, "tiny-Q4_0.gguf": tiny["small"]})
    notebook = Notebook()
    model = pull_within(f"hf:{REPO}", 1 << 40, notebook).model
    assert model.name == f"hf:{REPO}:Q4_0"
    assert notebook.notes[0].startswith("passing over F16: ")


def test_a_large_file_is_judged_by_its_header(
    hub: Server, tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_quant, "FIRST_HEAD_BYTES", 512)
    hub.add_repository(REPO, {"tiny-F16.gguf": tiny["large"]})
    with pytest.raises(DoesNotFitError, match="the smallest, F16 needs"):
        pull_within(f"hf:{REPO}", need_of(tiny["large"], tmp_path) - 1)
    ranges = [g.headers.get("range") for g in hub.gets(f"/far/{REPO}/tiny-F16.gguf")]
    assert ranges[:2] == [None, "bytes=512-"]


def test_a_budget_that_leaves_no_choice_is_said(hub: Server, tiny: dict[str, bytes]) -> None:
    hub.add_repository(REPO, {"t-Q8_0.gguf": tiny["small"]})
    notebook = Notebook()
    pull_within(f"hf:{REPO}:Q8_0", 1, notebook)
    assert notebook.notes[0].startswith("a budget chooses nothing here")


@pytest.mark.parametrize("tiny_model", [TINY_MODELS[0], TINY_MODELS[6]], ids=lambda m: m.name)
def test_a_budget_chooses_what_a_checkpoint_becomes(
    hub: Server, tmp_path: Path, tiny_model: TinyModel
) -> None:
    folder = checkpoints.write_tiny(tiny_model, tmp_path / "plain", "BF16", n_shards=2)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add_repository("org/plain", files)
    made = {}
    for quant in ("BF16", "Q8_0", "Q2_K"):
        from_checkpoint.convert_checkpoint(folder, tmp_path / "made.gguf", quant)
        made[quant] = need_of((tmp_path / "made.gguf").read_bytes(), tmp_path)
    assert made["BF16"] > made["Q8_0"] > made["Q2_K"]
    for amount, quant in ((made["BF16"], "BF16"), (made["Q8_0"], "Q8_0")):
        notebook = Notebook()
        model = pull_within("hf:org/plain", amount, notebook).model
        assert model.name == f"hf:org/plain:{quant}"
        assert f"chose {quant} needs" in "".join(notebook.notes)
    with pytest.raises(DoesNotFitError, match="no quant of hf:org/plain fits: the smallest"):
        pull_within("hf:org/plain", made["Q2_K"] // 2)


def test_a_budget_with_nothing_to_choose_from(hub: Server) -> None:
    hub.add_repository("org/pickled", {"config.json": b"{}", "pytorch_model.bin": b""})
    with pytest.raises(ModelNotFoundError, match="holds no checkpoint"):
        pull_within("hf:org/pickled", 1 << 30)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_prints_the_first_files_path_or_json(
    hub: Server, tiny: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add_repository(REPO, split_files(tiny))
    assert app.main(["pull", f"hf:{REPO}", "--quant", "q8_0"]) == 0
    path = Path(capfd.readouterr().out.removesuffix("\n"))
    assert path.name.startswith("tiny-Q8_0-00001-of-")
    assert app.main(["pull", f"hf:{REPO}", "--budget", "1G", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["was_here"] and document["path"] == str(path)
    assert sum(part["n_bytes"] for part in document["parts"]) == document["n_bytes"]
    for verb in (["ls", "--json"], ["show", f"hf:{REPO}", "--json"]):
        assert app.main(verb) == 0
        assert str(document["n_bytes"]) in capfd.readouterr().out
    last = str(path.with_name(document["parts"][-1]["file"]))
    assert app.main(["show", last]) == 0
    assert app.main(["tokenize", last, "hello"]) == 0
    assert app.main(["run", last, "hello", "-n", "1", "--no-stdin"]) == 0
    assert app.main(["rm", f"hf:{REPO}", "-y"]) == 0
    assert not path.exists() and left() == []


# ---- fit, which fetches headers alone ------------------------------------------------------------


def fit_json(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = app.main(["fit", *arguments, "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_fit_judges_a_repository_by_headers(
    hub: Server, tiny: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    holes = bytes(64 << 20)  # behind what the engine reads
    hub.add_repository(
        REPO, {"tiny-Q8_0.gguf": tiny["large"] + holes, "tiny-IQ1_S.gguf": tiny["small"],
               "tiny-F16.gguf": tiny["large"] + holes, "tiny-Q4_0.gguf": tiny["small"]}
    )  # fmt: skip
    code, said = fit_json(capfd, f"hf:{REPO}:Q8_0")
    assert (code, said["model"], said["quant"]) == (0, f"hf:{REPO}:Q8_0", "Q8_0")
    assert (said["path"], said["verdict"]) == (None, "fits")
    assert hub.sent_bytes < 16 << 20, "of 130 MiB, what lay in the sockets included"
    rows = {cell["quant"]: cell for cell in said["table"]}
    assert set(rows) == {"F16", "Q8_0", "Q4_0"}, "the one that this engine does not run is left out"
    assert rows["F16"]["weight_bytes"] == len(tiny["large"]) + len(holes)
    assert rows["Q4_0"]["command"].startswith(f"localllm run hf:{REPO}:Q4_0 -c 256 ")
    assert not (tmp_path / "data/localllm/models").exists(), "nothing is kept"
    _, preferred = fit_json(capfd, f"hf:{REPO}")
    assert preferred["quant"] == "Q4_0"
    code, refused = fit_json(capfd, f"hf:{REPO}:Q8_0", "--budget", "1M")
    assert (code, refused["verdict"], refused["alternatives"]) == (7, "does_not_fit", [])
    assert app.main(["fit", f"hf:{REPO}:Q2_K"]) == 3
    assert "F16, Q8_0, Q4_0" in capfd.readouterr().err


def test_fit_offers_what_the_repository_has(
    hub: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for quant in ("F16", "Q8_0", "Q4_0"):
        path = write_hollow(tmp_path / f"hollow-{quant}.gguf", Hollow(n_layers=8, quant=quant))
        files[path.name] = path.read_bytes()
    hub.add_repository(REPO, files)
    _, said = fit_json(capfd, f"hf:{REPO}:F16", "-c", "512")
    budget = said["touched_bytes"] - 8 * (1 << 20)
    code, said = fit_json(capfd, f"hf:{REPO}:F16", "-c", "512", "--budget", str(budget))
    assert (code, said["verdict"]) == (7, "does_not_fit")
    assert [offer["command"] for offer in said["alternatives"]] == [
        f"localllm run hf:{REPO}:Q8_0 -c 512",
        f"localllm run hf:{REPO}:Q4_0 -c 512",
    ]


def test_fit_of_a_checkpoint_says_what_it_can_become(
    hub: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoints.write_tiny(TINY_MODELS[0], tmp_path / "plain", "BF16", n_shards=2)
    hub.add_repository("org/plain", {path.name: path.read_bytes() for path in folder.iterdir()})
    code, said = fit_json(capfd, "hf:org/plain")
    assert (code, said["quant"]) == (0, "Q4_K_M")
    from_checkpoint.convert_checkpoint(folder, tmp_path / "made.gguf", "Q8_0")
    file = engines.open_model(tmp_path / "made.gguf")
    rows = {cell["quant"]: cell for cell in said["table"]}
    assert rows["Q8_0"]["weight_bytes"] == file.info["weight_bytes"]
    assert rows["Q8_0"]["command"].startswith("localllm run hf:org/plain:Q8_0 -c ")
    file.close()
