"""`run`: a prompt is answered, or a conversation held, with one model.

Three shapes: a prompt in the arguments, text on stdin, and neither on a terminal, which is the
interactive prompt of chat.py. Whatever does not apply to the model at hand is said and ends the
run; nothing that was asked for is ignored.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from localllm.answer.overflow import window
from localllm.cli import console, prompting, run_flags
from localllm.cli.flags import (
    Adapt,
    AllowOversubscribe,
    Budget,
    Ctx,
    EngineFlags,
    Json,
    Kernels,
    Offline,
    Quiet,
    SamplingFlags,
    Threads,
)
from localllm.cli.request import Overflow, Request, Truncate, has_template, note, shift
from localllm.cli.run_flags import Switch
from localllm.errors import ContextFullError, DeadlineError, UsageError
from localllm.memory import process
from localllm.memory.limits import read_rlimits
from localllm.models.resolve import resolve
from localllm.sampling import settled

if TYPE_CHECKING:
    from localllm.answer.model import Answer, Model
    from localllm.answer.timeline import PrefillProgress
    from localllm.cli.origins import Origins
    from localllm.cli.prompting import Ask


def command(
    context: typer.Context,
    name: run_flags.Name,
    prompt: run_flags.Prompt = None,
    *,
    system: run_flags.System = None,
    file: run_flags.Files = None,
    max_tokens: run_flags.MaxTokens = None,
    ctx: Ctx = None,
    threads: Threads = None,
    sampling: SamplingFlags,
    stop: run_flags.Stop = None,
    budget: Budget = None,
    adapt: Adapt = False,
    allow_oversubscribe: AllowOversubscribe = False,
    raw: run_flags.Raw = False,
    think: run_flags.Think = None,
    truncate: run_flags.TruncatePart = None,
    overflow: run_flags.OnOverflow = Overflow.error,
    strict: run_flags.Strict = False,
    deadline: run_flags.Deadline = None,
    kernels: Kernels = None,
    engine: EngineFlags,
    snapshot: run_flags.Snapshot = None,
    no_prefix_cache: run_flags.NoPrefixCache = False,
    no_stdin: run_flags.NoStdin = False,
    no_pull: run_flags.NoPull = False,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: run_flags.Verbose = False,
    stats: run_flags.Stats = False,
) -> None:
    """Answers a prompt, or talks in the terminal.

    The prompt is the arguments, a blank line, and what is piped in. With neither, on a terminal,
    a conversation begins.
    """
    if deadline is not None:
        set_deadline(deadline)
    request = Request(
        name=name,
        system=system,
        given=vars(sampling),
        max_tokens=max_tokens,
        stop=stop or (),
        raw=raw,
        think=None if think is None else think is Switch.on,
        truncate=truncate,
        strict=strict,
        overflow=overflow,
        json=json,
        quiet=quiet,
        verbose=verbose,
        stats=stats,
    )
    check(request)
    if snapshot is not None and (raw or system is not None):
        raise UsageError(f"--snapshot does not go with {'--raw' if raw else '--system'}")
    ask = ask_of(request, prompt or [], file or [], no_stdin)
    started = time.perf_counter()
    path = resolve(name, pull=not no_pull, offline=offline, progress=console.progress(quiet))
    from localllm.answer.opening import Policy, open_path

    before = process.measure()
    if not raw:
        import_beside("localllm.answer.template")
    options = engine.options(ctx=ctx, threads=threads, kernels=kernels)
    policy = Policy(budget, adapt, allow_oversubscribe)
    with open_path(path, options, policy, name=name, before=before) as model:
        request = prepare(model, request, snapshot, saves_prefixes=not no_prefix_cache)
        note_fit(model, ctx, request, context.obj)
        if ask is None:
            from localllm.cli import chat

            chat.talk(model, request)
        else:
            respond(model, request, ask, time.perf_counter() - started)


def ask_of(request: Request, arguments: list[str], files: list[str], no_stdin: bool) -> Ask | None:
    """What is asked, None where a conversation begins. Raises: UsageError."""
    if prompting.wants_conversation(arguments, files, no_stdin):
        check_conversation(request)
        return None
    return prompting.compose(arguments, files, no_stdin, request.quiet)


def prepare(model: Model, request: Request, snapshot: Path | None, saves_prefixes: bool) -> Request:
    """The request, with the messages that a snapshot holds; the model goes on from their KV."""
    from localllm.answer.model import ignore

    said = ignore if request.quiet else console.note
    if saves_prefixes:
        model.save_prefixes(said)
    if snapshot is None:
        return request
    return replace(request, before=model.restore(snapshot, said))


def import_beside(module: str) -> None:
    """Imports on another thread, while the engine opens the model, which leaves Python free.

    Below a limit of the process there is no room to be quick: a thread has a stack and a heap of
    its own, and what fails in it fails unseen. Then it is imported where it is used.
    """
    if not any(read_rlimits()):
        threading.Thread(target=importlib.import_module, args=(module,)).start()


def check(request: Request) -> None:
    """What can be refused before a model is opened."""
    settled(request.given, lambda key: None)
    if request.max_tokens is not None and request.max_tokens < 1:
        raise UsageError(f"--max-tokens is {request.max_tokens}, but must be at least 1")
    if "" in request.stop:
        raise UsageError("--stop needs a text that is not empty")
    if request.raw and request.system is not None:
        raise UsageError("--system needs the chat template, which --raw leaves out")
    if request.raw and request.think is not None:
        raise UsageError("--think needs the chat template, which --raw leaves out")


def check_conversation(request: Request) -> None:
    if request.json:
        raise UsageError("--json needs a prompt", "localllm run MODEL --json 'a question'")
    if not sys.stdout.isatty():
        raise UsageError("there is no prompt, and no terminal on stdout to talk in")
    if request.truncate is not None:
        raise UsageError("--truncate needs a prompt; a conversation keeps all of its text")


def set_deadline(seconds: float) -> None:
    if not 0 < seconds < 1e8:
        raise UsageError(f"--deadline is {seconds:g}, but must be a positive number of seconds")

    def pass_deadline(signal_number: int, frame: object) -> NoReturn:
        raise DeadlineError(f"the deadline of {seconds:g} s has passed")

    signal.signal(signal.SIGALRM, pass_deadline)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def note_fit(model: Model, asked: int | None, request: Request, origins: Origins) -> None:
    """What was changed to make the model fit, and what it costs that it hardly does."""
    verdict = model.verdict
    limit = origins.named(verdict.limit.name) if verdict.limit else None
    own = int(model.file.info["n_ctx_train"])
    if model.adapted is not None:
        console.note(f"adapted to {limit}: {model.adapted}")
    elif asked is None and model.engine.n_ctx < own:
        note(request, f"a context of {model.engine.n_ctx} of {own} fits in {limit}")
    if not verdict.runs:
        said = origins.named(verdict.describe())
        console.note(f"{said}; --allow-oversubscribe runs it all the same")
    elif not verdict.fits and not request.quiet:
        from localllm.memory import paging

        console.note(origins.named(paging.describe(verdict, model.file)))


def respond(model: Model, request: Request, ask: Ask, load_seconds: float) -> None:
    from localllm.cli.answer import HOW_IT_ENDED, PrefillMeter, describe, stream

    meter = PrefillMeter(request.quiet)
    answer = begin(model, request, fit(model, request, ask), meter)
    if request.json:
        text = "".join(answer)
        console.out_json(report(model, request, answer, text, load_seconds))
    else:
        stream(answer)
    result = answer.result
    if request.stats:
        from localllm.answer import footprint
        from localllm.cli import stats

        for line in stats.lines(result, footprint.of(model, result)):
            console.note(line)
    elif request.verbose:
        console.note(describe(result))
    if result.finish == "context" or (result.finish == "length" and request.strict):
        raise ContextFullError(
            f"{HOW_IT_ENDED[result.finish]}: {result.n_prompt} tokens of prompt and "
            f"{result.n_generated} of answer"
        )


def begin(model: Model, request: Request, prompt: str, meter: PrefillProgress) -> Answer:
    """The answer to one prompt, through the model's template or without it."""
    sampling = model.settle(**request.given)
    if request.raw or not has_template(model, request):
        return model.generate(prompt, sampling, request.max_tokens, request.stop, progress=meter)
    messages = messages_for(request, prompt)
    return model.chat(
        window(messages, shift(model, request, messages)),
        sampling,
        request.max_tokens,
        request.stop,
        think=request.think,
        progress=meter,
    )


