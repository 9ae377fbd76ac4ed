/**
 * The inventory of the shop: what there is, and what is set aside for orders.
 *
 *   node inventory.ts 9001        Streamable HTTP on http://127.0.0.1:9001/mcp
 *
 * Node 22.18 and later run it as it is.
 */
import { createServer } from 'node:http';
import { hostHeaderValidation, originValidation, toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import * as z from 'zod';

const HOST = '127.0.0.1';
/** Of each item: how many there are, and the price of one in cents. */
const items = new Map([
  ['canoe', { left: 3, price: 89_900 }],
  ['paddle', { left: 12, price: 3_900 }],
]);
/** What is set aside, by order. */
const reservations = new Map<string, { item: string; quantity: number }>();

const order = z.string().min(1).max(64).describe('The order that it is for.');
const answer = (said: Record<string, unknown>) => ({ content: [{ type: 'text' as const, text: JSON.stringify(said) }], structuredContent: said });

function known(item: string): { left: number; price: number } {
  const found = items.get(item);
  if (!found) throw new Error(`there is no ${item}; there are ${[...items.keys()].join(', ')}`);
  return found;
}

function build(): McpServer {
  const server = new McpServer({ name: 'inventory', version: '0.1.0' }, { instructions: 'What the shop has.' });
  server.registerTool(
    'stock',
    {
      description: 'Says how many of an item are left, and what one costs, in cents.',
      inputSchema: z.object({ item: z.string().max(64) }),
      annotations: { readOnlyHint: true, idempotentHint: true },
    },
    async ({ item }) => answer({ item, ...known(item) }),
  );
  server.registerTool(
    'reserve',
    {
      description: 'Sets items aside for an order. The same order may ask again.',
      inputSchema: z.object({ order, item: z.string().max(64), quantity: z.int().min(1).max(1000) }),
      annotations: { idempotentHint: true },
    },
    async ({ order, item, quantity }) => {
      const found = known(item);
      if (!reservations.has(order)) {
        if (found.left < quantity) throw new Error(`there are only ${found.left} of ${item}`);
        found.left -= quantity;
        reservations.set(order, { item, quantity });
      }
      return answer({ order, item, quantity, price: found.price * quantity });
    },
  );
  server.registerTool(
    'release',
    {
      description: 'Puts back what was set aside for an order, if anything was.',
      inputSchema: z.object({ order }),
      annotations: { idempotentHint: true, destructiveHint: true },
    },
    async ({ order }) => {
      const reserved = reservations.get(order);
      if (reserved) {
        known(reserved.item).left += reserved.quantity;
        reservations.delete(order);
      }
      return answer({ order, released: reserved !== undefined });
    },
  );
  return server;
}

const names = ['localhost', HOST];
const hostPasses = hostHeaderValidation(names);
const originPasses = originValidation(names);
const handle = toNodeHandler(createMcpHandler(build));
const listener = createServer((request, response) => {
  if (hostPasses(request, response) && originPasses(request, response)) void handle(request, response);
});
listener.listen(Number(process.argv[2] ?? 9001), HOST, () => console.error('the inventory is open'));
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => listener.close(() => process.exit(0)));
