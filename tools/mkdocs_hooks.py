"""mkdocs hooks: pages from outside docs/, and the commands' options from the same signatures as --help."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from jsonargparse import ArgumentParser
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from whisper_recipe.cli import COMMANDS, load_function, make_parser

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "egs/README.md", "egs/*/README.md", "egs/*/RESULTS.md")
COMMON_OPTIONS = (
    "Every command has `--config FILE`, a YAML file with any of its options, `--print_config` and `--help`."
)
LINK = re.compile(r"\[([^]\n]+)]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> None:
    """Add the commands to the navigation."""
    config.nav.append({"Commands": ["commands/index.md", *({name: f"commands/{name}.md"} for name in COMMANDS)]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are not in docs/."""
    logging.getLogger("transformers").setLevel(logging.ERROR)  # strict builds fail on warnings
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, _site_name(name), content=path.read_text(encoding="utf-8")))
    rows = "".join(f"| [{name}]({name}.md) | {command.help} |\n" for name, command in COMMANDS.items())
    index = f"# Commands\n\n{COMMON_OPTIONS}\n\n| command | description |\n|---|---|\n{rows}"
    files.append(File.generated(config, "commands/index.md", content=index))
    for name, command in COMMANDS.items():
        parser = make_parser(name, load_function(command))
        files.append(File.generated(config, f"commands/{name}.md", content=_command_page(parser)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links between files of the repository at their pages; files without a page are only named."""
    here = PurePosixPath(page.file.src_uri)
    source = here if page.file.generated_by else PurePosixPath("docs") / here
    source = PurePosixPath("README.md") if page.file.src_uri == "index.md" else source

    def resolve(match: re.Match) -> str:
        text, target, anchor = match.groups(default="")
        name = os.path.normpath(source.parent / target)
        page_name = _site_name(name)
        if files.get_file_from_path(page_name) is not None:
            return f"[{text}]({os.path.relpath(page_name, here.parent)}{anchor})"
        return f"{text} (`{name}`)" if (ROOT / name).exists() else match[0]  # mkdocs reports missing files

    return markdown if page.file.src_uri.startswith("commands/") else LINK.sub(resolve, markdown)


def _site_name(name: str) -> str:
    """Return the site path of a file of the repository."""
    return "index.md" if name == "README.md" else name.removeprefix("docs/")


def _command_page(parser: ArgumentParser) -> str:
    return "\n\n".join([f"# {parser.prog}", _escaped(inspect.cleandoc(parser.description)), *_options(parser)]) + "\n"


def _options(parser: ArgumentParser) -> Iterator[str]:
    """Yield each option with its help, type and default as in --help, under the title of its group."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        if group.title == "options":  # those of every command
            continue
        actions = [action for action in group._group_actions if action.option_strings and action.help]
        if actions and not parser.description.startswith(group.title):
            yield f"## {_escaped(group.title[:1].upper() + group.title[1:])}"
        for action in actions:
            text = " ".join(formatter._expand_help(action).replace("<class 'Path'>", "Path").split())
            yield f"`{action.option_strings[0]}`\n:   {_escaped(text)}"


def _escaped(text: str) -> str:
    """Escape < and * outside backticks; inside them, Markdown escapes them itself."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)
