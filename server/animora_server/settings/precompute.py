"""The section `precompute`."""

from pydantic import Field

from animora_server.settings.section import DAY, Section


class PrecomputeSettings(Section):
    """`animora-server precompute`."""

    workers: int = Field(
        default=2, ge=1, le=256, description="threads that rank; each keeps a core busy, or shares the GPU"
    )
    resume_within: float = Field(
        default=21_600.0,
        ge=600,
        le=30 * DAY,
        description="seconds after the last write for which an unfinished generation can be resumed; after"
        " that a run begins a new one",
    )
