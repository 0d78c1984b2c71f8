// The page: one question at a time, what the cache does meanwhile, what it kept afterwards.

import * as api from "./api.js";
import * as attachments from "./attachments.js";
import * as conversation from "./conversation.js";
import * as kept from "./kept.js";
import * as meter from "./meter.js";
import * as sessions from "./sessions.js";

const $ = (id) => document.getElementById(id);
const LOOK_EVERY_MS = 300;
const SETTINGS = { system: "system", temperature: "temperature", "max-tokens": "max_tokens" };

let running = null; // AbortController of the answer on its way
let unsaved = false;

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

async function ask(question) {
  const documents = attachments.take();
  conversation.add({ role: "user", text: question, ...(documents.length ? { documents } : {}) });
  const answer = conversation.grow({ role: "assistant", text: "" });
  const request = { messages: conversation.messages($("system").value).slice(0, -1), ...sampling() };
  setRunning(new AbortController());
  try {
    const started = performance.now();
    const { usage, first } = await stream(request, answer);
    answer.end();
    unsaved = true;
    if (usage) await settle(usage, started, first);
  } catch (error) {
    answer.end();
    await failed(error, answer, question, documents);
  } finally {
    setRunning(null);
    $("question").focus();
  }
}

async function stream(request, answer) {
  const id = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
  const watching = new AbortController();
  const watch = setInterval(() => look(id, watching.signal), LOOK_EVERY_MS);
  say("Reading …");
  let first = null;
  try {
    const chunks = api.chat(request, id, running.signal);
    for (;;) {
      const { value, done } = await chunks.next();
      if (done) return { usage: value, first };
      first ??= performance.now();
      answer.say(value);
    }
  } finally {
    clearInterval(watch);
    watching.abort(); // a late reply must not cover what `settle` shows
  }
}

async function look(id, signal) {
  const { slots, waiting } = await api.json("extras/slots", { signal }).catch(() => ({ slots: [] }));
  if (signal.aborted) return;
  const slot = slots.find((each) => each.request_id === id);
  if (slot) say(meter.live(slot) || "Reading …");
  else if (waiting) say("Waiting for a slot …");
}

async function settle(usage, started, first) {
  const seconds = (performance.now() - (first ?? started)) / 1000;
  const rate = (usage.completion_tokens - 1) / seconds;
  const speed = rate > 0 ? `, ${rate.toFixed(rate < 100 ? 1 : 0)} a second` : "";
  meter.settled(usage);
  await showKept();
  say(`Done: ${usage.completion_tokens} tokens${speed}.`);
}

async function showKept() {
  const body = { messages: conversation.messages($("system").value) };
  try {
    kept.show(await api.json("extras/kv/kept", { method: "POST", body }), conversation.documents());
  } catch (error) {
    if (error.status !== 404) throw error;
    kept.clear(); // another conversation took the slot
  }
}

async function failed(error, answer, question, documents) {
  if (error.name === "AbortError" && answer.text()) {
    unsaved = true;
    say("Stopped.");
    return;
  }
  answer.drop();
  conversation.takeBack();
  attachments.put(documents);
  $("question").value = question;
  fit();
  if (error.name === "AbortError") say("Stopped.");
  else say(error.message, true);
}

function sampling() {
  return {
    temperature: Number($("temperature").value),
    max_tokens: Number($("max-tokens").value) || undefined,
    repeat_penalty: 1.0,
  };
}

function setRunning(controller) {
  running = controller;
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  for (const id of ["new", "saved"]) $(id).disabled = Boolean(running);
  $("save").disabled = Boolean(running) || !conversation.turns.length;
}

function startAnew(turns = []) {
  conversation.reset(turns);
  meter.clear();
  kept.clear();
  unsaved = false;
  setRunning(null);
}

async function open(chat) {
  for (const [id, name] of Object.entries(SETTINGS)) $(id).value = chat.settings?.[name] ?? $(id).value;
  startAnew(chat.turns);
  if (!chat.restored) return;
  meter.settled(chat.usage);
  await showKept();
}

function fit() {
  const box = $("question");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

function send() {
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  fit();
  ask(question);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("question").addEventListener("input", fit);
$("stop").addEventListener("click", () => running?.abort());
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
});
addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault();
});
$("new").addEventListener("click", () => {
  if (unsaved && !confirm("This chat is not saved. Begin a new one?")) return;
  sessions.forgetName();
  startAnew();
  say("A new chat.");
  $("question").focus();
});
$("toggle-side").addEventListener("click", () => {
  const open = $("side").classList.toggle("open");
  $("toggle-side").setAttribute("aria-expanded", String(open));
});

api.onKeyWanted(
  () =>
    new Promise((resolve) => {
      $("key").value = "";
      $("key-dialog").addEventListener("close", () => resolve($("key").value), { once: true });
      if (!$("key-dialog").open) $("key-dialog").showModal();
    }),
);
attachments.install(say);
sessions.install({
  current: () => ({
    messages: conversation.messages($("system").value),
    turns: conversation.turns,
    settings: Object.fromEntries(Object.entries(SETTINGS).map(([id, name]) => [name, $(id).value])),
  }),
  open,
  say,
  saved: () => (unsaved = false),
});

async function begin() {
  meter.clear();
  try {
    const props = await api.json("extras/props");
    const keeps = props.kv_budget === null ? "stock cache" : `keeps ${budget(props.kv_budget)}`;
    $("model").textContent = `${props.model} · ${props.n_ctx.toLocaleString("en")} tokens · ${keeps}`;
    if (!props.chat_template) say("This model has no chat template: it completes text and may not answer.", true);
  } catch (error) {
    say(error.message, true);
  }
  $("question").focus();
}

const budget = (value) => (value <= 1 ? `${Math.round(100 * value)} % a layer` : `${value.toLocaleString("en")} a layer`);

begin();
