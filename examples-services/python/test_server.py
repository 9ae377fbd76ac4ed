"""Contract tests: the official client drives server.py over stdio, in both protocol eras.

    python -m unittest -v
"""

import sys
import unittest
from pathlib import Path

from mcp import Client, StdioServerParameters

SERVER = str(Path(__file__).with_name("server.py"))


def connect(mode: str) -> Client:
    """A client of a fresh server process; `mode` is "legacy" (the handshake) or a revision."""
    return Client(StdioServerParameters(command=sys.executable, args=[SERVER]), mode=mode, read_timeout_seconds=30)


class Contract(unittest.IsolatedAsyncioTestCase):
    """What callers of the service rely on."""

    async def test_both_eras_list_the_same(self) -> None:
        for mode in ("legacy", "2026-07-28"):
            with self.subTest(mode=mode):
                async with connect(mode) as client:
                    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
                    self.assertEqual(set(tools), {"countWords", "slugify"})
                    self.assertTrue(all(tool.annotations.read_only_hint for tool in tools.values()))
                    self.assertIn("words", tools["countWords"].output_schema["properties"])
                    resources = (await client.list_resources()).resources
                    self.assertEqual([str(resource.uri) for resource in resources], ["info://about"])
                    prompts = (await client.list_prompts()).prompts
                    self.assertEqual([prompt.name for prompt in prompts], ["shorten"])

    async def test_tools_answer(self) -> None:
        async with connect("2026-07-28") as client:
            counts = await client.call_tool("countWords", {"text": "one two\nthree"})
            self.assertEqual(counts.structured_content, {"characters": 13, "words": 3, "lines": 2})
            slug = await client.call_tool("slugify", {"text": "Café del Mar!"})
            self.assertEqual(slug.content[0].text, "cafe-del-mar")

    async def test_wrong_arguments_are_tool_errors(self) -> None:
        async with connect("2026-07-28") as client:
            for arguments in ({"text": "?!"}, {}, {"text": "x" * 100_001}):
                result = await client.call_tool("slugify", arguments)
                self.assertTrue(result.is_error, str(arguments)[:40])
            unslugged = await client.call_tool("slugify", {"text": "?!"})
            self.assertIn("no letter or digit", unslugged.content[0].text)

    async def test_resource_and_prompt(self) -> None:
        async with connect("2026-07-28") as client:
            about = await client.read_resource("info://about")
            self.assertIn("countWords", about.contents[0].text)
            prompt = await client.get_prompt("shorten", {"text": "long", "words": "7"})
            self.assertIn("at most 7 words", prompt.messages[0].content.text)


if __name__ == "__main__":
    unittest.main()
