"""The conductor: the one thing in the supervisor that knows what configuration is in force, and changes it.

A reload in order: everything is read and checked; a new address is bound; only then the generation goes up, and each
worker is told. Whatever fails before that point changes nothing. A worker that dies on the way is no loss: its
successor is forked from this process, which has what is in force. Two reloads in a row are two messages in order. A
worker that does not take one is not left to serve on what is over (a revoked key, say): it is replaced.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from fluxen.config.shown import shown
from fluxen.errors import ConfigError, FluxenError
from fluxen.gateway.bindings import Binding, Bindings
from fluxen.gateway.certificates import Authorities
from fluxen.gateway.channel import Channel
from fluxen.gateway.counter import Lines
from fluxen.gateway.listening import shared
from fluxen.gateway.reload import Accepted, Outcome, Reloader
from fluxen.gateway.secrets import secrets_of
from fluxen.gateway.snapshot import Snapshot
from fluxen.gateway.state import Parked, State, StateFile, as_json
from fluxen.gateway.update import Doors, Reply, Standing, Update
from fluxen.telemetry.log import Log
from fluxen.telemetry.metrics import Metrics

PATIENCE: Final = 5.0
"""Seconds that a worker may take for an update. Only time in which this process itself was awake counts."""
_LOOK: Final = 0.25


@dataclass(slots=True)
class Member:
    """What is known of one worker."""

    channel: Channel
    pid: int = 0
    doors: set[int] = field(default_factory=set)
    due: list[int] = field(default_factory=list)
    """Generations that it was told of and has not taken yet."""
    waited: float = 0.0


class Conductor:
    """snapshot is what is in force, for workers that are forked now."""

    def __init__(
        self,
        snapshot: Snapshot,
        authorities: Authorities,
        bindings: Bindings,
        log: Log,
        metrics: Metrics,
        *,
        reloader: Reloader | None = None,
        state: tuple[State, StateFile] | None = None,
    ) -> None:
        """reloader None: what it began with stays. state None: nobody is told of this gateway."""
        self.snapshot = snapshot
        self.authorities = authorities
        self.bindings = bindings
        self.lines = Lines(snapshot.config.server.workers)
        self.rejected = False
        self._log = log
        self._metrics = metrics
        self._reloader = reloader
        self._generation = 1
        self._workers: dict[int, Member] = {}
        self._watcher: Channel | None = None
        self._watched: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._said: tuple[str, ...] = ()
        self._since: float | None = None  # when the reload began that workers are taking
        self._last_look = time.monotonic()
        self._dirty = False
        self.state = State(os.getpid(), "", "", 0.0) if state is None else state[0]
        self._file = None if state is None else state[1]
        metrics.supervisor.set("config_generation", 1)
        metrics.supervisor.set("last_reload_successful", 1)
        metrics.supervisor.set("last_reload_success_ms", time.time_ns() // 1_000_000)
        self._show()

    # --- the supervisor's side

    def begins(self, worker: int | None, channel: Channel) -> None:
        """A child is about to be forked. What it inherits is what is in force."""
        if worker is None:
            self._watcher, self._watched = channel, None
            self._watch()
            return
        doors = {one.number for one in self.bindings.all}
        self._workers[worker] = Member(channel, doors=doors)
        self.bindings.restarted(worker)
        parked = [one for one in self.state.parked if one.worker != worker]
        if len(parked) != len(self.state.parked):
            self.state.parked, self._dirty = parked, True

    def began(self, worker: int, pid: int) -> None:
        self._workers[worker].pid = pid
        self._counted()

    def ended(self, worker: int | None) -> None:
        if worker is not None:
            self._workers.pop(worker, None)
            self._counted()
        else:
            self._watcher = None

    def in_child(self, worker: int | None, *, counter: bool = False) -> None:
        """In a fork: let go of what is not its business."""
        self.bindings.keep_only(worker)
        self.lines.keep_only(worker, counter=counter)
        if self._file is not None:
            self._file.forget()

    def heard(self, worker: int | None, message: list[Any]) -> None:
        """A child says something."""
        match message:
            case ["changed"]:
                self.reload()
            case ["applied", int(generation)] if worker in self._workers:
                follower = self._workers[worker]
                follower.due = [one for one in follower.due if one > generation]
                follower.waited = 0.0
                self._counted()
            case ["quiet", int(number), bool(quiet)] if worker is not None:
                self.bindings.heard(worker, number, quiet)
            case ["ask", int(number), str(question)] if worker in self._workers:
                self._workers[worker].channel.say(Reply(number, self._answer(question)))
            case ["parked", str(upstream), str(name), int(status), int() | float() as until] if worker is not None:
                self._parked(Parked(worker, upstream, name, status, float(until)))
            case ["unparked", str(upstream), str(name)] if worker is not None:
                self._parked(Parked(worker, upstream, name, 0, 0.0))
            case ["unknown_kid", str(url)] if self._watcher is not None:
                self._watcher.say(("unknown_kid", url))
            case ["problem", str(event), str(reason)]:
                self._log.notice(event, about=reason[:100], reason=reason)
            case _:
                self._log.notice("unknown_message", message=repr(message)[:200])

    def _parked(self, one: Parked) -> None:
        """A worker no longer uses a provider's key, or (`until` 0) does again."""
        same = (one.worker, one.upstream, one.credential)
        parked = [each for each in self.state.parked if (each.worker, each.upstream, each.credential) != same]
        self.state.parked = [*parked, one] if one.until else parked
        self._metrics.supervisor.set("parked_credentials", len(self.state.parked))
        self._dirty = True

    def look(self) -> float | None:
        """Do what is due; seconds until the next look, None when there is nothing to wait for."""
        now = time.monotonic()
        passed, self._last_look = min(now - self._last_look, 1.0), now
        waiting = False
        for number, follower in self._workers.items():
            if follower.due:
                waiting = True
                follower.waited += passed
                if follower.waited > PATIENCE and follower.pid:
                    self._log.error("worker_stuck", child=f"worker {number}", seconds=PATIENCE)
                    os.kill(follower.pid, signal.SIGKILL)
                    follower.waited = 0.0
        if self.bindings.let_go():
            self._tell(Doors(self.bindings.plans()))
            self._show()
        if self._dirty:
            self._write()
        return _LOOK if waiting or self.bindings.retiring() else None

    def close(self) -> None:
        """The end."""
        if self._file is not None:
            self._file.remove()

    # --- the reload

    def reload(self, *, again: bool = False) -> None:
        """Take up what is on disk, if it can be used. again: somebody asks for it, so try also what failed before."""
        if self._reloader is None:
            return
        begun = self._last_look = time.monotonic()
        self.state.attempts += again
        self.state.attempted = time.time()
        try:
            self._attempt(self._reloader, again, begun)
            self._watch()
            if again or self._dirty:
                self._show()
        except Exception as error:  # noqa: BLE001 - what nobody foresaw of a file must not end a gateway that serves
            self._log.bug("reload_failed", error)
            self._refused(FluxenError(f"the configuration can't be taken up: {type(error).__name__}, see the log"))
            self._watch()

    def _attempt(self, reloader: Reloader, again: bool, begun: float) -> None:
        """All that is on disk; where that can't be used, the keys alone."""
        new: Accepted | Outcome | None
        try:
            new = reloader.attempt(again=again)
            if new is Outcome.CURRENT and self.rejected:
                self._stands(rejected=False)
                self._log.info("config_restored", generation=self._generation)
            if isinstance(new, Accepted):
                self._take(new)
        except FluxenError as error:
            self._refused(error)
            try:
                new = reloader.rest()
                if new is not None:
                    self._take(new)
            except FluxenError:
                return  # they are what is wrong, and that has been told
        if isinstance(new, Accepted):
            self._since = begun
            self._counted()

    def _take(self, new: Accepted) -> None:
        """From here on it is in force, or FluxenError is raised and nothing has changed."""
        old, config = self.snapshot, new.snapshot.config
        assert self._reloader is not None
        own = None
        public = self.bindings.prepare(config.server.bind_address)
        try:
            if config.admin is not None and not shared(config):
                own = self.bindings.prepare(config.admin.bind_address, admin=True)
            if config.server.tls is not None and new.chain is not None:
                self.authorities.show(config.server.tls, new.chain.certificate, new.chain.key)
            self.authorities.learn(new.stores)  # last: what is known is not sent to the workers again
        except FluxenError:
            self.bindings.discard(public)
            self.bindings.discard(own)
            raise
        self.bindings.use(public)
        self.bindings.use(own, admin=True)
        self._generation += 1
        self.snapshot = new.snapshot
        self._reloader.taken(new)
        snapshot = new.snapshot
        same_prices = snapshot.price_file == old.price_file
        update = Update(
            self._generation, config, snapshot.upstreams, snapshot.keys is not None, new.keys, snapshot.key_sets,
            new.log, new.stores, new.chain, None if same_prices else snapshot.price_file, same_prices,
            self.bindings.plans(),
        )  # fmt: skip
        self._log.change(new.log, secrets_of(new.snapshot))
        for follower in self._workers.values():
            if not follower.due:
                follower.waited = 0.0
            follower.due.append(self._generation)
        self._tell(update, self.bindings.all)
        state = self.state
        state.generation, state.loaded, state.milliseconds = self._generation, time.time(), 0
        state.needs_restart = list(new.restart)
        state.config = None if self._reloader.path is None else str(self._reloader.path)
        for warning in new.snapshot.warnings:
            if warning not in old.warnings:
                self._log.warning("config_warning", warning=warning)
        if new.restart:
            self._log.warning("config_needs_restart", settings=", ".join(new.restart))
        slot = self._metrics.supervisor
        slot.set("config_generation", self._generation)
        if new.whole:
            slot.set("last_reload_success_ms", time.time_ns() // 1_000_000)
            slot.add("reloads_success")
            self._stands(rejected=False)

    def _tell(self, message: object, bindings: list[Binding] | None = None) -> None:
        """Say the same to every worker, with the sockets that it does not have."""
        encoded = pickle.dumps(message)
        for number, follower in self._workers.items():
            fresh = [one for one in bindings or () if one.number not in follower.doors]
            follower.doors.update(one.number for one in fresh)
            follower.channel.pass_on(encoded, [one.sockets[number] for one in fresh])

    def _refused(self, error: FluxenError) -> None:
        problems = (error.problems if isinstance(error, ConfigError) else ()) or (error.message,)
        if problems != self._said:
            self._log.warning("config_rejected", problems="; ".join(problems), hint=error.hint)
        self._said = problems
        self._metrics.supervisor.add("reloads_rejected")
        self._stands(rejected=True, problems=problems)

    def _stands(self, *, rejected: bool, problems: tuple[str, ...] = ()) -> None:
        if not rejected:
            self._said = ()
        if rejected != self.rejected:
            self._tell(Standing(rejected))
        self.rejected = rejected
        self._metrics.supervisor.set("last_reload_successful", not rejected)
        self.state.rejected, self.state.problems = rejected, list(problems)
        self._dirty = True

    def _counted(self) -> None:
        """Whether every worker has what is in force by now."""
        late = sum(1 for follower in self._workers.values() if follower.due)
        applied = len(self._workers) - late
        if not late and self._since is not None:
            self.state.milliseconds = round((time.monotonic() - self._since) * 1000)
            self._since, self._dirty = None, True
            self._log.info("config_reloaded", generation=self._generation, ms=self.state.milliseconds)
        if self.state.applied != applied:
            self.state.applied, self._dirty = applied, True

    def _watch(self) -> None:
        if self._watcher is None or self._reloader is None:
            return
        files = (tuple(sorted(map(str, self._reloader.files))), self._reloader.urls)
        if files != self._watched:
            self._watched = files
            self._watcher.say(("watch", *files))

    # --- what is said of it

    def _answer(self, question: str) -> Mapping[str, Any]:
        if question == "reload":
            self.reload(again=True)
        said: dict[str, Any] = msgspec.json.decode(as_json(self.state))
        if question == "reload":
            named = {name: said[name] for name in ("generation", "problems", "needs_restart")}
            return {"ok": not self.rejected, **named}
        del said["salt"]
        return said

    def _show(self) -> None:
        """Everything that commands and the admin endpoints may know."""
        state, config = self.state, self.snapshot.config
        state.address = self._bound(admin=False)
        state.admin = self._bound(admin=True) or (state.address if shared(config) else None)
        state.tls = config.server.tls is not None
        state.warnings = list(self.snapshot.warnings)
        state.running = shown(config, bytes.fromhex(state.salt))
        self._write()

    def _bound(self, *, admin: bool) -> str:
        binding = self.bindings.current(admin=admin)
        if binding is None:
            return ""
        host, port = binding.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _write(self) -> None:
        self._dirty = False
        if self._file is not None:
            before = self._file.error
            self._file.write(self.state)
            if self._file.error is not None and self._file.error != before:
                self._log.warning("state_not_written", reason=self._file.error)