def messages_for(request: Request, prompt: str) -> list[dict[str, str]]:
    system = [] if request.system is None else [{"role": "system", "content": request.system}]
    return [*system, *request.before, {"role": "user", "content": prompt}]


# ---- a text that is longer than the context ---------------------------------------------------


def fit(model: Model, request: Request, ask: Ask) -> str:
    """The prompt, its text shortened as --truncate says where it is too long.

    Raises: ContextFullError, where that was not asked for or does not help.
    """
    if request.truncate is None:
        return str(ask)
    ids = model.tokenize(ask.text)
    n_kept = len(ids)
    while True:
        kept = ask.text if n_kept == len(ids) else cut(model, ids, n_kept, request.truncate)
        prompt = ask.before + kept + ask.after
        excess = count(model, request, prompt) - model.engine.n_ctx + (request.max_tokens or 1)
        if excess <= 0:
            return prompt
        if n_kept == 0:
            raise ContextFullError(
                f"without its text the prompt is {excess} tokens longer than the context of "
                f"{model.engine.n_ctx} has room for",
                "a larger context (-c)",
            )
        n_kept = max(0, n_kept - excess)


def count(model: Model, request: Request, prompt: str) -> int:
    encoder = None if request.raw else model.find_encoder()
    if encoder is None:
        return len(model.file.tokenize(prompt, add_special=True))
    return len(encoder.encode(messages_for(request, prompt), request.think).ids)


