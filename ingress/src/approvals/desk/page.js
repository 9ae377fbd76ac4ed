// The desk of approvals. The token stays in this variable: not in storage, not in a cookie, not in an address.
"use strict";

let token = null;
let timer = null;
const byId = (id) => document.getElementById(id);
const say = (text) => { byId("status").textContent = text; };

async function ask(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body),
    cache: "no-store", credentials: "omit", redirect: "error",
  });
  const json = await answer.json();
  if (!answer.ok) throw new Error(json.error);
  return json;
}

function element(name, text, inside) {
  const made = document.createElement(name);
  // Never markup: what callers and servers wrote stays text.
  made.textContent = text;
  inside.append(made);
  return made;
}

function show(call) {
  const card = document.createElement("article");
  card.dataset.id = call.id;
  element("h2", `${call.kind} ${call.service}.${call.capability}`, card);
  element("div", `called by ${call.who}, rule ${call.rules.map((one) => one.rule).join(", ")}`, card);
  element("div", `since ${call.since}, trace ${call.trace}`, card);
  element("pre", call.arguments, card);
  if (!call.whole) element("p", "There are more arguments than are shown.", card).className = "cut";
  if (call.own) {
    element("p", "This is your own call: somebody else has to approve it.", card);
  } else {
    for (const [word, approve] of [["Approve", true], ["Refuse", false]]) {
      element("button", word, card).addEventListener("click", () => decide(call.id, approve));
    }
  }
  return card;
}

async function decide(id, approve) {
  try {
    const said = await ask("/approvals/decide", { id, approve });
    await refresh();
    say(`${said.id}: ${said.result}`);
  } catch (error) {
    say(error.message);
  }
}

async function refresh() {
  const list = await ask("/approvals/list");
  const known = [...byId("waiting").children].map((card) => card.dataset.id).join();
  // What a person is reading or about to click does not move unless something came or went.
  if (known !== list.waiting.map((call) => call.id).join()) byId("waiting").replaceChildren(...list.waiting.map(show));
  say(`${list.who}: ${list.waiting.length} waiting`);
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("token").value = "";
  clearInterval(timer);
  byId("waiting").replaceChildren();
  try {
    await refresh();
    timer = setInterval(() => refresh().catch((error) => say(error.message)), 2000);
  } catch (error) {
    token = null;
    say(error.message);
  }
});
