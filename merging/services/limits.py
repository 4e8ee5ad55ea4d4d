"""What a server gives, to all its visitors together and to each of them: one model, set by environment variables.

What no variable sets comes from a profile: on a laptop nobody is kept from anything, a public server divides what it
has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from ..errors import MergeError

PREFIX = "MERGESCOPE_"
PROFILE = f"{PREFIX}PROFILE"
PUBLIC = "public"
"""The profile of a public server: with a GPU, or without."""
UNBOUNDED = 1 << 50
"""More bytes than there are."""
_EVERYBODY: dict[str, int] = {  # on every public server
    "upload_bytes": 200_000_000,
    "table_bytes": 50_000_000,
    "own_tasks": 10,
    "uploads": 40,
    "visitor_disk_bytes": 1_000_000_000,
    "visitor_memory_bytes": 500_000_000,
    "disk_bytes": 20_000_000_000,
    "waiting": 500,
    "training_epochs": 5,
    "training_rows": 2000,
    "search_seconds": 120,
}
PROFILES: dict[str, dict[str, int]] = {
    "laptop": {},
    # 2 cores and 16 GB
    "cpu": _EVERYBODY | {"memory_bytes": 5_000_000_000, "base_bytes": 2_000_000_000, "evaluations": 2, "bases": 1},
    "gpu": _EVERYBODY | {"memory_bytes": 12_000_000_000, "base_bytes": 10_000_000_000},
    # a GPU is lent for a while: what is asked of it is short
    "zerogpu": _EVERYBODY | {"memory_bytes": 20_000_000_000, "base_bytes": 10_000_000_000, "training_rows": 1000},
}


def profile_of(environment: Mapping[str, str]) -> str:
    """Return the name in `PROFILES` that an environment asks for, or that its host calls for.

    Raises
    ------
    MergeError
        If it asks for one that there is not.
    """
    named = environment.get(PROFILE) or (PUBLIC if environment.get("SPACE_ID") else "laptop")
    if named == PUBLIC:
        if environment.get("SPACES_ZERO_GPU"):
            return "zerogpu"
        return "gpu" if torch.cuda.is_available() else "cpu"
    if named not in PROFILES:
        raise MergeError(f"{PROFILE} = {named!r} is none: choose one of {', '.join((*PROFILES, PUBLIC))}.")
    return named


class Limits(BaseSettings):
    """The limits; each is set by the variable of its name in capitals, ``MERGESCOPE_SESSIONS=50``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    sessions: int = Field(default=500, ge=1, description="pages whose state is kept")
    upload_bytes: int = Field(default=1 << 30, ge=1, description="bytes of one uploaded file")
    table_bytes: int = Field(default=200_000_000, ge=1, description="bytes of an own table of texts")
    table_rows: int = Field(default=200_000, ge=2, description="rows of one")
    own_tasks: int = Field(default=20, ge=1, description="own tasks of a visitor")
    uploads: int = Field(default=100_000, ge=1, description="adapters and tables that a visitor brings")
    visitor_disk_bytes: int = Field(default=UNBOUNDED, ge=1, description="bytes of a visitor's files")
    visitor_memory_bytes: int = Field(default=UNBOUNDED, ge=1, description="bytes of memory that a visitor holds")
    disk_bytes: int = Field(default=UNBOUNDED, ge=1, description="bytes of all visitors' files")
    memory_bytes: int = Field(default=UNBOUNDED, ge=1, description="bytes of memory, of visitors and all that is kept")
    idle_seconds: int = Field(default=600, ge=1, description="seconds after which a visitor who does nothing is idle")
    waiting: int = Field(default=100_000, ge=1, description="pieces of work that wait for their turn")
    base_bytes: int = Field(default=UNBOUNDED, ge=1, description="bytes of the largest base model")
    own_pools: int = Field(default=64, ge=1, description="own sets of adapters that are kept, of all visitors")
    texts: int = Field(default=20, ge=1, description="texts that are answered at once")
    text_characters: int = Field(default=20_000, ge=1, description="characters of them")
    training_epochs: int = Field(default=20, ge=1, description="epochs of a training")
    training_rows: int = Field(default=10_000, ge=1, description="training rows of a task")
    search_seconds: int = Field(default=300, ge=10, description="seconds of a search for the best merge")
    gpu_seconds: int = Field(default=120, ge=1, description="seconds that a GPU is borrowed for an evaluation")
    gpu_training_seconds: int = Field(default=300, ge=1, description="seconds that one is borrowed for a training")
    bases: int = Field(default=2, ge=1, description="base models that stay loaded beside the first")
    feature_bytes: int = Field(default=800_000_000, ge=0, description="bytes of features that are kept")
    merge_bytes: int = Field(default=400_000_000, ge=0, description="bytes of answering merges that are kept")
    result_bytes: int = Field(
        default=20_000_000, ge=0, description="bytes of measured accuracies that are kept for all"
    )
    read_ahead: bool = Field(default=True, description="the opening's texts are read before somebody asks")
    # how much of a kind of work goes on at once; the rest waits
    evaluations: int = Field(default=4, ge=1, description="evaluations at once")
    readings: int = Field(default=2, ge=1, description="readings of texts at once")
    tables: int = Field(default=2, ge=1, description="readings of own tables at once")
    trainings: int = Field(default=1, ge=1, description="trainings at once")
    searches: int = Field(default=1, ge=1, description="searches at once")
    answers: int = Field(default=2, ge=1, description="answers on Try it at once")
    chats: int = Field(default=2, ge=1, description="chats at once")
    exports: int = Field(default=2, ge=1, description="exports at once")
    pushes: int = Field(default=2, ge=1, description="pushes to the hub at once")
    loadings: int = Field(default=1, ge=1, description="changes of the base at once")
    programs: int = Field(default=2, ge=1, description="calls of programs at once")
    program_seconds: int = Field(default=300, ge=1, description="seconds that one of them may take")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let variables come before the profile."""
        chosen = InitSettingsSource(settings_cls, init_kwargs=PROFILES[profile_of(os.environ)])
        return init_settings, env_settings, chosen

    @staticmethod
    def read() -> Limits:
        """Read the environment; raises MergeError with the variable's name for what is no such number."""
        try:
            return Limits()
        except ValidationError as error:
            first = error.errors()[0]
            name, message = f"{PREFIX}{first['loc'][0]}".upper(), first["msg"][0].lower() + first["msg"][1:]
            raise MergeError(f"{name} = {first['input']!r} does not fit: {message}.") from error


def described(variable: str) -> str:
    """Return what is limited by an environment variable."""
    return str(Limits.model_fields[variable.removeprefix(PREFIX).lower()].description)


LIMITS = Limits.read()
"""Those of this process."""
