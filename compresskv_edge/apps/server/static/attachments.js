// Documents on their way into the next question: chosen, dropped, read.

import * as api from "./api.js";
import { chip } from "./conversation.js";

const $ = (id) => document.getElementById(id);
let waiting = [];

export function take() {
  const taken = waiting;
  put([]);
  return taken;
}

export function put(documents) {
  waiting = documents;
  $("attachments").replaceChildren(
    ...waiting.map((each) => chip(each.name, () => put(waiting.filter((other) => other !== each)))),
  );
}

// say(text, bad): tells the user what happens.
export function install(say) {
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    await addAll([...$("file").files], say);
    $("file").value = "";
    $("question").focus();
  });
  let depth = 0;
  const over = (by) => {
    depth = Math.max(depth + by, 0);
    $("drop").hidden = !depth;
  };
  addEventListener("dragenter", (event) => event.dataTransfer?.types.includes("Files") && over(1));
  addEventListener("dragleave", () => over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    addAll([...event.dataTransfer.files], say);
  });
}

async function addAll(files, say) {
  for (const file of files) {
    try {
      say(`Reading ${file.name} …`);
      const document = await read(file);
      const { count } = await api.json("extras/tokenize/count", { method: "POST", body: { input: document.text } });
      put([...waiting, document]);
      say(`${file.name}: ${count.toLocaleString("en")} tokens. Now ask about it.`);
    } catch (error) {
      say(`${file.name}: ${error.message}`, true);
    }
  }
}

const read = (file) =>
  api.json(`extras/document?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
