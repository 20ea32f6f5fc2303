"""Batches out of single pictures: which there are, what fails alone, what full and empty mean."""

import asyncio
import threading

import numpy as np
import pytest

from la_tf.serving.batching import Batcher, Picture, QueueFullError


class Model:
    """Embeds b"7" as [7, 49]; b"bad" breaks it; keeps the batches, and waits while it is held."""

    def __init__(self):
        self.batches, self.given_up = [], False
        self.free = threading.Event()
        self.free.set()

    def __call__(self, encoded: list[bytes]) -> np.ndarray:
        self.batches.append(encoded)
        self.given_up = not self.free.wait(60)
        assert not self.given_up
        numbers = np.array([float(one) for one in encoded])
        return np.stack([numbers, numbers**2], axis=1)


@pytest.fixture
def model():
    return Model()


def batcher(model, **options) -> Batcher:
    defaults = {"max_batch_size": 4, "max_batch_pixels": 100, "max_queue": 10}
    defaults |= {"max_queue_bytes": 1000, "wait": 0.0}
    return Batcher(model, **(defaults | options))


def pictures(*names: int | str, pixels: int = 1) -> list[Picture]:
    return [Picture(str(name).encode(), pixels) for name in names]


async def until(condition) -> None:
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to pass")


def test_each_request_gets_the_rows_of_its_own_pictures_in_order(model):
    async def run():
        async with batcher(model) as batches:
            requests = [range(i, i + 1 + i % 3) for i in range(0, 60, 3)]
            limit = asyncio.Semaphore(3)  # no more than fit the queue

            async def ask(numbers):
                async with limit:
                    return await batches.embed(pictures(*numbers))

            return requests, await asyncio.gather(*map(ask, requests))

    requests, answers = asyncio.run(run())
    for numbers, rows in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(np.stack(rows), [[n, n**2] for n in numbers])
    assert max(map(len, model.batches)) > 1


def test_what_comes_while_the_model_is_busy_is_embedded_together(model):
    async def run():
        async with batcher(model) as batches:
            model.free.clear()
            tasks = [asyncio.create_task(batches.embed(pictures(0)))]
            await until(lambda: model.batches)
            tasks += [asyncio.create_task(batches.embed(pictures(i))) for i in range(1, 7)]
            await until(lambda: len(batches) == 6)
            model.free.set()
            await asyncio.gather(*tasks)

    asyncio.run(run())
    assert model.batches == [[b"0"], [b"1", b"2", b"3", b"4"], [b"5", b"6"]]


def test_an_idle_model_waits_for_companions_but_not_once_a_batch_is_full(model):
    async def run():
        async with batcher(model, max_batch_size=2, wait=3600.0) as batches:
            tasks = [asyncio.create_task(batches.embed(pictures(1)))]
            await asyncio.sleep(0.1)
            assert model.batches == []
            tasks += [asyncio.create_task(batches.embed(pictures(2)))]
            await asyncio.wait_for(asyncio.gather(*tasks), 300)
        async with batcher(model, wait=0.05) as batches:
            await asyncio.wait_for(batches.embed(pictures(3)), 300)

    asyncio.run(run())
    assert model.batches == [[b"1", b"2"], [b"3"]]


def test_a_batch_has_no_more_pixels_than_allowed_unless_it_is_one_picture(model):
    async def run():
        async with batcher(model, max_batch_size=9) as batches:
            mixed = pictures(1, 2, pixels=40) + pictures(3, pixels=500) + pictures(4, 5, pixels=50)
            return await batches.embed(mixed + pictures(6))

    rows = asyncio.run(run())
    assert model.batches == [[b"1", b"2"], [b"3"], [b"4", b"5"], [b"6"]]
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_picture_that_breaks_the_model_fails_alone(model):
    async def run():
        async with batcher(model) as batches:
            model.free.clear()
            first = asyncio.create_task(batches.embed(pictures(0)))
            await until(lambda: model.batches)
            tasks = [
                asyncio.create_task(batches.embed(names))
                for names in (pictures(1), pictures(2, "bad"), pictures(3))
            ]
            await until(lambda: len(batches) == 4)
            model.free.set()
            await first
            answers = await asyncio.gather(*tasks)
            return answers, await batches.embed(pictures(9))

    (one, two, three), after = asyncio.run(run())
    assert model.batches[1] == [b"1", b"2", b"bad", b"3"]
    assert [list(one[0]), list(two[0]), list(three[0])] == [[1, 1], [2, 4], [3, 9]]
    assert isinstance(two[1], ValueError) and list(after[0]) == [9, 81]


def test_a_full_queue_takes_all_pictures_of_a_request_or_none(model):
    async def run():
        async with batcher(model) as batches:
            model.free.clear()
            tasks = [asyncio.create_task(batches.embed(pictures(0)))]
            await until(lambda: model.batches)
            tasks += [asyncio.create_task(batches.embed(pictures(*range(1, 9))))]
            await until(lambda: len(batches) == 8)
            with pytest.raises(QueueFullError, match="8 pictures are waiting, 10 may"):
                await batches.embed(pictures(20, 21, 22))
            assert len(batches) == 8
            tasks += [asyncio.create_task(batches.embed(pictures(30, 31)))]
            await until(lambda: len(batches) == 10)
            model.free.set()
            return await asyncio.gather(*tasks)

    answers = asyncio.run(run())
    assert [row[0] for rows in answers for row in rows] == [0, *range(1, 9), 30, 31]


def test_pictures_that_nobody_waits_for_any_more_are_not_embedded(model):
    async def run():
        async with batcher(model) as batches:
            model.free.clear()
            computed = asyncio.create_task(batches.embed(pictures(0)))
            await until(lambda: model.batches)
            gone = asyncio.create_task(batches.embed(pictures(1, 2, 3, 4, 5)))
            stays = asyncio.create_task(batches.embed(pictures(6)))
            await until(lambda: len(batches) == 6)
            computed.cancel()
            gone.cancel()
            model.free.set()
            return await asyncio.wait_for(stays, 300), len(batches)

    rows, waiting = asyncio.run(run())
    assert (list(rows[0]), waiting) == ([6, 36], 0)
    assert model.batches == [[b"0"], [b"6"]]


def test_bytes_are_bounded_until_they_are_embedded(model):
    async def run():
        async with batcher(model, max_queue_bytes=10, max_batch_size=1) as batches:
            model.free.clear()
            tasks = [asyncio.create_task(batches.embed(pictures(1000)))]
            await until(lambda: model.batches)
            gone = asyncio.create_task(batches.embed(pictures(2000)))
            await until(lambda: len(batches) == 1)
            gone.cancel()  # still held, as the model's batch is
            with pytest.raises(QueueFullError, match=r"0\.0 million bytes of requests are waiting"):
                await batches.embed(pictures(3, 44))
            tasks += [asyncio.create_task(batches.embed(pictures(55)))]
            await until(lambda: len(batches) == 2)
            model.free.set()
            await asyncio.gather(*tasks)
            await batches.embed(pictures(1234567890))
            with pytest.raises(QueueFullError):
                await batches.embed(pictures(12345678901))

    asyncio.run(run())
    assert model.batches == [[b"1000"], [b"55"], [b"1234567890"]]


def test_the_end_does_not_wait_for_a_model_that_is_stuck(model):
    async def run():
        async with batcher(model) as batches:
            model.free.clear()
            task = asyncio.create_task(batches.embed(pictures(1)))
            await until(lambda: model.batches)
        task.cancel()

    asyncio.run(run())
    assert model.batches == [[b"1"]] and not model.given_up
    model.free.set()
