"""The payments of the shop, which are pretended: the card `declined` is declined.

    python payment.py 9001        Streamable HTTP on http://127.0.0.1:9001/mcp
"""

import sys
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

mcp = MCPServer("payment", version="0.1.0", instructions="Charges cards, and gives money back.")
charges: dict[str, int] = {}
Order = Annotated[str, Field(min_length=1, max_length=64, description="The order that it is for.")]
REPEATABLE = ToolAnnotations(idempotent_hint=True)


@mcp.tool(name="charge", annotations=REPEATABLE)
def charge(order: Order, amount: Annotated[int, Field(ge=1, le=100_000_000)], card: Annotated[str, Field(max_length=64)]) -> int:
    """Takes an amount, in cents, from a card. The same order may ask again."""
    if card == "declined":
        raise ToolError("the card was declined")
    return charges.setdefault(order, amount)


@mcp.tool(name="refund", annotations=REPEATABLE)
def refund(order: Order) -> int:
    """Gives back what was taken for an order, and says how much that was."""
    return charges.pop(order, 0)


if __name__ == "__main__":
    mcp.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
