"""The worker's end of its channel to the supervisor: it does what it is told, in order, and tells what it knows.

An Update is applied between two turns of the event loop, in one go: a request that has begun keeps the snapshot it
began with, the next one has the new. Only then the supervisor is told.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fluxen.gateway.bindings import DoorPlan
from fluxen.gateway.channel import Channel
from fluxen.gateway.door import Door
from fluxen.gateway.update import Doors, Reply, Standing, Update

if TYPE_CHECKING:
    from fluxen.gateway.worker import Worker

Opened = Sequence[tuple[DoorPlan, socket.socket]]
"""The doors of a worker at its start."""


class Follower:
    """Owns the doors and the channel of a worker. channel: None without a supervisor."""

    def __init__(self, worker: Worker, doors: Opened, channel: Channel | None = None) -> None:
        self._worker = worker
        self._loop = worker.loop
        self._channel = channel
        self._doors = {plan.number: self._door(plan, sock) for plan, sock in doors}
        self._orders: asyncio.Queue[tuple[Any, list[int]]] = asyncio.Queue()
        self._asked: dict[int, Callable[[Any], None]] = {}
        self._questions = 0
        self._obeying: asyncio.Task[None] | None = None
        self._stopped = False

    def _door(self, plan: DoorPlan, sock: socket.socket) -> Door:
        worker = self._worker
        return Door(plan, sock, worker.admin_listener if plan.admin else worker.listener)

    async def start(self) -> None:
        """Open the doors, and begin to listen to the supervisor."""
        for door in self._doors.values():
            await door.open(self._loop)
        if self._channel is not None:
            self._obeying = self._loop.create_task(self._obey())
            self._loop.add_reader(self._channel.fileno(), self._hear)

    async def stop(self) -> None:
        """Accept no more. Orders are still taken: requests that run on may take longer than the supervisor waits."""
        self._stopped = True
        for door in list(self._doors.values()):
            await door.close(self._loop)

    def end(self) -> None:
        """The last of it."""
        if self._channel is not None:
            self._loop.remove_reader(self._channel.fileno())
        if self._obeying is not None:
            self._obeying.cancel()

    # --- what the worker says

    def tell(self, *message: object) -> None:
        """Say something to the supervisor: plain values, the first is the name of its handler."""
        if self._channel is not None:
            self._channel.say(message)
            self._flush()

    def ask(self, question: str, then: Callable[[Any], None]) -> None:
        """Ask the supervisor; `then` gets the answer."""
        self._questions += 1
        self._asked[self._questions] = then
        self.tell("ask", self._questions, question)

    def tick(self) -> None:
        """Once a second: whether anybody still comes by what is given up."""
        for number, door in self._doors.items():
            if door.plan.retiring and (quiet := door.look()) is not None:
                self.tell("quiet", number, quiet)

    def _flush(self) -> None:
        """Send what waits, now and whenever there is room."""
        channel = self._channel
        if channel is None or channel.ended:
            return
        channel.flush()
        if channel.waiting:
            self._loop.add_writer(channel.fileno(), self._flush)
        else:
            self._loop.remove_writer(channel.fileno())

    # --- what the supervisor says

    def _hear(self) -> None:
        assert self._channel is not None
        for message in self._channel.hear():
            self._orders.put_nowait(message)
        if self._channel.ended:
            self._loop.remove_reader(self._channel.fileno())

    async def _obey(self) -> None:
        while True:
            order, descriptors = await self._orders.get()
            try:
                await self._do(order, descriptors)
            except Exception as error:  # noqa: BLE001 - it is not told as done: this process will be replaced
                self._worker.log.bug("order_failed", error)

    async def _do(self, order: object, descriptors: Sequence[int]) -> None:
        if isinstance(order, Update):
            self._worker.take(order)
            await self._arrange(order.doors, descriptors)
            self.tell("applied", order.generation)
        elif isinstance(order, Doors):
            await self._arrange(order.plans, descriptors)
        elif isinstance(order, Standing):
            self._worker.rejected = order.rejected
        elif isinstance(order, Reply) and (then := self._asked.pop(order.number, None)) is not None:
            then(order.answer)

    async def _arrange(self, plans: Sequence[DoorPlan], descriptors: Sequence[int]) -> None:
        """Have just these doors: first open the new, then close those that are gone."""
        if self._stopped:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        fresh = iter(descriptors)
        for plan in plans:
            if plan.number in self._doors:
                self._doors[plan.number].planned(plan)
            else:
                self._doors[plan.number] = door = self._door(plan, socket.socket(fileno=next(fresh)))
                await door.open(self._loop)
        kept = {plan.number for plan in plans}
        for number in [number for number in self._doors if number not in kept]:
            await self._doors.pop(number).close(self._loop)
