# Asks a gateway with OpenAI's own library: POQ_API=URL python3 -m unittest client.Client client.AsyncClient, which order eleven tasks,
# one of which nobody answers. client.KeyedClient orders none; it needs the POQ_API_KEY of a key for half a credit and one
# request a minute.
import asyncio
import os
import unittest

import openai

PASSAGE = """The lighthouse on Gull Rock was built in 1871 by the engineer Marta Lindqvist. It is 34 metres high and
stands on granite. In 1961 the lamp was switched to electricity and the keepers left. Today the tower is a museum with about
9,000 visitors a year."""

WHERE = {"base_url": os.environ["POQ_API"], "api_key": os.environ.get("POQ_API_KEY", "none")}


def about(question):
    return {"model": "poq-best", "messages": [{"role": "user", "content": f"{question}\n\n{PASSAGE}"}]}


class Client(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(**WHERE)
        self.addCleanup(self.client.close)

    def test_models_are_listed_and_found(self):
        self.assertIn("poq-best", [m.id for m in self.client.models.list()])
        self.assertEqual(self.client.models.retrieve("poq-best").object, "model")

    def test_chat_is_answered_and_says_by_whom(self):
        raw = self.client.chat.completions.with_raw_response.create(
            **about("Who built the lighthouse on Gull Rock?"), temperature=0.2, user="anna", extra_body={"poq": {"fee": 1_500_000}})
        got = raw.parse()
        self.assertIn("Marta Lindqvist", got.choices[0].message.content)
        self.assertEqual(got.choices[0].finish_reason, "stop")
        self.assertEqual(got.usage.total_tokens, got.usage.prompt_tokens + got.usage.completion_tokens)
        poq = got.poq  # what is not OpenAI's is kept by the library
        self.assertEqual((poq["outcome"], poq["fee"], poq["task"]), ("PAID", 1_500_000, raw.headers["X-PoQ-Task"]))
        self.assertEqual(poq["winner"]["account"], raw.headers["X-PoQ-Winner"])
        self.assertEqual(len(poq["candidates"]), 2)

    def test_several_choices_are_of_several_workers(self):
        got = self.client.chat.completions.create(**about("How high is the lighthouse?"), n=2)
        self.assertEqual([c.index for c in got.choices], [0, 1])
        self.assertEqual(len({c["worker"]["account"] for c in got.poq["candidates"]}), 2)

    def test_stream_ends_with_verdict_and_usage(self):
        text, usage, poq = "", None, None
        with self.client.chat.completions.create(
                **about("When was the lighthouse built?"), stream=True, stream_options={"include_usage": True}) as stream:
            for chunk in stream:
                text += "".join(c.delta.content or "" for c in chunk.choices)
                usage = chunk.usage or usage
                poq = getattr(chunk, "poq", None) or poq
        self.assertIn("1871", text)
        self.assertGreater(usage.total_tokens, 0)
        self.assertEqual(poq["outcome"], "PAID")

    def test_stream_helper_puts_the_answer_together(self):
        with self.client.chat.completions.stream(**about("What is the tower today?")) as stream:
            got = stream.get_final_completion()
        self.assertIn("museum", got.choices[0].message.content)

    def test_completion_is_answered(self):
        got = self.client.completions.create(model="poq-best", prompt=f"Who built the lighthouse?\n\n{PASSAGE}", stop=[" Lindqvist"])
        self.assertTrue(got.choices[0].text.endswith("Marta"), got.choices[0].text)

    def test_errors_are_the_librarys_own(self):
        def fails(kind, status, param, code, **q):
            with self.assertRaises(kind) as raised:
                self.client.chat.completions.create(**(about("Who?") | q))
            e = raised.exception
            self.assertEqual((e.status_code, e.param, e.code), (status, param, code), e.message)
            return e

        fails(openai.NotFoundError, 404, "model", "model_not_found", model="gpt-9")
        fails(openai.BadRequestError, 400, "n", None, n=99)
        fails(openai.BadRequestError, 400, "tools", "unsupported_parameter", tools=[{"type": "function", "function": {"name": "f"}}])
        picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]
        fails(openai.BadRequestError, 400, "messages[0].content[0].type", "unsupported_value", messages=picture)
        fails(openai.APIStatusError, 402, None, "insufficient_balance", extra_body={"poq": {"fee": 5_000_000_000}})
        # The library would try again after a 503, and pay again, if it were not told otherwise: the ledger counts.
        nobody = fails(openai.InternalServerError, 503, None, "no_workers",
                       messages=[{"role": "user", "content": "Who are you?"}], extra_body={"poq": {"answer_timeout_ms": 3000}})
        self.assertEqual(len(nobody.body["poq"]["task"]), 64)


class AsyncClient(unittest.IsolatedAsyncioTestCase):
    async def test_streams_side_by_side(self):
        async with openai.AsyncOpenAI(**WHERE) as client:
            async def ask():
                stream = await client.chat.completions.create(**about("When was the lighthouse built?"), stream=True)
                return "".join([c.delta.content or "" async for chunk in stream for c in chunk.choices])

            for text in await asyncio.gather(*(ask() for _ in range(5))):
                self.assertIn("1871", text)


class KeyedClient(unittest.TestCase):
    def test_limits_are_the_librarys_own_errors(self):
        with openai.OpenAI(base_url=WHERE["base_url"], api_key="wrong") as stranger:
            with self.assertRaises(openai.AuthenticationError) as raised:
                stranger.models.list()
            self.assertEqual(raised.exception.code, "invalid_api_key")
        with openai.OpenAI(**WHERE, max_retries=0) as client:
            with self.assertRaises(openai.APIStatusError) as raised:
                client.chat.completions.create(**about("Who?"))
            self.assertEqual((raised.exception.status_code, raised.exception.code), (402, "insufficient_quota"))
            with self.assertRaises(openai.RateLimitError) as raised:
                client.chat.completions.create(**about("Who?"))
            self.assertEqual(raised.exception.code, "rate_limit_exceeded")
            self.assertGreater(int(raised.exception.response.headers["Retry-After"]), 0)
