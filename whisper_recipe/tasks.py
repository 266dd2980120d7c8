"""Whisper's two tasks: text in the spoken language, or translated into English."""

from __future__ import annotations

from whisper_recipe.errors import RecipeError

TASKS = ("transcribe", "translate")


def check_task(task: str, where: str | None = None) -> str:
    """Return `task` if Whisper has it; raise RecipeError otherwise."""
    if task not in TASKS:
        raise RecipeError(f"unknown task {task!r}", where=where, cure=f"use one of: {', '.join(TASKS)}")
    return task