def cut(model: Model, ids: list[int], n_kept: int, part: Truncate) -> str:
    n_dropped = len(ids) - n_kept
    if part is Truncate.head:
        kept = [ids[n_dropped:]]
    elif part is Truncate.tail:
        kept = [ids[:n_kept]]
    else:
        kept = [ids[: n_kept - n_kept // 2], ids[len(ids) - n_kept // 2 :]]
    return " … ".join(model.detokenize(run).strip("\ufffd") for run in kept)


# ---- for programs ----------------------------------------------------------------------------


def report(
    model: Model, request: Request, answer: Answer, text: str, load_seconds: float
) -> dict[str, Any]:
    from localllm.answer import footprint
    from localllm.cli import stats
    from localllm.cli.needs import limit_json

    result = answer.result
    sampling = asdict(answer.sampling)
    sampling["biases"] = [list(bias) for bias in sampling["biases"]]
    return {
        "model": request.name,
        "path": str(model.file.path),
        "text": text,
        "reasoning": answer.reasoning,
        "finish": result.finish,
        "seed": sampling.pop("seed"),
        "sampling": sampling,
        "n_prompt": result.n_prompt,
        "n_reused": result.n_reused,
        "n_generated": result.n_generated,
        **model.running,
        "seconds": {
            "load": load_seconds,
            "prompt": result.prompt_seconds,
            "generate": result.generate_seconds,
            "first_token": result.first_token_seconds,
        },
        "memory": {
            "verdict": model.verdict.fit.value,
            "limit": model.verdict.limit and limit_json(model.verdict.limit, model.verdict.need),
            **stats.memory_json(footprint.of(model, result)),
        },
    }
