"""What a server gives, to all its visitors together and to each of them: one model, set by environment variables."""

from __future__ import annotations

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..errors import MergeError

PREFIX = "MERGESCOPE_"


class Limits(BaseSettings):
    """The limits; each is set by the variable of its name in capitals, ``MERGESCOPE_SESSIONS=50``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    sessions: int = Field(default=500, ge=1, description="pages whose state is kept")
    upload_bytes: int = Field(default=1 << 30, ge=1, description="bytes of one uploaded file")
    table_bytes: int = Field(default=200_000_000, ge=1, description="bytes of an own table of texts")
    table_rows: int = Field(default=200_000, ge=2, description="rows of one")
    own_tasks: int = Field(default=20, ge=1, description="own tasks of a visitor")
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
