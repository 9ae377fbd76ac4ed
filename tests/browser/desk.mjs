// Drives the desk of approvals: desk.mjs CHROMIUM ADMIN-URL. Prints a line per check. Two calls wait.
import { launch } from "./devtools.mjs";

const [chromium, admin] = process.argv.slice(2);

const check = (name, good, note = "") => console.log(`${good ? "ok  " : "FAIL"} ${name}${good ? "" : ` -- ${note}`}`);
const button = (word, inside = "document") => `[...(${inside}).querySelectorAll("button")].find((one) => one.textContent === "${word}")`;
const articles = `document.querySelectorAll("article").length`;

const browser = await launch(chromium);
try {
  await person(await browser.page());
  await stranger(await browser.page());
} finally {
  await browser.close();
}

// Somebody who says no to one call and yes to the other.
async function person(page) {
  const asked = [];
  const wrong = [];
  page.on("Network.requestWillBeSent", ({ request }) => asked.push(request.url));
  page.on("Runtime.exceptionThrown", ({ exceptionDetails }) => wrong.push(exceptionDetails.text));
  page.on("Log.entryAdded", ({ entry }) => entry.level === "error" && wrong.push(entry.text));

  await page.goto(`${admin}/approvals`);
  const title = await page.evaluate("document.title");
  check("the page has its title", title === "Outrigger: approvals", title);
  check("nothing is shown before a token is", (await page.evaluate(articles)) === 0);

  await page.type(`document.getElementById("token")`, "wrong");
  await page.click(button("Show"));
  await page.until(`document.getElementById("status").textContent.includes("token")`);
  check("a wrong token shows nothing", (await page.evaluate(articles)) === 0);
  const noted = wrong.splice(0);
  check("the browser notes the 401 and nothing else", noted.every((text) => text.includes("401")), noted.join("; "));

  await page.type(`document.getElementById("token")`, "carol-token");
  await page.click(button("Show"));
  await page.until(`${articles} === 2`);
  const text = await page.evaluate(`document.querySelector("main").innerText`);
  check("who calls what is shown", text.includes("tool fs.readFileText") && text.includes("user:ada") && text.includes("p/reading"), text);
  check("arguments are text, and what hides is spelt out", text.includes("<img src=x onerror") && text.includes("\\u202e"), JSON.stringify(text));
  const markup = await page.evaluate(`document.querySelectorAll("main img").length + (document.title === "owned" ? 1 : 0)`);
  check("no markup of a caller became the page's", markup === 0);
  const kept = await page.evaluate(
    `JSON.stringify([localStorage.length, sessionStorage.length, document.cookie, location.href, document.getElementById("token").value])`,
  );
  check("the token is kept nowhere", kept === JSON.stringify([0, 0, "", `${admin}/approvals`, ""]), kept);

  const evil = `[...document.querySelectorAll("article")].find((one) => one.textContent.includes("onerror"))`;
  await page.click(button("Refuse", evil));
  await page.until(`${articles} === 1`);
  await page.click(button("Approve"));
  await page.until(`${articles} === 0`);
  check("only this ingress was asked, and no address holds a token",
    asked.length > 0 && asked.every((url) => url.startsWith(`${admin}/`) && !url.includes("token")), asked.join(" "));
  check("nothing went wrong in the page", wrong.length === 0, wrong.join("; "));
}

// A page of somebody else, which the person has open at the same time.
async function stranger(page) {
  const home = "http://evil.example/";
  const body = Buffer.from("<title>evil</title>").toString("base64");
  page.on("Fetch.requestPaused", ({ requestId }) =>
    page.send("Fetch.fulfillRequest", { requestId, responseCode: 200, responseHeaders: [{ name: "Content-Type", value: "text/html" }], body }));
  await page.send("Fetch.enable", { patterns: [{ urlPattern: `${home}*` }] });
  await page.goto(home);
  const got = await page.evaluate(`Promise.all([
    () => fetch("${admin}/approvals/list", { credentials: "include" }).then((answer) => answer.text()),
    () => fetch("${admin}/approvals/decide", {
      method: "POST", headers: { "Content-Type": "application/json", Authorization: "Bearer carol-token" }, body: "{}",
    }).then((answer) => answer.text()),
    () => fetch("${admin}/approvals/decide", { method: "POST", mode: "no-cors", body: "{}" }).then((answer) => answer.type),
  ].map((attempt) => attempt().catch((error) => "refused: " + error.message)))`);
  const [read, sent, blind] = got;
  check("another page reads nothing and sends no token",
    read.startsWith("refused") && sent.startsWith("refused") && (blind === "opaque" || blind.startsWith("refused")), JSON.stringify(got));

  const framed = new Promise((resolve) => page.on("Network.loadingFailed", ({ type, errorText }) => type === "Document" && resolve(errorText)));
  await page.evaluate(`(() => {
    const frame = document.createElement("iframe");
    frame.src = "${admin}/approvals";
    document.body.append(frame);
  })()`);
  const why = await Promise.race([framed, new Promise((resolve) => setTimeout(resolve, 120_000, "it was shown").unref())]);
  check("another page cannot show it in a frame", why === "net::ERR_BLOCKED_BY_RESPONSE", why);
}
