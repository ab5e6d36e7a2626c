"""The Hugging Face Hub: the repository's file list chooses the file, its revision pins the bytes.

huggingface-hub knows the endpoint, the token and the offline switch, and reads the list; the bytes
come through url.py, which resumes and checks them. The list holds each file's sha256 beforehand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from localllm.errors import (
    IntegrityError,
    LocalLLMError,
    ModelNotFoundError,
    NetworkError,
    UsageError,
)
from localllm.sources.remote import Progress, Remote, safe_file_name
from localllm.sources.url import STALL_SECONDS, Page, open_page, refusal, require_reachable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.hf_api import RepoSibling

NAME = re.compile(r"hf:([^\W_][\w.-]*/[^\W_][\w.-]*)(?::([\w.-]+))?", re.ASCII)
SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
# What to take where nobody says: the usual balance of size and quality first.
PREFERRED_QUANTS = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S", "Q5_K_M", "Q8_0", "F16", "BF16", "F32")


@dataclass(frozen=True)
class Hub:
    """`hf:org/repo` or `hf:org/repo:QUANT`."""

    repo: str
    quant: str | None = None
    kind: ClassVar[str] = "hub"
    copies: ClassVar[int] = 1

    @classmethod
    def parse(cls, name: str) -> Hub:
        found = NAME.fullmatch(name)
        if not found:
            raise UsageError(f"{name!r} is not of the form hf:org/repo or hf:org/repo:QUANT")
        return cls(found[1], found[2].upper() if found[2] else None)

    @property
    def name(self) -> str:
        return f"hf:{self.repo}:{self.quant}" if self.quant else f"hf:{self.repo}"

    def find(self, folder: Path, progress: Progress) -> Remote:
        from huggingface_hub import constants, get_token, hf_hub_url

        # The variables were read when huggingface-hub was imported; so it is asked, not they.
        if constants.is_offline_mode():
            raise NetworkError("the Hugging Face Hub is switched off by HF_HUB_OFFLINE")
        require_reachable(constants.ENDPOINT)
        info = self.read_repository()
        quant, file = self.choose(info.siblings or [])
        sha256 = file.lfs.sha256 if file.lfs else None
        token = get_token()
        page = Page(
            hf_hub_url(self.repo, file.rfilename, revision=info.sha),
            headers={"authorization": f"Bearer {token}"} if token else {},
            access_hint=self.access_hint(),
            plain_http=constants.ENDPOINT.startswith("http://"),
            immutable=True,
        )
        return Remote(
            name=Hub(self.repo, quant).name,
            origin=f"hf:{self.repo}/{file.rfilename}",
            file_name=safe_file_name(file.rfilename),
            open=partial(open_page, page),
            n_bytes=file.size,
            sha256=sha256,
            revision=info.sha,
            licence=read_licence(info),
            identity=sha256 or f"{info.sha}/{file.rfilename}",
        )

    def read_repository(self) -> ModelInfo:
        """The repository with its files' sizes and hashes, in one request."""
        import httpx2
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError

        api = HfApi(endpoint=constants.ENDPOINT)
        try:
            return api.model_info(self.repo, files_metadata=True, timeout=STALL_SECONDS)
        except HfHubHTTPError as error:
            page = Page(f"hf:{self.repo}", access_hint=self.access_hint())
            raise refusal(error.response.status_code, page) from error
        # Whatever breaks on an answer that is not the Hub's comes as one of these.
        except (httpx2.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
            reason = str(error) or type(error).__name__
            raise NetworkError(f"the Hugging Face Hub failed: {reason}") from error

    def choose(self, siblings: list[RepoSibling]) -> tuple[str | None, RepoSibling]:
        """The quant that was asked for, or the first preferred one there is, and its file."""
        files = {s.rfilename: s for s in siblings if is_model(s.rfilename)}
        whole = [name for name in files if not SPLIT.search(name)]
        if not files:
            raise ModelNotFoundError(f"hf:{self.repo} holds no GGUF file")
        for quant in [self.quant] if self.quant else PREFERRED_QUANTS:
            fitting = [name for name in whole if has_quant(name, quant)]
            if fitting:
                name = min(fitting, key=lambda name: (name.count("/"), len(name), name))
                return quant, files[name]
        if not self.quant and whole:
            return None, files[min(whole)]
        raise self.nothing_fits(sorted(files))

    def nothing_fits(self, names: list[str]) -> LocalLLMError:
        listed = ", ".join(names[:20])
        if any(SPLIT.search(name) and has_quant(name, self.quant or "GGUF") for name in names):
            return IntegrityError(f"hf:{self.repo} splits this model into parts: {listed}")
        return ModelNotFoundError(f"hf:{self.repo} has no file of quant {self.quant}: {listed}")

    def access_hint(self) -> str:
        from huggingface_hub import constants

        return (
            f"accept the licence at {constants.ENDPOINT}/{self.repo}, then set HF_TOKEN to your "
            "access token"
        )


def is_model(file_name: str) -> bool:
    """Image projectors and importance matrices share repositories and suffix with models."""
    base = file_name.rsplit("/", 1)[-1].lower()
    return base.endswith(".gguf") and not re.search(r"mmproj|imatrix", base)


def has_quant(file_name: str, quant: str) -> bool:
    """Whether the quant stands in the name as a word: Q4_K is not in model-Q4_K_M.gguf."""
    word = rf"(?<![A-Z0-9_]){re.escape(quant.upper())}(?![A-Z0-9_])"
    return re.search(word, file_name.upper()) is not None


def read_licence(info: ModelInfo) -> str | None:
    licence = info.card_data.get("license") if info.card_data else None
    return licence if isinstance(licence, str) else None
