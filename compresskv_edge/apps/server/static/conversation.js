// What was said: the list on the page, and the messages as the server takes them.

import { render } from "./markdown.js";

const list = document.getElementById("messages");
const NAMES = { user: "You", assistant: "Answer", error: "Error" };

// turns: { role: "user" | "assistant", text, documents?: [{ name, text }] }
export let turns = [];

export function reset(next = []) {
  turns = next;
  list.replaceChildren(...turns.map((turn) => bubble(turn.role, turn.text, turn.documents)));
  toggleWelcome();
}

export function add(turn) {
  turns.push(turn);
  const item = bubble(turn.role, turn.text, turn.documents);
  list.append(item);
  toggleWelcome();
  list.scrollTop = list.scrollHeight;
  return item;
}

export function addError(text) {
  list.append(bubble("error", text));
  list.scrollTop = list.scrollHeight;
}

// An answer that grows. The list is busy meanwhile, so that a screen reader waits for the whole of it.
export function grow(turn) {
  const item = add(turn);
  item.classList.add("waiting");
  list.setAttribute("aria-busy", "true");
  return {
    say(text) {
      const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
      turn.text += text;
      item.querySelector(".body").replaceChildren(...render(turn.text));
      if (atEnd) list.scrollTop = list.scrollHeight;
    },
    text: () => turn.text,
    end() {
      item.classList.remove("waiting");
      list.setAttribute("aria-busy", "false");
    },
    drop() {
      turns.splice(turns.indexOf(turn), 1);
      item.remove();
    },
  };
}

export function takeBack() {
  turns.pop();
  list.lastElementChild.remove();
  toggleWelcome();
}

export const documents = () => turns.flatMap((turn) => turn.documents ?? []);

// Documents stand before the question that they came with.
export function messages(system) {
  const head = system ? [{ role: "system", content: system }] : [];
  return [...head, ...turns.map(({ role, text, documents = [] }) => ({
    role,
    content: [...documents.map((each) => each.text), text].join("\n\n"),
  }))];
}

function bubble(role, text, documents = []) {
  const item = document.createElement("article");
  const who = document.createElement("p");
  const body = document.createElement("div");
  item.className = role;
  who.className = "who";
  who.textContent = NAMES[role];
  body.className = "body";
  body.replaceChildren(...(role === "assistant" ? render(text) : [document.createTextNode(text)]));
  item.append(who, ...documents.map(({ name }) => chip(name)), body);
  return item;
}

export function chip(name, onRemove) {
  const made = document.createElement(onRemove ? "li" : "span");
  made.className = "file";
  made.append(name);
  if (onRemove) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "×";
    button.setAttribute("aria-label", `Remove ${name}`);
    button.addEventListener("click", onRemove);
    made.append(button);
  }
  return made;
}

function toggleWelcome() {
  document.getElementById("welcome").hidden = turns.length > 0;
}
