// Saved chats: the words and, where the server can, the cache itself, so that nothing is read again.

import * as api from "./api.js";

const $ = (id) => document.getElementById(id);
const path = (name) => `extras/sessions/${encodeURIComponent(name)}`;

// current(): what to save; open(chat): shows it; say(text, bad)
export function install({ current, open, say, saved }) {
  for (const button of document.querySelectorAll("dialog .cancel"))
    button.addEventListener("click", () => button.closest("dialog").close(""));

  $("save").addEventListener("click", () => {
    if (!$("save-name").value) $("save-name").value = suggested(current());
    $("save-dialog").returnValue = "";
    $("save-dialog").showModal();
    $("save-name").select();
  });
  $("save-dialog").addEventListener("close", async () => {
    if ($("save-dialog").returnValue !== "save") return;
    const name = $("save-name").value.trim();
    try {
      const { kv } = await api.json(path(name), { method: "PUT", body: current() });
      saved();
      say(kv ? `Saved “${name}” with its cache.` : `Saved “${name}”. It is read again when you open it.`);
    } catch (error) {
      say(`Not saved: ${error.message}`, true);
    }
  });
  $("saved").addEventListener("click", async () => {
    try {
      await fill({ open, say });
      $("saved-dialog").showModal();
    } catch (error) {
      say(error.message, true);
    }
  });
}

export const forgetName = () => ($("save-name").value = "");

function suggested({ turns }) {
  const document = turns.flatMap((turn) => turn.documents ?? [])[0];
  const title = document?.name.replace(/\.\w+$/, "") ?? turns[0]?.text ?? "chat";
  return title.replace(/[^\p{L}\p{N} ._-]+/gu, " ").replace(/^[^\p{L}\p{N}]+/u, "").slice(0, 60).replace(/[ .]+$/, "") || "chat";
}

async function fill({ open, say }) {
  const { sessions } = await api.json("extras/sessions");
  $("saved-list").replaceChildren(...sessions.map((each) => row(each, { open, say })));
  if (!sessions.length) $("saved-list").textContent = "None yet.";
}

function row({ name, saved }, { open, say }) {
  const item = document.createElement("li");
  const opens = button(name, "open", async () => {
    $("saved-dialog").close("");
    try {
      say(`Opening “${name}” …`);
      const chat = await api.json(`${path(name)}/open`, { method: "POST", body: {} });
      $("save-name").value = name;
      await open(chat);
      say(chat.restored ? "Here it is, with its cache." : "Here it is. The next question reads it again.");
    } catch (error) {
      say(error.message, true);
    }
  });
  opens.title = new Date(saved * 1000).toLocaleString();
  const deletes = button("Delete", "", async () => {
    if (!confirm(`Delete “${name}”?`)) return;
    await api.call(path(name), { method: "DELETE" }).then(() => item.remove(), (error) => say(error.message, true));
  });
  deletes.setAttribute("aria-label", `Delete ${name}`);
  item.append(opens, deletes);
  return item;
}

function button(text, className, onClick) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.textContent = text;
  made.addEventListener("click", onClick);
  return made;
}
