"""The orders of the shop: reserves at the inventory, charges at the payment, and takes the first back when the second fails.

    python order.py 9001        Streamable HTTP on http://127.0.0.1:9001/mcp

The other two are called by their names in the mesh. There is no certificate and no token in here: the sidecar makes the connection, as this
service, and theirs decide what this service may do.
"""

import sys
import uuid
from typing import Annotated, Any

import anyio
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

INVENTORY = "http://inventory.mesh/mcp"
PAYMENT = "http://payment.mesh/mcp"
# Seconds for taking one step back.
UNDOING = 30
mcp = MCPServer("order", version="0.1.0", instructions="Places orders.")


class Order(BaseModel):
    """What became of an order."""

    id: str
    item: str
    quantity: int
    paid: int


async def call(ctx: Context, service: str, tool: str, **arguments: Any) -> dict[str, Any]:
    """Calls a tool of another service as a part of the call that we are at: the trace goes on."""
    parent = (ctx.request_context.meta or {}).get("traceparent")
    async with Client(service) as client:
        result = await client.call_tool(tool, arguments, meta={"traceparent": parent} if parent else None)
    if result.is_error:
        raise ToolError(" ".join(part.text for part in result.content if part.type == "text"))
    return result.structured_content or {}


@mcp.tool(name="placeOrder")
async def place_order(
    item: Annotated[str, Field(max_length=64)], quantity: Annotated[int, Field(ge=1, le=1000)], card: Annotated[str, Field(max_length=64)], ctx: Context
) -> Order:
    """Buys items. Either they are paid, or everything is as it was before."""
    order = uuid.uuid4().hex
    begun = [(INVENTORY, "release")]
    try:
        reserved = await call(ctx, INVENTORY, "reserve", order=order, item=item, quantity=quantity)
        begun.insert(0, (PAYMENT, "refund"))
        await call(ctx, PAYMENT, "charge", order=order, amount=reserved["price"], card=card)
    except BaseException as error:
        # Whether a step was done is not known if its answer was lost, or if our caller gave up: each that was begun is undone, which may
        # be done twice, or for what never was. A caller that has given up does not stop it.
        with anyio.CancelScope(shield=True):
            undone = [await undo(ctx, service, tool, order) for service, tool in begun]
        left = " ".join(why for why in undone if why)
        if not isinstance(error, Exception):
            print(left or f"order {order} was given up and taken back", file=sys.stderr)
            raise
        raise ToolError(f"order {order} was not paid ({error}); " + (left or "nothing is reserved or charged")) from error
    return Order(id=order, item=item, quantity=quantity, paid=reserved["price"])


async def undo(ctx: Context, service: str, tool: str, order: str) -> str | None:
    """Takes a step back. What cannot be taken back is for a person."""
    try:
        with anyio.fail_after(UNDOING):
            await call(ctx, service, tool, order=order)
    except Exception as error:
        return f"{tool} of order {order} failed and has to be done by hand: {error!r}"
    return None


if __name__ == "__main__":
    mcp.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
