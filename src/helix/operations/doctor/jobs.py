"""The doctor's sample of every day: how large everything is, so that growth is real."""

from typing import Any

import msgspec

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import Database, connect
from helix.operations.doctor.scene import QUERIES, Scene, data_directory, volumes_of
from helix.tasks import Priority, RetryPolicy, Schedule, TaskContext, TaskRegistry

__all__ = ["SAMPLE", "register_doctor", "sample_sizes"]

SAMPLE = "helix.doctor.sample"


class Sampled(msgspec.Struct, frozen=True):
    """The result of the task: how many tables and volumes were written down."""

    tables: int
    volumes: int


async def sample_sizes(url: str, settings: Settings, *, clock: Clock) -> Sampled:
    """Write today's sizes of tables, database and volumes down; repeated, it writes over.

    Samples older than 400 days go.
    """
    conn = await connect(url, application_name="helix doctor")
    try:
        scene = Scene(conn=conn, url=url, settings=settings, clock=clock)
        volumes = volumes_of(settings, await data_directory(scene))
        async with conn.transaction():
            tag = await QUERIES.run(conn, "sample_tables")
            for volume in volumes.values():
                await QUERIES.run(
                    conn,
                    "sample_volume",
                    name=volume.name,
                    used_bytes=volume.used_bytes,
                    free_bytes=volume.free_bytes,
                )
            await QUERIES.run(conn, "drop_old_samples")
    finally:
        await conn.close()
    return Sampled(int(tag.split()[-1]) - 1, len(volumes))


def register_doctor(
    registry: TaskRegistry, db: Database, settings: Settings, *, clock: Clock
) -> None:
    """Register the sample, at 01:50 UTC every day."""

    @registry.task(
        SAMPLE,
        queue="system",
        priority=Priority.LOW,
        retry=RetryPolicy(max_retries=3, delay_s=300),
        timeout_s=600.0,
    )
    async def sample(_: TaskContext, __: dict[str, Any]) -> Sampled:
        return await sample_sizes(db.url, settings, clock=clock)

    registry.schedule(
        Schedule(SAMPLE, SAMPLE, cron="50 1 * * *", queue="system", priority=Priority.LOW)
    )
