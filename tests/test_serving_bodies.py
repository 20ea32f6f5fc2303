"""Bodies that arrive count as they come, and give way where they are slow; time is set by hand."""

import asyncio
import types
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.streams import StreamReader

from la_tf.serving.batching import MemoryBudget, QueueFullError
from la_tf.serving.bodies import Bodies
from la_tf.serving.protocol import RequestError


class World:
    """Bodies of at most 100 bytes in a memory for 300, and what is being read of them."""

    def __init__(self):
        self.loop, self.now = asyncio.get_running_loop(), 0.0
        self.loop.time = lambda: self.now
        self.budget = MemoryBudget(300)
        self.bodies = Bodies(self.budget, max_bytes=100)

    async def begin(self, client: str, announced: int | None = None):
        """A client's body of which nothing has come; (where it comes in, what becomes of it)."""
        connection = mock.Mock(connected=True)
        content = StreamReader(connection, 1 << 16, loop=self.loop)
        request = types.SimpleNamespace(remote=client, content=content, content_length=announced)
        reading = self.loop.create_task(self._read(request))
        await self.settle()
        return content, reading

    async def _read(self, request) -> bytes:
        async with self.bodies.received(request) as body:
            return bytes(body)

    async def send(self, content, chunk: bytes) -> None:
        content.feed_data(chunk)
        await self.settle()

    async def wait(self, seconds: float) -> None:
        self.now += seconds
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def room(self) -> int:
        """Bytes that are left."""
        left = 0
        while left < 300:
            try:
                self.budget.take(left + 1)
            except QueueFullError:
                break
            self.budget.give_back(left + 1)
            left += 1
        return left


def in_a_world(test):
    """Runs a test that takes a world."""

    def run():
        async def inside():
            await test(World())

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


@in_a_world
async def test_a_body_counts_as_it_comes_until_it_is_used(world):
    content, reading = await world.begin("a", announced=100)
    assert world.room() == 300  # nothing for what is only announced
    await world.send(content, b"x" * 60)
    assert world.room() == 240 and world.bodies
    await world.send(content, b"y" * 40)
    assert world.room() == 200
    content.feed_eof()
    assert await reading == b"x" * 60 + b"y" * 40
    assert world.room() == 300 and not world.bodies


@in_a_world
async def test_a_body_that_is_too_large_is_refused_before_or_while_it_comes(world):
    _, announced = await world.begin("a", announced=101)
    content, sent = await world.begin("a")
    await world.send(content, b"x" * 90)
    await world.send(content, b"x" * 11)
    for reading in (announced, sent):
        with pytest.raises(RequestError, match=r"more than 0.0001 million bytes") as caught:
            await reading
        assert caught.value.status == 413
    assert world.room() == 300


@in_a_world
async def test_a_damaged_body_is_refused(world):
    content, reading = await world.begin("a")
    content.set_exception(web.RequestPayloadError())
    with pytest.raises(RequestError, match="not what its headers say"):
        await reading


@in_a_world
async def test_a_body_that_falls_silent_is_dropped(world):
    content, reading = await world.begin("a")
    await world.send(content, b"x" * 50)
    await world.wait(19.9)
    assert not reading.done() and world.room() == 250
    await world.wait(0.2)
    with pytest.raises(RequestError, match="came too slowly") as caught:
        await reading
    assert caught.value.status == 408 and world.room() == 300


@in_a_world
async def test_a_byte_now_and_then_does_not_keep_a_body_alive(world):
    content, reading = await world.begin("a")
    for _ in range(3):
        await world.send(content, b"x")
        await world.wait(6.5)
    assert not reading.done()
    await world.send(content, b"x")
    await world.wait(1)
    with pytest.raises(RequestError, match="came too slowly"):
        await reading


def test_a_steady_body_may_take_as_long_as_its_size_needs():
    async def inside():
        world = World()
        world.budget = MemoryBudget(1e7)
        world.bodies = Bodies(world.budget, max_bytes=1e6)
        content, reading = await world.begin("a")
        for _ in range(20):
            await world.send(content, b"x" * 50_000)  # 33 kB/s
            await world.wait(1.5)
        content.feed_eof()
        assert len(await reading) == 1_000_000

    asyncio.run(inside())


@in_a_world
async def test_where_there_is_no_room_the_body_that_was_silent_for_longest_gives_way(world):
    arriving = {}
    for client in "abc":
        arriving[client] = await world.begin(client)
        await world.send(arriving[client][0], b"x" * 100)
        await world.wait(1)
    late, reading = await world.begin("d")
    await world.send(late, b"y" * 50)
    with pytest.raises(RequestError, match="others needed its place") as caught:
        await arriving["a"][1]
    assert caught.value.status == 408
    assert world.room() == 50 and not any(arriving[c][1].done() for c in "bc")
    late.feed_eof()
    assert await reading == b"y" * 50
    # The others have been heard of just now.
    for client, size in (("e", 100), ("f", 1)):
        arriving[client] = await world.begin(client)
        world.now -= 0.5
        await world.send(arriving[client][0], b"z" * size)
    with pytest.raises(QueueFullError, match=r"of 0.0003 million bytes"):
        await arriving["f"][1]
    assert not any(arriving[client][1].done() for client in "bce")


@in_a_world
async def test_one_client_cannot_take_it_all(world):
    for _ in range(3):
        content, greedy = await world.begin("a")
        await world.send(content, b"x" * 60)
    with pytest.raises(QueueFullError, match=r"arriving from a holds 0.0 of the 0.00015 million"):
        await greedy
    content, other = await world.begin("b")
    await world.send(content, b"y" * 100)
    content.feed_eof()
    assert await other == b"y" * 100


@in_a_world
async def test_whatever_has_not_arrived_is_dropped_when_the_server_ends(world):
    content, reading = await world.begin("a")
    await world.send(content, b"x")
    world.bodies.drop_all(RequestError(503, "the server is ending."))
    with pytest.raises(RequestError, match="ending"):
        await reading
    assert world.room() == 300
