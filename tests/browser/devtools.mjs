// Just enough of the Chrome DevTools Protocol to use a page as a person does. Node's own WebSocket; nothing to install.
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

// The machine may be busy; a person would wait that long as well.
const PATIENCE = 60_000;

export async function launch(chromium) {
  const profile = await mkdtemp(join(tmpdir(), "desk-"));
  // As root in a container there is no sandbox to be had, and /dev/shm is small.
  const flags = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-port=0", `--user-data-dir=${profile}`,
    // What newer browsers refuse by themselves is up to us in older ones.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests"];
  const child = spawn(chromium, [...flags, "about:blank"], { stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  try {
    const browser = new Browser(await connect(await address(child)));
    browser.close = async () => {
      // Debian's program is a script that waits for the browser: a signal would end the script alone.
      browser.send("Browser.close").catch(() => {});
      const late = new Promise((_, reject) => setTimeout(() => reject(new Error("the browser does not end")), PATIENCE).unref());
      await Promise.race([ended, late]);
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    };
    return browser;
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  }
}

// Where it listens, as it says itself.
function address(child) {
  return new Promise((resolve, reject) => {
    let said = "";
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the browser ended with ${code}: ${said.slice(-800)}`)));
    child.stderr.on("data", (data) => {
      said += data;
      const found = said.match(/DevTools listening on (ws:\S+)/);
      if (found) resolve(found[1]);
    });
  });
}

function connect(url) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve(socket);
    socket.onerror = () => reject(new Error(`nobody answers at ${url}`));
  });
}

class Browser {
  #socket;
  #next = 1;
  #waiting = new Map();
  #pages = new Map();

  constructor(socket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
  }

  #take({ id, result, error, sessionId, method, params }) {
    if (id === undefined) {
      for (const listener of this.#pages.get(sessionId)?.listeners.get(method) ?? []) listener(params);
      return;
    }
    const { resolve, reject, asked } = this.#waiting.get(id);
    this.#waiting.delete(id);
    error ? reject(new Error(`${asked}: ${error.message}`)) : resolve(result);
  }

  send(method, params = {}, sessionId = undefined) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, asked: method });
      this.#socket.send(JSON.stringify({ id, method, params, sessionId }));
    });
  }

  async page() {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page((method, params) => this.send(method, params, sessionId));
    this.#pages.set(sessionId, page);
    for (const domain of ["Page", "Runtime", "Network", "Log"]) await page.send(`${domain}.enable`);
    return page;
  }
}

class Page {
  listeners = new Map();

  constructor(send) {
    this.send = send;
  }

  on(method, listener) {
    this.listeners.set(method, [...(this.listeners.get(method) ?? []), listener]);
  }

  async goto(url) {
    const loaded = new Promise((resolve) => this.on("Page.loadEventFired", resolve));
    const { errorText } = await this.send("Page.navigate", { url });
    if (errorText) throw new Error(`${url}: ${errorText}`);
    await loaded;
  }

  // What an expression is worth in the page.
  async evaluate(expression) {
    const asked = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", asked);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  async until(expression) {
    const end = Date.now() + PATIENCE;
    while (!(await this.evaluate(expression))) {
      if (Date.now() > end) throw new Error(`this did not become true: ${expression}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  // Types into the element that an expression names, in place of what it holds.
  async type(element, text) {
    await this.evaluate(`(() => { const field = ${element}; field.focus(); field.select(); })()`);
    await this.send("Input.insertText", { text });
  }

  // Presses where the element is seen, so that what lies above it would be pressed instead.
  async click(element) {
    const { x, y } = await this.evaluate(`(() => {
      const found = ${element};
      found.scrollIntoView({ block: "center" });
      const box = found.getBoundingClientRect();
      return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    })()`);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await this.send("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    }
  }
}
