"""The Hugging Face Hub: the repository's list chooses the files, its revision pins the bytes.

huggingface-hub knows the endpoint, the token and the offline switch, and reads the list; the bytes
come through url.py, which resumes and checks them. The list holds each file's sha256 beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn

from localllm.convert.mixes import can_make
from localllm.errors import (
    IntegrityError,
    ModelNotFoundError,
    NetworkError,
    UsageError,
)
from localllm.models import quants
from localllm.models.sources.remote import Progress, Remote, safe_file_name
from localllm.models.sources.repository import Candidate, choose, find_candidates, find_checkpoint
from localllm.models.sources.url import STALL_SECONDS, Page, open_page, refusal, require_reachable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.hf_api import RepoSibling

NAME = re.compile(r"hf:([^\W_][\w.-]*/[^\W_][\w.-]*)(?::([\w.-]+))?", re.ASCII)
MAX_LISTED = 20


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
        info = self.read_repository()
        names = [sibling.rfilename for sibling in info.siblings or []]
        candidates = find_candidates(names)
        chosen = choose(candidates, self.quant)
        if chosen is None:
            return self.describe_checkpoint(info, names, candidates)
        quant, candidate = chosen
        if candidate.missing:
            raise IntegrityError(
                f"hf:{self.repo} lacks {len(candidate.missing)} of the {len(candidate.files)} "
                f"files of this model: {', '.join(candidate.missing[:MAX_LISTED])}"
            )
        return self.describe(info, quant, candidate.files)

    def offers(self) -> list[Remote]:
        """Every whole GGUF model whose name says its quant, each under a name with that quant."""
        info = self.read_repository()
        candidates = find_candidates(sibling.rfilename for sibling in info.siblings or [])
        whole = [c for c in candidates if c.quant is not None and not c.missing]
        best: dict[str, Candidate] = {}
        for candidate in sorted(whole, key=lambda c: c.order):
            best.setdefault(candidate.quant or "", candidate)
        return [self.describe(info, quant, c.files) for quant, c in best.items()]

    def describe(self, info: ModelInfo, quant: str | None, files: Sequence[str]) -> Remote:
        """One model of GGUF files."""
        parts = self.describe_files(info, files)
        name = Hub(self.repo, quant).name
        if len(parts) == 1:
            return replace(parts[0], name=name, file_name=safe_file_name(files[0]))
        return Remote(
            name=name,
            origin=parts[0].origin,
            file_name=files[0].rsplit("/", 1)[-1],
            open=cannot_open,
            n_bytes=total_bytes(parts),
            revision=info.sha,
            licence=read_licence(info),
            parts=parts,
        )

    def describe_checkpoint(
        self, info: ModelInfo, names: Sequence[str], candidates: Sequence[Candidate]
    ) -> Remote:
        """The checkpoint from which the quant is made, where there is one that nobody published."""
        files = find_checkpoint(names)
        quant = self.quant
        if quant is None or not can_make(quant) or not files:
            raise self.nothing_fits(candidates, has_checkpoint=bool(files))
        return self.describe_weights(info, files)

    def find_checkpoint(self) -> Remote:
        """The checkpoint, whatever else the repository holds."""
        info = self.read_repository()
        files = find_checkpoint([sibling.rfilename for sibling in info.siblings or []])
        if not files:
            raise ModelNotFoundError(f"hf:{self.repo} holds no checkpoint in safetensors")
        return self.describe_weights(info, files)

    def describe_weights(self, info: ModelInfo, files: Sequence[str]) -> Remote:
        parts = self.describe_files(info, files)
        return Remote(
            name=self.name,
            origin=f"hf:{self.repo}",
            file_name=safe_file_name(f"{self.repo}-{self.quant}.gguf"),
            open=cannot_open,
            n_bytes=total_bytes(parts),
            revision=info.sha,
            licence=read_licence(info),
            parts=parts,
            convert_to=self.quant,
        )

    def describe_files(self, info: ModelInfo, files: Sequence[str]) -> tuple[Remote, ...]:
        from huggingface_hub import get_token

        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        token = get_token()
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return tuple(self.describe_file(info, siblings[file], headers) for file in files)

    def describe_file(self, info: ModelInfo, file: RepoSibling, headers: dict[str, str]) -> Remote:
        from huggingface_hub import constants, hf_hub_url

        sha256 = file.lfs.sha256 if file.lfs else None
        page = Page(
            hf_hub_url(self.repo, file.rfilename, revision=info.sha),
            headers=headers,
            access_hint=self.access_hint(),
            plain_http=constants.ENDPOINT.startswith("http://"),
            immutable=True,
        )
        return Remote(
            name=file.rfilename,
            origin=f"hf:{self.repo}/{file.rfilename}",
            file_name=file.rfilename,
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

        # The variables were read when huggingface-hub was imported; so it is asked, not they.
        if constants.is_offline_mode():
            raise NetworkError("the Hugging Face Hub is switched off by HF_HUB_OFFLINE")
        require_reachable(constants.ENDPOINT)
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

    def nothing_fits(
        self, candidates: Sequence[Candidate], has_checkpoint: bool
    ) -> ModelNotFoundError:
        listed = ", ".join(c.files[0] for c in candidates[:MAX_LISTED])
        makes = ", ".join(filter(can_make, quants.BY_NAME))
        if self.quant is None:
            found = ", only a checkpoint in safetensors" if has_checkpoint else ""
            hint = f"localllm pull hf:{self.repo} --quant {quants.PREFERRED[0]}, which converts it"
            return ModelNotFoundError(
                f"hf:{self.repo} holds no GGUF file{found}",
                hint if has_checkpoint and makes else None,
            )
        there = f": {listed}" if listed else "; it holds no GGUF file"
        hint = f"--quant with one that its safetensors can be converted to: {makes}"
        return ModelNotFoundError(
            f"hf:{self.repo} has no file of quant {self.quant}{there}",
            hint if has_checkpoint and makes else None,
        )

    def access_hint(self) -> str:
        from huggingface_hub import constants

        return (
            f"accept the licence at {constants.ENDPOINT}/{self.repo}, then set HF_TOKEN to your "
            "access token"
        )


def total_bytes(parts: Sequence[Remote]) -> int | None:
    """The bytes of all files; None where the list lacks one's."""
    sizes = [part.n_bytes for part in parts if part.n_bytes is not None]
    return sum(sizes) if len(sizes) == len(parts) else None


def cannot_open(offset: int) -> NoReturn:
    raise AssertionError("a model of several files is opened file by file")


def read_licence(info: ModelInfo) -> str | None:
    licence = info.card_data.get("license") if info.card_data else None
    return licence if isinstance(licence, str) else None
