// The same from Node, where it differs: its own event loop, fetch, dgram, workers and child processes.
import net from "node:net";
import dgram from "node:dgram";
import dns from "node:dns/promises";
import fs from "node:fs";
import os from "node:os";
import { execFileSync } from "node:child_process";
import { Worker } from "node:worker_threads";

const given = JSON.parse(process.argv[2]);
const found = {};
async function attempt(name, tried) {
  try { await tried(); found[name] = ""; } catch (e) { found[name] = String(e.cause?.code ?? e.code ?? e); }
}
const connect = (options) => new Promise((yes, no) => {
  const s = net.connect(options, () => { s.end(); yes(); });
  s.on("error", no);
  s.setTimeout(5000, () => no(new Error("timeout")));
});
await attempt("+ the allowed address", () => connect({ host: "127.0.0.1", port: given.allowed }));
await attempt("+ a subprocess", () => { if (execFileSync(process.execPath, ["-e", "console.log(42)"]).toString() !== "42\n") throw new Error("output"); });
await attempt("+ a worker", () => new Promise((yes, no) => new Worker("1", { eval: true }).on("exit", yes).on("error", no)));
await attempt("+ interfaces", () => { if (!Object.keys(os.networkInterfaces()).length) throw new Error("none"); });
await attempt("+ its own directory", () => fs.writeFileSync(given.own + "/node", "x"));
await attempt("+ a pipe of its own", () => new Promise((yes, no) => {
  const server = net.createServer((s) => { s.end(); server.close(); });
  server.on("error", no).listen(given.own + "/pipe", () => connect({ path: given.own + "/pipe" }).then(yes, no));
}));
await attempt("another port", () => connect({ host: "127.0.0.1", port: given.other }));
await attempt("the same port of another address", () => connect({ host: "127.0.0.2", port: given.allowed }));
await attempt("fetch", () => fetch(`http://127.0.0.1:${given.other}/`));
await attempt("UDP", () => new Promise((yes, no) => dgram.createSocket("udp4").on("error", no).send("x", given.other, "127.0.0.1", (e) => e ? no(e) : yes())));
await attempt("a name of the outside", () => dns.resolve4("secret.data.example.com"));
await attempt("a looked-up name", () => dns.lookup("secret.data.example.com"));
await attempt("listening", () => new Promise((yes, no) => net.createServer().on("error", no).listen(0, yes)));
await attempt("a socket file outside", () => connect({ path: given.socket }));
await attempt("an abstract socket", () => connect({ path: "\0" + given.abstract }));
await attempt("a secret", () => fs.readFileSync(given.secret));
await attempt("a signal to its parent", () => process.kill(process.ppid, 0));
console.log(JSON.stringify(found));
process.exit(0);
