"""What the routes of aliases take and answer, as wire objects.

An answer has `versions` with weights, for one version as for several, so that a client which reads aliases need not
know which way they were set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.schemas.pages import IdPage
from server.core.errors import BadRequest
from server.core.names import Reference
from server.registry.aliases import Alias, Move

MAX_VERSION = 999_999_999
MAX_TARGETS = 16
VersionKey = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AliasChange(BaseModel):
    """Where to move an alias: to one version, or to several with weights, which need not add up to anything."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int | None = Field(None, ge=1, le=MAX_VERSION)
    versions: dict[VersionKey, Weight] | None = Field(
        None, min_length=1, max_length=MAX_TARGETS, examples=[{"3": 95, "4": 5}]
    )

    def targets(self) -> dict[int, float]:
        """Version -> weight. BadRequest unless one of the two fields was given."""
        if (self.version is None) == (self.versions is None):
            raise BadRequest(
                'Expected either version, as in {"version": 3}, or versions, as in {"versions": {"3": 95, "4": 5}}.',
                param="version",
                code="missing_required_parameter" if self.version is None else "invalid_value",
            )
        if self.versions is None:
            assert self.version is not None
            return {self.version: 1.0}
        return {int(version): weight for version, weight in self.versions.items()}


class AliasObject(BaseModel):
    """What an alias stands for: version -> weight, with one version whatever its weight.

    `etag` is its ETag, to be sent as If-Match by a change that is to be made only while it is as it is here.
    """

    id: str = Field(examples=["acme/math@prod"])
    object: Literal["adapter.alias"] = "adapter.alias"
    adapter: str
    alias: str
    versions: dict[str, float]
    moved_at: int
    etag: str

    @classmethod
    def of(cls, reference: Reference, alias: Alias) -> AliasObject:
        """The wire form of an alias of the adapter `reference`."""
        versions = {str(version): weight for version, weight in alias.targets.items()}
        adapter = reference.qualified_name
        return cls(
            id=f"{adapter}@{alias.name}",
            adapter=adapter,
            alias=alias.name,
            versions=versions,
            moved_at=alias.moved_at,
            etag=alias.etag,
        )


class AliasList(BaseModel):
    """All aliases of an adapter, by name."""

    object: Literal["list"] = "list"
    data: list[AliasObject]
    has_more: Literal[False] = False


class AliasDeleted(BaseModel):
    """The alias that was removed."""

    id: str
    object: Literal["adapter.alias.deleted"] = "adapter.alias.deleted"
    deleted: Literal[True] = True


class AliasMoveObject(BaseModel):
    """One move of an alias; `versions` is null where it was removed. `id` is its number, counted from 1."""

    id: str = Field(examples=["7"])
    object: Literal["adapter.alias.move"] = "adapter.alias.move"
    versions: dict[str, float] | None
    created_at: int

    @classmethod
    def of(cls, move: Move) -> AliasMoveObject:
        """The wire form of `move`."""
        targets = move.targets
        versions = None if targets is None else {str(version): weight for version, weight in targets.items()}
        return cls(id=str(move.number), versions=versions, created_at=move.created_at)


class AliasMoveList(IdPage):
    """A page of moves, newest first; ask for the next one with `after` = `last_id`."""

    data: list[AliasMoveObject]

    @classmethod
    def of(cls, moves: Sequence[Move], has_more: bool) -> AliasMoveList:
        """The wire form of a page."""
        data = [AliasMoveObject.of(move) for move in moves]
        return cls.page(data, has_more)
