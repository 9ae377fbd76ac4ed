// Drives the desk of approvals: desk.mjs MODULES CHROMIUM ADMIN-URL. Prints a line per check. Two calls wait.
import { createRequire } from "node:module";

const [modules, executablePath, admin] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");

const check = (name, good, note = "") => console.log(`${good ? "ok  " : "FAIL"} ${name}${good ? "" : ` -- ${note}`}`);

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage();
const asked = [];
const wrong = [];
page.on("request", (request) => asked.push(request.url()));
page.on("pageerror", (error) => wrong.push(String(error)));
page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));

await page.goto(`${admin}/approvals`);
check("the page has its title", (await page.title()) === "Outrigger: approvals", await page.title());
check("nothing is shown before a token is", (await page.locator("article").count()) === 0);

await page.fill("#token", "wrong");
await page.click("text=Show");
await page.waitForFunction(() => document.getElementById("status").textContent.includes("token"));
check("a wrong token shows nothing", (await page.locator("article").count()) === 0);
wrong.length = 0; // the browser notes the 401

await page.fill("#token", "carol-token");
await page.click("text=Show");
await page.waitForFunction(() => document.querySelectorAll("article").length === 2);
const text = await page.locator("main").innerText();
check("who calls what is shown", text.includes("tool fs.readFileText") && text.includes("user:ada") && text.includes("p/reading"), text);
check("arguments are text, and what hides is spelt out", text.includes("<img src=x onerror") && text.includes("\\u202e"), JSON.stringify(text));
check("no markup of a caller became the page's", (await page.locator("main img").count()) === 0 && (await page.title()) !== "owned");
const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, location.href, document.getElementById("token").value]);
check("the token is kept nowhere", JSON.stringify(kept) === JSON.stringify([0, 0, "", `${admin}/approvals`, ""]), JSON.stringify(kept));

await page.locator("article", { hasText: "onerror" }).getByText("Refuse", { exact: true }).click();
await page.waitForFunction(() => document.querySelectorAll("article").length === 1);
await page.locator("article").getByText("Approve", { exact: true }).click();
await page.waitForFunction(() => document.querySelectorAll("article").length === 0);
check("what is decided goes away", (await page.locator("article").count()) === 0);
check("only this ingress was asked, and no address holds a token",
  asked.every((url) => url.startsWith(`${admin}/`) && !url.includes("token")), asked.join(" "));
check("nothing went wrong in the page", wrong.length === 0, wrong.join("; "));

// A page of somebody else, which the person has open at the same time.
const evil = await browser.newPage();
await evil.route("http://evil.example/", (route) => route.fulfill({ contentType: "text/html", body: "<title>evil</title>" }));
await evil.goto("http://evil.example/");
const got = await evil.evaluate(async (url) => {
  const tries = [
    () => fetch(`${url}/approvals/list`, { credentials: "include" }).then((answer) => answer.text()),
    () => fetch(`${url}/approvals/decide`, { method: "POST", headers: { "Content-Type": "application/json", Authorization: "Bearer carol-token" }, body: "{}" }).then((answer) => answer.text()),
    () => fetch(`${url}/approvals/decide`, { method: "POST", mode: "no-cors", body: "{}" }).then((answer) => answer.type),
  ];
  return Promise.all(tries.map((attempt) => attempt().catch((error) => `refused: ${error.message}`)));
}, admin);
check("another page reads nothing and sends no token", got[0].startsWith("refused") && got[1].startsWith("refused") && (got[2] === "opaque" || got[2].startsWith("refused")), JSON.stringify(got));
const framed = await evil.evaluate((url) => new Promise((resolve) => {
  const frame = document.createElement("iframe");
  frame.src = `${url}/approvals`;
  frame.onload = () => { try { resolve(frame.contentDocument ? "empty" : "other origin"); } catch { resolve("other origin"); } };
  document.body.append(frame);
  setTimeout(() => resolve("nothing"), 3000);
}), admin);
check("another page cannot show it in a frame", (await evil.frames().at(-1).content()).includes("approve") === false, framed);
await browser.close();
